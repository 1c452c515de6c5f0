"""
The spine of long work: in turns, a step of each job.

    take the job · say who is at it · prepare · hold its row · step · write how far it is · commit

A step and how far it got are one transaction, so that whoever dies has done nothing, and the next
one goes on from there. Who has a job has its advisory lock, on the connection that commits its
steps: while that lives nobody else comes near, and afterwards a mark that is left says that its
process died. It is a process of its own: bulk work never takes the time of an entitlement's event,
and what kills a process here kills no other.
"""

import asyncio
import json
import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from shared import telemetry
from shared.artifacts import ArtifactDamaged, ArtifactError, ArtifactGone, Artifacts
from shared.db import Conn, is_platform_fault, storable
from shared.domain.outcomes import PROCESS_DIED
from shared.queue import Doorbell
from shared.sealing import KeyRing, SealingError
from shared.settings import Endpoints, Settings
from shared.store import jobs
from shared.store.jobs import Job, Progress
from workers.crew import Crew, run_process
from workers.jobs import (
    erasing,
    exporting,
    importing,
    planning,
    reconciling,
    replaying,
    reprocessing,
)
from workers.jobs.counting import Counting
from workers.jobs.kinds import Begin, JobFailed, Tools, Work

log = logging.getLogger(__name__)

KINDS: Mapping[str, Begin] = {
    "import": importing.begin,
    "export": exporting.begin,
    "reprocess": reprocessing.begin,
    "replay-plan": planning.begin,
    "replay": replaying.begin,
    "reconcile": reconciling.begin,
    "backfill": reconciling.begin_backfill,
    "erase": erasing.begin,
}

EVERY_S = 0.25
JOBS_AT_ONCE = 8
#: Of so many jobs is kept what they hold. Where there are more, some begin anew at each turn, as a
#: plan's rehearsal does from its first event.
MOST_BEGUN = 32
#: How long a job has its turn, before others have theirs.
TURN_S = 2.0
#: How long one waits, uncharged, whose step the platform has failed.
FAULT_DELAY_S = 1.0
#: A kind that is not known here may be of a newer version, which runs somewhere else already.
UNKNOWN_KIND = "unknown_kind"


class _UnknownKind(Exception):
    """No `Begin` has it here."""


@dataclass
class _Begun:
    """A job's work, and how far it is by what we know."""

    run: int
    done: int
    cursor: Mapping[str, Any]
    work: Work

    def is_as_far_as(self, job: Job) -> bool:
        """Whether nobody else has taken a step since."""
        return (self.run, self.done, self.cursor) == (job.run, job.done, job.cursor)


@dataclass
class Turns:
    """One process's turns."""

    tools: Tools
    stop: asyncio.Event
    kinds: Mapping[str, Begin] = field(default_factory=lambda: KINDS)
    token: UUID = field(default_factory=uuid4)
    turn_s: float = TURN_S
    ring: Callable[[Collection[int]], None] = lambda lanes: None
    _begun: OrderedDict[UUID, _Begun] = field(default_factory=OrderedDict)

    async def run(self) -> None:
        """Take steps until told to stop; finishes the one it is at."""
        try:
            while not self.stop.is_set():
                if not await self.turn_of_each():
                    await asyncio.sleep(EVERY_S * (0.75 + random.random() / 2))  # noqa: S311 - jitter
        finally:
            for begun in self._begun.values():
                await begun.work.close()

    async def turn_of_each(self) -> bool:
        """A turn of every job that is due; whether any step was taken."""
        crew = self.tools.crew
        try:
            async with crew.db.connection() as conn:
                await crew.surroundings.refresh(conn)
                due = await jobs.due_jobs(conn, JOBS_AT_ONCE)
        except Exception as error:
            self._complain("looking for jobs", error)
            return False
        has_stepped = False
        for job_id in due:
            if not self.stop.is_set():
                has_stepped |= await self._turn(job_id)
        return has_stepped

    async def _turn(self, job_id: UUID) -> bool:
        """Steps of one job, as long as its turn lasts; whether there was any."""
        loop = asyncio.get_running_loop()
        # From its first step on: where there are many jobs each turn begins its work anew, and of a
        # large body everything up to its place is read again.
        until_s: float | None = None
        count = 0
        try:
            async with self.tools.crew.db.connection() as conn:
                if not await jobs.take(conn, job_id):
                    return False
                # If this fails the connection is lost, and the lock with it.
                while await self._step(conn, job_id):
                    count += 1
                    until_s = loop.time() + self.turn_s if until_s is None else until_s
                    if self.stop.is_set() or loop.time() >= until_s:
                        break
                await jobs.leave(conn, job_id)
        except Exception as error:
            await self._forget(job_id)
            self._complain(f"job {job_id}", error)
            if is_platform_fault(error):
                await self._withdraw(job_id)
        return count > 0

    async def _step(self, conn: Conn, job_id: UUID) -> bool:
        """Take one step; whether there may be another."""
        job = await self._say_who(conn, job_id)
        if job is None:
            return False
        try:
            work = await self._work_of(job)
            await work.prepare(job)
            progress = await self._taken(conn, job, work)
        except Exception as error:
            await self._forget(job_id)
            if is_platform_fault(error):
                raise
            await self._charge(conn, job, error)
            return False
        if progress is None:
            # Somebody has its row: what was prepared is taken up again, and is no death until then.
            await self._withdraw(job_id)
            return False
        self.ring(progress.lanes)
        telemetry.job_stepped(job.kind, progress.done - job.done, progress.failed - job.failed)
        if progress.is_finished:
            await self._forget(job_id)
            log.info("job is done", extra={"job": str(job_id), "rows": progress.done})
            return False
        begun = self._begun[job_id]
        begun.done, begun.cursor = progress.done, json.loads(json.dumps(progress.cursor))
        # What is put off comes again when it is due, and keeps no other waiting until then.
        return progress.wait_s <= 0

    async def _say_who(self, conn: Conn, job_id: UUID) -> Job | None:
        """
        The job, if there is a step for us to take.

        In a transaction of its own: who is at it has to outlive our death.
        """
        async with conn.transaction():
            job = await jobs.hold(conn, job_id)
            if job is None or job.is_over:
                return None
            if job.cancelled_by is not None:
                await jobs.end_cancelled(conn, job_id)
            elif job.is_left and job.mark != self.token:
                if not await self._count_death(conn, job):
                    return None
            elif job.is_paused:
                return None
            else:
                await jobs.mark(conn, job_id, self.token)
                return job
        if job.cancelled_by is not None:
            await self._end(job, "job is cancelled", by=job.cancelled_by)
        else:
            await self._end(job, "job has failed", code=PROCESS_DIED)
        return None

    async def _count_death(self, conn: Conn, job: Job) -> bool:
        """
        We have the job, so whoever left this mark is not at it any more: between steps there is
        none. Its neighbours first, then a smaller piece of it. Returns whether it was the last.
        """
        deaths, retry = job.deaths + 1, self.tools.crew.retry
        delay_s = retry.delay_s(deaths, random.random())  # noqa: S311 - jitter
        await jobs.count_death(conn, job.id, delay_s)
        log.warning("a process died at a job", extra={"job": str(job.id), "deaths": deaths})
        if not retry.is_exhausted(deaths):
            return False
        text = f"{deaths} processes have died at the same step"
        await jobs.fail(conn, job.id, PROCESS_DIED, text)
        return True

    async def _taken(self, conn: Conn, job: Job, work: Work) -> Progress | None:
        """What the step came to; None where the job is not to go on as it was."""
        async with conn.transaction():
            held = await jobs.hold(conn, job.id)
            if held is None or held.mark != self.token or held.run != job.run:
                return None
            if held.is_paused and held.cancelled_by is None:
                return None  # since it was prepared
            if held.cancelled_by is None:
                progress = await work.step(conn, job)
                await jobs.save(conn, job.id, progress)
                return progress
            await jobs.end_cancelled(conn, job.id)
        await self._end(held, "job is cancelled", by=held.cancelled_by)
        return None

    async def _work_of(self, job: Job) -> Work:
        """Its work, from where it is."""
        begun = self._begun.get(job.id)
        if begun is not None and begun.is_as_far_as(job):
            self._begun.move_to_end(job.id)
            return begun.work
        await self._forget(job.id)
        begin = self.kinds.get(job.kind)
        if begin is None:
            raise _UnknownKind(f"this version knows no job of the kind {job.kind!r}")
        work = await begin(self.tools, job)
        self._begun[job.id] = _Begun(job.run, job.done, job.cursor, work)
        if len(self._begun) > MOST_BEGUN:
            await self._forget(next(iter(self._begun)))
        return work

    async def _forget(self, job_id: UUID) -> None:
        begun = self._begun.pop(job_id, None)
        if begun is not None:
            await begun.work.close()

    async def _end(self, job: Job, what: str, **fields: Any) -> None:
        """One ends before its time."""
        log.log(
            logging.INFO if job.cancelled_by is not None else logging.ERROR,
            what,
            extra={"job": str(job.id), **fields},
        )
        await self._forget(job.id)

    async def _charge(self, conn: Conn, job: Job, error: Exception) -> None:
        """A step failed, and not by the platform's fault: later again, or never."""
        retry, failed = self.tools.crew.retry, job.attempts + 1
        if _is_store_away(error):
            # No job's fault, however long it lasts: it uses up half of the attempts at most.
            failed = max(job.attempts, min(failed, retry.max_attempts // 2))
        is_final = isinstance(error, JobFailed | ArtifactGone) or retry.is_exhausted(failed)
        code, text = _code_of(error), storable(str(error) or repr(error))
        async with conn.transaction():
            held = await jobs.hold(conn, job.id)
            is_ours = held is not None and held.mark == self.token and held.run == job.run
            if is_ours and is_final:
                await jobs.fail(conn, job.id, code, text)
            elif is_ours:
                # Of none at all, where there are not two: as after the first.
                delay_s = retry.delay_s(max(1, failed), random.random())  # noqa: S311 - jitter
                await jobs.put_off(conn, job.id, text, delay_s, failed)
        if not is_ours:
            await self._withdraw(job.id)
            return
        telemetry.job_failed(job.kind, code)
        if is_final:
            await self._end(job, "job has failed", code=code, reason=text)
        else:
            fields = {"job": str(job.id), "code": code, "reason": text, "attempt": failed}
            log.warning("a job's step failed", extra=fields)

    async def _withdraw(self, job_id: UUID) -> None:
        """We live: nobody is to take our mark for a death."""
        try:
            async with self.tools.crew.db.connection() as conn:
                await jobs.withdraw(conn, job_id, self.token, FAULT_DELAY_S)
        except Exception as error:
            log.warning("a mark stays", extra={"job": str(job_id), "error": repr(error)})

    def _complain(self, what: str, error: Exception) -> None:
        if is_platform_fault(error):
            log.warning("platform fault", extra={"at": what, "error": repr(error)})
        else:
            log.exception("a job's turn failed", extra={"at": what})


def _is_store_away(error: Exception) -> bool:
    return isinstance(error, ArtifactError) and not isinstance(
        error, ArtifactGone | ArtifactDamaged
    )


def _code_of(error: Exception) -> str:
    if isinstance(error, JobFailed):
        return error.code
    if isinstance(error, _UnknownKind):
        return UNKNOWN_KIND
    if isinstance(error, ArtifactGone):
        return "artifact_gone"
    return "artifact_store" if isinstance(error, ArtifactError) else type(error).__name__


async def work(
    stop: asyncio.Event,
    crew: Crew,
    settings: Settings,
    endpoints: Endpoints,
    kinds: Mapping[str, Begin] | None = None,
) -> None:
    """Take turns until told to stop, and count what there is; `kinds` are `KINDS` unless said."""
    artifacts = Artifacts(settings.artifacts_url, settings.home)
    keys = _keys_of(endpoints)
    bell = Doorbell(endpoints.redis)
    turns = Turns(
        Tools(crew, artifacts, keys), stop, KINDS if kinds is None else kinds, ring=bell.ring
    )
    counting = asyncio.create_task(Counting(crew).run(), name="counting")
    try:
        await turns.run()
    finally:
        counting.cancel()
        await bell.close()


def _keys_of(endpoints: Endpoints) -> KeyRing | None:
    try:
        return KeyRing.parse(endpoints.secret_key)
    except SealingError as error:
        log.warning("without a key no provider is asked", extra={"error": str(error)})
        return None


def main() -> int:
    """`python -m workers.jobs.run`."""
    return run_process(work, "jobs", lambda: None)


if __name__ == "__main__":
    sys.exit(main())
