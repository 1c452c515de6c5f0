"""
The spine of long work: in turns, a step of each job.

    say who is at it · hold the job · take the next step · write how far it is · commit

A step and how far it got are one transaction, so that whoever dies has done nothing, and the next
one goes on from there. It is a process of its own: bulk work never takes the time of an
entitlement's event, and what kills a process here kills no other. Work of a job is kept between its
steps, unless somebody else took one.
"""

import asyncio
import logging
import random
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from msgspec.structs import replace

from shared.artifacts import ArtifactError, ArtifactGone, Artifacts
from shared.db import is_platform_fault
from shared.settings import Endpoints, Settings
from shared.store import jobs
from shared.store.jobs import Job, Progress
from workers.crew import Crew, run_process
from workers.jobs import importing
from workers.jobs.kinds import Begin, JobFailed, Tools, Work

log = logging.getLogger(__name__)

KINDS: Mapping[str, Begin] = {"import": importing.begin}

EVERY_S = 0.25
JOBS_AT_ONCE = 8
#: How long a job has its turn, before others have theirs.
TURN_S = 2.0


@dataclass
class _Begun:
    """A job's work, and how far it is by what we know."""

    run: int
    done: int
    work: Work


@dataclass
class Turns:
    """One process's turns."""

    tools: Tools
    stop: asyncio.Event
    token: UUID = field(default_factory=uuid4)
    turn_s: float = TURN_S
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
        is_any = False
        for job in due:
            is_any |= await self._turn(job)
        return is_any

    async def _turn(self, job_id: UUID) -> bool:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.turn_s
        has_stepped = False
        while not self.stop.is_set():
            try:
                if not await self._step(job_id):
                    break
                has_stepped = True
                if loop.time() >= until_s:
                    break
            except Exception as error:
                await self._forget(job_id)
                self._complain(f"job {job_id}", error)
                break
        return has_stepped

    async def _step(self, job_id: UUID) -> bool:
        """Take one step; whether there may be another."""
        job = await self._say_who(job_id)
        if job is None:
            return False
        try:
            work = await self._work_of(job)
            await work.prepare(job)
            progress = await self._taken(job, work)
        except Exception as error:
            await self._forget(job_id)
            if is_platform_fault(error) and not isinstance(error, ArtifactError):
                raise
            await self._charge(job, error)
            return False
        if progress is None or progress.is_finished:
            await self._forget(job_id)
            if progress is not None:
                log.info("job is done", extra={"job": str(job_id), "rows": progress.done})
            return False
        self._begun[job_id].done = progress.done
        return True

    async def _say_who(self, job_id: UUID) -> Job | None:
        """
        The job, if it is ours to go on with.

        In a transaction of its own: who is at it has to outlive our death.
        """
        async with self.tools.crew.db.transaction() as conn:
            job = await jobs.hold(conn, job_id)
            if job is None or job.state not in ("waiting", "running"):
                return None
            if job.cancelled_by is not None:
                await jobs.cancelled(conn, job_id)
                log.info("job is cancelled", extra={"job": str(job_id), "by": job.cancelled_by})
                return None
            if job.mark == self.token:
                return job
            # Nobody holds the job, so whoever left another mark is not at it any more: between its
            # steps there is none.
            is_after_death = job.mark is not None
            await jobs.mark(conn, job_id, self.token, is_after_death=is_after_death)
        if is_after_death:
            log.warning("a process died at a job", extra={"job": str(job_id)})
        return replace(job, mark=self.token, deaths=job.deaths + is_after_death)

    async def _taken(self, job: Job, work: Work) -> Progress | None:
        """What the step came to; None where somebody else has had the job meanwhile."""
        async with self.tools.crew.db.transaction() as conn:
            held = await jobs.hold(conn, job.id)
            if held is None or held.mark != self.token or held.run != job.run:
                return None
            progress = await work.step(conn, job)
            await jobs.save(conn, job.id, progress)
        return progress

    async def _work_of(self, job: Job) -> Work:
        """Its work, from where it is."""
        begun = self._begun.get(job.id)
        if begun is not None and (begun.run, begun.done) == (job.run, job.done):
            self._begun.move_to_end(job.id)
            return begun.work
        await self._forget(job.id)
        begin = KINDS.get(job.kind)
        if begin is None:
            raise JobFailed("unknown_kind", f"this version knows no job of the kind {job.kind!r}")
        work = await begin(self.tools, job)
        self._begun[job.id] = _Begun(job.run, job.done, work)
        if len(self._begun) > JOBS_AT_ONCE:
            await self._forget(next(iter(self._begun)))
        return work

    async def _forget(self, job_id: UUID) -> None:
        begun = self._begun.pop(job_id, None)
        if begun is not None:
            await begun.work.close()

    async def _charge(self, job: Job, error: Exception) -> None:
        """A step failed, and not by the platform's fault: later again, or never."""
        retry = self.tools.crew.retry
        code = error.code if isinstance(error, JobFailed) else type(error).__name__
        text = (str(error) or repr(error))[:2000].replace("\0", "␀")
        is_final = isinstance(error, JobFailed | ArtifactGone) or retry.is_exhausted(
            job.attempts + 1
        )
        async with self.tools.crew.db.transaction() as conn:
            held = await jobs.hold(conn, job.id)
            if held is None or held.mark != self.token:
                return
            if is_final:
                await jobs.fail(conn, job.id, code, text)
            else:
                delay_s = retry.delay_s(job.attempts + 1, random.random())  # noqa: S311 - jitter
                await jobs.put_off(conn, job.id, text, delay_s)
        fields = {"job": str(job.id), "code": code, "reason": text}
        if is_final:
            log.error("job has failed", extra=fields)
        else:
            log.warning("step failed", extra=fields)

    def _complain(self, what: str, error: Exception) -> None:
        if is_platform_fault(error):
            log.warning("platform fault", extra={"at": what, "error": repr(error)})
        else:
            log.exception("a job's turn failed", extra={"at": what})


async def _work(stop: asyncio.Event, crew: Crew, settings: Settings, endpoints: Endpoints) -> None:
    artifacts = Artifacts(settings.artifacts_url, settings.home)
    await Turns(Tools(crew, artifacts), stop).run()


def main() -> int:
    """`python -m workers.jobs.run`."""
    return run_process(_work, "jobs", lambda: None)


if __name__ == "__main__":
    sys.exit(main())
