"""Orders over the API: placed once each, kept like every event, and nobody's outside to forge."""

import asyncio
import contextlib
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from shared.providers import OWN, providers
from shared.providers.base import ConfigurationError
from shared.store import tokens
from tests.gateway.conftest import SECRET, Gateway, assert_envelope

PAUSE = "/api/v1/integrations/stripe/pause"
RESUME = "/api/v1/integrations/stripe/resume"


async def add_token(gateway: Gateway, scope: str = "operator", name: str = "ci") -> str:
    token = tokens.new_token()
    await tokens.create(
        gateway.owner, uuid.uuid4(), name, scope, tokens.digest_of(token), "test", None
    )
    return token


async def post(
    gateway: Gateway, path: str, token: str, body: Any = None, **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.client.post(
        path, json=body, headers={"authorization": f"Bearer {token}", **named}
    )


async def status_of(gateway: Gateway, token: str, url: str) -> httpx.Response:
    return await gateway.client.get(url, headers={"authorization": f"Bearer {token}"})


async def test_an_order_is_an_event_of_its_own_source(gateway: Gateway) -> None:
    token = await add_token(gateway)
    placed = await post(gateway, PAUSE, token, {"reason": "vendor migrates"})
    data = assert_envelope(placed, 202, None)
    assert "x-idempotency-replayed" not in placed.headers
    row = await gateway.owner.fetchrow(
        "SELECT s.name, i.event_type, i.subject, i.body, i.tracking_id FROM inbox i"
        " JOIN sources s ON s.id = i.source_id"
    )
    assert (row["name"], row["event_type"]) == ("operator", "sluice.operator/pause-source")
    assert str(row["tracking_id"]) == data["trackingId"]
    assert row["subject"] == "source/stripe"
    ordered = json.loads(row["body"])
    assert ordered["actor"] == "token:ci"
    assert ordered["reason"] == "vendor migrates"
    assert await gateway.count("work") == 1

    status = await status_of(gateway, token, data["statusUrl"])
    seen = assert_envelope(status, 200, None)
    assert (seen["order"], seen["about"], seen["state"]) == ("pause-source", "stripe", "received")
    assert (seen["actor"], seen["reason"]) == ("token:ci", "vendor migrates")
    assert (seen["code"], seen["settledAt"], seen["attempts"]) == (None, None, 0)


@pytest.mark.parametrize("name", ["idempotency-key", "x-idempotency-key"])
async def test_the_same_key_gets_the_first_answer_again(gateway: Gateway, name: str) -> None:
    token = await add_token(gateway)
    first = await post(gateway, PAUSE, token, {"reason": "a"}, **{name: "k-1"})
    again = await post(gateway, PAUSE, token, {"reason": "a"}, **{name: '"k-1"'})
    assert assert_envelope(again, 202, None) == assert_envelope(first, 202, None)
    assert again.headers["x-idempotency-replayed"] == "true"
    assert "x-idempotency-replayed" not in first.headers
    assert await gateway.count("inbox") == 1


async def test_a_key_is_of_one_request(gateway: Gateway) -> None:
    """Another body, or another operation, under a key that was used."""
    token = await add_token(gateway)
    await post(gateway, PAUSE, token, {"reason": "a"}, idempotency_key="k")
    other = await post(gateway, PAUSE, token, {"reason": "b"}, idempotency_key="k")
    assert_envelope(other, 422, "key_reused")
    elsewhere = await post(gateway, RESUME, token, {"reason": "a"}, idempotency_key="k")
    assert_envelope(elsewhere, 422, "key_reused")
    assert await gateway.count("inbox") == 1


async def test_keys_are_each_tokens_own(gateway: Gateway) -> None:
    one, two = await add_token(gateway, name="one"), await add_token(gateway, name="two")
    first = await post(gateway, PAUSE, one, idempotency_key="k")
    second = await post(gateway, PAUSE, two, idempotency_key="k")
    assert second.status_code == 202
    assert "x-idempotency-replayed" not in second.headers
    assert first.json()["data"]["trackingId"] != second.json()["data"]["trackingId"]


async def test_without_a_key_each_is_an_order_of_its_own(gateway: Gateway) -> None:
    token = await add_token(gateway)
    answers = [await post(gateway, PAUSE, token) for _ in range(2)]
    assert len({answer.json()["data"]["trackingId"] for answer in answers}) == 2


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 201, '"a', '"'])
async def test_what_is_no_key_is_said_so(gateway: Gateway, key: str) -> None:
    token = await add_token(gateway)
    answer = await gateway.client.post(
        PAUSE,
        headers={
            b"authorization": f"Bearer {token}".encode(),
            b"idempotency-key": key.encode("latin-1"),
        },
    )
    assert_envelope(answer, 400, "malformed_request")
    assert await gateway.count("inbox") == 0


async def test_two_keys_that_differ_are_none(gateway: Gateway) -> None:
    token = await add_token(gateway)
    answer = await post(gateway, PAUSE, token, idempotency_key="a", x_idempotency_key="b")
    assert_envelope(answer, 400, "malformed_request")


async def test_a_key_in_flight_is_409(gateway: Gateway) -> None:
    """The ledger's table is held: the first request waits for it, and the second one is told so."""
    token = await add_token(gateway)
    turn = gateway.owner.transaction()
    await turn.start()
    await gateway.owner.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
    first = asyncio.create_task(post(gateway, PAUSE, token, idempotency_key="k"))
    try:
        async with asyncio.timeout(5):
            while not gateway.deps.api or not gateway.deps.api.orders.is_in_flight:
                await asyncio.sleep(0.01)
        second = await post(gateway, PAUSE, token, idempotency_key="k")
    finally:
        await turn.rollback()
    assert_envelope(second, 409, "key_in_flight")
    assert_envelope(await first, 202, None)
    again = await post(gateway, PAUSE, token, idempotency_key="k")
    assert again.headers["x-idempotency-replayed"] == "true"


async def test_what_cannot_be_stored_is_503_and_may_be_said_again(gateway: Gateway) -> None:
    token = await add_token(gateway)
    turn = gateway.owner.transaction()
    await turn.start()
    await gateway.owner.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")
    answer = await post(gateway, PAUSE, token, idempotency_key="k")
    await turn.rollback()
    assert_envelope(answer, 503, "store_unavailable")
    async with asyncio.timeout(10):
        while (again := await post(gateway, PAUSE, token, idempotency_key="k")).status_code != 202:
            await asyncio.sleep(0.05)
    assert await gateway.count("inbox") == 1
    assert again.json()["data"]["trackingId"] == str(
        await gateway.owner.fetchval("SELECT tracking_id FROM inbox")
    )


@pytest.mark.parametrize("source", ["operator", "sluice-handlers"])
async def test_nobody_outside_can_place_one(gateway: Gateway, source: str) -> None:
    """Not with any provider's signature, and it leaves nothing behind (L2)."""
    ordered = {"actor": "token:root", "order": {"do": "pause-source", "source": "stripe"}}
    body = json.dumps(ordered).encode()
    for provider in (*providers().values(), OWN):
        with contextlib.suppress(ConfigurationError, ValueError):
            headers = provider.sign(body, SECRET, datetime.now(UTC))
            answer = await gateway.client.post(
                f"/api/v1/webhooks/{source}", content=body, headers=list(headers)
            )
            assert_envelope(answer, 404, "unknown_source")
    assert set((await gateway.counts()).values()) == {0}


@pytest.mark.parametrize("scope", ["service", "tenant:acme"])
@pytest.mark.parametrize("do", ["pause", "resume", "rotate-secret"])
async def test_only_operators_order(gateway: Gateway, scope: str, do: str) -> None:
    token = await add_token(gateway, scope)
    answer = await post(gateway, f"/api/v1/integrations/stripe/{do}", token, {})
    absent = await post(gateway, f"/api/v1/integrations/nobody/{do}", token, {})
    status, code = (403, "forbidden") if scope == "service" else (404, "not_found")
    assert_envelope(answer, status, code)
    assert answer.json()["error"] == absent.json()["error"]
    assert await gateway.count("inbox") == 0


@pytest.mark.parametrize("name", ["nobody", "operator", "sluice-handlers", "%00"])
@pytest.mark.parametrize("do", ["pause", "resume", "rotate-secret"])
async def test_there_must_be_a_source(gateway: Gateway, name: str, do: str) -> None:
    token = await add_token(gateway)
    answer = await post(gateway, f"/api/v1/integrations/{name}/{do}", token, {})
    assert_envelope(answer, 404, "not_found")
    assert await gateway.count("inbox") == 0


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001, "a\0b", 7])
async def test_a_reason_that_cannot_be_kept_is_refused(gateway: Gateway, reason: Any) -> None:
    token = await add_token(gateway)
    answer = await post(gateway, PAUSE, token, {"reason": reason})
    assert_envelope(answer, 422, "invalid_body")
    assert await gateway.count("inbox") == 0


async def test_an_order_is_shown_to_whom_it_concerns(gateway: Gateway) -> None:
    """A tenant sees its own orders only; what is no order is nobody's."""
    token = await add_token(gateway)
    data = (await post(gateway, PAUSE, token)).json()["data"]
    for scope, status in (("service", 200), ("operator", 200), ("tenant:acme", 404)):
        other = await add_token(gateway, scope, "other")
        assert (await status_of(gateway, other, data["statusUrl"])).status_code == status
    sent = await gateway.post(b'{"id": "evt_1", "type": "x", "object": "event"}')
    for name in ("nonsense", str(uuid.uuid4()), sent.json()["data"]["trackingId"]):
        answer = await status_of(gateway, token, f"/api/v1/orders/{name}")
        assert_envelope(answer, 404, "not_found")
