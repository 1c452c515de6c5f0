"""What the Stripe adapter reads of several generations of payloads."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.commands import Ignore, Observe
from shared.domain.states import Item
from shared.providers import PROVIDERS
from shared.providers.base import PayloadError, SignatureError
from tests.support.stripe_events import NOW_S, customer, event, session, subscription

STRIPE = PROVIDERS["stripe"]
NOW = datetime(2026, 11, 21, tzinfo=UTC)
END_S = NOW_S + 30 * 86400


def observed(kind: str, content: dict[str, Any], **more: Any) -> Observe:
    (command,) = STRIPE.translate(kind, event(kind, content, **more))
    assert isinstance(command, Observe)
    return command


def updated(content: dict[str, Any], previous: dict[str, Any] | None = None) -> Observe:
    return observed("customer.subscription.updated", content, previous=previous)


def test_the_period_end_on_items_is_the_scheduled_end() -> None:
    state = updated(subscription(cancel_at_period_end=True)).after
    assert state.ends_at == END_S


def test_the_period_end_of_older_payloads_is_on_the_subscription() -> None:
    old = subscription(cancel_at_period_end=True, current_period_end=END_S + 5)
    del old["items"]["data"][0]["current_period_end"]
    assert updated(old).after.ends_at == END_S + 5


def test_cancel_at_alone_means_scheduled() -> None:
    assert updated(subscription(cancel_at=END_S)).after.ends_at == END_S


def test_cancel_at_zero_is_none() -> None:
    assert updated(subscription(cancel_at=0)).after.ends_at is None


def test_nothing_scheduled_has_no_end() -> None:
    assert updated(subscription()).after.ends_at is None


def test_an_older_plan_stands_for_its_price() -> None:
    old = subscription()
    item = old["items"]["data"][0]
    item["plan"] = {"id": "plan_1", "product": "prod_pro"}
    del item["price"]
    assert updated(old).after.items == (Item(("plan_1", "prod_pro")),)


def test_a_plan_on_the_subscription_stands_for_its_items() -> None:
    old = subscription(plan={"id": "plan_1", "product": "prod_pro"})
    del old["items"]
    assert updated({**old, "quantity": 3}).after.items == (Item(("plan_1", "prod_pro"), 3),)


def test_expanded_objects_are_their_ids() -> None:
    content = subscription()
    content["customer"] = customer("cus_9")
    content["items"]["data"][0]["price"]["product"] = {"id": "prod_x", "object": "product"}
    state = updated(content).after
    assert (state.customer, state.items[0].refs) == ("cus_9", ("price_prod_pro", "prod_x"))


def test_all_items_count_and_their_order_does_not() -> None:
    two = subscription()
    other = json.loads(json.dumps(two["items"]["data"][0]))
    other["price"] = {"id": "price_a", "product": "prod_a"}
    two["items"]["data"].append(other)
    turned = json.loads(json.dumps(two))
    turned["items"]["data"].reverse()
    assert len(updated(two).after.items) == 2
    assert updated(two).after == updated(turned).after


def test_an_update_is_an_edge_from_the_state_before() -> None:
    seen = updated(
        subscription(status="active", tenant="acme"),
        {"status": "trialing", "metadata": {"tenant_id": None}},
    )
    assert seen.shape == "edge"
    assert seen.before is not None
    assert (seen.before.status, seen.before.tenant) == ("trialing", None)
    assert (seen.after.status, seen.after.tenant) == ("active", "acme")


def test_an_update_of_what_does_not_matter_leads_nowhere() -> None:
    seen = updated(subscription(), {"latest_invoice": "in_0"})
    assert seen.before == seen.after


def test_an_update_that_does_not_say_what_changed_is_a_point() -> None:
    assert updated(subscription()).shape == "point"
    assert updated(subscription(), {"status": 7}).shape == "point"


def test_a_deleted_object_is_gone_whatever_its_snapshot_says() -> None:
    assert observed("customer.subscription.deleted", subscription()).after.status == "canceled"
    assert observed("customer.deleted", customer()).after.status == "deleted"


def test_a_session_and_a_customer_carry_links() -> None:
    assert observed("checkout.session.completed", session(reference="r")).after.reference == "r"
    assert observed("customer.updated", customer(tenant="t")).after.tenant == "t"
    assert observed("customer.updated", customer(tenant="t\0")).after.tenant is None


@pytest.mark.parametrize("kind", ["invoice.paid", "customer.source.created", "v2.core.event"])
def test_other_types_are_ignored(kind: str) -> None:
    assert STRIPE.translate(kind, event(kind, {"id": "x"})) == (Ignore("unknown_type"),)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"id": "sub_1"},
        {"id": "sub_1", "status": 1, "customer": "c"},
        {"id": "s\0", "status": "a"},
    ],
)
def test_an_object_of_another_shape_is_a_payload_error(content: dict[str, Any]) -> None:
    with pytest.raises(PayloadError):
        STRIPE.translate("customer.subscription.created", event("x", content))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff\xfe", b'{"id":1}', b"[" * 5000, b'{"id":"evt_1","type":"t"}',
     event("t", {}, event_id="x" * 300), event("t\0", {}), event("t", {}, created=-1),
     event("t", {}, created=10**30)],
)  # fmt: skip
def test_what_is_no_event_is_a_payload_error(body: bytes) -> None:
    with pytest.raises(PayloadError):
        STRIPE.identify((), body)


def test_the_subject_is_the_object() -> None:
    identity = STRIPE.identify((), event("customer.updated", customer("cus_7")))
    assert identity.subject == "customer/cus_7"
    assert STRIPE.identify((), event("t", {}, event_id="evt_1")).subject == "evt_1"


def test_moving_fields_do_not_make_another_event() -> None:
    first = event("t", {"id": "a"}, event_id="evt_1", pending_webhooks=2)
    assert STRIPE.same_event(first, event("t", {"id": "a"}, event_id="evt_1", pending_webhooks=0))
    assert not STRIPE.same_event(first, event("t", {"id": "b"}, event_id="evt_1"))
    assert not STRIPE.same_event(first, b"\xff")


def test_any_secret_may_match_and_the_window_has_two_sides() -> None:
    body = event("t", {"id": "a"})
    headers = STRIPE.sign(body, "whsec_new", NOW)
    assert STRIPE.verify(headers, body, ["whsec_old", "whsec_new"], NOW, 300) == 1
    for offset_s, code in ((301, "timestamp_too_old"), (-301, "timestamp_in_future")):
        with pytest.raises(SignatureError, match=code):
            STRIPE.verify(headers, body, ["whsec_new"], NOW + timedelta(seconds=offset_s), 300)


def test_bytes_that_are_no_text_are_verified_all_the_same() -> None:
    import hashlib
    import hmac

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
