"""What hostile and broken requests get, and that they leave nothing behind (L2)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.gateway.conftest import SECRET, Gateway, assert_envelope, event, sign

NOTHING = {"ledger": 0, "inbox": 0, "work": 0, "deliveries": 0}


@pytest.mark.parametrize(
    ("secret", "shift_s", "code"),
    [
        ("whsec_wrong", 0, "wrong_signature"),
        (SECRET, -301, "timestamp_too_old"),
        (SECRET, +302, "timestamp_in_future"),
    ],
)
async def test_a_forged_request_leaves_nothing_that_could_suppress_the_real_one(
    gateway: Gateway, secret: str, shift_s: int, code: str
) -> None:
    body = event()
    answer = await gateway.post(body, secret=secret, at=time.time() + shift_s)
    assert_envelope(answer, 401, code)
    assert await gateway.counts() == NOTHING
    data = assert_envelope(await gateway.post(body), 200, None)
    assert data["status"] == "new"
    assert not gateway.logged.tracebacks


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_signature"),
        ("", "malformed_signature"),
        ("nonsense", "malformed_signature"),
        ("t=now,v1=00", "malformed_signature"),
        ("t=1700000000", "wrong_signature"),
        ("t=1700000000,v1=\u00e9", "wrong_signature"),
        ("t=99999999999999999999,v1=00", "malformed_signature"),
    ],
)
async def test_a_signature_that_is_none_is_refused(
    gateway: Gateway, header: str | None, code: str
) -> None:
    headers = {} if header is None else {b"stripe-signature": header.encode("latin-1")}
    answer = await gateway.client.post(
        "/api/v1/webhooks/stripe",
        content=event(),
        headers=headers,
    )
    assert_envelope(answer, 401, code)
    assert await gateway.counts() == NOTHING
    assert not gateway.logged.tracebacks


async def test_a_truncated_body_is_not_what_was_signed(gateway: Gateway) -> None:
    body = event()
    answer = await gateway.client.post(
        "/api/v1/webhooks/stripe", content=body[:-10], headers={"stripe-signature": sign(body)}
    )
    assert_envelope(answer, 401, "wrong_signature")
    assert await gateway.counts() == NOTHING


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00 not utf-8",
        b"[]",
        b"null",
        b'{"id": 5}',
        b"[" * 60_000,
        event("evt_\0"),
        event("e" * 3000),
        event("evt_\ud800"),
        event(""),
        event(created="1e131071"),
        event(account="a\0b"),
        event()[:-1],
    ],
    ids=range(14),
)
async def test_a_verified_body_that_is_no_event_is_kept_and_acknowledged(
    gateway: Gateway, body: bytes
) -> None:
    first = assert_envelope(await gateway.post(body), 200, None)
    again = assert_envelope(await gateway.post(body), 200, None)
    assert first["status"] == "new"
    assert again == {**first, "status": "duplicate"}
    [row] = await gateway.owner.fetch("SELECT event_id, body, unreadable FROM inbox")
    assert row["event_id"].startswith("sha256:")
    assert row["body"] == body
    assert row["unreadable"]
    assert not gateway.logged.tracebacks


async def test_nobody_outside_answers_for_a_fetch(gateway: Gateway) -> None:
    """Whoever has a source's secret could say so, with a number that no later fetch has."""
    body = event(type="sluice.fetched", kind="subscription", number=2**63 - 1, result=None)
    answer = await gateway.post(body)
    assert_envelope(answer, 200, None)
    [row] = await gateway.owner.fetch("SELECT event_type, body, unreadable FROM inbox")
    assert (row["event_type"], row["body"]) == ("", body)
    assert "nobody else's" in row["unreadable"]
    # Nor takes an answer's id before it comes.
    await gateway.post(event("sluice.fetch/17"))
    rows = await gateway.owner.fetch("SELECT event_id FROM ledger")
    assert all(row["event_id"].startswith("sha256:") for row in rows)
    assert len(rows) == 2


async def test_strangers_in_the_same_commit_are_not_harmed(gateway: Gateway) -> None:
    """Good, forged, unreadable and doubled requests at once: each gets its own answer."""
    good = [gateway.post(event(f"evt_{number}")) for number in range(40)]
    forged = [gateway.post(event(f"evt_{number}"), secret="whsec_x") for number in range(20)]
    broken = [gateway.post(event("\0" * number)) for number in range(20)]
    answers = await asyncio.gather(*good, *forged, *broken)
    assert [answer.status_code for answer in answers] == [200] * 40 + [401] * 20 + [200] * 20
    assert await gateway.count("ledger") == 60
    assert {answer.json()["data"]["status"] for answer in answers[:40]} == {"new"}


async def test_a_declared_body_over_the_cap_is_refused_before_it_is_read(gateway: Gateway) -> None:
    answer = await gateway.post(b"x" * (64 * 1024 + 1))
    assert_envelope(answer, 413, "body_too_large")
    assert_envelope(await gateway.post(event()), 200, None)


async def test_a_chunked_body_is_counted_while_it_comes(gateway: Gateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    answer = await gateway.client.post("/api/v1/webhooks/stripe", content=chunks())
    assert_envelope(answer, 413, "body_too_large")
    assert await gateway.counts() == NOTHING


async def test_a_chunked_event_is_an_event(gateway: Gateway) -> None:
    body = event()

    async def chunks() -> AsyncIterator[bytes]:
        for byte in range(0, len(body), 7):
            yield body[byte : byte + 7]

    headers = {"stripe-signature": sign(body)}
    answer = await gateway.client.post("/api/v1/webhooks/stripe", content=chunks(), headers=headers)
    assert_envelope(answer, 200, None)
    assert await gateway.owner.fetchval("SELECT body FROM inbox") == body


@pytest.mark.parametrize(
    "name", ["nobody", "Stripe", "sluice-handlers", "%00", "%FF", "a" * 300, "..%2f.."]
)
async def test_an_unknown_source_is_404(gateway: Gateway, name: str) -> None:
    answer = await gateway.post(event(), source=name)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"unknown_source", "not_found"}
    assert await gateway.counts() == NOTHING
    assert not gateway.logged.tracebacks


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/webhooks/stripe", 405, "method_not_allowed"),
        ("PUT", "/api/v1/webhooks/stripe", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/webhooks/stripe", 405, "method_not_allowed"),
        ("POST", "/api/v1/webhooks/stripe/", 404, "not_found"),
        ("POST", "/api/v1/webhooks/", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v1/nothing", 404, "not_found"),
        ("GET", "/livez/", 404, "not_found"),
    ],
)
async def test_every_refusal_is_an_envelope_and_never_a_redirect(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    answer = await gateway.client.request(method, path)
    assert_envelope(answer, status, code)
    if status == 405:
        assert answer.headers["allow"] == "POST"


async def test_a_source_whose_secrets_do_not_open_says_503_and_never_401(
    gateway: Gateway,
) -> None:
    await gateway.owner.execute("UPDATE source_secrets SET version = 2")
    await gateway.owner.execute(
        "INSERT INTO configuration (version, actor, mode) VALUES (9, 'test', 'live')"
    )
    async with asyncio.timeout(3):
        while (answer := await gateway.post(event())).status_code == 200:
            await asyncio.sleep(0.05)
    assert_envelope(answer, 503, "source_unreadable")


async def test_headers_without_end_are_refused(gateway: Gateway) -> None:
    answer = await gateway.post(event(), headers={"x-filler": "x" * 70_000})
    assert_envelope(answer, 431, "headers_too_large")


async def test_an_internal_error_says_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(name: str) -> None:
        raise RuntimeError("SELECT secret FROM everywhere")

    monkeypatch.setattr(gateway.deps.ingress.sources, "find", fail)
    answer = await gateway.post(event())
    assert_envelope(answer, 500, "internal")
    assert "SELECT" not in answer.text


async def test_a_request_id_comes_back_if_it_is_sane(gateway: Gateway) -> None:
    sane = await gateway.post(event(), headers={"x-request-id": "req-1.a_B"})
    assert sane.headers["x-request-id"] == "req-1.a_B"
    odd = await gateway.post(event(), headers={"x-request-id": "a b"})
    assert odd.headers["x-request-id"] == odd.json()["meta"]["traceId"]


async def test_credentials_are_stored_as_digests_only(gateway: Gateway) -> None:
    headers = {"authorization": "Bearer hunter2", "x-api-token": "hunter2", "x-odd": "caf\u00e9"}
    signed = {**headers, "stripe-signature": sign(event())}
    answer = await gateway.client.post(
        "/api/v1/webhooks/stripe",
        content=event(),
        headers=httpx.Headers(signed, encoding="latin-1"),
    )
    assert answer.status_code == 200
    stored = bytes(await gateway.owner.fetchval("SELECT headers FROM inbox"))
    assert b"hunter2" not in stored
    pairs = dict(json.loads(stored))
    assert pairs["authorization"] == gateway.keys.digest("Bearer hunter2")
    assert pairs["x-odd"] == "caf\u00e9"
