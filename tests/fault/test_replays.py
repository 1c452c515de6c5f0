"""A replay of hundreds while everything is killed: each event one further run, one effect each."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time

import pytest

from tests.stack.processes import ROOT
from tests.support.replaying import (
    TENANTS,
    broken,
    features_of_all,
    later_runs,
    mend,
    plan,
    row,
    run,
    state,
)
from tests.support.stack import Stack
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor
from workers.steering import pause_job, resume_job
from workers.trail import verify

EVENTS = 500


def processes(stack: Stack) -> list[Child]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_DATABASE_URL": stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": stack.endpoints.redis,
        "SLUICE_MAX_ATTEMPTS": "100",
        "SLUICE_RETRY_BASE_S": "0.1",
        "SLUICE_RETRY_CAP_S": "0.3",
        "SLUICE_ADMIN_PORT": "0",
    }
    programs = {
        "jobs-1": "workers.jobs.run",
        "jobs-2": "workers.jobs.run",
        "worker-1": "workers.fleet",
        "worker-2": "workers.fleet",
        "solitary": "workers.solitary",
    }
    return [
        Child(
            name=name,
            argv=(sys.executable, "-m", program, "--name", name),
            env=environ,
            heartbeat=True,
        )
        for name, program in programs.items()
    ]


@pytest.mark.timeout(240)
async def test_killed_paused_and_resumed_each_event_runs_once_more(stack: Stack) -> None:
    """Exact counts, one effect each, entitlements as if nothing had ever died."""
    rng = random.Random(7)
    ids = await broken(stack, EVENTS)
    await mend(stack)
    made, told = await plan(stack, source="acme", status="dead")
    assert (told["events"], told["replayable"]) == (EVENTS, EVENTS)
    job = await run(stack, made, rate=30)
    supervisor = Supervisor()
    for child in processes(stack):
        await supervisor.start(child)
    kills, begun = 0, time.monotonic()
    pauses = {3: pause_job, 5: resume_job}
    while await state(stack, job) in ("waiting", "running"):
        elapsed_s = time.monotonic() - begun
        assert elapsed_s < 150, await row(stack, job)
        for at_s in [one for one in pauses if one <= elapsed_s]:
            async with stack.owner.transaction() as conn:
                await pauses.pop(at_s)(conn, job, "operator:ada", "a moment")
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        if elapsed_s < 20:
            name = rng.choice(["jobs-1", "jobs-2", "jobs-1", "jobs-2", "worker-1", "worker-2"])
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(supervisor.pid(name), signal.SIGKILL)
                kills += 1
    await supervisor.stop()
    done = await row(stack, job)
    assert (done["state"], done["progress"]) == (
        "done",
        {"done": EVENTS, "failed": 0, "total": EVENTS, "counts": {"applied": EVENTS}},
    ), done
    assert not pauses
    assert await later_runs(stack) == {one: [1, 2] for one in ids}
    assert await stack.value("SELECT count(*) FROM work") == 0
    assert await features_of_all(stack) == {one: {"seats": 10, "sso": True} for one in TENANTS}
    effects = await stack.fetch(
        "SELECT cause_id, count(*) FROM audit WHERE cause = 'event' AND step = 0 AND run = 2"
        " AND action = 'event.applied' AND actor = 'operator:ada' GROUP BY 1"
    )
    assert [one["count"] for one in effects] == [1] * EVENTS
    assert await stack.value("SELECT count(*) FROM observations") == EVENTS
    items = await stack.fetch(
        "SELECT count(*) AS n, count(*) FILTER (WHERE opened_run = 2 AND settled AND replay = $1)"
        " AS opened FROM replay_items",
        job,
    )
    assert tuple(items[0].values()) == (EVENTS, EVENTS)
    async with stack.owner.connection() as conn:
        assert [one async for one in verify(conn, None, lambda _: None)] == []
    assert kills >= 15
    print(f"\n  {kills} kills, {EVENTS} events replayed once each")
