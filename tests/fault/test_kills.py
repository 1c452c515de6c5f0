"""Kill things under load: what got a 2xx is settled, exactly once, and nothing is dead."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.conformance.running import RunningStack, running_stack
from tests.support.load import Acknowledged, Load, selling_pro

SECRET = "whsec_kills"
CONFIGURATION = selling_pro(SECRET)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningStack]:
    async with running_stack(tmp_path, CONFIGURATION, SLUICE_WORKER_PROCESSES="6") as stack:
        await asyncio.sleep(2)
        yield stack


async def check(stack: RunningStack, acknowledged: Acknowledged, last_kill: float) -> None:
    """Everything acknowledged is settled within 30 s, once, and nothing is dead."""
    while await stack.value("SELECT count(*) FROM work"):
        assert time.monotonic() - last_kill < 30, "not settled within 30 s of the last kill"
        await asyncio.sleep(0.2)
    settled_after_s = time.monotonic() - last_kill
    known = await stack.value(
        "SELECT count(*) FROM ledger l JOIN settlements s USING (tracking_id)"
        " WHERE l.event_id = ANY($1::text[])",
        list(acknowledged.at),
    )
    assert known == len(acknowledged.at)
    assert await stack.value("SELECT count(*) FROM settlements WHERE status <> 'processed'") == 0
    events = await stack.value("SELECT count(*) FROM ledger")
    assert await stack.value("SELECT count(*) FROM settlements") == events
    first = await stack.value("SELECT count(*) FROM audit WHERE cause = 'event' AND step = 0")
    assert first == events
    verified = await stack.cli("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    print(
        f"\n  {len(acknowledged.at)} acknowledged of {acknowledged.sent} requests"
        f" ({acknowledged.other}), all settled {settled_after_s:.1f} s after the last kill"
    )


@pytest.mark.timeout(240)
async def test_everything_killed_one_after_another_or_paused(running: RunningStack) -> None:
    stop = asyncio.Event()
    load = Load(running.port, SECRET)
    loading = asyncio.create_task(load.run(stop))
    await asyncio.sleep(2)
    for what in ("gateway", "workers.fleet", "valkey-server", "workers.solitary", "postgres"):
        assert running.kill(what) >= 1, what
        last_kill = time.monotonic()
        await asyncio.sleep(4)
    # Paused for longer than Postgres lets an idle transaction hold its lane.
    assert running.kill("workers.fleet", signal.SIGSTOP) >= 1
    await asyncio.sleep(7)
    assert running.kill("workers.fleet", signal.SIGCONT) >= 1
    last_kill = time.monotonic()
    await asyncio.sleep(2)
    stop.set()
    acknowledged = await loading
    assert len(acknowledged.at) > 500
    await check(running, acknowledged, last_kill)


@pytest.mark.timeout(300)
async def test_two_hundred_kills_of_workers_in_a_minute(running: RunningStack) -> None:
    rng = random.Random(1)
    stop = asyncio.Event()
    load = Load(running.port, SECRET)
    loading = asyncio.create_task(load.run(stop))
    kills, begun = 0, time.monotonic()
    while time.monotonic() - begun < 60:
        if kills < (time.monotonic() - begun) / 60 * 200:
            kills += running.kill_one("workers.fleet", rng)
            last_kill = time.monotonic()
        await asyncio.sleep(0.05)
    stop.set()
    acknowledged = await loading
    print(f"\n  {kills} kills")
    assert kills >= 190
    assert len(acknowledged.at) > 2000
    await check(running, acknowledged, last_kill)
