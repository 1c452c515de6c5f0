"""Processes of long work, killed at any moment: no step is done twice, and none is left out."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from shared.conformance.running import running_stack
from tests.stack.processes import ROOT
from tests.support.stack import Stack
from tests.support.working import CREATE, start
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor


@pytest.fixture
async def counting(stack: Stack) -> Stack:
    async with stack.owner.connection() as conn:
        await conn.execute(CREATE)
    return stack


def processes(stack: Stack, count: int, attempts: int = 6) -> list[Child]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_DATABASE_URL": stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": stack.endpoints.redis,
        "SLUICE_MAX_ATTEMPTS": str(attempts),
        "SLUICE_RETRY_BASE_S": "0.1",
        "SLUICE_RETRY_CAP_S": "0.3",
    }
    return [
        Child(
            name=f"jobs-{number}",
            argv=(sys.executable, "-m", "tests.support.working", "--name", f"jobs-{number}"),
            env=environ,
            heartbeat=True,
        )
        for number in range(1, count + 1)
    ]


async def ended(stack: Stack, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while await stack.value("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')"):
        assert time.monotonic() < deadline, await stack.fetch("SELECT * FROM jobs")
        await asyncio.sleep(0.1)


async def numbers(stack: Stack) -> dict[object, list[int]]:
    rows = await stack.fetch("SELECT job, number FROM counted ORDER BY job, number")
    found: dict[object, list[int]] = {}
    for row in rows:
        found.setdefault(row["job"], []).append(row["number"])
    return found


@pytest.mark.timeout(180)
async def test_killed_at_any_moment_no_step_is_done_twice(counting: Stack) -> None:
    """Into a table without a key: one row for each number, whoever died between."""
    rng = random.Random(11)
    slow = {f"{when}{n}": "slow" for n in range(0, 400, 50) for when in ("", "prepare:")}
    ids = [await start(counting, 400, at=slow) for _ in range(3)]
    # Killed as often as this at one step, by chance, a job has failed; not what is looked at here.
    supervisor = Supervisor()
    for child in processes(counting, 2, attempts=100):
        await supervisor.start(child)
    kills, begun = 0, time.monotonic()
    while time.monotonic() - begun < 20:
        await asyncio.sleep(rng.uniform(0.1, 1.2))
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(supervisor.pid(f"jobs-{rng.randint(1, 2)}"), signal.SIGKILL)
            kills += 1
    await ended(counting, 60)
    await supervisor.stop()
    assert await numbers(counting) == {job: [*range(400)] for job in ids}
    assert await counting.value("SELECT count(*) FROM jobs WHERE state <> 'done'") == 0
    assert kills >= 15
    print(f"\n  {kills} kills, 1200 steps")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("does", ["hang once", "kill once"])
async def test_what_hangs_or_kills_is_taken_up_again(counting: Stack, does: str) -> None:
    """A hang is a crash: the supervisor ends it. The next one knows that there was a death."""
    job = await start(counting, 6, at={"prepare:3": does})
    supervisor = Supervisor(hang_after_s=1.5)
    await supervisor.start(processes(counting, 1)[0])
    await ended(counting, 60)
    assert supervisor.deaths == {"jobs-1": 1}
    await supervisor.stop()
    assert await numbers(counting) == {job: [*range(6)]}
    rows = await counting.fetch("SELECT number, deaths FROM counted ORDER BY number")
    assert [row["deaths"] for row in rows] == [0, 0, 0, 1, 0, 0]


@pytest.mark.timeout(120)
async def test_a_killer_ends_alone(counting: Stack) -> None:
    """It fails after so many deaths, and keeps no other job from being done meanwhile."""
    killer = await start(counting, 6, at={"3": "kill"})
    others = [await start(counting, 30) for _ in range(3)]
    supervisor = Supervisor()
    await supervisor.start(processes(counting, 1)[0])
    await ended(counting, 90)
    await supervisor.stop()
    rows = await counting.fetch("SELECT id, state, code, deaths FROM jobs WHERE state <> 'done'")
    assert [tuple(row.values()) for row in rows] == [(killer, "failed", "process_died", 6)]
    found = await numbers(counting)
    assert found[killer] == [0, 1, 2]
    assert all(found[job] == [*range(30)] for job in others)


@pytest.mark.timeout(180)
async def test_a_restarted_postgres_charges_nobody(tmp_path: Path) -> None:
    """The whole stack, whose own process for jobs waits beside one that counts."""
    async with running_stack(tmp_path, 'mode = "live"\n') as running:
        assert running.pids("workers.jobs.run"), "a stack has a process for jobs"
        async with Stack.open(running.endpoints) as stack:
            async with stack.owner.connection() as conn:
                await conn.execute(CREATE)
            # Of a kind that the stack's own process does not know: it leaves it to ours.
            running.kill("workers.jobs.run", signal.SIGSTOP)
            job = await start(stack, 60, at={str(n): "slow" for n in range(0, 60, 6)})
            supervisor = Supervisor()
            await supervisor.start(processes(stack, 1)[0])
            for _ in range(2):
                await asyncio.sleep(2.5)
                assert running.kill("postgres")
                await answering(stack)
            await ended(stack, 60)
            await supervisor.stop()
            assert await numbers(stack) == {job: [*range(60)]}
            row = (await stack.fetch("SELECT state, attempts FROM jobs"))[0]
            assert tuple(row.values()) == ("done", 0)
            assert await stack.value("SELECT max(deaths) FROM counted") == 0


async def answering(stack: Stack) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            assert await stack.value("SELECT 1") == 1
            return
        except Exception:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.3)
