"""What a kind of job is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from shared.artifacts import Artifacts
from shared.db import Conn
from shared.sealing import KeyRing
from shared.store.jobs import Job, Progress
from workers.crew import Crew


class JobFailed(Exception):
    """The job cannot go on, and trying again does not help. `code` is for lists."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Work(Protocol):
    """One job in one process, kept from step to step as long as nobody else takes one between."""

    async def prepare(self, job: Job) -> None:
        """
        Read, or write elsewhere, what the next step needs, from `job.cursor` on: outside any
        transaction, and perhaps again after a death.

        Raises:
            JobFailed, ArtifactError: see there. What else the disk says is to be one of them: an
                OSError is taken for Postgres being away, and charges nobody.
        """

    async def step(self, conn: Conn, job: Job) -> Progress:
        """
        Do the next piece, in the transaction that holds the job.

        A second or so at most. After `job.deaths` deaths of processes at it, a smaller piece: what
        kills is to stand alone in the end.

        Raises:
            JobFailed: see there.
        """
        ...

    async def close(self) -> None:
        """Let go of what was opened. The job may not be finished."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What the work of a job may need beside its connection; `keys` open the API keys."""

    crew: Crew
    artifacts: Artifacts
    keys: KeyRing | None = None


#: Begins, or goes on with, a job. Reads outside any transaction, and writes nothing.
Begin = Callable[[Tools, Job], Awaitable[Work]]
