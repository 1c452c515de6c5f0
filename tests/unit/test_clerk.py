"""The Clerk adapter: signatures, identities, and what each fixture asks for."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from svix.webhooks import Webhook, WebhookVerificationError

from shared.domain.commands import Command, Ignore, Observe
from shared.domain.events import FETCHED, Arrival, Headers, Identity
from shared.domain.states import Item
from shared.providers import providers
from shared.providers.base import ConfigurationError, Configured, PayloadError, SignatureError
from tests.support import clerk as given
from tests.support.clerk import NOW_MS, Sent, event, item, membership

CLERK = providers()["clerk"]
FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "clerk").glob("*.json"))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def asked(sent: Sent) -> Command:
    identity = CLERK.identify(sent.headers, sent.body)
    (command,) = CLERK.translate(Arrival(identity, sent.body))
    return command


def observed(sent: Sent) -> Observe:
    command = asked(sent)
    assert isinstance(command, Observe)
    return command


# Signatures -------------------------------------------------------------------------------------


def test_what_svix_signs_is_verified() -> None:
    body = b'{"type":"user.created"}'
    signature = Webhook(SECRET).sign("msg_1", NOW, body.decode())
    headers = (
        ("svix-id", "msg_1"),
        ("svix-timestamp", str(int(NOW.timestamp()))),
        ("svix-signature", signature),
    )
    assert CLERK.verify(headers, body, [OTHER, SECRET], NOW, 300) == 1
    for changed in (body + b" ", body[:-1]):
        with pytest.raises(SignatureError, match="wrong_signature"):
            CLERK.verify(headers, changed, [SECRET], NOW, 300)
    with pytest.raises(SignatureError, match="timestamp_too_old"):
        CLERK.verify(headers, body, [SECRET], NOW + timedelta(seconds=301), 300)
    with pytest.raises(SignatureError, match="timestamp_in_future"):
        CLERK.verify(headers, body, [SECRET], NOW - timedelta(seconds=301), 300)
    with pytest.raises(SignatureError, match="missing_signature"):
        CLERK.verify((), body, [SECRET], NOW, 300)


def test_svix_verifies_what_is_signed() -> None:
    body = event("user.created", given.user("user_1"), NOW_MS).body
    now = datetime.now(UTC)
    headers = CLERK.sign(body, SECRET, now)
    Webhook(SECRET).verify(body, dict(headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(body, dict(headers))
    assert CLERK.verify(headers, body, [SECRET], now, 300) == 0
    assert CLERK.identify(headers, body).event_id == dict(CLERK.sign(body, OTHER, NOW))["svix-id"]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", "whsec_grüße"])
def test_what_can_be_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError):
        CLERK.check_secret(secret)
    body = b"{}"
    headers = CLERK.sign(body, SECRET, NOW)
    with pytest.raises(SignatureError, match="wrong_signature"):
        CLERK.verify(headers, body, [secret], NOW, 300)
    # It does not keep another one from counting.
    assert CLERK.verify(headers, body, [secret, SECRET], NOW, 300) == 1


# Identities -------------------------------------------------------------------------------------


def test_the_id_is_the_messages_and_the_mode_the_sources() -> None:
    sent = event("user.created", given.user("user_1"), NOW_MS + 7, "msg_1")
    expected = Identity(
        "msg_1", "user.created", "user/user_1",
        datetime(2026, 11, 10, 0, 0, 0, 7000, tzinfo=UTC), "", True,
    )  # fmt: skip
    assert CLERK.for_source(Configured(livemode=True)).identify(sent.headers, sent.body) == expected
    development = CLERK.for_source(Configured(livemode=False))
    assert development.identify(sent.headers, sent.body).livemode is False
    assert CLERK.has_livemode


def test_the_white_labelled_header_is_one_too() -> None:
    sent = event("user.created", given.user("user_1"), NOW_MS)
    assert CLERK.identify((("webhook-id", "msg_2"),), sent.body).event_id == "msg_2"


def test_the_subject_is_told_by_the_type() -> None:
    """`data.object` is another word for one kind of object here and there."""
    content = {**item("csub_item_1", "org_1"), "object": "subscription_item"}
    sent = event("subscriptionItem.active", content, NOW_MS, "msg_1")
    assert CLERK.identify(sent.headers, sent.body).subject == "subscription_item/csub_item_1"
    for kind in ("session.created", "subscription.active", "unheard.of"):
        sent = event(kind, {"id": "x_1", "object": "user"}, NOW_MS, "msg_1")
        assert CLERK.identify(sent.headers, sent.body).subject == "msg_1"


@pytest.mark.parametrize("headers", [(), (("svix-id", "\0"),), (("svix-id", "x" * 256),)])
def test_without_an_id_it_is_no_event(headers: Headers) -> None:
    with pytest.raises(PayloadError):
        CLERK.identify(headers, event("user.created", given.user("user_1"), NOW_MS).body)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"{}", b'{"type":1}', b'{"type":"\\u0000"}', b'{"type":""}',
     b'{"type":"a","timestamp":-1}', b'{"type":"a","timestamp":1e300}', b'{"type":"a","data":[]}',
     b'{"type":"a","data":{"id":1}}', b"[" * 100_000],
)  # fmt: skip
def test_garbage_is_no_event(body: bytes) -> None:
    with pytest.raises(PayloadError):
        CLERK.identify((("svix-id", "msg_1"),), body)


# Types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_fixture(path: Path) -> None:
    """Bodies as Clerk publishes them, and what is read from them."""
    content = json.loads(path.read_text())
    body = json.dumps(content["body"]).encode()
    identity = CLERK.identify(tuple(content["headers"].items()), body)
    assert identity.event_type == content["type"] == content["body"]["type"]
    shown = {
        "eventId": identity.event_id, "eventType": identity.event_type,
        "subject": identity.subject, "occurredAt": iso(identity.occurred_at),
        "account": identity.account, "livemode": identity.livemode,
    }  # fmt: skip
    assert shown == content["identity"]
    commands = CLERK.translate(Arrival(identity, body))
    assert [camel(command) for command in commands] == content["commands"]


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def camel(command: Command) -> dict[str, Any]:
    return {type(command).__name__.lower(): _camel(msgspec.to_builtins(command))}


def _camel(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            re.sub(r"_([a-z])", lambda found: found[1].upper(), key): _camel(value)
            for key, value in content.items()
            if value is not None
        }
    return [_camel(one) for one in content] if isinstance(content, list | tuple) else content


def test_every_type_has_its_fixture() -> None:
    """Those of Clerk's catalog, and of its SDK; nothing observed goes untested."""
    from shared.providers.clerk.events import BUILDERS, DECIDING

    told = {json.loads(path.read_text())["type"] for path in FIXTURES}
    assert BUILDERS.keys() <= told
    assert set(DECIDING) <= BUILDERS.keys()
    assert CLERK.event_types({}) == DECIDING
    assert len(told) > 40


def test_nobody_is_named() -> None:
    """Names and addresses stay in the bodies, which retention drops."""
    for path in FIXTURES:
        commands = json.dumps(json.loads(path.read_text())["commands"])
        for private in ("John", "Jane", "Doe", "@", "Acme", "acme-corp", "ex_123456789"):
            assert private not in commands, path


def test_a_fetchs_answer_is_refused() -> None:
    body = (b'{"object":"sluice.fetched","kind":"user","id":"user_1","number":1,"floor":1,'
            b'"ceiling":2,"result":{"id":"user_1"}}')  # fmt: skip
    with pytest.raises(PayloadError):
        CLERK.translate(Arrival(Identity("fetch/1", FETCHED, "user/user_1"), body))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("user.created", {}),
        ("user.deleted", {"object": "user", "deleted": True}),
        ("organization.deleted", {"id": ""}),
        ("organization.created", {"id": "x" * 256}),
        ("organizationMembership.created", {"id": "orgmem_1"}),
        ("organizationMembership.updated",
         {"id": "orgmem_1", "organization": {"id": "org_1"}, "public_user_data": {}}),
        ("subscriptionItem.active", {"id": "csub_item_1"}),
        ("subscriptionItem.active", {"id": "csub_item_1", "status": ""}),
        ("subscriptionItem.active", {**item("csub_item_1", "org_1"), "updated_at": "soon"}),
        ("subscriptionItem.active", {**item("csub_item_1", "org_1"), "updated_at": -1}),
    ],
)  # fmt: skip
def test_what_a_type_promises_and_a_body_lacks(kind: str, data: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match=kind):
        asked(event(kind, data, NOW_MS))


def test_without_any_time_there_is_no_version() -> None:
    body = b'{"type":"user.deleted","data":{"id":"user_1"}}'
    identity = CLERK.identify((("svix-id", "msg_1"),), body)
    assert identity.occurred_at is None
    with pytest.raises(PayloadError, match="when"):
        CLERK.translate(Arrival(identity, body))


# Versions ---------------------------------------------------------------------------------------


def test_versions_are_microseconds_of_the_objects_change() -> None:
    content = item("csub_item_1", "org_1", at_ms=NOW_MS)
    assert observed(event("subscriptionItem.active", content, NOW_MS)).version == NOW_MS * 1000
    del content["updated_at"]
    late = observed(event("subscriptionItem.active", content, NOW_MS + 5))
    assert late.version == (NOW_MS + 5) * 1000
    gone = observed(event("user.deleted", given.deleted("user", "user_1"), NOW_MS + 9))
    assert gone.version == (NOW_MS + 9) * 1000


def test_of_one_millisecond_the_later_event_is_the_newer() -> None:
    """And it never outruns the next millisecond's, nor falls behind its own."""
    content = item("csub_item_1", "org_1", at_ms=NOW_MS)
    times = (NOW_MS - 3, NOW_MS, NOW_MS + 2, NOW_MS + 900, NOW_MS + 50_000)
    versions = [observed(event("subscriptionItem.updated", content, at)).version for at in times]
    below = [version - NOW_MS * 1000 for version in versions]
    assert below == [0, 0, 2, 900, 999]


def test_a_timestamp_in_seconds_is_one_too() -> None:
    """As the samples of Clerk's own description have it."""
    sent = event("user.deleted", given.deleted("user", "user_1"), NOW_MS // 1000)
    assert observed(sent).version == NOW_MS * 1000
    assert CLERK.identify(sent.headers, sent.body).occurred_at == datetime(2026, 11, 10, tzinfo=UTC)


# States -----------------------------------------------------------------------------------------


def test_a_membership_that_ended_is_over_at_the_events_time() -> None:
    """Its body is the membership as it last was, `updated_at` included."""
    content = membership("org_1", "user_1", "org:admin", NOW_MS)
    over = observed(event("organizationMembership.deleted", content, NOW_MS + 60_000))
    assert (over.version, over.after.status) == ((NOW_MS + 60_000) * 1000, "deleted")
    assert (over.after.tenant, over.after.member) == ("org_1", "user_1")


@pytest.mark.parametrize("payer", ["org_1", "user_1"])
def test_who_pays_is_the_tenant(payer: str) -> None:
    """An id that is not there is empty, not null."""
    state = observed(event("subscriptionItem.active", item("i", payer), NOW_MS)).after
    assert (state.customer, state.tenant) == (payer, payer)


def test_a_user_pays_for_an_organization() -> None:
    content = item("csub_item_1", "org_1")
    content["payer"]["user_id"] = "user_1"
    assert observed(event("subscriptionItem.active", content, NOW_MS)).after.tenant == "org_1"


def test_the_catalog_knows_an_item_by_price_plan_and_slug() -> None:
    content = item("csub_item_1", "org_1", price_id="cprice_1")
    state = observed(event("subscriptionItem.active", content, NOW_MS)).after
    assert state.items == (Item(("cprice_1", "cplan_pro", "pro")),)


@pytest.mark.parametrize(
    ("plan", "period_end", "is_default"),
    [
        ({"is_default": True, "amount": 0}, NOW_MS, True),
        ({"is_default": False, "amount": 0}, None, False),
        ({"amount": 0}, None, True),
        ({"amount": 0}, -62_135_596_800_000, True),
        # Without a base fee, and with one for each seat.
        ({"amount": 0}, NOW_MS, False),
        ({"amount": 2000}, None, False),
        ({}, None, False),
        (None, None, False),
    ],
)
def test_the_default_plan(plan: Any, period_end: int | None, is_default: bool) -> None:
    content = {**item("csub_item_1", "org_1"), "plan": plan, "period_end": period_end}
    state = observed(event("subscriptionItem.active", content, NOW_MS)).after
    assert state.is_default is is_default


@pytest.mark.parametrize(
    ("status", "is_free_trial", "expected", "ends"),
    [
        ("active", False, "active", False),
        ("active", True, "free_trial", False),
        ("canceled", True, "canceled", True),
        ("canceled", False, "canceled", True),
        ("ended", False, "ended", False),
        ("metamorphosing", False, "metamorphosing", False),
    ],
)
def test_statuses_and_ends(status: str, is_free_trial: bool, expected: str, ends: bool) -> None:
    end = NOW_MS + 1500
    content = item("i", "org_1", status, period_end=end, is_free_trial=is_free_trial)
    state = observed(event("subscriptionItem.updated", content, NOW_MS)).after
    assert state.status == expected
    assert state.ends_at == (NOW_MS // 1000 + 2 if ends else None)


def test_since_when_it_is_past_due() -> None:
    content = item("i", "org_1", "past_due", past_due_at=NOW_MS + 1500)
    sent = event("subscriptionItem.pastDue", content, NOW_MS)
    assert observed(sent).after.past_due_at == NOW_MS // 1000 + 1


def test_what_asks_for_nothing_says_why() -> None:
    codes = {
        "subscription.updated": "items_tell",
        "paymentAttempt.updated": "items_tell",
        "session.created": "session_only",
        "email.created": "message_only",
        "organizationInvitation.accepted": "not_a_member_yet",
        "role.updated": "roles_are_theirs",
        "user.banned": "unknown_type",
        "unheard.of": "unknown_type",
    }
    for kind, code in codes.items():
        assert asked(event(kind, {"id": "x_1"}, NOW_MS)) == Ignore(code)
