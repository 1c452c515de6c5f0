"""Senders that are configuration only: what is read of a request, bound and unbound."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.commands import Ignore
from shared.domain.events import Arrival, Headers, Identity
from shared.providers import providers
from shared.providers.base import (
    ConfigurationError,
    Configured,
    PayloadError,
    Provider,
    Reply,
    SignatureError,
)
from shared.providers.sender.documents import read_document

AT = datetime(2026, 11, 2, 12, tzinfo=UTC)
NAMES = ("svix", "standard-webhooks", "hmac", "bearer", "basic")
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS = {"svix": WHSEC, "standard-webhooks": WHSEC, "basic": "user:password"}
FORM: Headers = (("content-type", "Application/X-WWW-Form-Urlencoded"),)


def sender(name: str = "hmac", **tables: Any) -> Provider:
    if name == "hmac":
        tables.setdefault("signature", {"header": "X-Signature"})
    return providers()[name].for_source(Configured(tables))


def event(**keys: str) -> Provider:
    return sender(event=keys)


def shaking(**keys: Any) -> Provider:
    return sender(handshake=keys)


# Before anything is configured ------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_unbound_sender_accepts_nothing_it_could_not_prove(name: str) -> None:
    unbound = providers()[name]
    secret = SECRETS.get(name, "secret")
    headers = unbound.sign(b"{}", secret, AT)
    if name == "hmac":
        assert headers == ()
        with pytest.raises(SignatureError, match="missing_signature"):
            unbound.verify((("x-signature", "00"),), b"{}", [secret], AT, 300)
    else:
        assert unbound.verify(headers, b"{}", [secret], AT, 300) == 0
    with pytest.raises(SignatureError):
        unbound.verify((), b"{}", [secret], AT, 300)
    assert unbound.handshake(headers, b"{}") is None
    assert unbound.identify(headers, b"{}").event_type == "event"
    arrival = Arrival(unbound.identify(headers, b"not json"), b"not json", headers)
    assert unbound.translate(arrival) == (Ignore("unmapped"),)


def test_binding_leaves_the_unbound_one_as_it_was() -> None:
    unbound = providers()["hmac"]
    bound = sender(event={"type": "type"})
    assert bound.identify((), b'{"type": "a"}').event_type == "a"
    assert unbound.identify((), b'{"type": "a"}').event_type == "event"
    assert unbound.sign(b"", "s", AT) == ()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_secret_is_none(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        sender(name).check_secret("")
    sender(name).check_secret(SECRETS.get(name, "secret"))


@pytest.mark.parametrize("secret", ["hunter2!", ":hunter2", "hunter2:", "whsec_hunter2!"])
def test_what_is_wrong_with_a_secret_never_says_it(secret: str) -> None:
    for name in ("basic", "svix"):
        with pytest.raises(ConfigurationError) as refused:
            sender(name).check_secret(secret)
        assert "hunter2" not in refused.value.problem
        assert refused.value.path == ()


def test_a_public_key_cannot_sign() -> None:
    with pytest.raises(ValueError, match="cannot sign"):
        sender("svix").sign(b"{}", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", AT)


# Tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("bearer", "Bearer secret", None),
        ("bearer", "bearer secret", None),
        ("bearer", "Bearer  secret", "wrong_signature"),
        ("bearer", "Bearer secre", "wrong_signature"),
        ("bearer", "Bearer ", "wrong_signature"),
        ("bearer", "secret", "malformed_signature"),
        ("bearer", "", "malformed_signature"),
        ("bearer", "Basic dXNlcjpwYXNzd29yZA==", "malformed_signature"),
        ("basic", "Basic dXNlcjpwYXNzd29yZA==", None),
        ("basic", "BASIC  dXNlcjpwYXNzd29yZA==", None),
        ("basic", "Basic dXNlcjpwYXNzd29yZ", "malformed_signature"),
        ("basic", "Basic \xe9", "malformed_signature"),
        ("basic", "Basic dXNlcjo=", "wrong_signature"),
        ("basic", "Basic ", "wrong_signature"),
        ("basic", "Bearer user:password", "malformed_signature"),
    ],
)
def test_secrets_that_are_sent_along(name: str, value: str, code: str | None) -> None:
    secrets = ["other:one", "secret" if name == "bearer" else "user:password", ""]
    headers = (("authorization", value),)
    if code is None:
        assert sender(name).verify(headers, b"anything", secrets, AT, 300) == 1
    else:
        with pytest.raises(SignatureError, match=code):
            sender(name).verify(headers, b"anything", secrets, AT, 300)
    with pytest.raises(SignatureError, match="missing_signature"):
        sender(name).verify((), b"", secrets, AT, 300)


def test_a_header_of_its_own_holds_the_secret_alone() -> None:
    own = sender("bearer", signature={"header": "X-Key"})
    assert own.verify((("x-key", "secret"),), b"", ["secret"], AT, 300) == 0
    assert own.secret_headers == {"x-key"}
    prefixed = sender("bearer", signature={"header": "X-Key", "prefix": "Token "})
    assert prefixed.sign(b"", "secret", AT) == (("x-key", "Token secret"),)


# Identities -------------------------------------------------------------------------------------


def test_what_nothing_is_said_of() -> None:
    digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert sender().identify((), b"{}") == Identity(digest, "event", digest)
    for name in ("svix", "standard-webhooks"):
        headers = sender(name).sign(b"{}", WHSEC, AT)
        assert sender(name).identify(headers, b"{}").event_id == "msg_44136fa355b3678a1146ad16"
    # A name in the file is what it says, also where the scheme has one.
    named = sender("svix", event={"id": "id"})
    assert named.identify(headers, b'{"id": "a"}').event_id == "a"


def test_a_body_that_nobody_looks_at_may_be_anything() -> None:
    by_header = event(id="header:X-Id", type="header:X-Type", occurred_at="header:X-At")
    headers = (("x-id", "1"), ("x-type", "t"), ("x-at", "2026-11-02T13:00:00+01:00"))
    assert by_header.identify(headers, b"\xff") == Identity("1", "t", "1", AT)
    with pytest.raises(PayloadError, match="the body is not JSON"):
        event(id="id").identify(headers, b"\xff")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, r"there is no event.id \(id\)"),
        ({"id": None}, "there is no event.id"),
        ({"id": ""}, "there is no event.id"),
        ({"id": 1}, "there is no event.type"),
        ({"id": True}, "event.id is no text"),
        ({"id": 1.5}, "event.id is no text"),
        ({"id": {}}, "event.id is no text"),
        ({"id": "a\0"}, "event.id is no text"),
        ({"id": "x" * 256}, "event.id is no text"),
        ({"id": 10**30}, "event.id is no text"),
        ({"id": "1", "type": []}, "event.type is no text"),
        ({"id": "1", "type": "t", "about": ["a"]}, "event.subject is no text"),
        ({"id": "1", "type": "t", "who": "a\0"}, "event.account is no text"),
        ({"id": "1", "type": "t", "at": 5}, "event.occurred_at is no time in the unit 'iso'"),
        ({"id": "1", "type": "t", "at": "now"}, "event.occurred_at is no time"),
        ({"id": "1", "type": "t", "at": "0001-01-01T00:00:00+01:00"}, "occurred_at is no time"),
        ([], "there is no event.id"),
        ("text", "there is no event.id"),
    ],
)
def test_an_event_that_does_not_say_who_it_is(body: Any, said: str) -> None:
    strict = event(id="id", type="type", subject="about", account="who", occurred_at="at")
    with pytest.raises(PayloadError, match=said):
        strict.identify((), json.dumps(body).encode())


def test_what_an_event_is_about_may_be_missing() -> None:
    known = event(id="id", subject="about", account="who", occurred_at="at")
    assert known.identify((), b'{"id": 7}') == Identity("7", "event", "7")


@pytest.mark.parametrize(
    ("unit", "value", "moment"),
    [
        ("iso", "2026-11-02T12:00:00Z", AT),
        ("iso", "2026-11-02T12:00:00", AT),
        ("iso", "2026-11-02T07:00:00-05:00", AT),
        ("iso", "2026-11-02T12:00:00.000001999Z", AT.replace(microsecond=1)),
        ("s", 1793620800, AT),
        ("s", "1793620800", AT),
        ("s", "1793620800.000200", AT.replace(microsecond=200)),
        ("s", 1793620800.25, AT.replace(microsecond=250_000)),
        ("ms", 1793620800123, AT.replace(microsecond=123_000)),
        ("us", 1793620800123456, AT.replace(microsecond=123_456)),
        ("us", "1793620800123456", AT.replace(microsecond=123_456)),
    ],
)
def test_times(unit: str, value: Any, moment: datetime) -> None:
    timed = event(occurred_at="at", occurred_at_unit=unit)
    found = timed.identify((), json.dumps({"at": value}).encode()).occurred_at
    assert found == moment
    assert found is not None
    assert found.tzinfo is UTC


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("value", [-1, True, "", "-1", "1e9", "NaN", 10**40, 1e300, [], {}])
def test_numbers_that_are_no_time(unit: str, value: Any) -> None:
    timed = event(occurred_at="at", occurred_at_unit=unit)
    with pytest.raises(PayloadError, match="is no time"):
        timed.identify((), json.dumps({"at": value}).encode())


# Documents --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=8)), max_size=4))
def test_a_form_is_read_as_the_standard_library_does(fields: list[tuple[str, str]]) -> None:
    fields = [("a", "b"), *fields]
    body = urlencode(fields).encode()
    expected = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
    assert read_document(FORM, body) == expected


def test_forms_at_their_edges() -> None:
    assert read_document(FORM, b"") == {}
    assert read_document(FORM, b"a&&b=1=2&c=%zz%4&a=x") == {"a": "x", "b": "1=2", "c": "%zz%4"}
    assert read_document(FORM, b"payload=text") == {"payload": "text"}
    assert read_document(FORM, b"payload=%7B%7D&a=1") == {"payload": "{}", "a": "1"}
    assert read_document(FORM, b"payload=%5B1%5D") == [1]
    for body in (b"a=%ff", b"payload={"):
        with pytest.raises(PayloadError):
            read_document(FORM, body)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (b'{"a": 1, "b": [1, {"c": null}]}', b'{"b":[1,{"c":null}],"a":1}', True),
        (b'{"a": "\\u00e9"}', '{"a": "é"}'.encode(), True),
        (b"a=b", b"a=b", True),
        (b'{"a": 1}', b'{"a": true}', False),
        (b'{"a": 1}', b'{"a": 1.0}', False),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}', False),
        (b'{"a": 1}', b'{"a": 1, "b": null}', False),
        (b"a=b", b"a=c", False),
        (b"{}", b"\xff", False),
        (b"[" * 60_000, b"[" * 60_001, False),
    ],
)
def test_formatting_makes_no_other_event(first: bytes, second: bytes, same: bool) -> None:
    assert sender().same_event(first, second) is same
    assert sender().same_event(second, first) is same


# Handshakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "reply"),
    [
        ("challenge", None, Reply(b"abc", "text/plain", 200)),
        ("{response: challenge}", None, Reply(b'{"response":"abc"}', status=200)),
        ("[challenge, n]", 201, Reply(b'["abc",7]', status=201)),
        ("n", None, Reply(b"7", status=200)),
        ("missing", None, None),
        ("length(n)", None, None),
        ("&n", None, None),
        (None, None, Reply(b"", status=204)),
        (None, 200, Reply(b"", status=200)),
    ],
)
def test_answers(answer: str | None, status: int | None, reply: Reply | None) -> None:
    said = {"when": "type == 'ping'", "answer": answer, "status": status}
    shakes = shaking(**{key: value for key, value in said.items() if value is not None})
    assert shakes.handshake((), b'{"type": "ping", "challenge": "abc", "n": 7}') == reply
    assert shakes.handshake((), b'{"type": "pong", "challenge": "abc"}') is None
    assert shakes.handshake(FORM, b"type=ping&challenge=abc&n=7") is not None or reply is None


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        (b'{"ping": true}', True),
        (b'{"ping": 0}', True),
        (b'{"ping": {"a": 1}}', True),
        (b'{"ping": false}', False),
        (b'{"ping": null}', False),
        (b'{"ping": ""}', False),
        (b'{"ping": []}', False),
        (b'{"ping": {}}', False),
        (b"{}", False),
        (b"\xff", False),
    ],
)
def test_what_is_true(body: bytes, is_one: bool) -> None:
    assert (shaking(when="ping").handshake((), body) is not None) is is_one


# Hostile input ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "type", "at", "about", "who"]), inner, max_size=4)
    ),
    max_leaves=12,
)
LATIN = st.text(alphabet=st.characters(max_codepoint=255), max_size=40)


def everything() -> Iterator[Provider]:
    tables: dict[str, Any] = {
        "event": {
            "id": "id || header",
            "type": "type",
            "subject": "join('/', about)",
            "account": "who",
            "occurred_at": "sum(at)",
            "occurred_at_unit": "s",
        },
        "handshake": {"when": "starts_with(type, 'p')", "answer": "sort(about)"},
    }
    for name in NAMES:
        yield sender(name, **tables)
    yield sender("hmac", signature={"header": "X", "timestamp": "to_number(at)"}, **tables)


EVERYTHING = tuple(everything())


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), LATIN)
def test_garbage_is_only_unreadable(body: bytes, text: str) -> None:
    headers = (("content-type", text), ("webhook-id", text), ("authorization", text), ("x", text))
    for one in EVERYTHING:
        for some in (headers, (*FORM, *headers)):
            with pytest.raises(SignatureError):
                one.verify(some, body, [WHSEC], AT, 300)
            one.handshake(some, body)
            one.same_event(body, text.encode())
            try:
                identity = one.identify(some, body)
                assert one.translate(Arrival(identity, body, some))
            except PayloadError:
                pass


@given(JSON)
def test_garbage_under_a_right_signature_with_a_time_in_the_body(value: Any) -> None:
    timed = sender("hmac", signature={"header": "X", "timestamp": "at"})
    body = json.dumps({"at": value}).encode()
    headers = timed.sign(body, "s", AT)
    with pytest.raises(SignatureError):
        timed.verify(headers, body, ["s"], AT, 300)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"at": null}', b'{"at": "1793620800"'])
def test_without_a_time_in_the_body_nothing_says_that_it_is_not_old(body: bytes) -> None:
    timed = sender("hmac", signature={"header": "X", "timestamp": "at"})
    with pytest.raises(SignatureError, match="malformed_signature"):
        timed.verify(timed.sign(body, "s", AT), body, ["s"], AT, 300)
    right = b'{"at": 1793620800}'
    assert timed.verify(timed.sign(right, "s", AT), right, ["s"], AT, 300) == 0
