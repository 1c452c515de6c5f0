"""Events that a bug has left dead, and replays of them as operators begin them."""

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.artifacts import Artifacts
from shared.db import Database
from shared.domain.outcomes import RetryPolicy
from tests.support.acme import LICENCES, add_acme, licence, remap
from tests.support.stack import Stack
from workers.crew import Crew
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.plans import PLAN, REPLAY
from workers.steering import begin_job

#: What reads a licence's id where there is none.
BROKEN = {**LICENCES, "object": {**LICENCES["object"], "id": "data.number"}}
TENANTS = ("acme", "bolt", "corp")


async def broken(stack: Stack, count: int) -> list[UUID]:
    """So many licences of three tenants, dead by a bug in the mapping, which is still there."""
    await add_acme(stack, BROKEN)
    patient, stack.crew.retry = stack.crew.retry, RetryPolicy(1, 0.01, 0.01)
    bodies = [
        licence(n, id=f"lic_{n}", account=f"a_{n}", tenant=TENANTS[n % 3]) for n in range(count)
    ]
    ids = await stack.apply(*bodies, source="acme")
    stack.crew.retry = patient
    assert set(await stack.outcomes(ids)) == {"dead"}
    return ids


async def mend(stack: Stack) -> None:
    """The bug is gone."""
    await remap(stack, LICENCES)


def turns(stack: Stack, crew: Crew | None = None, **more: Any) -> Turns:
    """The turns of a process of its own, of the real kinds."""
    tools = Tools(crew or stack.crew, Artifacts(None, Path("/nowhere")))
    return Turns(tools, asyncio.Event(), **more)


async def begin(stack: Stack, kind: str, **arguments: Any) -> UUID:
    """Begin a job as an operator does."""
    operator = await Database.open(stack.endpoints.database["operator"], "operator", size=1)
    try:
        async with operator.transaction() as conn:
            return await begin_job(conn, kind, arguments, "operator:ada", "mended")
    finally:
        await operator.close()


async def state(stack: Stack, job: UUID) -> str:
    found: str = await stack.value("SELECT state FROM jobs WHERE id = $1", job)
    return found


async def finish(stack: Stack, job: UUID, within_s: float = 30) -> dict[str, Any]:
    """Take its steps, and apply what it opens, until it is over; its row."""
    taking = turns(stack)
    running = asyncio.create_task(taking.run())
    deadline = time.monotonic() + within_s
    try:
        while await state(stack, job) in ("waiting", "running"):
            assert time.monotonic() < deadline, await row(stack, job)
            await stack.drain()
            await asyncio.sleep(0.02)
    finally:
        taking.stop.set()
        await running
    return await row(stack, job)


async def row(stack: Stack, job: UUID) -> dict[str, Any]:
    """The job as lists show it."""
    from shared.store import job_lists

    async with stack.owner.connection() as conn:
        found = await job_lists.read_job(conn, job)
    assert found is not None
    return job_lists.shown(found)


async def plan(stack: Stack, **select: Any) -> tuple[UUID, dict[str, Any]]:
    """A plan that is made: its id, and what it says."""
    job = await begin(stack, PLAN, select=select)
    made = await finish(stack, job)
    assert made["state"] == "done", made
    return job, made["result"]


async def run(stack: Stack, plan: UUID, **more: Any) -> UUID:
    """Begin to carry it out."""
    return await begin(stack, REPLAY, plan=str(plan), reason="mended", **{"rate": 1000, **more})


async def later_runs(stack: Stack) -> dict[UUID, list[int]]:
    """The settled runs of each event, in order."""
    rows = await stack.fetch("SELECT tracking_id, run FROM settlements ORDER BY 1, 2")
    found: dict[UUID, list[int]] = {}
    for one in rows:
        found.setdefault(one["tracking_id"], []).append(one["run"])
    return found


async def features_of_all(stack: Stack) -> dict[str, dict[str, Any]]:
    """tenant → feature → value, now."""
    return {tenant: await stack.features(tenant) for tenant in TENANTS}
