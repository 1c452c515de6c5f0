"""What the tests of pulling share: a source with a key, and a provider that forgets to send."""

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.artifacts import Artifacts
from shared.store.pulls import What
from tests.support.fetching import PACE, Scene, look
from tests.support.stripe_archive import StripeArchive
from workers.crew import Crew
from workers.fetching.pull import Pulling
from workers.fetching.targets import Targets
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.steering import begin_job

DAY_S = 86400.0


@dataclass
class ArchiveScene(Scene):
    """A database with the source `stripe`, and the account that its key is for."""

    api: StripeArchive

    def pulling(
        self, crew: Crew | None = None, every_s: dict[What, float] | None = None, **pace: Any
    ) -> Pulling:
        """A process's part. It is driven by `turn`, or run."""
        targets = Targets(self.keys, replace(PACE, **pace))
        every_s = {"events": 300.0, "objects": DAY_S} if every_s is None else every_s
        return Pulling(crew or self.stack.crew, targets, self.woken.extend, every_s)

    async def since(self, seconds: float = 3 * DAY_S) -> None:
        """As if the source had had its key for so long, and nobody had asked yet."""
        await self.execute(
            "INSERT INTO pulls (source_id, what, added_at)"
            " SELECT id, what, now() - make_interval(secs => $1) FROM sources,"
            " (VALUES ('events'), ('objects')) AS kinds (what) WHERE name = 'stripe'"
            " ON CONFLICT (source_id, what) DO UPDATE SET added_at = excluded.added_at",
            seconds,
        )

    async def pull(self, what: What) -> None:
        """A whole one, and all that follows from it."""
        await self.make_pull_due(what)
        await finish(self.pulling(every_s={what: DAY_S}))
        await self.settle()

    async def settle(self, times: int = 2) -> None:
        """Apply what came, fetch what wants to be fetched, and apply that."""
        fetching = self.fetching()
        for _ in range(times):
            await self.stack.drain()
            await self.make_due()
            await look(fetching)
        await self.stack.drain()

    async def make_pull_due(self, what: What) -> None:
        """As if it had been long since the last one."""
        await self.execute(
            "UPDATE pulls SET begun_at = begun_at - interval '2 days', due_at = now()"
            " WHERE what = $1 AND place IS NULL",
            what,
        )

    async def pass_pull_claims(self) -> None:
        """As if a minute had passed, and whoever claimed had died."""
        await self.execute(
            "UPDATE pulls SET claimed_until = now(), due_at = now() WHERE claimed_until IS NOT NULL"
        )

    async def at(self, what: What) -> dict[str, Any]:
        """The source's row."""
        (row,) = await self.stack.fetch("SELECT * FROM pulls WHERE what = $1", what)
        return dict(row)

    async def missed(self) -> set[str]:
        """The ids of the events that were found."""
        rows = await self.stack.fetch("SELECT event_id FROM missed_events")
        return {row["event_id"] for row in rows}


async def finish(*processes: Pulling, steps: int = 2000) -> None:
    """Turns of these processes, one after the other, until nothing is due."""
    for step in range(steps):
        if not await processes[step % len(processes)].turn():
            return
    raise AssertionError("the pull does not end")


def turns(scene: ArchiveScene, crew: Crew | None = None, **more: Any) -> Turns:
    """The turns of a process that does long work, with the kinds that there are."""
    tools = Tools(crew or scene.stack.crew, Artifacts(None, Path("/nowhere")), scene.keys)
    return Turns(tools, asyncio.Event(), **more)


async def work_off(scene: ArchiveScene, kind: str = "reconcile", **arguments: Any) -> Any:
    """Begin a job as an operator does, let it end, and apply what it stored; its row."""
    job = await begin(scene, kind, **arguments)
    await finish_jobs(scene, turns(scene))
    (row,) = await scene.stack.fetch("SELECT * FROM jobs WHERE id = $1", job)
    assert row["state"] == "done", dict(row)
    await scene.settle()
    return json.loads(row["result"])


async def begin(scene: ArchiveScene, kind: str, **arguments: Any) -> UUID:
    """The id of a new job."""
    async with scene.stack.owner.transaction() as conn:
        source_id = scene.stack.sources["stripe"]
        who = "operator:test"
        return await begin_job(conn, kind, arguments, who, "a test", source_id=source_id)


async def finish_jobs(scene: ArchiveScene, *several: Turns, within_s: float = 60) -> None:
    """Let these take turns, and events be applied, until no job is left."""
    running = [asyncio.create_task(one.run()) for one in several]
    waiting = "SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')"
    try:
        async with asyncio.timeout(within_s):
            while await scene.stack.value(waiting):
                await scene.stack.drain()
                await asyncio.sleep(0.02)
    finally:
        for one in several:
            one.stop.set()
        await asyncio.gather(*running)
