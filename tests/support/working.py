"""A kind of job of the tests' own: it counts into a table, and dies, hangs or fails where told."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from shared.artifacts import ArtifactDamaged, ArtifactError, Artifacts
from shared.db import Conn
from shared.store import jobs
from shared.store.jobs import Job, Progress
from tests.support.stack import Stack
from workers.crew import Crew, run_process
from workers.jobs.kinds import JobFailed, Tools
from workers.jobs.run import Turns, work

CREATE = (
    "CREATE TABLE counted (job uuid, run int, number int, by text, deaths int);"
    " GRANT SELECT, INSERT ON counted TO sluice_worker"
)


class Count:
    """
    Counts to `arguments["to"]`, `arguments["by"]` a step; `at` maps a number to what happens when
    its step is prepared ("prepare:…") or done: kill, hang, fail, final, store, fault, slow.
    """

    def __init__(self, tools: Tools, job: Job) -> None:
        self.tools = tools
        self.name = tools.crew.name
        self.prepared: int | None = None

    async def prepare(self, job: Job) -> None:
        self.prepared = job.done
        await self._happen(job, "prepare:")

    async def step(self, conn: Conn, job: Job) -> Progress:
        assert self.prepared == job.done
        to, by = job.arguments["to"], job.arguments.get("by", 1)
        after = min(job.done + by, to)
        for number in range(job.done, after):
            await conn.execute(
                "INSERT INTO counted (job, run, number, by, deaths) VALUES ($1, $2, $3, $4, $5)",
                job.id, job.run, number, self.name, job.deaths,
            )  # fmt: skip
        await self._happen(job, "")
        is_finished = after == to
        result = {"sum": to * (to - 1) // 2} if is_finished else None
        return Progress({"at": after}, after, 0, {"counted": after}, to, is_finished, result)

    async def close(self) -> None:
        pass

    async def _happen(self, job: Job, when: str) -> None:
        what: Mapping[str, Any] = job.arguments.get("at", {})
        match what.get(f"{when}{job.done}"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill once" if job.deaths == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang once" if job.deaths == 0:
                time.sleep(3600)
            case "fail":
                raise ValueError("no such luck")
            case "fail once" if job.attempts == 0:
                raise ValueError("no such luck")
            case "final":
                raise JobFailed("hopeless", "it will not do")
            case "store":
                raise ArtifactError("the store is away")
            case "damaged":
                raise ArtifactDamaged("not what was written")
            case "fault":
                raise ConnectionResetError("Postgres is away")
            case "slow":
                await asyncio.sleep(0.5)


async def begin(tools: Tools, job: Job) -> Count:
    return Count(tools, job)


KINDS = {"count": begin}


async def start(stack: Stack, to: int, *, kind: str = "count", **more: Any) -> UUID:
    """Order a job of the kind above; `more` are its arguments, but for source and run."""
    job = more.pop("job", None) or uuid4()
    source, run = more.pop("source", None), more.pop("run", 1)
    async with stack.crew.db.transaction() as conn:
        await jobs.begin(
            conn, job, kind, run, actor="token:test", arguments={"to": to, **more},
            source_id=stack.sources[source] if source else None,
        )  # fmt: skip
    return job


def turns(stack: Stack, crew: Crew | None = None, **more: Any) -> Turns:
    """The turns of a process of its own."""
    crew = crew or stack.crew
    tools = Tools(crew, Artifacts(None, Path("/nowhere")))
    return Turns(tools, asyncio.Event(), more.pop("kinds", KINDS), **more)


async def finish(stack: Stack, *several: Turns, within_s: float = 20) -> None:
    """Let these take turns until no job is left."""
    running = [asyncio.create_task(one.run()) for one in several]
    deadline = time.monotonic() + within_s
    try:
        while await stack.value("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')"):
            assert time.monotonic() < deadline, "jobs do not end"
            await asyncio.sleep(0.02)
    finally:
        for one in several:
            one.stop.set()
        await asyncio.gather(*running)
        for one in several:
            one.stop.clear()


if __name__ == "__main__":
    sys.exit(run_process(partial(work, kinds=KINDS), "jobs", lambda: None))
