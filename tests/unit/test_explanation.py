"""What is said of why a tenant may use a feature, sentence by sentence."""

from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest

from shared.domain import explaining
from shared.domain.entitlements import Grant
from shared.domain.explanation import Combined, Explanation, Note, OperatorLink, Recorded
from shared.domain.payments import Policy
from shared.domain.prose import text_of
from shared.domain.reasons import Reason
from shared.domain.turns import HeldGrant
from tests.support.explained import CUSTOMER, DAY_S, NOW, NOW_S, Told, catalog


def lines(text: str) -> str:
    """A text block of a test, without its indent."""
    return "\n".join(line.removeprefix("        ") for line in text.strip("\n").split("\n")).strip()


def recorded(value: Any = 10, **more: Any) -> Recorded:
    fields: dict[str, Any] = {
        "at": NOW - timedelta(days=2),
        "action": "entitlement.granted",
        "actor": "provider:stripe",
        "cause": "event",
        "cause_id": str(UUID(int=1)),
        "subject": "subscription/sub_1",
        "catalog_version": 7,
        "chain": "tenant:acme",
        "position": 12,
        "hash": "3f" * 32,
        "value": value,
        "valid_until": None,
        "is_erased": False,
        "event_id": "evt_1",
    }
    return Recorded(**{**fields, **more})


def why_not(told: Told, feature: str = "seats", **more: Any) -> str:
    """What is said of the one object that does not count."""
    explanation = told.explain(feature, **more)
    assert len(explanation.not_giving) == 1
    (block,) = (
        block for block in told.text(feature, **more).split("\n\n") if block[:11] == "Not counted"
    )
    _, _, said = " ".join(block.split()).partition(" - ")
    return said


# The whole ----------------------------------------------------------------------------------------


def test_the_hard_case_reads_like_a_letter() -> None:
    """Two subscriptions, an open dispute, a grace period and what an operator gave."""
    told = Told(catalog(adds=True))
    told.see("subscription/sub_1", 380, "active", "pro")
    told.see("subscription/sub_1", 2, "past_due", "pro")
    told.see("subscription/sub_2", 30, "active", "team")
    told.see("invoice/in_2", 20, "paid", refs=("subscription/sub_2",), started_at=1)
    told.see("invoice_payment/ip_2", 20, "paid", refs=("invoice/in_2", "payment_intent/pi_2"))
    told.see("charge/ch_2", 20, "succeeded", refs=("payment_intent/pi_2",))
    told.see("dispute/dp_1", 1, "needs_response", refs=("charge/ch_2",))
    told.give(5, NOW + timedelta(days=40))
    assert text_of(told.explain(record=recorded(15))) == lines("""
        acme may use seats: 15.

        Why, added up:
        - 10 from plan pro, by subscription sub_1 (source stripe): past due since 19 Nov
          2026 12:00 UTC (event evt_2), in its 7-day grace period until 26 Nov 2026
          12:00 UTC.
        - 5 given by operator ana on 18 Nov 2026 12:00 UTC, until 31 Dec 2026 12:00 UTC:
          "pilot extension".

        Not counted:
        - subscription sub_2 (source stripe) would give 20 by plan team: its payment is
          contested: dispute dp_1 has been open since 20 Nov 2026 12:00 UTC (event
          evt_7).

        What would change it:
        - 26 Nov 2026 12:00 UTC: the 7-day grace period of subscription sub_1 ends,
          unless it is paid before. Then acme may use seats: 5.
        - 31 Dec 2026 12:00 UTC: what operator ana gave ends. Then acme may not use
          seats.
        - When dispute dp_1 comes to nothing, subscription sub_2 counts again.

        Behind this:
        - event evt_7 (customer.subscription.updated) of dispute dp_1, received 21 Nov
          2026 11:00 UTC, applied, tracking id 00000000-0000-0000-0000-000000000007
        - event evt_2 (customer.subscription.updated) of subscription sub_1, received 21
          Nov 2026 11:00 UTC, applied, tracking id 00000000-0000-0000-0000-000000000002
        - event evt_3 (customer.subscription.updated) of subscription sub_2, received 21
          Nov 2026 11:00 UTC, applied, tracking id 00000000-0000-0000-0000-000000000003
        - event evt_1 (customer.subscription.updated) of subscription sub_1, received 21
          Nov 2026 11:00 UTC, applied, tracking id 00000000-0000-0000-0000-000000000001

        It has been so since 19 Nov 2026 12:00 UTC, because of event evt_1 (record 12 of
        tenant:acme, hash 3f3f3f3f3f3f3f3f). Catalog version 7.
        """)


def test_the_structure_says_what_the_prose_says() -> None:
    told = Told(catalog(adds=True))
    told.see("subscription/sub_1", 2, "past_due", "pro")
    told.see("subscription/sub_2", 30, "unpaid", "team")
    told.give(5)
    shown = msgspec.to_builtins(told.explain())
    assert (shown["value"], shown["validUntil"]) == (15, "2026-11-26T12:00:00Z")
    by_object, by_hand = shown["because"]
    assert (by_object["plan"], by_object["value"], by_object["endsBy"]) == ("pro", 10, "grace")
    assert by_object["object"]["object"] == "subscription/sub_1"
    assert by_object["object"]["since"] == "2026-11-19T12:00:00Z"
    assert by_object["object"]["event"] == str(UUID(int=1))
    assert by_hand["operator"]["reason"] == "pilot extension"
    (unpaid,) = shown["notGiving"]
    assert (unpaid["reason"], unpaid["offers"][0]["value"]) == ("unpaid", 20)
    assert [change["reason"] for change in shown["changes"]] == ["grace", "unpaid"]
    assert shown["changes"][0]["value"] == 5
    assert shown["evidence"]["total"] == 2


# What gives it ------------------------------------------------------------------------------------


def test_one_active_subscription() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    assert told.text() == lines("""
        acme may use seats: 10.

        Why:
        - 10 from plan pro, by subscription sub_1 (source stripe): active since 11 Nov
          2026 12:00 UTC (event evt_1), with no end set.
        """)


def test_what_can_only_be_had_or_not_has_no_number() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    assert told.text("sso") == lines("""
        acme may use sso.

        Why:
        - plan pro, by subscription sub_1 (source stripe): active since 11 Nov 2026
          12:00 UTC (event evt_1), with no end set.
        """)


def test_it_is_told_which_of_several_counts() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    told.see("subscription/sub_2", 5, "active", "team")
    assert told.text() == lines("""
        acme may use seats: 20.

        Why, of which the largest counts:
        - 20 from plan team, by subscription sub_2 (source stripe): active since 16 Nov
          2026 12:00 UTC (event evt_2), with no end set.
        - 10 from plan pro, by subscription sub_1 (source stripe): active since 11 Nov
          2026 12:00 UTC (event evt_1), with no end set. It adds nothing to what counts.
        """)


@pytest.mark.parametrize(
    ("values", "combined"),
    [
        (("gold", "silver"), "highest_rank"),
        ((True, True), "any"),
        (("unlimited", 3), "largest"),
        ((4, 4), "largest"),
    ],
)
def test_how_several_become_one(values: tuple[Any, Any], combined: str) -> None:
    plans = {
        name: {"features": {"x": value}, "rank": rank}
        for rank, (name, value) in enumerate(zip(("two", "one"), reversed(values), strict=True))
    }
    told = Told(catalog(**plans))
    told.see("subscription/sub_1", 10, "active", "one")
    told.see("subscription/sub_2", 10, "active", "two")
    explanation = told.explain("x")
    assert (explanation.value, explanation.combined) == (values[0], combined)
    assert [one.counts for one in explanation.because] == [True, values[0] == values[1]]


def test_unlimited_is_not_added_to() -> None:
    told = Told(catalog(adds=True, all={"features": {"seats": "unlimited"}}))
    told.see("subscription/sub_1", 10, "active", "pro", "all")
    explanation = told.explain()
    assert (explanation.value, explanation.combined) == ("unlimited", "largest")
    assert [(one.plan, one.counts) for one in explanation.because] == [
        ("all", True),
        ("pro", False),
    ]


@pytest.mark.parametrize(
    ("name", "status", "more", "said"),
    [
        (
            "subscription/sub_1",
            "trialing",
            {"lapses_at": NOW_S + DAY_S},
            "in its trial since 11 Nov 2026 12:00 UTC (event evt_1), and nothing is set to pay"
            " when it ends on 22 Nov 2026 12:00 UTC",
        ),
        (
            "subscription/sub_1",
            "active",
            {"ends_at": NOW_S + DAY_S},
            "active since 11 Nov 2026 12:00 UTC (event evt_1), set to end on 22 Nov 2026 12:00 UTC",
        ),
        (
            "subscription/sub_1",
            "active",
            {"collection": "void"},
            "active since 11 Nov 2026 12:00 UTC (event evt_1), with no end set; collecting its"
            " payments is paused, which takes nothing away",
        ),
        (
            "checkout.session/cs_1",
            "paid",
            {"tenant": "acme"},
            "paid on 11 Nov 2026 12:00 UTC (event evt_1), for good",
        ),
    ],
)
def test_what_an_object_stands_at(name: str, status: str, more: Any, said: str) -> None:
    told = Told()
    told.see(name, 10, status, "pro", **more)
    (line,) = told.text("sso").split("Why:\n")[1].split("\n\n")[:1]
    assert said in " ".join(line.split())


def test_a_purchase_may_last_for_a_time() -> None:
    told = Told()
    told.see("checkout.session/cs_1", 10, "paid", "pack", tenant="acme")
    assert told.text() == lines("""
        acme may use seats: 3.

        Why:
        - 3 from plan pack, by purchase cs_1 (source stripe): paid on 11 Nov 2026 12:00
          UTC (event evt_1), for its 30-day period until 11 Dec 2026 12:00 UTC.

        What would change it:
        - 11 Dec 2026 12:00 UTC: the 30-day period of purchase cs_1 ends. Then acme may
          not use seats.
        """)


def test_whose_word_links_it_is_told_where_it_is_not_the_providers() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro", tenant=None)
    told.links[CUSTOMER] = OperatorLink("acme", "operator:ada", NOW - timedelta(days=1))
    assert "customer cus_1 was linked by operator ada on 20 Nov 2026 12:00 UTC" in " ".join(
        told.text().split()
    )
    told.links.clear()
    told.see("checkout.session/cs_1", 9, "complete", reference="acme")
    assert "customer cus_1 is linked by a checkout" in " ".join(told.text().split())
    assert told.explain().because[0].object.linked_by == "session"  # type: ignore[union-attr]


def test_since_when_is_where_the_unbroken_run_began() -> None:
    told = Told()
    told.see("subscription/sub_1", 30, "trialing", "pro")
    told.see("subscription/sub_1", 20, "active", "pro")
    told.see("subscription/sub_1", 10, "past_due", "pro")
    told.see("subscription/sub_1", 8, "active", "pro")
    told.see("subscription/sub_1", 3, "active", "pro", ends_at=NOW_S + DAY_S)
    (because,) = told.explain().because
    assert because.object is not None
    assert because.object.since == NOW - timedelta(days=8)
    assert because.object.event_id == "evt_4"


def test_since_when_is_right_within_a_second() -> None:
    """Created incomplete and active in the same second, and renewed later."""
    told = Told()
    told.see("subscription/sub_1", 8, "incomplete", "pro", shape="arrival")
    key = next(iter(told.sights))
    born = told.sights[key][0].observation
    told.see("subscription/sub_1", 8, "active", "pro", shape="edge")
    sight = told.sights[key][1]
    edge = msgspec.structs.replace(sight.observation, before=born.after)
    told.sights[key][1] = sight._replace(observation=edge)
    told.see("subscription/sub_1", 3, "active", "pro", has_payment_method=True)
    (because,) = told.explain().because
    assert because.object is not None
    assert because.object.since == NOW - timedelta(days=8)
    assert because.object.event_id == "evt_2"


# What is provisional ------------------------------------------------------------------------------


def test_an_undecided_order_is_told() -> None:
    told = Told()
    told.see("subscription/sub_1", 1, "past_due", "pro")
    told.see("subscription/sub_1", 1, "active", "pro")
    explanation = told.explain()
    assert explanation.is_provisional
    assert [(one.object, one.wants) for one in explanation.provisional] == [
        ("subscription/sub_1", "order")
    ]
    assert (
        lines("""
        Provisional:
        - subscription sub_1: two changes of it came in the same second, and which was
          the last is not known yet.
        """)
        in told.text()
    )


@pytest.mark.parametrize(
    ("status", "product", "said"),
    [
        (
            "on_holiday",
            "pro",
            'subscription sub_1: its newest status "on_holiday" is not known here. What it gave'
            " before counts on.",
        ),
        (
            "active",
            "new",
            "subscription sub_1: no plan of the catalog has all of its newest products. What it"
            " gave before counts on.",
        ),
    ],
)
def test_what_is_not_understood_takes_nothing_away(status: str, product: str, said: str) -> None:
    told = Told()
    told.see("subscription/sub_1", 9, "active", "pro")
    told.see("subscription/sub_1", 1, status, product)
    assert told.explain().value == 10
    assert said in " ".join(told.text().split())


def test_a_hint_says_that_something_changed() -> None:
    told = Told()
    told.see("subscription/sub_1", 9, "active", "pro")
    told.see("subscription/sub_1", 1, "unobserved", shape="hint", customer=None, tenant=None)
    assert "it has changed since, and its new state is not known yet" in " ".join(
        told.text().split()
    )


# What does not give it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "more", "reason", "said"),
    [
        ("unpaid", {}, "unpaid", "unpaid since 11 Nov 2026 12:00 UTC (event evt_1)"),
        ("paused", {}, "paused", "paused since 11 Nov 2026 12:00 UTC (event evt_1)"),
        (
            "incomplete",
            {},
            "pending",
            "waiting for its first payment since 11 Nov 2026 12:00 UTC (event evt_1)",
        ),
        (
            "incomplete_expired",
            {},
            "never_started",
            "its first payment failed on 11 Nov 2026 12:00 UTC (event evt_1)",
        ),
        ("canceled", {}, "ended", "it ended on 11 Nov 2026 12:00 UTC (event evt_1)"),
        ("on_holiday", {}, "unknown_status", 'its status "on_holiday" is not known here'),
        (
            "past_due",
            {},
            "grace_over",
            "past due since 11 Nov 2026 12:00 UTC (event evt_1), and its 7-day grace period ended"
            " on 18 Nov 2026 12:00 UTC",
        ),
        (
            "active",
            {"ends_at": NOW_S - DAY_S},
            "cancelled",
            "it was set to end on 20 Nov 2026 12:00 UTC",
        ),
        (
            "trialing",
            {"lapses_at": NOW_S - DAY_S},
            "trial_over",
            "its trial ended on 20 Nov 2026 12:00 UTC, and nothing was set to pay",
        ),
    ],
)
def test_why_a_subscription_gives_nothing(status: str, more: Any, reason: str, said: str) -> None:
    told = Told()
    told.see("subscription/sub_1", 10, status, "pro", **more)
    assert told.explain().value is None
    assert told.explain().not_giving[0].reason == reason
    assert why_not(told) == f"subscription sub_1 (source stripe) would give 10 by plan pro: {said}."


@pytest.mark.parametrize(
    ("provider", "name", "status", "more", "said"),
    [
        (
            "polar",
            "subscription/s",
            "canceled",
            {},
            "it ended on 16 Nov 2026 12:00 UTC (event evt_2).",
        ),
        ("hmac", "subscription/s", "ended", {}, "it ended on 16 Nov 2026 12:00 UTC (event evt_2)."),
        (
            "polar",
            "subscription/s",
            "incomplete_expired",
            {},
            "its first payment failed on 16 Nov 2026 12:00 UTC (event evt_2).",
        ),
        ("hmac", "order/o", "pending", {}, "waiting for its payment since 16 Nov 2026 12:00 UTC"),
        ("hmac", "order/o", "contested", {}, 'its status "contested" gives nothing.'),
        ("hmac", "subscription/s", "present", {}, 'its status "present" gives nothing.'),
        (
            "clerk",
            "subscription_item/i",
            "past_due",
            {"past_due_at": NOW_S - 20 * DAY_S},
            "past due since 1 Nov 2026 12:00 UTC (event evt_2), and its 7-day grace period ended"
            " on 8 Nov 2026 12:00 UTC.",
        ),
    ],
)
def test_why_an_object_with_versions_gives_nothing(
    provider: str, name: str, status: str, more: Any, said: str
) -> None:
    sold = {"features": {"seats": 10}, "products": [f"{provider}:prod_pro"]}
    told = Told(catalog(pro=sold))
    told.see(name, 15, "active", "pro", provider=provider, tenant="acme")
    told.see(name, 5, status, "pro", provider=provider, tenant="acme", **more)
    assert said in " ".join(told.text().split())


def test_no_grace_at_all_is_not_called_a_period() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "past_due", "team")
    assert why_not(told).endswith(
        "past due since 11 Nov 2026 12:00 UTC (event evt_1), and there is no grace period."
    )


@pytest.mark.parametrize(
    ("adverse", "reason", "said"),
    [
        (
            ("dispute/dp_1", "needs_response", {}),
            "held",
            "its payment is contested: dispute dp_1 has been open since 20 Nov 2026 12:00 UTC"
            " (event evt_3)",
        ),
        (
            ("radar.early_fraud_warning/w_1", "actionable", {}),
            "held",
            "its payment is contested: fraud warning w_1 has been open since 20 Nov 2026 12:00"
            " UTC (event evt_3)",
        ),
        (
            ("dispute/dp_1", "lost", {"amount": 4900}),
            "reversed",
            "its payment was taken back: dispute dp_1 was lost on 20 Nov 2026 12:00 UTC"
            " (event evt_3)",
        ),
        (
            ("refund/re_1", "succeeded", {"amount": 4900}),
            "reversed",
            "its payment was taken back: refund re_1 was made on 20 Nov 2026 12:00 UTC"
            " (event evt_3)",
        ),
    ],
)
def test_why_a_purchase_gives_nothing(adverse: Any, reason: str, said: str) -> None:
    name, status, more = adverse
    told = Told()
    refs = ("payment_intent/pi_1",)
    told.see("checkout.session/cs_1", 10, "paid", "pro", tenant="acme", amount=4900, refs=refs)
    told.see("charge/ch_1", 10, "succeeded", amount=4900, refs=refs)
    told.see(name, 1, status, refs=("charge/ch_1", *refs), **more)
    assert told.explain().not_giving[0].reason == reason
    assert why_not(told) == f"purchase cs_1 (source stripe) would give 10 by plan pro: {said}."


def test_a_charge_may_tell_of_its_refund() -> None:
    told = Told()
    refs = ("payment_intent/pi_1",)
    told.see("checkout.session/cs_1", 10, "paid", "pro", tenant="acme", amount=4900, refs=refs)
    told.see("charge/ch_1", 10, "succeeded", amount=4900, refs=refs)
    told.see("charge/ch_1", 2, "succeeded", amount=4900, refunded=4900, refs=refs)
    assert why_not(told).endswith(
        "taken back: charge ch_1 was refunded on 19 Nov 2026 12:00 UTC (event evt_3)."
    )


def test_what_is_unpaid_is_not_blamed_on_a_dispute() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "unpaid", "pro")
    told.see("invoice/in_1", 20, "paid", refs=("charge/ch_1", "subscription/sub_1"), started_at=1)
    told.see("dispute/dp_1", 1, "needs_response", refs=("charge/ch_1",))
    assert told.explain().not_giving[0].reason == "unpaid"


def test_a_dispute_that_holds_nothing_back_yet_is_told() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    told.see("charge/ch_9", 3, "succeeded", refs=("payment_intent/pi_9",))
    told.see("dispute/dp_9", 1, "needs_response", refs=("charge/ch_9",))
    told.links[CUSTOMER] = OperatorLink("acme", "operator:ada", NOW)
    assert told.explain().value == 10
    assert (
        lines("""
        Dispute dp_9 has been open since 20 Nov 2026 12:00 UTC (event evt_3). What its
        payment was for is not known yet, so it takes nothing away.
        """)
        in told.text()
    )


def test_a_source_may_keep_what_is_disputed() -> None:
    told = Told(policy=Policy(disputes="keep"))
    told.see("subscription/sub_1", 10, "active", "pro")
    told.see("invoice/in_1", 20, "paid", refs=("charge/ch_1", "subscription/sub_1"), started_at=1)
    told.see("dispute/dp_1", 1, "needs_response", refs=("charge/ch_1",))
    assert (told.explain().value, told.explain().not_giving) == (10, ())


def test_why_a_purchase_that_is_not_paid_gives_nothing() -> None:
    told = Told()
    told.see("checkout.session/cs_1", 10, "unpaid", "pro", tenant="acme")
    assert why_not(told).endswith(
        "waiting for its payment since 11 Nov 2026 12:00 UTC (event evt_1)."
    )


def test_a_checkout_that_nobody_finished_is_not_mentioned() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "chat")
    told.see("checkout.session/cs_1", 10, "expired", "pro", tenant="acme")
    told.see("checkout.session/cs_2", 10, "open", "pro", tenant="acme")
    assert told.explain().not_giving == ()


def test_a_purchase_whose_time_is_over() -> None:
    told = Told()
    told.see("checkout.session/cs_1", 40, "paid", "pack", tenant="acme")
    assert why_not(told).endswith(
        "paid on 12 Oct 2026 12:00 UTC (event evt_1), for a time that ended on 11 Nov 2026 12:00"
        " UTC."
    )


def test_paused_collection_may_take_it_away() -> None:
    told = Told(policy=Policy(voided_collection="revoke"))
    told.see("subscription/sub_1", 10, "active", "pro", collection="void")
    assert why_not(told).endswith("collecting its payments is paused, and its invoices are void.")
    told.see("subscription/sub_1", 9, "active", "pro", collection="void", resumes_at=NOW_S + DAY_S)
    assert why_not(told).endswith("it begins on 22 Nov 2026 12:00 UTC.")
    assert (
        lines("""
        What would change it:
        - 22 Nov 2026 12:00 UTC: what subscription sub_1 gives begins. Then acme may use
          seats: 10.
        """)
        in told.text()
    )


def test_what_nothing_maps_may_give_it() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "new")
    assert told.text() == lines("""
        acme may not use seats.

        Not counted:
        - subscription sub_1 (source stripe) may give it: no plan of the catalog has its
          product stripe:prod_new.

        What would change it:
        - When a plan has its product stripe:prod_new, subscription sub_1 gives what it
          says.
        """)


def test_what_nothing_maps_of_a_configured_sender_is_named_by_its_source() -> None:
    """Every sender that signs so is `hmac`: a plan with `hmac:…` were for all of them."""
    told = Told()
    told.see("subscription/sub_1", 10, "active", "new", provider="hmac")
    assert told.explain().not_giving[0].products == ("acme:prod_new",)


def test_a_change_to_what_nothing_maps_is_told_of_every_feature() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "chat")
    told.see("subscription/sub_1", 9, "active", "new")
    assert "may give it: no plan of the catalog has its product stripe:prod_new" in why_not(told)


def test_a_plan_without_the_feature_is_not_mentioned() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "canceled", "chat")
    assert told.text() == "acme may not use seats."


def test_whose_is_not_known() -> None:
    """Another subscription of a customer that is the tenant's by its own word only."""
    told = Told()
    told.see("subscription/sub_1", 10, "active", "chat")
    told.see("subscription/sub_2", 9, "active", "pro", tenant=None)
    assert told.text() == lines("""
        acme may not use seats.

        What acme may use: chat.

        Not counted:
        - subscription sub_2 (source stripe) would give 10 by plan pro: nothing says
          which tenant its customer cus_1 belongs to.

        What would change it:
        - When customer cus_1 is linked to a tenant, subscription sub_2 counts there.
        """)


def test_two_claims_of_one_rank() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "chat")
    told.see("subscription/sub_2", 9, "active", "pro", tenant=None)
    told.see("checkout.session/cs_1", 9, "complete", reference="acme")
    told.see("checkout.session/cs_2", 9, "complete", reference="other")
    assert "its customer cus_1 is claimed for several tenants" in why_not(told)
    assert "When an operator says whose customer cus_1 is" in " ".join(told.text().split())


def test_the_other_mode_and_a_removed_source() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro", livemode=False)
    assert why_not(told).endswith("it is a test object, and only live ones count here.")
    told = Told(is_removed=True)
    told.see("subscription/sub_1", 10, "active", "pro")
    assert why_not(told).endswith("its source stripe was removed.")


def test_a_source_that_grants_by_its_summary() -> None:
    told = Told(
        catalog(lux={"features": {"seats": 7}, "products": ["stripe:prod_lux"]}),
        policy=Policy(grants_from="summary"),
    )
    told.see("subscription/sub_1", 10, "active", "pro")
    assert why_not(told).endswith("what stripe gives is read from other objects.")
    name = "entitlements.active_entitlement_summary/cus_1"
    told.see(name, 9, "current", "lux", customer="cus_1", tenant="acme")
    assert told.explain().value == 7
    told.see("subscription/sub_1", 8, "paused", "pro")
    explanation = told.explain()
    assert explanation.value is None
    assert [one.reason for one in explanation.not_giving] == ["lapsed", "other_family"]


def test_what_is_only_announced() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "chat")
    told.see("subscription/sub_2", 1, "unobserved", shape="hint", customer=None, tenant=None)
    told.see("checkout.session/cs_1", 1, "paid", is_partial=True, tenant="acme")
    explanation = told.explain()
    assert [(one.object and one.object.object, one.reason) for one in explanation.not_giving] == [
        ("checkout.session/cs_1", "needs:line_items")
    ]
    assert (
        why_not(told)
        == "purchase cs_1 (source stripe) may give it: what was bought is not known yet."
    )
    told.see("subscription/sub_3", 2, "active", "chat", is_partial=True)
    assert [one.reason for one in told.explain().not_giving] == ["needs:line_items", "needs:fetch"]


def test_what_several_providers_say_is_told_in_one_time() -> None:
    sold = {"features": {"seats": 10}, "products": ["stripe:prod_pro", "polar:prod_pro"]}
    told = Told(catalog(pro=sold))
    for days in range(20, 40):
        told.see("subscription/sub_2", days, "canceled", "pro", provider="polar", tenant="acme")
    told.see("subscription/sub_1", 2, "canceled", "pro")
    told.see("subscription/sub_3", 1, "canceled", "pro", provider="polar", tenant="acme")
    explanation = told.explain()
    assert [one.object.object for one in explanation.not_giving if one.object is not None] == [
        "subscription/sub_3",
        "subscription/sub_1",
        "subscription/sub_2",
    ]
    assert [one.objects[0] for one in explanation.evidence.events][:3] == [
        "subscription/sub_3",
        "subscription/sub_1",
        "subscription/sub_2",
    ]


def test_lists_are_cut_and_the_urgent_comes_first() -> None:
    told = Told()
    for number in range(12):
        told.see(f"subscription/old_{number:02}", 100 - number, "canceled", "pro")
    told.see("subscription/sub_1", 300, "unpaid", "pro")
    explanation = told.explain()
    assert explanation.not_giving_total == 13
    assert [one.object and one.object.object for one in explanation.not_giving][:3] == [
        "subscription/sub_1",
        "subscription/old_11",
        "subscription/old_10",
    ]
    assert "- and 3 more." in told.text()
    assert (explanation.evidence.total, len(explanation.evidence.events)) == (13, 10)
    assert "Behind this, the newest 10 of 13 events:" in text_of(explanation)


# By hand ------------------------------------------------------------------------------------------


def test_what_an_operator_gave_without_an_end() -> None:
    told = Told()
    told.give(5)
    assert told.text() == lines("""
        acme may use seats: 5.

        Why:
        - 5 given by operator ana on 18 Nov 2026 12:00 UTC, without an end: "pilot
          extension".
        """)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"valid_until": NOW - timedelta(days=1)},
            "5 given by operator ana on 18 Nov 2026 12:00 UTC ended on 20 Nov 2026 12:00 UTC."
            ' It was given for: "pilot extension".',
        ),
        (
            {
                "revoked_at": NOW - timedelta(days=1),
                "revoked_by": "operator:bo",
                "revoke_reason": "typo",
            },
            "5 given by operator ana on 18 Nov 2026 12:00 UTC was revoked by operator bo on 20 Nov"
            ' 2026 12:00 UTC: "typo". It was given for: "pilot extension".',
        ),
    ],
)
def test_what_an_operator_gave_once(more: Any, said: str) -> None:
    told = Told()
    told.give(5, **more)
    assert told.explain().value is None
    assert why_not(told) == said


# Another time, another catalog --------------------------------------------------------------------


def test_of_the_past_the_trail_has_the_word() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    past = {"tense": "past", "at": NOW - timedelta(days=1)}
    assert told.text(record=recorded(), **past) == lines("""
        On 20 Nov 2026 12:00 UTC acme could use seats: 10.

        Why:
        - 10 from plan pro, by subscription sub_1 (source stripe): active since 11 Nov
          2026 12:00 UTC (event evt_1), with no end set.
        """)
    text = text_of(told.explain(record=recorded(), **past))
    assert "It had been so since 19 Nov 2026 12:00 UTC, because of event evt_1" in " ".join(
        text.split()
    )
    explanation = told.explain(record=recorded(12), **past)
    assert (explanation.value, explanation.notes) == (12, ("disagrees",))
    assert "comes to something else" in text_of(explanation)
    assert told.explain(record=None, **past).notes == ("disagrees",)


def test_the_clock_ends_what_the_trail_tells_of() -> None:
    """Where the record's end has passed, what was left follows from the other objects."""
    told = Told(catalog(one={"features": {"seats": 1}}))
    told.see("subscription/sub_1", 10, "active", "pro", ends_at=NOW_S - 2 * DAY_S)
    told.see("subscription/sub_2", 9, "active", "one")
    record = recorded(valid_until=NOW - timedelta(days=2), at=NOW - timedelta(days=9))
    explanation = told.explain(record=record, tense="past", at=NOW - timedelta(days=1))
    assert (explanation.value, explanation.notes) == (1, ())
    assert "The audit trail has since 12 Nov 2026 12:00 UTC: may use seats: 10" in text_of(
        explanation
    )


def test_what_was_erased_is_said() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    record = recorded(None, is_erased=True)
    explanation = told.explain(record=record, tense="past", at=NOW - timedelta(days=1))
    assert (explanation.value, explanation.notes) == (10, ("erased",))
    assert "has been erased" in text_of(explanation)


def test_before_anything_was_known() -> None:
    explanation = Told().explain(tense="past", at=NOW - timedelta(days=90), knew=False)
    assert explanation.value is None
    assert text_of(explanation) == "On 23 Aug 2026 12:00 UTC nothing was known of acme."


@pytest.mark.parametrize(
    ("cause", "actor", "said"),
    [
        ("event", "provider:stripe", "because of event evt_1 ("),
        ("catalog", "system:sweep", "because of catalog version 7 ("),
        ("operator", "operator:ana", "because of what operator ana did ("),
        ("end", "system:clock", "because of the clock ("),
        ("reconcile", "system:sweep", "because of reconcile ("),
    ],
)
def test_what_changed_it_last_is_told(cause: str, actor: str, said: str) -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    text = text_of(told.explain(record=recorded(cause=cause, actor=actor)))
    assert f"It has been so since 19 Nov 2026 12:00 UTC, {said}" in " ".join(text.split())


def test_the_future_is_told_from_what_is_known() -> None:
    told = Told()
    told.see("subscription/sub_1", 2, "past_due", "pro")
    assert told.text(tense="future", at=NOW + timedelta(days=10)) == lines("""
        By what is known now, on 1 Dec 2026 12:00 UTC acme may not use seats.

        Not counted:
        - subscription sub_1 (source stripe) would give 10 by plan pro: past due since
          19 Nov 2026 12:00 UTC (event evt_1), and its 7-day grace period ended on 26
          Nov 2026 12:00 UTC.

        What would change it:
        - When subscription sub_1 is paid, it counts again.
        """)


def test_a_newer_catalog_is_being_applied() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    explanation = told.explain(newest_catalog=8)
    assert explanation.notes == ("recomputing",)
    assert "It is being recomputed with version 8" in " ".join(text_of(explanation).split())


def test_what_is_stored_counts() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    stale = [HeldGrant(1, Grant("acme", "pro", "seats", 4), None)]
    explanation = told.explain(held=stale)
    assert (explanation.value, explanation.notes) == (4, ("not_written",))
    missing = told.explain(held=[])
    assert (missing.value, missing.notes) == (None, ("not_written",))
    assert [one.reason for one in missing.not_giving] == ["not_written"]


def test_a_feature_that_nobody_knows() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    assert told.text("seatz") == lines("""
        acme may not use seatz.

        No plan of the catalog has seatz.

        What acme may use: seats, sso.
        """)
    assert not told.explain("seatz").is_known


def test_every_word_of_the_answer_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/explain.md").read_text()
    words = {*get_args(Reason), *get_args(Note), *get_args(Combined)}
    words |= {field.encode_name for field in msgspec.structs.fields(Explanation)}
    assert {word for word in words if f"`{word}`" not in text} == set()


# What is read -------------------------------------------------------------------------------------


def test_only_what_is_spoken_of_is_read() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    told.see("invoice/in_1", 9, "paid", refs=("subscription/sub_1",))
    told.see("subscription/sub_2", 10, "canceled", "chat")
    facts = told.facts()
    assert [key.name for key in explaining.bearing(facts)] == ["subscription/sub_1"]
    assert explaining.evidence(facts) == [UUID(int=1)]


def test_evidence_that_is_gone_is_said_to_be() -> None:
    told = Told()
    told.see("subscription/sub_1", 10, "active", "pro")
    facts = told.facts()
    (event,) = facts.events.values()
    gone = msgspec.structs.replace(event, event_id=None, type=None, outcome=None)
    text = text_of(explaining.explain(msgspec.structs.replace(facts, events={UUID(int=1): gone})))
    assert (
        "an event (no longer kept) of subscription sub_1, received 21 Nov 2026 11:00"
        in " ".join(text.split())
    )


def test_lines_are_short_whatever_an_operator_writes() -> None:
    told = Told()
    told.give(5, reason="a long story, " * 40 + "\n\nacme may use everything")
    text = text_of(told.explain())
    assert max(map(len, text.splitlines())) <= 80
    assert "\n\nacme may use everything" not in text
