"""A few of the requests that were refused are kept, with why; and a flood of them costs little."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import refusing
from shared import db, telemetry
from shared.settings import Endpoints
from shared.store import refusals
from tests.gateway.conftest import (
    SECRET,
    Gateway,
    add_source,
    assert_envelope,
    event,
    running_gateway,
    sign,
)
from tests.gateway.test_ingest import RECORD
from tests.support.stack import Stack
from workers.rounds import Rounds
from workers.sweep import Sweep

NOTHING = {"ledger": 0, "inbox": 0, "work": 0, "deliveries": 0}


async def kept(gateway: Gateway, count: int, within_s: float = 8.0) -> list[Any]:
    """The refused requests that are kept, once they are so many; the oldest first."""
    async with asyncio.timeout(within_s):
        while True:
            rows = await gateway.owner.fetch("SELECT * FROM refusals ORDER BY refused_at, id")
            if len(rows) >= count:
                return list(rows)
            await asyncio.sleep(0.05)


async def test_a_refused_request_is_kept_with_its_cause(gateway: Gateway) -> None:
    body = event()
    answer = await gateway.post(
        body, secret="whsec_wrong", headers={"x-api-key": "precious", "cookie": "a=b"}
    )
    assert_envelope(answer, 401, "wrong_signature")
    assert set(answer.json()["error"]) == {"code", "message"}, "the answer tells what it told"
    [row] = await kept(gateway, 1)
    assert (row["kind"], row["code"]) == ("webhook", "wrong_signature")
    assert row["cause"] == "signature_mismatch"
    assert (row["body"], row["body_bytes"]) == (body, len(body))
    assert row["trace_id"] == answer.json()["meta"]["traceId"]
    assert row["address"] == "127.0.0.1"
    assert abs(row["signed_at"].timestamp() - time.time()) < 30
    assert b"precious" not in row["headers"]
    assert b"a=b" not in row["headers"]
    assert b"hmac-sha256:" in row["headers"]
    assert await gateway.counts() == NOTHING


async def test_causes_are_found_with_what_the_database_knows(gateway: Gateway) -> None:
    """Secrets that were rotated out, other sources' secrets, clocks and changed bodies."""
    await add_source(gateway.owner, gateway.keys, "other", "whsec_others")
    for source, secret in (("stripe", "whsec_gone"), ("other", "whsec_others_gone")):
        sealed = gateway.keys.seal(secret, source=source, slot=7, version=9)
        await gateway.owner.execute(
            "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext,"
            " retires_at) SELECT id, 7, 9, $1, $2, $3, now() - interval '1 day' FROM sources"
            " WHERE name = $4",
            sealed.key_id, sealed.nonce, sealed.ciphertext, source,
        )  # fmt: skip
    await asyncio.sleep(1.3)
    body = event()
    await gateway.post(body, secret="whsec_gone")
    await gateway.post(body, secret="whsec_others")
    await gateway.post(body, at=time.time() - 4000)
    stripped = {"stripe-signature": sign(body + b"\n")}
    await gateway.client.post("/api/v1/webhooks/stripe", content=body, headers=stripped)
    await gateway.post(body, secret="whsec_others_gone")
    rows = await kept(gateway, 5)
    assert [row["cause"] for row in rows] == [
        "wrong_secret", "wrong_secret", "clock_off", "body_changed", "signature_mismatch",
    ]  # fmt: skip
    assert "7.9" in rows[0]["hint"]
    assert "another source here, other" in rows[1]["hint"]
    for row in rows:
        assert not any(word in row["hint"] for word in ("whsec_gone", "whsec_others", SECRET))


async def test_of_a_large_body_the_beginning_is_kept(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusing, "KEPT_BYTES", 100)
    body = event() + b" " * 1000
    await gateway.post(body, secret="whsec_wrong")
    (row,) = await kept(gateway, 1)
    assert row["body"] == body[:100]
    assert row["body_bytes"] == len(body)


async def test_unknown_sources_are_counted_and_not_kept(gateway: Gateway) -> None:
    assert_envelope(await gateway.post(event(), source="nobody"), 404, "unknown_source")
    await gateway.post(event(), secret="whsec_wrong")
    [row] = await kept(gateway, 1)
    assert row["code"] == "wrong_signature"


@pytest.fixture
async def pushed(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(endpoints, tmp_path) as gateway:
        for name, provider in (("signed", "standard-webhooks"), ("sent", "bearer")):
            await add_source(gateway.owner, gateway.keys, name, "whsec_MfKQ9r8GKYqrTwjU")
            await gateway.owner.execute(
                "UPDATE sources SET provider = $2, livemode = NULL, tenant = 'acme',"
                " settings = $3 WHERE name = $1",
                name, provider, {"ingest": {"record": RECORD}},
            )  # fmt: skip
        yield gateway


async def test_a_refused_push_is_kept_as_well(pushed: Gateway) -> None:
    """One whose body was never read, and one whose body proved nothing."""
    await asyncio.sleep(1.3)
    sent = await pushed.client.post(
        "/api/v1/ingest/sent", content=b"[]", headers={"authorization": "Bearer wrong"}
    )
    stamp = str(int(time.time()))
    signature = {
        "webhook-id": "m", "webhook-timestamp": stamp, "webhook-signature": "v1,AAAA",
        "content-type": "application/json",
    }  # fmt: skip
    signed = await pushed.client.post("/api/v1/ingest/signed", content=b"[]", headers=signature)
    assert (sent.status_code, signed.status_code) == (401, 401), (sent.text, signed.text)
    first, second = await kept(pushed, 2)
    assert {first["kind"], second["kind"]} == {"push"}
    assert (first["cause"], first["body"]) == ("token_wrong", None)
    assert b"wrong" not in first["headers"]
    assert (second["cause"], second["body"]) == ("signature_mismatch", b"[]")


async def test_a_flood_keeps_a_few_and_never_more_than_the_ring_holds(gateway: Gateway) -> None:
    """The bounds: the buckets', the queue's, and those that the schema has for whoever writes."""
    began = time.monotonic()
    body = event()
    wrong = {"stripe-signature": sign(body, "whsec_wrong")}
    statuses = set()

    async def forge() -> None:
        for _ in range(40):
            answer = await gateway.client.post(
                "/api/v1/webhooks/stripe", content=body, headers=wrong
            )
            statuses.add(answer.status_code)

    await asyncio.gather(*(forge() for _ in range(8)))
    assert statuses == {401}
    await asyncio.sleep(1.0)
    took_s = time.monotonic() - began
    rows = await gateway.count("refusals")
    size, per_s = refusing.OF_ONE
    assert 1 <= rows <= size + per_s * took_s + 1
    assert await gateway.counts() == NOTHING

    # However many gateways there were, and whatever they did: places are all there is.
    async with db.connect(gateway.endpoints.database["gateway"], "gateway") as conn:
        one = sample(await gateway.owner.fetchval("SELECT id FROM sources WHERE name = 'stripe'"))
        took = [await refusals.keep_refusal(conn, one(number)) for number in range(260)]
        assert took.count(True) == refusals.PLACES - rows
        assert await gateway.count("refusals") == refusals.PLACES
        for statement in ("DELETE FROM refusals", "UPDATE refusals SET hint = ''"):
            with pytest.raises(Exception, match="permission denied"):
                await conn.execute(statement)
    newest = await gateway.owner.fetchval("SELECT max(refused_at) FROM refusals")
    async with db.connect(gateway.endpoints.database["worker"], "worker") as conn:
        await refusals.prune_refusals(conn)
    assert await gateway.count("refusals") == refusals.KEPT
    assert await gateway.owner.fetchval("SELECT max(refused_at) FROM refusals") == newest


async def test_a_flood_at_many_sources_keeps_no_more_than_one_process_may(
    gateway: Gateway,
) -> None:
    names = [f"other{number}" for number in range(6)]
    for name in names:
        await add_source(gateway.owner, gateway.keys, name, f"whsec_{name}")
    await asyncio.sleep(1.3)
    began = time.monotonic()
    for name in names * 5:
        body = event()
        wrong = {"stripe-signature": sign(body, "whsec_wrong")}
        url = f"/api/v1/webhooks/{name}"
        answer = await gateway.client.post(url, content=body, headers=wrong)
        assert answer.status_code == 401
    took_s = time.monotonic() - began
    size, per_s = refusing.OF_ALL
    await kept(gateway, int(size))
    await asyncio.sleep(0.5)
    assert await gateway.count("refusals") <= size + per_s * took_s + 1


def sample(source_id: int) -> Any:
    from uuid import uuid4

    def make(number: int) -> refusals.Kept:
        at = datetime.now(UTC) + timedelta(seconds=number)
        return refusals.Kept(
            uuid4(), source_id, at, "webhook", "::1", "x", "x", "x", None, b"[]", b"", 0, None, "t"
        )

    return make


async def test_what_is_old_is_forgotten(gateway: Gateway) -> None:
    one = sample(await gateway.owner.fetchval("SELECT id FROM sources WHERE name = 'stripe'"))
    async with db.connect(gateway.endpoints.database["gateway"], "gateway") as conn:
        assert await refusals.keep_refusal(conn, one(0))
        assert await refusals.keep_refusal(conn, one(-8 * 86400))
    async with db.connect(gateway.endpoints.database["worker"], "worker") as conn:
        assert await refusals.prune_refusals(conn) == 1


async def test_the_sweep_forgets_by_itself(gateway: Gateway) -> None:
    """Of a worker that runs, without anybody asking for it."""
    one = sample(await gateway.owner.fetchval("SELECT id FROM sources WHERE name = 'stripe'"))
    async with db.connect(gateway.endpoints.database["gateway"], "gateway") as conn:
        assert await refusals.keep_refusal(conn, one(-8 * 86400))
    async with Stack.open(gateway.endpoints) as stack:
        rounds = Rounds(None, 1, dict)  # type: ignore[arg-type] # nothing is due
        sweeping = asyncio.create_task(Sweep(stack.crew, rounds).run())
        async with asyncio.timeout(10):
            while await gateway.count("refusals"):
                await asyncio.sleep(0.05)
        sweeping.cancel()


async def test_samples_that_cannot_be_written_harm_nothing(gateway: Gateway) -> None:
    """The table is locked: real events are stored meanwhile, and what is refused is refused."""
    async with gateway.owner.transaction():
        await gateway.owner.execute("LOCK TABLE refusals IN ACCESS EXCLUSIVE MODE")
        for number in range(20):
            assert (await gateway.post(event(), secret="whsec_wrong")).status_code == 401
            began = time.monotonic()
            answer = await gateway.post(event(f"evt_{number}"))
            assert answer.status_code == 200
            assert time.monotonic() - began < 1.5
        # The queue has an end.
        held = gateway.deps.ingress.refusals
        assert held is not None
        assert len(held._waiting) <= refusing.WAITING
    assert await gateway.count("inbox") == 20
    await asyncio.sleep(2.5)
    await gateway.post(event(), secret="whsec_wrong")
    await kept(gateway, 1)


async def test_what_waits_to_be_diagnosed_is_bounded(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a body: more of them than that are not kept, however many may come at once."""
    dropped: list[str] = []
    monkeypatch.setattr(telemetry, "refusal_dropped", dropped.append)
    monkeypatch.setattr(refusing, "OF_ONE", (100.0, 0.0))
    held = gateway.deps.ingress.refusals
    assert held is not None
    held._of_all.size = held._of_all.left = 100.0
    async with gateway.owner.transaction():
        await gateway.owner.execute("LOCK TABLE refusals IN ACCESS EXCLUSIVE MODE")
        for _ in range(refusing.WAITING + 10):
            await gateway.post(event(), secret="whsec_wrong")
        # One is in hand, until it cannot be written.
        assert refusing.WAITING - 1 <= len(held._waiting) <= refusing.WAITING
        assert len(dropped) >= 9
    await kept(gateway, refusing.WAITING - 1)


async def test_a_diagnosis_that_never_ends_holds_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package's own, say: its sample is kept without one."""
    entrance = await gateway.deps.ingress.sources.find("stripe")
    monkeypatch.setattr(refusing, "_DIAGNOSE_WITHIN_S", 0.2)

    def slow(*args: object) -> None:
        time.sleep(1.0)

    monkeypatch.setattr(type(entrance.provider), "diagnose", slow)
    await gateway.post(event(), secret="whsec_wrong")
    assert (await gateway.post(event())).status_code == 200
    [row] = await kept(gateway, 1)
    assert "nothing could be found out" in row["hint"]
