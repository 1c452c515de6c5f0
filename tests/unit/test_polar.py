"""What Polar's deliveries are proven by, are, and ask for; its own SDK is the oracle."""

import base64
import hmac
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polar.v2026_10 import webhooks as sdk
from polar.webhooks import PolarWebhookError, PolarWebhookVerificationError
from svix.webhooks import Webhook

from shared.domain.commands import Command, Ignore, Observe
from shared.domain.events import FETCHED, Arrival, Headers, Identity
from shared.domain.states import ObjectState
from shared.providers import providers
from shared.providers.base import ConfigurationError, Configured, PayloadError, SignatureError
from shared.providers.polar.events import IGNORED, OBSERVED
from tests.support.polar_payloads import (
    DAY_US,
    NOW_US,
    US,
    benefit_grant,
    customer,
    customer_state,
    event,
    headers_of,
    iso,
    order,
    refund,
    subscription,
    uuid_of,
)

POLAR = providers()["polar"]
SECRET = "polar_whs_ovyN6cPrTv56AApvzCaJno08SSmGJmgbWilb33N2JuK"
GENERATED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = event("customer.updated", customer())
FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "polar").glob("*.json"))


# Signatures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, GENERATED, "hunter2", "grüße aus Berlin"])
def test_the_sdk_takes_what_is_signed(secret: str) -> None:
    now = datetime.now(UTC)
    headers = POLAR.sign(BODY, secret, now)
    read = sdk.validate_event(BODY, dict(headers), secret)
    assert isinstance(read, sdk.WebhookCustomerUpdatedPayload)
    assert POLAR.verify(headers, BODY, ["another", secret], now, 300) == 1


@pytest.mark.parametrize(
    ("secret", "given_to_svix"),
    [
        (SECRET, base64.b64encode(SECRET.encode()).decode()),
        (GENERATED, base64.b64encode(GENERATED.encode()).decode()),  # what Polar's server does
        (GENERATED, GENERATED),  # what Standard Webhooks would do
    ],
)
def test_both_keys_of_a_secret_count(secret: str, given_to_svix: str) -> None:
    now = datetime.now(UTC)
    made = Webhook(given_to_svix).sign("msg_1", now, BODY.decode())
    headers = _headers("msg_1", str(int(now.timestamp())), made)
    sdk.validate_event(BODY, dict(headers), secret)
    assert POLAR.verify(headers, BODY, [secret], now, 300) == 0


def _headers(message: str, at: str, signature: str) -> Headers:
    return (("webhook-id", message), ("webhook-timestamp", at), ("webhook-signature", signature))


@given(
    message=st.sampled_from(["msg_1", "", "é", "a.b", "\u2603"]),
    at=st.sampled_from(["0", "", "now", "+0", " 0", "1e3", "-400", "400", "nan", "٣"]),
    entries=st.lists(
        st.sampled_from(["v1,{}", "v1{}", "v1a,{}", "v2,{}", "v1,!!", ",", "v1,", "{}", "v1,{}="]),
        max_size=4,
    ),
    secret=st.sampled_from([SECRET, GENERATED, "a", "", "whsec_", "whsec_===", "AAAA"]),
    signed_with=st.sampled_from([SECRET, GENERATED, "a", "AAAA"]),
    change=st.sampled_from([b"", b" ", b"\xff"]),
)
def test_what_the_sdk_refuses_is_refused(
    message: str, at: str, entries: list[str], secret: str, signed_with: str, change: bytes
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    when = str(int(now.timestamp()) + int(at)) if at in ("0", "-400", "400") else at
    signature = Webhook(signed_with.encode()).sign(message, now, BODY.decode()).partition(",")[2]
    headers = _headers(message, when, " ".join(entry.format(signature) for entry in entries))
    body = BODY + change
    try:
        sdk.validate_event(body, dict(headers), secret)
        is_taken = True
    except (PolarWebhookError, UnicodeError):
        is_taken = False
    try:
        POLAR.verify(headers, body, [secret], now, 300)
    except SignatureError:
        return
    assert is_taken or body.endswith(b"\xff")  # the SDK reads the body before it verifies


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_a_key_that_anybody_has_proves_nothing(secret: str) -> None:
    now = datetime.now(UTC)
    at = str(int(now.timestamp()))
    made = hmac.new(b"", f"msg_1.{at}.".encode() + BODY, "sha256").digest()
    headers = _headers("msg_1", at, "v1," + base64.b64encode(made).decode())
    with pytest.raises(PolarWebhookVerificationError):
        sdk.validate_event(BODY, dict(headers), secret)
    with pytest.raises(SignatureError, match="wrong_signature"):
        POLAR.verify(headers, BODY, [secret], now, 300)


def test_an_empty_secret_is_none() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        POLAR.check_secret("")
    assert POLAR.secret_hint


@pytest.mark.parametrize(
    ("offset_s", "code"), [(301, "timestamp_too_old"), (-301, "timestamp_in_future")]
)
def test_the_window_has_two_sides(offset_s: int, code: str) -> None:
    at = datetime.fromtimestamp(NOW_US // US, UTC)
    headers = POLAR.sign(BODY, SECRET, at)
    assert POLAR.verify(headers, BODY, [SECRET], at, 300) == 0
    with pytest.raises(SignatureError, match=code):
        POLAR.verify(headers, BODY, [SECRET], at + timedelta(seconds=offset_s), 300)


# Identities ---------------------------------------------------------------------------------------


def test_the_mode_is_the_sources() -> None:
    for livemode in (True, False):
        bound = POLAR.for_source(Configured(livemode=livemode))
        assert bound.identify(headers_of("one"), BODY).livemode is livemode
    assert POLAR.has_livemode


def test_an_identity_is_read_off_headers_and_body() -> None:
    at_us = NOW_US + 1
    body = event("subscription.updated", subscription(), at_us)
    identity = POLAR.identify(headers_of("one"), body)
    assert identity == Identity(
        event_id=uuid_of("one"),
        event_type="subscription.updated",
        subject=f"subscription/{uuid_of('sub')}",
        occurred_at=datetime.fromisoformat(iso(at_us) or ""),
    )
    state = POLAR.identify(headers_of("two"), event("customer.state_changed", customer_state()))
    assert state.subject == f"customer_state/{uuid_of('ada')}"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ((), BODY),
        ((("webhook-id", "x" * 300),), BODY),
        (headers_of("one"), b""),
        (headers_of("one"), b"[]"),
        (headers_of("one"), b'{"type": 1}'),
        (headers_of("one"), b'{"type": "order.paid\\u0000"}'),
        (headers_of("one"), b'{"type": "a", "timestamp": "yesterday"}'),
        (headers_of("one"), b'{"type": "a", "timestamp": "0001-01-01T00:00:00+23:00"}'),
        (headers_of("one"), b'{"type": "\xff"}'),
        (headers_of("one"), b"[" * 100_000),
    ],
)
def test_what_has_no_identity_is_unreadable(headers: Headers, body: bytes) -> None:
    with pytest.raises(PayloadError):
        POLAR.identify(headers, body)


@pytest.mark.parametrize("data", ["7", "null", '{"id": 1}', '{"id": ""}', '{"id": "a\\u0000"}'])
def test_an_event_of_no_object_is_its_own_subject(data: str) -> None:
    body = f'{{"type": "order.paid", "data": {data}}}'.encode()
    assert POLAR.identify(headers_of("one"), body).subject == uuid_of("one")
    with pytest.raises(PayloadError):
        asked("order.paid", body)


def test_a_redelivery_may_be_written_otherwise() -> None:
    again = json.dumps(json.loads(BODY), indent=1, sort_keys=True).encode()
    assert POLAR.same_event(BODY, again)
    assert POLAR.same_event(b"\xff", b"\xff")
    assert not POLAR.same_event(BODY, event("customer.updated", customer(external_id="globex")))
    assert not POLAR.same_event(BODY, b"\xff")


# What types ask for -------------------------------------------------------------------------------


def asked(kind: str, body: bytes) -> Sequence[Command]:
    """The commands of an event of this type."""
    return POLAR.translate(Arrival(Identity("evt_1", kind, "evt_1"), body))


def state_of(kind: str, data: dict[str, Any]) -> ObjectState:
    """The state of the object that an event of this type shows."""
    first = asked(kind, event(kind, data))[0]
    assert isinstance(first, Observe)
    return first.after


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixtures_ask_for_what_they_say(path: Path) -> None:
    content = json.loads(path.read_text())
    body = json.dumps(content["body"], separators=(",", ":")).encode()
    if content["type"] != FETCHED:
        headers = tuple(content["headers"].items())
        identity = POLAR.identify(headers, body)
        moment = identity.occurred_at
        assert moment is not None
        assert content["identity"] == {
            "eventId": identity.event_id,
            "eventType": identity.event_type,
            "subject": identity.subject,
            "occurredAt": moment.isoformat().replace("+00:00", "Z"),
            "account": identity.account,
            "livemode": identity.livemode,
        }
    expected = [_command(one) for one in content["commands"]]
    assert list(asked(content["type"], body)) == expected


def _command(shown: dict[str, Any]) -> Command:
    ((name, content),) = _snake(shown).items()
    if name == "observe":
        return msgspec.convert({"before": None, **content}, Observe)
    return msgspec.convert(content, Ignore)


def _snake(content: Any) -> Any:
    if isinstance(content, dict):
        return {re.sub("([A-Z])", r"_\1", key).lower(): _snake(one) for key, one in content.items()}
    return [_snake(one) for one in content] if isinstance(content, list) else content


SENT = [path for path in FIXTURES if not path.stem.startswith(("fetched-", "unknown-"))]


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_the_sdk_reads_every_fixture(path: Path) -> None:
    body = json.dumps(json.loads(path.read_text())["body"]).encode()
    headers = POLAR.sign(body, SECRET, datetime.now(UTC))
    read = sdk.validate_event(body, dict(headers), SECRET)
    assert read.type == json.loads(path.read_text())["type"]


def test_every_type_that_the_sdk_knows_is_known_and_has_a_fixture() -> None:
    hints = (get_type_hints(payload)["type"] for payload in get_args(sdk.WebhookPayload))
    known = {get_args(hint)[0] for hint in hints}
    assert {json.loads(path.read_text())["type"] for path in SENT} == known
    assert known == set(OBSERVED) | {
        kind for kind in known if kind not in OBSERVED and kind.partition(".")[0] in IGNORED
    }


def test_what_is_never_a_payment_grants_nothing() -> None:
    checkout = {"id": uuid_of("checkout"), "status": "succeeded", "metadata": {"tenant_id": "a"}}
    body = event("checkout.updated", checkout)
    assert asked("checkout.updated", body) == (Ignore("checkout_is_no_payment"),)
    assert asked("wallet.created", b"{}") == (Ignore("unknown_type"),)


def test_versions_are_exact_to_the_microsecond() -> None:
    for at_us in (NOW_US, NOW_US + 1, 253_402_300_799_999_999):
        body = event("subscription.updated", subscription(modified_us=at_us))
        (observed, _) = asked("subscription.updated", body)
        assert isinstance(observed, Observe)
        assert (observed.version, observed.shape) == (at_us, "point")
    new = asked("subscription.created", event("subscription.created", subscription(created_us=7)))
    assert isinstance(new[0], Observe)
    assert new[0].version == 7  # never changed: since it is there


def test_a_state_is_as_old_as_its_event() -> None:
    body = event("customer.state_changed", customer_state(), NOW_US + 5)
    state, link, _ = asked("customer.state_changed", body)
    assert isinstance(state, Observe)
    assert isinstance(link, Observe)
    assert (state.kind, state.version) == ("customer_state", NOW_US + 5)
    assert (link.kind, link.version) == ("customer", NOW_US - 30 * DAY_US)
    with pytest.raises(PayloadError, match="timestamp"):
        asked("customer.state_changed", json.dumps({"data": customer_state()}).encode())


def test_active_subscriptions_of_a_state_give_nothing() -> None:
    """The SDK itself refuses a state with one: it takes its status for a benefit's."""
    state = customer_state(benefits=("sso", "sso"), subscriptions=(subscription(),))
    items = state_of("customer.state_changed", state).items
    assert [(item.refs, item.quantity) for item in items] == [((uuid_of("sso"),), 2)]


END_US = NOW_US + 20 * DAY_US


@pytest.mark.parametrize(
    ("more", "end_us"),
    [
        ({}, None),
        ({"cancel_at_period_end": True, "ends_at": iso(END_US - DAY_US)}, END_US - DAY_US),
        ({"cancel_at_period_end": True}, END_US),
        ({"ends_at": iso(END_US + DAY_US)}, END_US + DAY_US),
        ({"pause_at_period_end": True, "resumes_at": iso(END_US + DAY_US)}, END_US),
        ({"pause_at_period_end": True, "ends_at": iso(END_US - 1)}, END_US - 1),
        ({"trial_end": iso(END_US), "status": "trialing"}, None),  # it renews
    ],
)
def test_when_a_subscription_ends(more: dict[str, Any], end_us: int | None) -> None:
    state = state_of("subscription.updated", subscription(**more))
    assert state.ends_at == (None if end_us is None else end_us // US)


@pytest.mark.parametrize(
    ("more", "quantity"), [({}, 1), ({"seats": 4}, 4), ({"units": 3}, 3), ({"seats": 0}, 0)]
)
def test_seats_and_units_are_quantities(more: dict[str, Any], quantity: int) -> None:
    for kind, content in (("subscription", subscription(**more)), ("order", order(**more))):
        assert state_of(f"{kind}.updated", content).items[0].quantity == quantity


@pytest.mark.parametrize(
    "more",
    [
        {"subscription_name": "sub", "to": "pro"},
        {"billing_reason": "subscription_update"},
        {"billing_reason": "something_new"},
        {"to": None},
    ],
)
def test_an_order_that_sells_nothing_by_itself(more: dict[str, Any]) -> None:
    assert state_of("order.paid", order(**more)).items == ()


def test_a_refund_names_its_order() -> None:
    state = state_of("refund.created", refund(revokes=True))
    assert state.refs == (f"order/{uuid_of('order')}",)
    assert state.revokes
    assert not state_of("refund.created", refund()).revokes


@pytest.mark.parametrize(
    ("granted", "revoked", "status"),
    [
        (True, False, "granted"),
        (False, False, "pending"),
        (False, True, "revoked"),
        (True, True, "revoked"),
    ],
)
def test_two_flags_make_a_grants_status(granted: bool, revoked: bool, status: str) -> None:
    content = benefit_grant(granted=granted, revoked=revoked, modified_us=NOW_US)
    assert state_of("benefit_grant.updated", content).status == status


# Links --------------------------------------------------------------------------------------------


def test_whose_a_customer_is() -> None:
    def named(**more: Any) -> str | None:
        return state_of("customer.updated", customer(**more)).tenant

    assert named() == "acme"
    assert named(metadata={"tenant_id": "globex"}) == "globex"
    assert named(metadata={"tenant_id": 7}) == "acme"
    assert named(external_id=None) is None
    assert named(external_id="x" * 300) is None
    former = {"__external_id": "acme"}
    assert named(external_id=None, metadata=former) is None
    gone = customer(external_id=None, metadata=former, deleted_at=iso(NOW_US))
    state = state_of("customer.deleted", gone)
    assert (state.status, state.tenant) == ("deleted", "acme")


def test_a_customer_that_is_nobodys_is_only_told_by_itself() -> None:
    nobody = customer(external_id=None)
    assert len(asked("order.paid", event("order.paid", order(of=nobody)))) == 1
    assert len(asked("order.paid", event("order.paid", order()))) == 2
    gone = customer(external_id=None, deleted_at=iso(NOW_US), modified_us=NOW_US)
    assert len(asked("order.paid", event("order.paid", order(of=gone)))) == 2
    assert len(asked("customer.updated", event("customer.updated", nobody))) == 1


def test_an_objects_own_word_is_in_its_metadata() -> None:
    mine: dict[str, Any] = {"metadata": {"tenant_id": "globex"}}
    assert state_of("subscription.updated", subscription(**mine)).tenant == "globex"
    assert state_of("order.paid", order(**mine)).tenant == "globex"
    assert state_of("order.paid", order()).tenant is None  # but its customer's


# Fetches ------------------------------------------------------------------------------------------


def fetched(kind: str, object_id: str, result: Any, **more: Any) -> Sequence[Command]:
    content = {
        "object": FETCHED, "kind": kind, "id": object_id, "number": 7, "floor": 100,
        "ceiling": 102, "result": result, **more,
    }  # fmt: skip
    return asked(FETCHED, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("kind", "make"),
    [("subscription", subscription), ("order", order), ("benefit_grant", benefit_grant),
     ("customer", customer), ("refund", refund)],
)  # fmt: skip
def test_an_answer_has_the_objects_own_version(kind: str, make: Any) -> None:
    content = make(modified_us=NOW_US)
    observed = fetched(kind, content["id"], content)[0]
    assert isinstance(observed, Observe)
    assert (observed.version, observed.ceiling, observed.number) == (NOW_US, NOW_US, 7)
    assert observed.shape == "fetch"
    assert observed.after == state_of(f"{kind}.updated", content)


def test_an_answer_without_a_version_lies_between_floor_and_ceiling() -> None:
    state, link, _ = fetched("customer_state", uuid_of("ada"), customer_state())
    assert isinstance(state, Observe)
    assert isinstance(link, Observe)
    assert (state.version, state.ceiling) == (100 * US, 102 * US)
    assert (link.kind, link.shape) == ("customer", "point")


def test_what_a_state_lists_is_observed_with_its_own_version() -> None:
    held = subscription(modified_us=NOW_US - 3)
    granted = benefit_grant(modified_us=NOW_US - 2)
    state = customer_state(benefits=(), subscriptions=(held,), grants=(granted,))
    summed_up, _, hint, grant = fetched("customer_state", uuid_of("ada"), state)
    assert isinstance(summed_up, Observe)
    assert isinstance(hint, Observe)
    assert isinstance(grant, Observe)
    names = (f"benefit_grant/{granted['id']}", f"subscription/{held['id']}")
    assert summed_up.after.refs == names
    assert (hint.object_id, hint.version, hint.shape) == (held["id"], NOW_US - 3, "hint")
    assert hint.after == ObjectState("unobserved", customer=uuid_of("ada"))
    # As the grant's own events say it: of one version there is one state.
    (own, *_) = asked("benefit_grant.created", event("benefit_grant.created", granted))
    assert grant == own


@pytest.mark.parametrize("kind", sorted({*OBSERVED.values()}))
def test_what_is_not_there_is_deleted(kind: str) -> None:
    (observed,) = fetched(kind, "one", None)
    assert isinstance(observed, Observe)
    assert observed.after.status == "deleted"
    assert (observed.version, observed.ceiling) == (100 * US, 102 * US)
    is_customer = kind in ("customer", "customer_state")
    assert observed.after.customer == ("one" if is_customer else None)


@pytest.mark.parametrize(
    ("kind", "object_id", "result", "more"),
    [
        ("product", "one", None, {}),
        ("order", "one", order(), {}),
        ("order", "", None, {}),
        ("order", uuid_of("order"), order(), {"number": -1}),
        ("order", uuid_of("order"), order(), {"floor": 10**15}),
        ("order", uuid_of("order"), order(customer_id="\0"), {}),
        ("order", uuid_of("order"), order(refunded_amount="all"), {}),
    ],
)
def test_an_answer_to_another_question_is_unreadable(
    kind: str, object_id: str, result: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(PayloadError):
        fetched(kind, object_id, result, **more)


# Endpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", POLAR.settings["grants_from"])
def test_an_endpoint_is_asked_for_what_decides(family: str) -> None:
    types = POLAR.event_types({"grants_from": family})
    assert set(types) <= set(OBSERVED)
    assert {"customer.created", "customer.updated", "customer.deleted"} <= set(types)
    assert len(types) == len(set(types))
    assert POLAR.event_types({}) == POLAR.event_types({"grants_from": "subscriptions"})


@given(st.binary(max_size=60), st.sampled_from([*OBSERVED, FETCHED, "checkout.created"]))
def test_garbage_is_unreadable_and_nothing_worse(body: bytes, kind: str) -> None:
    for content in (body, b'{"data":' + body + b"}"):
        with suppress(PayloadError):
            asked(kind, content)
        with suppress(PayloadError):
            POLAR.identify(headers_of("one"), content)
