"""
The process that works alone: for lanes whose holder died at them, and events that kill.

It does nothing else, applies one event at a time, and writes down which one before it does. If it
dies or hangs, that event is charged with an ordinary attempt when it comes back, and everything
that was merely near a killed worker is settled as if nothing had happened.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from shared.db import is_platform_fault
from shared.domain.outcomes import PROCESS_DIED
from shared.settings import Endpoints, Settings
from shared.store import work
from shared.store.work import Visit
from workers.crew import Crew, run_process
from workers.extensions import handlers
from workers.marks import AloneMark
from workers.process import apply_alone, charge_in

log = logging.getLogger(__name__)

EVERY_S = 0.25
#: Younger marks belong to visits that have only just begun; the lane's lock tells the rest.
MARK_AGE_S = 0.2
ALONE_AT_ONCE = 20


@dataclass
class Solitary:
    """One process's search for suspects."""

    crew: Crew
    stop: asyncio.Event
    #: Marks of ours that stayed behind although we live: a fault kept us from taking them back.
    survived: set[UUID] = field(default_factory=set)

    async def run(self) -> None:
        """Look for suspects until told to stop; finishes the event it is at."""
        while not self.stop.is_set():
            await self._guarded("look", self._look())
            await asyncio.sleep(EVERY_S)

    async def _look(self) -> None:
        async with self.crew.db.connection() as conn:
            await self.crew.surroundings.refresh(conn)
            lanes = await work.marked_lanes(conn, MARK_AGE_S)
            alone = await work.due_alone(conn, ALONE_AT_ONCE)
        for lane in lanes:
            # One that fails keeps no other from its turn.
            await self._guarded(f"lane {lane}", self._clear_suspicion(lane))
        for work_id, lane in alone:
            await self._guarded(f"lane {lane}", self._apply_killer(lane, work_id))

    async def _clear_suspicion(self, lane: int) -> None:
        """Apply what is left of the batch that its holder died at, one event at a time."""
        token = uuid4()
        async with self.crew.db.transaction() as conn:
            held = await work.lock_lane(conn, lane)
            if held is None:
                return  # its holder lives, and the mark is its own; or its source is paused
            found = await work.read_visit(conn, lane)
            if found is None:
                return
            if found.alone_work is not None and found.token not in self.survived:
                # It was being applied alone, under the lane's lock, when its process died.
                error = "the process that applied this event alone died or hung"
                await charge_in(
                    conn, self.crew, held, found.alone_work, PROCESS_DIED, error, alone=True
                )
            # The suspicion is ours from here on; the range stays, if we die the rest is found.
            ours = Visit(token, found.first_work, found.last_work, None)
            await work.mark_visit(conn, lane, ours, self.crew.name)
            left = await work.work_of_visit(conn, lane, found)
        self.survived.discard(found.token)
        log.warning("lane is suspect", extra={"lane": lane, "events": len(left)})
        for work_id in left:
            if self.stop.is_set() or not await self._apply(lane, ours, work_id):
                return
        async with self.crew.db.transaction() as conn:
            if await work.await_lane(conn, lane) is not None:
                await work.clear_visit(conn, lane, token)

    async def _apply_killer(self, lane: int, work_id: int) -> None:
        """An event that has killed before; its lane's other events are not held up by it."""
        if self.stop.is_set():
            return
        ours = Visit(uuid4(), work_id, work_id, None)
        await self._apply(lane, ours, work_id)
        async with self.crew.marks.connection() as conn:
            await work.clear_visit(conn, lane, ours.token)

    async def _apply(self, lane: int, ours: Visit, work_id: int) -> bool:
        at = Visit(ours.token, ours.first_work, ours.last_work, work_id)
        mark = AloneMark(self.crew, lane, at, self.survived)
        try:
            return await apply_alone(self.crew, lane, work_id, mark)
        except Exception:
            await mark.withdraw()  # a commit that failed took back what it said, too
            raise

    async def _guarded(self, what: str, doing: Awaitable[None]) -> None:
        try:
            await doing
        except Exception as error:
            if is_platform_fault(error):
                log.warning("platform fault", extra={"at": what, "error": repr(error)})
            else:
                log.exception("working alone failed", extra={"at": what})
            await asyncio.sleep(EVERY_S)


async def _work(stop: asyncio.Event, crew: Crew, settings: Settings, endpoints: Endpoints) -> None:
    await Solitary(crew, stop).run()


def main() -> int:
    """`python -m workers.solitary`."""
    return run_process(_work, "solitary", handlers)


if __name__ == "__main__":
    sys.exit(main())
