"""What the Stripe adapter proves, identifies and ignores, and what a source of it can be told."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.commands import Ignore, Observe
from shared.domain.standings import FAMILIES
from shared.domain.states import SUMMARY_KIND
from shared.providers.base import PayloadError, SignatureError
from tests.support import stripe_events as given
from tests.support.reading import STRIPE, asked_of, content_of
from tests.support.stripe_events import account, customer, event, summary, thin_event

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SUMMARY_UPDATED = "entitlements.active_entitlement_summary.updated"


# What is asked for ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["customer.source.created", "payment_intent.succeeded", "v2.x"])
def test_other_types_are_ignored(kind: str) -> None:
    assert asked_of(kind, event(kind, {"id": "x"})) == (Ignore("unknown_type"),)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *(("catalog_is_ours", f"product.{verb}") for verb in ("created", "updated", "deleted")),
        *(("catalog_is_ours", f"price.{verb}") for verb in ("created", "updated", "deleted")),
        *(("catalog_is_ours", f"plan.{verb}") for verb in ("created", "updated", "deleted")),
        *(("catalog_is_ours", f"entitlements.feature.{verb}") for verb in ("created", "updated")),
        *(
            ("no_access_change", f"subscription_schedule.{verb}")
            for verb in (
                "created", "updated", "released", "canceled", "completed", "aborted", "expiring",
            )
        ),
        ("no_access_change", "charge.failed"),
        ("no_access_change", "charge.pending"),
        ("no_access_change", "invoice.upcoming"),
    ],
)  # fmt: skip
def test_known_types_without_an_effect_say_why(code: str, kind: str) -> None:
    for body in (event(kind, {"object": "whatever"}), b"not read"):
        assert asked_of(kind, body) == (Ignore(code),)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"id": "sub_1"},
        {"id": "sub_1", "status": 1, "customer": "c"},
        {"id": "s\0", "status": "a", "customer": "c"},
        {"id": "", "status": "a", "customer": "c"},
        {"id": "sub_1", "status": "a\0", "customer": "c"},
        {"id": "sub_1", "status": "a" * 300, "customer": "c"},
        {"id": "sub_1", "status": "a", "customer": "c\0"},
        {"id": "sub_1", "status": "a", "customer": "c", "cancel_at": -1},
        {"id": "sub_1", "status": "a", "customer": "c", "cancel_at": 10**30},
        {"id": "sub_1", "status": "a", "customer": "c", "quantity": 2**60},
    ],
)
def test_an_object_of_another_shape_is_a_payload_error(content: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match=r"^customer\.subscription\.created: "):
        asked_of("customer.subscription.created", event("x", content))


def test_an_endpoint_needs_only_types_that_change_something() -> None:
    for settings in ({}, {"grants_from": "summary"}):
        asked = STRIPE.event_types(settings)
        assert len(set(asked)) == len(asked) > 20
        for kind in asked:
            body = event(kind, content_of(kind), account="acct_1")
            (command,) = asked_of(kind, body)
            assert isinstance(command, Observe), kind


def test_an_endpoint_needs_the_summary_only_where_it_grants() -> None:
    assert SUMMARY_UPDATED not in STRIPE.event_types({})
    assert SUMMARY_UPDATED not in STRIPE.event_types({"grants_from": "subscriptions"})
    assert SUMMARY_UPDATED in STRIPE.event_types({"grants_from": "summary"})


def test_settings_name_their_default_first() -> None:
    assert {name: values[0] for name, values in STRIPE.settings.items()} == {
        "grants_from": "subscriptions",
        "disputes": "hold",
        "fraud_warnings": "hold",
        "voided_collection": "keep",
    }
    assert set(STRIPE.settings["grants_from"]) == FAMILIES["stripe"].keys()


# Identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff\xfe", b'{"id":1}', b"[" * 5000, b'{"id":"evt_1","type":"t"}',
     event("t", {}, event_id="x" * 300), event("t\0", {}), event("t", {}, created=-1),
     event("t", {}, created=10**30), event("t", {}, account="a" * 300),
     thin_event("v1.x", "charge", "ch_1", context="acct_" + "1" * 300)],
)  # fmt: skip
def test_what_is_no_event_is_a_payload_error(body: bytes) -> None:
    with pytest.raises(PayloadError):
        STRIPE.identify((), body)


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("customer/cus_7", event("customer.updated", customer("cus_7"))),
        ("invoice/in_1", event("invoice.paid", given.invoice())),
        ("dispute/du_1", event("charge.dispute.created", given.dispute())),
        ("radar.early_fraud_warning/issfr_1",
         event("radar.early_fraud_warning.created", given.warning())),
        (f"{SUMMARY_KIND}/cus_7", event(SUMMARY_UPDATED, summary("cus_7"))),
        ("account/acct_1", event("account.updated", account(), account="acct_1")),
        ("account/acct_1", event("account.application.deauthorized",
                                 {"id": "ca_1", "object": "application"}, account="acct_1")),
        ("subscription/sub_1",
         thin_event("v1.customer.subscription.updated", "subscription", "sub_1")),
        ("evt_1", event("t", {}, event_id="evt_1")),
        ("evt_1", event("invoice.upcoming", {"object": "invoice"}, event_id="evt_1")),
        ("evt_1", event("t", {"object": SUMMARY_KIND, "customer": {}}, event_id="evt_1")),
        ("evt_1", event("t", {"object": "t", "id": "x" * 300}, event_id="evt_1")),
        ("evt_1", thin_event("v2.core.event_destination.ping", None, None, event_id="evt_1")),
    ],
)  # fmt: skip
def test_the_subject_is_the_object(subject: str, body: bytes) -> None:
    assert STRIPE.identify((), body).subject == subject


@pytest.mark.parametrize("result", [given.subscription(), given.charge(), given.refund()])
def test_an_object_has_one_lane_whoever_tells_of_it(result: dict[str, Any]) -> None:
    """A snapshot, a thin event and a fetch's answer name the same subject."""
    kind, number = result["object"], result["id"]
    snapshot = STRIPE.identify((), event("x", result)).subject
    assert snapshot == STRIPE.identify((), thin_event("v1.x", kind, number)).subject
    assert snapshot == f"{kind}/{number}"


def test_a_thin_event_says_its_account_in_its_context() -> None:
    def account_of(context: str | None) -> str:
        return STRIPE.identify((), thin_event("v1.x", "charge", "ch_1", context=context)).account

    assert account_of("acct_1") == "acct_1"
    assert account_of("org_1/acct_1") == "acct_1"
    assert account_of(None) == ""
    assert account_of("org_1") == ""
    snapshot = event("t", {}, account="acct_2", context="acct_1")
    assert STRIPE.identify((), snapshot).account == "acct_2"
    assert STRIPE.identify((), event("t", {}, context="acct_1")).account == ""


def test_a_thin_event_has_milliseconds() -> None:
    body = thin_event("v1.x", "charge", "ch_1", created=1_763_700_000.246)
    moment = STRIPE.identify((), body).occurred_at
    assert moment == datetime.fromtimestamp(1_763_700_000.246, UTC)


def test_moving_fields_do_not_make_another_event() -> None:
    first = event("t", {"id": "a"}, event_id="evt_1", pending_webhooks=2)
    assert STRIPE.same_event(first, event("t", {"id": "a"}, event_id="evt_1", pending_webhooks=0))
    assert not STRIPE.same_event(first, event("t", {"id": "b"}, event_id="evt_1"))
    assert not STRIPE.same_event(first, b"\xff")


# Signature ------------------------------------------------------------------------------------


def test_any_secret_may_match_and_the_window_has_two_sides() -> None:
    body = event("t", {"id": "a"})
    headers = STRIPE.sign(body, "whsec_new", NOW)
    assert STRIPE.verify(headers, body, ["whsec_old", "whsec_new"], NOW, 300) == 1
    for offset_s, code in ((301, "timestamp_too_old"), (-301, "timestamp_in_future")):
        with pytest.raises(SignatureError, match=code):
            STRIPE.verify(headers, body, ["whsec_new"], NOW + timedelta(seconds=offset_s), 300)


def test_a_thin_event_is_signed_alike() -> None:
    body = thin_event("v1.x", "charge", "ch_1")
    assert STRIPE.verify(STRIPE.sign(body, "whsec_a", NOW), body, ["whsec_a"], NOW, 300) == 0
    (command,) = asked_of("v1.x", body)
    assert isinstance(command, Observe)


def test_bytes_that_are_no_text_are_verified_all_the_same() -> None:
    body = b"\xff\x00"
    signed = hmac.new(b"whsec_a", b"%d." % NOW.timestamp() + body, hashlib.sha256).hexdigest()
    headers = (("stripe-signature", f"t={int(NOW.timestamp())},v1=00,v1={signed}"),)
    assert STRIPE.verify(headers, body, ["whsec_a"], NOW, 300) == 0
    with pytest.raises(SignatureError):
        STRIPE.verify(headers, body + b"x", ["whsec_a"], NOW, 300)


@pytest.mark.parametrize(
    "value",
    ["", "garbage", "t=,v1=", "t=1", "v1=ab", "t=1e3,v1=ab", "t=\u0661,v1=ab",
     f"t={'9' * 5000},v1=a",
     "t=1795219200,v1=\u00e9", "t=1795219200,v0=ab", "t=-5,v1=ab"],
)  # fmt: skip
def test_malformed_signatures_are_refused_and_nothing_else_happens(value: str) -> None:
    for body in (b"{}", b"\xff"):
        with pytest.raises(SignatureError):
            STRIPE.verify((("stripe-signature", value),), body, ["whsec_a"], NOW, 300)
    with pytest.raises(SignatureError, match="missing_signature"):
        STRIPE.verify((), b"{}", ["whsec_a"], NOW, 300)
