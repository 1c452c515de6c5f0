"""What a billing page shows: one table of statuses, and what is read off the objects."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from shared.domain.billing import billing_of, next_change
from shared.domain.billing.answer import Billing, Facts
from shared.domain.billing.answer import Subscription as Shown
from shared.domain.billing.statuses import (
    GIVING,
    LACKING,
    STANDING_STILL,
    Status,
    gives_access,
    place_of,
)
from shared.domain.entitlements import Grant
from shared.domain.explanation import OperatorLink
from shared.domain.payments import Policy
from shared.domain.reasons import Reason
from shared.domain.register import NOTHING
from shared.domain.standings import ACCESS, Standing
from shared.domain.turns import HeldGrant
from shared.domain.verdicts import Verdict
from tests.support.explained import CUSTOMER, DAY_S, NOW, NOW_S, Told, catalog

SUB = "subscription/sub_1"


def billing(told: Told, **more: Any) -> Billing:
    facts = told.facts(**more)
    return billing_of(
        Facts(
            tenant=facts.tenant,
            at=facts.at,
            catalog=facts.catalog,
            held=facts.held,
            situations=facts.situations,
        ),
        "acme",
    )


def only(found: Billing) -> Shown:
    (one,) = found.subscriptions
    return one


# The table --------------------------------------------------------------------------------------


def test_the_table_has_every_word() -> None:
    """A new standing or reason says what it means for a billing page."""
    assert GIVING.keys() == {one for one in Standing if ACCESS[one] != "none"}
    assert LACKING.keys() == set(get_args(Reason))
    assert {*GIVING.values(), *LACKING.values(), "canceled"} == set(get_args(Status))
    assert {one for one in get_args(Status) if gives_access(one)} == {"active", "trialing", "grace"}
    assert [place_of(one) for one in get_args(Status)] == list(range(len(get_args(Status))))
    assert all(ACCESS[one] == "none" for one in STANDING_STILL)


def test_the_document_has_the_same_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()
    rows = [line.split("|")[1:4] for line in text.split("## The status")[1].splitlines()]
    told = {
        row[0].strip(" `"): (re.findall(r"`([^`]+)`", row[1]), re.findall(r"`([^`]+)`", row[2]))
        for row in rows
        if len(row) == 3 and row[0].strip(" `") in get_args(Status)
    }
    assert list(told) == list(get_args(Status))
    for status, (standings, reasons) in told.items():
        assert sorted(standings) == sorted(one for one in GIVING if GIVING[one] == status)
        assert reasons == [one for one in LACKING if LACKING[one] == status]


#: status, what else is said of it → status, reason
TABLE: list[tuple[str, dict[str, Any], Status, str | None]] = [
    ("active", {}, "active", None),
    ("active", {"ends_at": NOW_S + 5}, "active", None),
    ("active", {"ends_at": NOW_S - 5}, "canceled", "cancelled"),
    ("active", {"ends_at": NOW_S - 5, "pauses": True}, "paused", "cancelled"),
    ("active", {"tenant": None}, "withheld", "needs:link"),
    ("active", {"collection": "void"}, "active", None),
    ("trialing", {}, "trialing", None),
    ("trialing", {"lapses_at": NOW_S + 5}, "trialing", None),
    ("trialing", {"lapses_at": NOW_S - 5}, "canceled", "trial_over"),
    ("past_due", {}, "grace", None),
    ("past_due", {"past_due_at": NOW_S - 8 * DAY_S}, "past_due", "grace_over"),
    ("unpaid", {}, "past_due", "unpaid"),
    ("incomplete", {}, "pending", "pending"),
    ("incomplete_expired", {}, "none", "never_started"),
    ("paused", {}, "paused", "paused"),
    ("canceled", {}, "canceled", "ended"),
    ("frozen", {}, "withheld", "unknown_status"),
]


@pytest.mark.parametrize(
    ("status", "more", "wanted", "reason"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE]
)
def test_a_status_of_the_table(
    status: str, more: dict[str, Any], wanted: Status, reason: str | None
) -> None:
    told = Told()
    if more.get("tenant", "") is None:
        # Nobody's yet; its customer has something else that is the tenant's.
        told.see("customer/cus_1", 9, "present", customer="cus_1", shape="point")
        told.see("subscription/sub_0", 9, "canceled", "pro")
    told.see(SUB, 2, status, "pro", **more)
    found = billing(told)
    one = next(one for one in found.subscriptions if one.object == SUB)
    assert (one.status, one.reason, one.grants) == (wanted, reason, reason is None)
    assert found.status == wanted
    assert (found.decided_by is None) == (wanted == "none")
    if found.decided_by is not None:
        assert found.decided_by.object == SUB


def test_other_reasons_of_the_table() -> None:
    unmapped = Told()
    unmapped.see(SUB, 2, "active", "other")
    assert (only(billing(unmapped)).status, only(billing(unmapped)).reason) == (
        "withheld", "needs:mapping",
    )  # fmt: skip
    void = Told(policy=Policy(voided_collection="revoke"))
    void.see(SUB, 2, "active", "pro", collection="void")
    assert (only(billing(void)).status, only(billing(void)).reason) == ("paused", "voided")
    until = Told(policy=Policy(voided_collection="revoke"))
    until.see(SUB, 2, "active", "pro", collection="void", resumes_at=NOW_S + DAY_S)
    one = only(billing(until))
    assert (one.status, one.reason, one.reason_at) == ("paused", "not_yet", NOW + timedelta(days=1))
    assert [(two.action, two.at) for two in one.scheduled] == [("resume", NOW + timedelta(days=1))]
    assert billing(until).next_change_at == NOW + timedelta(days=1)
    removed = Told(is_removed=True)
    removed.see(SUB, 2, "active", "pro")
    found = billing(removed)
    assert (only(found).status, only(found).reason, found.status) == (
        "none", "source_removed", "none",
    )  # fmt: skip


def test_a_plan_without_features_is_paid_for_all_the_same() -> None:
    told = Told(catalog=catalog(support={"features": {}}))
    told.see(SUB, 2, "active", "support")
    found = billing(told)
    assert (found.status, only(found).reason, only(found).grants) == (
        "active",
        "no_features",
        False,
    )
    assert only(found).plans == ("support",)


def test_the_default_plan_of_everybody_is_no_business() -> None:
    told = Told()
    more = {"customer": "org_1", "tenant": "acme", "is_default": True}
    told.see("subscription_item/item_1", 2, "active", "free", provider="clerk", **more)
    found = billing(told)
    assert (found.status, only(found).status, only(found).reason) == ("none", "none", "no_features")


def test_a_dispute_withholds_what_is_paid_for() -> None:
    told = Told()
    told.see("checkout.session/cs_1", 9, "paid", "pack", tenant="acme",
             refs=("payment_intent/pi_1",), started_at=NOW_S - 9 * DAY_S)  # fmt: skip
    found = billing(told)
    (purchase,) = found.purchases
    assert (found.status, purchase.object, purchase.plans) == (
        "active", "checkout.session/cs_1", ("pack",),
    )  # fmt: skip
    assert purchase.grants_until == found.next_change_at == NOW + timedelta(days=21)
    told.see("dispute/dp_1", 1, "needs_response", refs=("payment_intent/pi_1",))
    held = billing(told)
    assert (held.status, held.purchases[0].reason, held.subscriptions) == ("withheld", "held", ())
    told.see("dispute/dp_1", 0.5, "lost", refs=("payment_intent/pi_1",))
    assert (billing(told).status, billing(told).purchases) == ("canceled", ())


def test_a_test_mode_subscription_is_shown_and_counts_for_nothing() -> None:
    told = Told()
    told.see(SUB, 2, "active", "pro", livemode=False)
    found = billing(told)
    assert (found.status, only(found).reason, only(found).livemode) == ("none", "other_mode", False)
    assert found.decided_by is None


# Of several -------------------------------------------------------------------------------------


def test_the_best_of_several_sources_counts() -> None:
    told = Told()
    told.see(SUB, 5, "past_due", "pro", past_due_at=NOW_S - 20 * DAY_S)
    assert billing(told).status == "past_due"
    polar = catalog(cloud={"features": {"sso": True}, "products": ["polar:prod_cloud"]})
    told.catalog = polar
    told.see("subscription/sub_1", 1, "trialing", "cloud", provider="polar", customer="c")
    found = billing(told)
    assert (found.status, found.decided_by and found.decided_by.source) == ("trialing", "polar")
    assert [(one.source, one.status) for one in found.subscriptions] == [
        ("polar", "trialing"), ("stripe", "past_due"),
    ]  # fmt: skip
    assert found.subscriptions_total == 2


@pytest.mark.parametrize(
    ("status", "wanted"), [("active", "active"), ("past_due", "grace"), ("canceled", "active")]
)
def test_where_benefits_grant_subscriptions_say_how_it_stands(status: str, wanted: str) -> None:
    plans = catalog(cloud={"features": {"sso": True}, "products": ["polar:prod_b"]})
    told = Told(catalog=plans, policy=Policy(grants_from="benefits"))
    told.see(SUB, 5, status, "cloud", provider="polar", customer="c")
    found = billing(told)
    expected = "canceled" if status == "canceled" else "withheld"
    assert (found.status, only(found).reason) == (expected, "other_family")
    told.see("benefit_grant/bg_1", 4, "granted", "b", provider="polar", customer="c", tenant="acme")
    found = billing(told)
    assert (found.status, [one.object for one in found.benefits]) == (
        wanted, ["benefit_grant/bg_1"],
    )  # fmt: skip
    assert found.purchases == ()


def test_what_is_given_by_hand_is_no_payment() -> None:
    told = Told()
    told.give(50, NOW + timedelta(days=3))
    found = billing(told)
    assert (found.status, found.subscriptions, found.purchases) == ("none", (), ())
    assert found.next_change_at == NOW + timedelta(days=3)


def test_a_long_list_is_cut_and_counted() -> None:
    told = Told()
    for number in range(120):
        told.see(f"subscription/old_{number}", 100, "canceled", "pro")
    told.see(SUB, 2, "active", "pro")
    found = billing(told)
    assert (len(found.subscriptions), found.subscriptions_total) == (100, 121)
    assert found.subscriptions[0].object == SUB


# What is shown ----------------------------------------------------------------------------------


def test_a_subscription_says_what_it_is_and_what_comes() -> None:
    told = Told()
    told.see(SUB, 2, "active", "pro", "other", started_at=NOW_S - DAY_S,
             period_ends_at=NOW_S + 10 * DAY_S, ends_at=NOW_S + 10 * DAY_S)  # fmt: skip
    told.see("subscription/sub_2", 2, "active", "pro", period_ends_at=NOW_S + 10 * DAY_S)
    by_object = {one.object: one for one in billing(told).subscriptions}
    ending, renewing = by_object[SUB], by_object["subscription/sub_2"]
    end = NOW + timedelta(days=10)
    assert [(one.product, one.quantity, one.plans) for one in ending.items] == [
        ("stripe:prod_pro", 1, ("pro",)), ("stripe:prod_other", 1, ()),
    ]  # fmt: skip
    assert (ending.plans, ending.needs) == (("pro",), "needs:mapping")
    assert (ending.provider_status, ending.standing) == ("active", Standing.ACTIVE)
    assert [(one.action, one.at, one.at_period_end) for one in ending.scheduled] == [
        ("cancel", end, True)
    ]
    assert (ending.period_ends_at, ending.renews_at) == (end, None)
    assert (renewing.period_ends_at, renewing.renews_at, renewing.scheduled) == (end, end, ())
    assert renewing.trial_ends_at is None


def test_grace_is_counted_from_the_first_failure() -> None:
    told = Told()
    told.see(SUB, 9, "active", "pro", "chat")
    told.see(SUB, 3, "past_due", "pro", "chat")
    told.see(SUB, 1, "past_due", "pro", "chat", period_ends_at=NOW_S - DAY_S)
    one = only(billing(told))
    assert one.past_due_since == NOW - timedelta(days=3)
    assert one.grace_until == one.grants_until == NOW + timedelta(days=4)
    assert (one.status, one.renews_at) == ("grace", None)


@pytest.mark.parametrize(
    ("more", "trial_ends", "renews"),
    [
        ({"period_ends_at": NOW_S + DAY_S}, 1, 1),
        ({"period_ends_at": NOW_S + DAY_S, "lapses_at": NOW_S + DAY_S}, 1, None),
        ({"lapses_at": NOW_S + 2 * DAY_S}, 2, None),
        ({}, None, None),
    ],
)
def test_a_trial_ends_with_its_period_or_lapses(
    more: dict[str, Any], trial_ends: int | None, renews: int | None
) -> None:
    told = Told()
    told.see(SUB, 2, "trialing", "pro", **more)
    one = only(billing(told))
    in_days = [None if at is None else (at - NOW).days for at in (one.trial_ends_at, one.renews_at)]
    assert in_days == [trial_ends, renews]
    assert [two.action for two in one.scheduled] == (["lapse"] if "lapses_at" in more else [])
    # With something to pay from it goes on.
    told.see("customer/cus_1", 1, "present", customer="cus_1", has_payment_method=True)
    assert only(billing(told)).scheduled == ()


def test_what_a_replay_took_back_is_not_shown() -> None:
    told = Told()
    told.links[CUSTOMER] = OperatorLink("acme", "operator:ana", NOW)
    told.see(SUB, 2, "unobserved", shape="hint")
    assert [one.reason for one in billing(told).subscriptions] == ["needs:fetch"]
    told.sights.clear()
    told.see(SUB, 2, "active", "pro")
    facts = told.facts()
    taken = {
        key: msgspec.structs.replace(
            one,
            neighbour=msgspec.structs.replace(one.neighbour, register=NOTHING),
            verdict=Verdict(),
        )
        for key, one in facts.situations.items()
    }
    assert billing(told, situations=taken, held=[]).subscriptions == ()


def test_the_next_change_is_of_what_may_be_used() -> None:
    def held(value: Any, until_days: int | None = None, from_days: int | None = None) -> HeldGrant:
        until = None if until_days is None else NOW + timedelta(days=until_days)
        begins = None if from_days is None else NOW + timedelta(days=from_days)
        grant = Grant("acme", "pro", "seats", value, valid_from=begins, valid_until=until)
        return HeldGrant(1, grant, None)

    assert next_change([held(5, 3), held(5)], NOW) is None
    assert next_change([held(5, 3), held(4)], NOW) == NOW + timedelta(days=3)
    assert next_change([held(5, None, 2)], NOW) == NOW + timedelta(days=2)
    assert next_change([held(1, 3), held(True)], NOW) == next_change([held(1, 3)], NOW)
    assert next_change([held(5, -3)], NOW) is None
