"""Senders that are configuration only, through real HTTP: right, wrong, stale and again."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.domain.events import Headers, Identity
from shared.providers import providers
from shared.providers.base import Configured, Reply
from shared.providers.stripe import Stripe
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import Gateway, add_source, assert_envelope, running_gateway

NOTHING = {"ledger": 0, "inbox": 0, "work": 0, "deliveries": 0}
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_WHSEC = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
EVENT = {"id": "id", "type": "type", "subject": "about", "account": "who"}
HMAC = {
    "header": "X-Acme-Signature",
    "part": "v1",
    "timestamp": "part:t",
    "signed": "{timestamp}.{body}",
}

#: Provider → a right secret, a wrong one, and the tables beside `event` and `handshake`.
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "svix": (WHSEC, OTHER_WHSEC, {}),
    "standard-webhooks": (WHSEC, OTHER_WHSEC, {}),
    "hmac": ("secret", "another", {"signature": HMAC}),
    "bearer": ("secret", "another", {"signature": {"header": "X-Acme-Key"}}),
    "basic": ("user:secret", "user:another", {}),
}
TIMED = ("svix", "standard-webhooks", "hmac")


def tables(provider: str) -> dict[str, Any]:
    shake = {"when": "type == 'url_verification'", "answer": "challenge"}
    return {"event": EVENT, "handshake": shake, **SOURCES[provider][2]}


def body_of(event_id: str = "1", **more: Any) -> bytes:
    document = {"id": event_id, "type": "thing.made", "about": "thing/7", "who": "acct_1", **more}
    return json.dumps(document).encode()


def signed(provider: str, body: bytes, secret: str, shift_s: int = 0) -> dict[str, str]:
    bound = providers()[provider].for_source(Configured(tables(provider)))
    return dict(bound.sign(body, secret, datetime.now(UTC) + timedelta(seconds=shift_s)))


@pytest.fixture
async def senders(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with a source of each provider, named "acme-PROVIDER"."""
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        for provider, (secret, _, _) in SOURCES.items():
            source = await add_source(owner, keys, f"acme-{provider}", secret)
            await owner.execute(
                "UPDATE sources SET provider = $2, livemode = NULL, settings = $3 WHERE id = $1",
                source,
                provider,
                tables(provider),
            )
        # One that a newer version has written.
        unknown = await add_source(owner, keys, "newer", "secret")
        await owner.execute(
            "UPDATE sources SET provider = 'hmac', livemode = NULL, settings = $2 WHERE id = $1",
            unknown,
            {"signature": {**HMAC, "algorithm": "sha3"}},
        )
    async with running_gateway(endpoints, tmp_path) as running:
        yield running


Send = Callable[..., Any]


def sending(gateway: Gateway, provider: str) -> Send:
    async def send(body: bytes, headers: dict[str, str]) -> Any:
        path = f"/api/v1/webhooks/acme-{provider}"
        return await gateway.client.post(path, content=body, headers=headers)

    return send


@pytest.mark.parametrize("provider", SOURCES)
async def test_the_way_of_an_event(senders: Gateway, provider: str) -> None:
    right, wrong, _ = SOURCES[provider]
    send, body = sending(senders, provider), body_of()
    assert_envelope(await send(body, {}), 401, "missing_signature")
    forged = signed(provider, body, wrong)
    assert_envelope(await send(body, forged), 401, "wrong_signature")
    if provider in TIMED:
        for shift_s, code in [(-301, "timestamp_too_old"), (302, "timestamp_in_future")]:
            assert_envelope(await send(body, signed(provider, body, right, shift_s)), 401, code)
        other = await send(body + b" ", signed(provider, body, right))
        assert_envelope(other, 401, "wrong_signature")
    assert await senders.counts() == NOTHING

    first = assert_envelope(await send(body, signed(provider, body, right)), 200, None)
    assert first["status"] == "new"
    again = assert_envelope(await send(body, signed(provider, body, right)), 200, None)
    assert again == {**first, "status": "duplicate"}
    [row] = await senders.owner.fetch("SELECT * FROM inbox")
    assert (row["event_id"], row["event_type"], row["account"]) == ("1", "thing.made", "acct_1")
    assert row["body"] == body
    assert row["unreadable"] is None
    assert b"secret" not in row["headers"]
    assert not senders.logged.tracebacks


@pytest.mark.parametrize("provider", SOURCES)
async def test_a_handshake_is_answered_and_leaves_nothing(senders: Gateway, provider: str) -> None:
    right, wrong, _ = SOURCES[provider]
    send = sending(senders, provider)
    body = b'{"type": "url_verification", "challenge": "3eZbrw1aBm2r"}'
    assert_envelope(await send(body, {}), 401, "missing_signature")
    assert_envelope(await send(body, signed(provider, body, wrong)), 401, "wrong_signature")
    answer = await send(body, signed(provider, body, right))
    assert (answer.status_code, answer.text) == (200, "3eZbrw1aBm2r")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-request-id"]
    assert await senders.counts() == NOTHING
    assert not senders.logged.tracebacks


async def test_a_ping_that_is_answered_with_nothing(senders: Gateway) -> None:
    """Discord wants 204, no body, and a content type."""
    await senders.owner.execute(
        "UPDATE sources SET settings = $1 WHERE name = 'acme-hmac'",
        {"signature": HMAC, "handshake": {"when": "type == `0`"}},
    )
    await add_source(senders.owner, senders.keys, "another", "secret")
    send = sending(senders, "hmac")
    body = b'{"type": 0}'
    async with asyncio.timeout(3):
        while (answer := await send(body, signed("hmac", body, "secret"))).status_code != 204:
            await asyncio.sleep(0.05)
    assert answer.content == b""
    assert answer.headers["content-type"] == "application/json"


async def test_a_verified_body_that_says_nothing_of_itself_is_kept(senders: Gateway) -> None:
    send = sending(senders, "hmac")
    for number, body in enumerate((b"\xff\x00", b"", b"[]", b"a=b", b"[" * 60_000), start=1):
        answer = assert_envelope(await send(body, signed("hmac", body, "secret")), 200, None)
        assert answer["status"] == "new"
        assert await senders.count("inbox WHERE unreadable IS NOT NULL") == number
    assert not senders.logged.tracebacks


async def test_a_form_is_an_event(senders: Gateway) -> None:
    body = b"id=1&type=command&about=%2Fdo+it"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    mac = hmac.new(b"secret", b"", "sha256")
    stamp = int(datetime.now(UTC).timestamp())
    mac.update(f"{stamp}.".encode() + body)
    headers["x-acme-signature"] = f"t={stamp},v1={mac.hexdigest()}"
    assert_envelope(await sending(senders, "hmac")(body, headers), 200, None)
    [row] = await senders.owner.fetch("SELECT event_type, unreadable FROM inbox")
    assert (row["event_type"], row["unreadable"]) == ("command", None)


async def test_a_secret_in_a_header_of_its_own_is_stored_as_a_digest(senders: Gateway) -> None:
    headers = {**signed("bearer", body_of(), "secret"), "x-other": "secret too"}
    assert_envelope(await sending(senders, "bearer")(body_of(), headers), 200, None)
    stored = dict(json.loads(await senders.owner.fetchval("SELECT headers FROM inbox")))
    assert stored["x-acme-key"] == senders.keys.digest("secret")
    assert stored["x-other"] == "secret too"


async def test_a_table_that_is_not_understood_is_503_and_never_401(senders: Gateway) -> None:
    answer = await senders.client.post("/api/v1/webhooks/newer", content=b"{}")
    assert_envelope(answer, 503, "source_unreadable")


async def test_a_body_that_takes_long_to_read_holds_up_nobody(senders: Gateway) -> None:
    """Whatever a source's expressions make of it."""
    slow = " | ".join(["items", *["[?@ > `0`]"] * 60, "to_string([0])"])
    async with senders.owner.transaction():
        source = await add_source(senders.owner, senders.keys, "slow", "secret")
        await senders.owner.execute(
            "UPDATE sources SET provider = 'bearer', livemode = NULL, settings = $2 WHERE id = $1",
            source,
            {"event": {"id": "id", "type": slow}},
        )
    large = json.dumps({"id": "1", "items": [1] * 20_000}).encode()
    while (await senders.client.post("/api/v1/webhooks/slow", content=b"")).status_code == 404:
        await asyncio.sleep(0.1)
    headers = {"Authorization": "Bearer secret"}
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    long = asyncio.create_task(
        senders.client.post("/api/v1/webhooks/slow", content=large, headers=headers)
    )
    await asyncio.sleep(0.1)
    body = body_of("2")
    quick = await sending(senders, "hmac")(body, signed("hmac", body, "secret"))
    quick_s = loop.time() - begun_s
    assert_envelope(quick, 200, None)
    assert_envelope(await long, 200, None)
    assert quick_s < (loop.time() - begun_s) / 2
    [row] = await senders.owner.fetch("SELECT event_id FROM inbox WHERE body = $1", large)
    assert row["event_id"] == "1"


class Broken(Stripe):
    """An installed package's provider, with bugs behind its signature."""

    name = "broken"
    has_livemode = False

    def handshake(self, headers: Headers, body: bytes) -> Reply | None:
        raise LookupError("handshake")

    def identify(self, headers: Headers, body: bytes) -> Identity:
        raise ZeroDivisionError("identify")


async def test_what_a_package_cannot_read_is_kept_all_the_same(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """Its bug can be mended and the event replayed; 500 would have the endpoint switched off."""
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        source = await add_source(owner, keys, "broken", "whsec_1")
        await owner.execute("UPDATE sources SET provider = 'broken' WHERE id = $1", source)
    providers()["broken"] = Broken()
    try:
        async with running_gateway(endpoints, tmp_path) as gateway:
            headers = dict(Broken().sign(b"{}", "whsec_1", datetime.now(UTC)))
            answer = await gateway.client.post(
                "/api/v1/webhooks/broken", content=b"{}", headers=headers
            )
            assert assert_envelope(answer, 200, None)["status"] == "new"
            (kept,) = await gateway.owner.fetch("SELECT unreadable, body FROM inbox")
            assert tuple(kept) == ("ZeroDivisionError: identify", b"{}")
            forged = {**headers, "stripe-signature": headers["stripe-signature"][:-1] + "x"}
            answer = await gateway.client.post(
                "/api/v1/webhooks/broken", content=b"{}", headers=forged
            )
            assert_envelope(answer, 401, "wrong_signature")
    finally:
        del providers()["broken"]
