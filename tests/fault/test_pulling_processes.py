"""Pulling and backfilling in the processes that are run for it, killed in the middle."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fault.test_fetching_processes import worker
from tests.stack.processes import ROOT
from tests.support.fetching import until
from tests.support.pulling import ArchiveScene, begin
from tests.support.stack import Stack
from tests.support.stripe_archive import stripe_archive
from tests.support.stripe_events import NOW_S, customer, event, subscription
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[ArchiveScene]:
    await stack.configure()
    async with stripe_archive() as api:
        made = ArchiveScene(stack, api)
        await made.set_key()
        await made.since()
        yield made


@pytest.mark.timeout(300)
async def test_a_worker_that_is_killed_between_two_pages_is_followed_by_another(
    scene: ArchiveScene, tmp_path: Path
) -> None:
    """Each event is there once, also where its webhook comes just then."""
    bodies = []
    for number in range(150):
        one = subscription(f"sub_{number}", customer=f"cus_{number}", tenant=f"t{number}")
        bodies.append(event("customer.subscription.created", one, created=NOW_S - number))
        scene.api.put(one)
        scene.api.put(customer(f"cus_{number}"))
    scene.api.made(*bodies)
    first = scene.api.fail(path="/v1/events", times=1)  # the first page, as it is
    hanging = scene.api.fail(path="/v1/events", hang=True)

    async def is_stuck() -> bool:
        return first.times == 0 and sum(a.path == "/v1/events" for a in scene.api.asked) == 2

    async def is_over() -> bool:
        return (await scene.at("events"))["finished_at"] is not None

    async def is_applied() -> bool:
        return await scene.stack.value("SELECT count(*) FROM work") == 0

    async with worker(scene.stack.endpoints, tmp_path):
        await until(is_stuck, 90)
        # Who dies at an event leaves it to the process that works alone, which is not run here.
        await until(is_applied, 15)
    assert len(await scene.missed()) == 100
    hanging.times = 0
    await scene.pass_pull_claims()
    async with worker(scene.stack.endpoints, tmp_path):
        await scene.stack.receive(*bodies[90:110])
        await until(is_over, 120)
        await until(is_applied, 120)
    assert await scene.stack.value("SELECT count(*) FROM ledger WHERE event_id LIKE 'evt_%'") == 150
    assert 140 <= len(await scene.missed()) <= 150
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 0
    for number in range(150):
        assert await scene.stack.features(f"t{number}") == {"seats": 10, "sso": True}


@pytest.mark.timeout(400)
async def test_a_backfill_whose_process_is_killed_again_and_again_brings_everything_in(
    scene: ArchiveScene, tmp_path: Path
) -> None:
    rng = random.Random(5)
    for number in range(1500):
        one = subscription(
            f"sub_{number:04}", customer=f"cus_{number}", tenant=f"t{number}",
            created=NOW_S - 1000 * number,
        )  # fmt: skip
        scene.api.put(one)
    scene.api.fail(path="/v1/subscriptions", delay_s=0.3)
    job = await begin(scene, "backfill")
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_DATABASE_URL": scene.stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": scene.stack.endpoints.redis,
        "SLUICE_SECRET_KEY": scene.stack.endpoints.secret_key,
        "SLUICE_HOME": str(tmp_path),
        "SLUICE_MAX_ATTEMPTS": "100",
        "SLUICE_RETRY_BASE_S": "0.1",
        "SLUICE_RETRY_CAP_S": "0.3",
    }
    argv = (sys.executable, "-m", "workers.jobs.run", "--name", "jobs")
    supervisor = Supervisor()
    await supervisor.start(Child(name="jobs", argv=argv, env=environ, heartbeat=True))
    kills, deadline = 0, time.monotonic() + 240
    is_over = "SELECT state NOT IN ('waiting', 'running') FROM jobs WHERE id = $1"
    try:
        while not await scene.stack.value(is_over, job):
            assert time.monotonic() < deadline, await scene.stack.fetch("SELECT * FROM jobs")
            if kills < 8 and await scene.stack.value("SELECT done > 0 FROM jobs"):
                await asyncio.sleep(rng.uniform(0.1, 1.5))
                with contextlib.suppress(ProcessLookupError, KeyError):
                    os.kill(supervisor.pid("jobs"), signal.SIGKILL)
                    kills += 1
            await scene.stack.drain()
            await asyncio.sleep(0.1)
    finally:
        await supervisor.stop()
    (row,) = await scene.stack.fetch("SELECT * FROM jobs WHERE id = $1", job)
    assert (row["state"], row["done"]) == ("done", 1500), dict(row)
    assert kills >= 3
    await scene.stack.drain()
    # Each was stored once: a page's answers and the place after it are one transaction.
    count = "SELECT count(*) FROM inbox WHERE event_type = 'sluice.fetched'"
    assert await scene.stack.value(count) == 1500
    assert await scene.stack.value("SELECT count(DISTINCT tenant) FROM grants") == 1500
