"""Postgres and Redis go away and come back; nothing acknowledged is lost, nobody waits long."""

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shared import db
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import (
    SECRET,
    Gateway,
    add_source,
    assert_envelope,
    event,
    running_gateway,
)
from workers.stack.servers import Servers


async def recovered(gateway: Gateway, within_s: float) -> float:
    """How long until an event is taken again, in seconds."""
    started_at = time.perf_counter()
    async with asyncio.timeout(within_s):
        number = 0
        while (await gateway.post(event(f"evt_back_{number}"))).status_code != 200:
            number += 1
            await asyncio.sleep(0.02)
    return time.perf_counter() - started_at


async def test_a_hung_postgres_means_503_within_a_second_and_then_at_once(
    gateway: Gateway, servers: Servers
) -> None:
    assert_envelope(await gateway.post(event("evt_before")), 200, None)
    await freeze(servers)
    try:
        started_at = time.perf_counter()
        answers = await asyncio.gather(*(gateway.post(event(f"evt_{n}")) for n in range(30)))
        assert time.perf_counter() - started_at < 1.0
        for answer in answers:
            assert_envelope(answer, 503, "store_unavailable")
        await asyncio.sleep(0.1)
        started_at = time.perf_counter()
        for number in range(50):
            assert_envelope(await gateway.post(event(f"evt_{number}")), 503, "store_unavailable")
        assert (time.perf_counter() - started_at) / 50 < 0.1
        # Known sources stay known; whether others exist nobody can say now.
        assert_envelope(await gateway.post(event(), secret="whsec_x"), 401, "wrong_signature")
        await asyncio.sleep(2)
        assert_envelope(await gateway.post(event(), source="nobody"), 503, "not_configured")
    finally:
        await thaw(servers)
    await recovered(gateway, 5)
    for number in range(30):
        assert_envelope(await gateway.post(event(f"evt_{number}")), 200, None)


async def test_a_killed_postgres_comes_back_by_itself(
    gateway: Gateway, servers: Servers, endpoints: Endpoints
) -> None:
    taken = [f"evt_{number}" for number in range(20)]
    await asyncio.gather(*(gateway.post(event(name)) for name in taken))
    await servers.postgres.kill()
    try:
        started_at = time.perf_counter()
        assert_envelope(await gateway.post(event("evt_lost")), 503, "store_unavailable")
        assert time.perf_counter() - started_at < 1.0
        ready = await gateway.client.get("/readyz")
        assert ready.status_code == 503
        assert (await gateway.client.get("/livez")).status_code == 200
    finally:
        await servers.postgres.start()
    await recovered(gateway, 5)
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        found = await conn.fetch("SELECT event_id FROM inbox WHERE event_id = ANY($1)", taken)
        assert len(found) == 20


async def test_a_gateway_that_starts_without_postgres_says_503_until_it_is_there(
    endpoints: Endpoints, servers: Servers, tmp_path: Path
) -> None:
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, KeyRing.parse(endpoints.secret_key), "stripe", SECRET)
    dead = dict(endpoints.database)
    dead["gateway"] = "postgresql://sluice_gateway:x@127.0.0.1:1/sluice"
    async with running_gateway(replace(endpoints, database=dead), tmp_path) as gateway:
        assert_envelope(await gateway.post(event()), 503, "not_configured")
        assert (await gateway.client.get("/readyz")).status_code == 503


async def test_redis_is_not_needed(gateway: Gateway, servers: Servers) -> None:
    await servers.valkey.kill()
    try:
        for number in range(20):
            assert_envelope(await gateway.post(event(f"evt_{number}")), 200, None)
        await asyncio.sleep(0.6)
        ready = (await gateway.client.get("/readyz?verbose")).json()["data"]
        assert {"name": "doorbell", "status": "degraded", "detail": ""} in ready["checks"]
    finally:
        await servers.valkey.start()


async def test_a_hung_redis_delays_nobody(gateway: Gateway, servers: Servers) -> None:
    servers.valkey.pause()
    try:
        started_at = time.perf_counter()
        for number in range(20):
            assert_envelope(await gateway.post(event(f"evt_{number}")), 200, None)
        assert time.perf_counter() - started_at < 1.5
    finally:
        servers.valkey.resume()


@pytest.mark.parametrize("missing", ["tomorrow", "soon"])
async def test_readiness_tells_of_partitions(gateway: Gateway, missing: str) -> None:
    days = 1 if missing == "tomorrow" else 5
    name = await gateway.owner.fetchval(
        "SELECT 'inbox_' || to_char((now() AT TIME ZONE 'UTC')::date + $1::integer, 'YYYYMMDD')",
        days,
    )
    ready = await gateway.client.get("/readyz?verbose")
    assert ready.status_code == 200
    await gateway.owner.execute(f"DROP TABLE {name}")
    await asyncio.sleep(1.1)
    ready = await gateway.client.get("/readyz")
    assert ready.status_code == (503 if missing == "tomorrow" else 200)
    data = ready.json()["data"]
    assert data["status"] == ("failed" if missing == "tomorrow" else "degraded")
    assert any(check["name"] == "partitions" for check in data["checks"])


async def freeze(servers: Servers) -> None:
    await _signal_all(servers, "STOP")


async def thaw(servers: Servers) -> None:
    await _signal_all(servers, "CONT")


async def _signal_all(servers: Servers, name: str) -> None:
    """The postmaster and its backends: what a frozen machine looks like."""
    number = signal.SIGSTOP if name == "STOP" else signal.SIGCONT
    postmaster = servers.postgres.left_behind()
    assert postmaster
    pids = [postmaster]
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == postmaster:
            pids.append(int(status.parent.name))
    for pid in pids:
        os.kill(pid, number)
