"""What is read of summaries and accounts, of thin events, and of what a fetch answers."""

import json
from typing import Any

import pytest

from shared.domain.commands import Ignore, Observe
from shared.domain.events import FETCHED
from shared.domain.states import UNOBSERVED, Item, ObjectState
from shared.providers.base import PayloadError
from shared.providers.stripe.snapshots import MODELS
from tests.support import stripe_events as given
from tests.support.reading import asked_of, observed, read, told_in_any_order
from tests.support.stripe_events import (
    NOW_S,
    account,
    entitlement,
    event,
    fetched,
    listed,
    summary,
    thin_event,
)

SUMMARY = "entitlements.active_entitlement_summary"
SUMMARY_UPDATED = f"{SUMMARY}.updated"


# The summary ----------------------------------------------------------------------------------


def test_a_summary_is_all_that_a_customer_has() -> None:
    seen = observed(SUMMARY_UPDATED, summary("cus_4", ["sso", "api"]), created=NOW_S)
    assert (seen.kind, seen.object_id, seen.version) == (SUMMARY, "cus_4", NOW_S)
    assert seen.after == ObjectState(
        "current",
        customer="cus_4",
        items=(Item(("feat_api", "api")), Item(("feat_sso", "sso"))),
    )


def test_an_expanded_feature_is_its_id() -> None:
    content = summary()
    content["entitlements"]["data"] = [
        {**entitlement("sso"), "feature": {"id": "feat_9", "lookup_key": "sso"}}
    ]
    assert observed(SUMMARY_UPDATED, content).after.items == (Item(("feat_9", "sso")),)


def test_summary_paged() -> None:
    """Ten entitlements and no more are in an event: the rest has to be fetched."""
    assert observed(SUMMARY_UPDATED, summary(has_more=True)).after.is_partial
    assert not observed(SUMMARY_UPDATED, summary()).after.is_partial


def test_summary_removal_removes() -> None:
    seen = observed(SUMMARY_UPDATED, summary("cus_1", []), previous=before("sso"))
    assert seen.shape == "edge"
    assert seen.before is not None
    assert (seen.before.items, seen.after.items) == ((Item(("feat_sso", "sso")),), ())


def before(*lookup_keys: str) -> dict[str, Any]:
    return {"entitlements": {"data": [entitlement(key) for key in lookup_keys]}}


def test_a_summary_without_the_list_before_is_a_point() -> None:
    assert observed(SUMMARY_UPDATED, summary()).shape == "point"


def test_summaries_of_one_second_converge() -> None:
    """A change of plan takes features and gives others, one event each."""
    register = told_in_any_order(
        SUMMARY,
        [
            event(SUMMARY_UPDATED, summary("cus_1", ["a", "b"]), previous=before("a")),
            event(SUMMARY_UPDATED, summary("cus_1", ["b"]), previous=before("a", "b")),
            event(SUMMARY_UPDATED, summary("cus_1", ["b", "c"]), previous=before("b")),
        ],
    )
    names = [item.refs[1] for item in register.newest.items]
    assert (names, register.ambiguous) == (["b", "c"], False)


# Connected accounts ---------------------------------------------------------------------------

APPLICATION = {"id": "ca_1", "object": "application", "name": "Sluice"}


def test_an_account_is_present_until_it_is_deauthorized() -> None:
    seen = observed("account.updated", account(), account="acct_1", previous={"email": "a"})
    assert (seen.kind, seen.object_id, seen.after) == ("account", "acct_1", ObjectState("present"))
    gone = observed("account.application.deauthorized", APPLICATION, account="acct_1")
    assert (gone.kind, gone.object_id) == ("account", "acct_1")
    assert (gone.before, gone.after.status) == (seen.after, "deauthorized")
    back = observed("account.application.authorized", APPLICATION, account="acct_1")
    assert (back.before, back.after) == (gone.after, gone.before)


def test_an_account_deauthorized_in_the_second_of_its_update_is_gone() -> None:
    register = told_in_any_order(
        "account",
        [
            event("account.updated", account(), account="acct_1", previous={"email": "a"}),
            event("account.application.deauthorized", APPLICATION, account="acct_1"),
        ],
    )
    assert (register.newest.status, register.ambiguous) == ("deauthorized", False)


def test_without_its_account_a_deauthorization_says_nothing() -> None:
    kind = "account.application.deauthorized"
    with pytest.raises(PayloadError, match="no account"):
        asked_of(kind, event(kind, APPLICATION))


# Thin events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_thin_event_is_a_hint(kind: str) -> None:
    body = thin_event("v1.some.type", kind, "id_1", created=NOW_S + 0.999)
    assert read("v1.some.type", body) == Observe(
        kind, "id_1", NOW_S, "hint", None, ObjectState(UNOBSERVED)
    )


@pytest.mark.parametrize(
    ("code", "kind", "related"),
    [
        ("unknown_type", "v1.billing.meter.error_report_triggered", "billing.meter"),
        ("unknown_type", "v2.core.account.updated", "v2.core.account"),
        ("catalog_is_ours", "v1.product.updated", "product"),
        ("catalog_is_ours", "v1.entitlements.feature.created", "entitlements.feature"),
        ("no_access_change", "v1.subscription_schedule.released", "subscription_schedule"),
        ("no_access_change", "v1.charge.failed", "charge"),
        ("ping", "v2.core.event_destination.ping", "v2.core.event_destination"),
        ("ping", "v2.core.event_destination.ping", None),
        # Neither names its object: it has no id, or there is none to be asked for.
        ("names_no_object", f"v1.{SUMMARY_UPDATED}", None),
        ("names_no_object", "v1.account.application.deauthorized", None),
    ],
)
def test_other_thin_events_are_ignored(code: str, kind: str, related: str | None) -> None:
    assert asked_of(kind, thin_event(kind, related, "id_1")) == (Ignore(code),)


@pytest.mark.parametrize(
    "body",
    [
        thin_event("v1.x", "charge", "c\0"),
        thin_event("v1.x", "charge", ""),
        thin_event("v1.x", "charge", "ch_1").replace(b'"created": "2', b'"created": "x'),
        b"[]",
        b"\xff",
    ],
)  # fmt: skip
def test_a_thin_event_of_another_shape_is_a_payload_error(body: bytes) -> None:
    with pytest.raises(PayloadError):
        asked_of("v1.x", body)


# Fetches --------------------------------------------------------------------------------------

RESULTS = [
    given.account(), given.charge(), given.customer(), given.dispute(), given.invoice(),
    given.invoice_payment(), given.purchase(), given.refund(), given.subscription(),
    given.warning(),
]  # fmt: skip


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result["object"])
def test_an_answer_is_the_object_between_two_seconds(result: dict[str, Any]) -> None:
    kind, number = result["object"], result["id"]
    seen = read(FETCHED, fetched(kind, number, result, number=17, floor=NOW_S, ceiling=NOW_S + 2))
    assert (seen.kind, seen.object_id, seen.shape) == (kind, number, "fetch")
    assert (seen.version, seen.ceiling, seen.number) == (NOW_S, NOW_S + 2, 17)
    assert seen.before is None
    assert seen.after.status


def test_every_kind_that_is_observed_can_be_fetched() -> None:
    assert {result["object"] for result in RESULTS} | {SUMMARY} == MODELS.keys()


def test_an_answer_says_what_a_snapshot_says() -> None:
    for result in (given.subscription(), given.charge(refunded=200), given.invoice()):
        kind = {"subscription": "customer.subscription.updated", "charge": "charge.updated"}
        snapshot = observed(kind.get(result["object"], "invoice.overdue"), result)
        answer = read(FETCHED, fetched(result["object"], result["id"], result))
        assert answer.after == snapshot.after


def test_an_answered_summary_is_the_customers() -> None:
    result = {
        "object": SUMMARY,
        "customer": "cus_1",
        "entitlements": {"data": listed([entitlement("sso")])["data"], "has_more": False},
    }
    seen = read(FETCHED, fetched(SUMMARY, "cus_1", result))
    assert (seen.object_id, seen.after.items) == ("cus_1", (Item(("feat_sso", "sso")),))


def test_an_answered_deletion_is_one() -> None:
    gone = {"id": "cus_1", "object": "customer", "deleted": True}
    assert read(FETCHED, fetched("customer", "cus_1", gone)).after.status == "deleted"
    left = {"id": "acct_1", "object": "account", "deleted": True}
    assert read(FETCHED, fetched("account", "acct_1", left)).after.status == "deauthorized"


@pytest.mark.parametrize(
    "body",
    [
        fetched("product", "prod_1", {"id": "prod_1"}),
        fetched("charge", "ch_2", given.charge("ch_1")),
        fetched("charge", "ch_1", {}),
        fetched("charge", "ch_1", given.charge(), floor=-1),
        fetched("charge", "ch_1", given.charge(), number=2**63),
        json.dumps({"kind": "charge", "id": "ch_1"}).encode(),
        b"\xff",
    ],
)
def test_an_answer_of_another_shape_is_a_payload_error(body: bytes) -> None:
    with pytest.raises(PayloadError, match=r"^sluice\.fetched: "):
        asked_of(FETCHED, body)
