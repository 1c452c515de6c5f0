"""
What a process that applies events is at, said from outside the transaction that applies them.

A mark is written on a connection of its own while the lane is locked, and deleted in the
transaction that it announces. Whoever locks a lane and finds somebody else's mark there knows
that its last holder died.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from shared.db import Conn
from shared.store import work
from shared.store.work import Visit
from workers.crew import Crew

log = logging.getLogger(__name__)


class VisitMark:
    """Says that this process is at this lane."""

    #: Whether its transaction waits for the lane.
    waits = False

    def __init__(self, crew: Crew, lane: int) -> None:
        self.token: UUID = uuid4()
        self.is_left = False
        self._crew = crew
        self._lane = lane

    async def leave(self, work_ids: Sequence[int]) -> None:
        """Write the mark; the caller holds the lane. `work_ids` in the order of receipt."""
        visited = Visit(self.token, work_ids[0], work_ids[-1], None)
        self.is_left = True
        async with self._crew.marks.connection() as conn:
            await work.mark_visit(conn, self._lane, visited, self._crew.name)

    async def leave_at(self, work_id: int) -> None:
        """The same for one event."""
        await self.leave((work_id,))

    async def finish(self, conn: Conn) -> None:
        """Take it back together with the effects that it announced."""
        await work.clear_visit(conn, self._lane, self.token)

    def forget(self) -> None:
        """What took it back has committed."""
        self.is_left = False

    async def withdraw(self) -> None:
        """Nothing: who leaves it clears it, whatever happens."""

    async def clear(self) -> None:
        """Take it back after a visit that failed, and that this process survived."""
        if not self.is_left:
            return
        try:
            async with self._crew.marks.connection() as conn:
                await work.clear_visit(conn, self._lane, self.token)
        except Exception as error:
            # Left behind, it costs the lane a careful round, and nothing else.
            log.warning("mark not cleared", extra={"lane": self._lane, "error": repr(error)})


@asynccontextmanager
async def marked(crew: Crew, lane: int) -> AsyncGenerator[VisitMark]:
    """A mark that is gone afterwards, unless this process dies."""
    mark = VisitMark(crew, lane)
    try:
        yield mark
    finally:
        await asyncio.shield(mark.clear())


@dataclass(frozen=True)
class AloneMark:
    """
    Says which one event the process that works alone is at, if `visit.alone_work` kills it.

    `survived` is the process's own memory of marks that it could not take back.
    """

    crew: Crew
    lane: int
    visit: Visit
    survived: set[UUID]

    @property
    def token(self) -> UUID:
        """By which the mark is told from others'."""
        return self.visit.token

    @property
    def waits(self) -> bool:
        """Whether its transaction waits for the lane."""
        return True

    async def leave_at(self, work_id: int) -> None:
        """Write the mark, before its one event is applied; the caller holds the lane."""
        assert work_id == self.visit.alone_work
        async with self.crew.marks.connection() as conn:
            await work.mark_visit(conn, self.lane, self.visit, self.crew.name)

    async def finish(self, conn: Conn) -> None:
        """Say, together with its effects, that the event has killed nobody."""
        await work.survive(conn, self.lane, self.token)

    def forget(self) -> None:
        """Nothing: it stays for the events after this one."""

    async def withdraw(self) -> None:
        """Say that the event failed and killed nobody."""
        self.survived.add(self.token)
        try:
            async with self.crew.marks.connection() as conn:
                await work.survive(conn, self.lane, self.token)
        except Exception as error:
            # Where Postgres is not there to be told, we remember.
            log.warning("mark not withdrawn", extra={"lane": self.lane, "error": repr(error)})
