"""
The process that works alone: for lanes whose holder died at them, and events that kill.

It does nothing else, applies one event at a time, and writes down which one before it does. If it
dies or hangs, that event is charged with an ordinary attempt when it comes back, and everything
that was merely near a killed worker is settled as if nothing had happened.
"""

import asyncio
import logging
import sys
from uuid import uuid4

from shared.db import is_platform_fault
from shared.domain.outcomes import PROCESS_DIED
from shared.settings import Endpoints, Settings
from shared.store import work
from shared.store.work import Visit
from workers.crew import Crew, run_process
from workers.process import apply_alone, charge

log = logging.getLogger(__name__)

EVERY_S = 0.25
#: Younger marks belong to visits that have only just begun; the lane's lock tells the rest.
MARK_AGE_S = 0.2
ALONE_AT_ONCE = 20


async def work_alone(crew: Crew, stop: asyncio.Event) -> None:
    """Look for suspects until told to stop; finishes the event it is at."""
    while not stop.is_set():
        try:
            await _look(crew, stop)
        except Exception as error:
            if not is_platform_fault(error):
                log.exception("working alone failed")
            else:
                log.warning("platform fault", extra={"error": repr(error)})
            await asyncio.sleep(EVERY_S)
        await asyncio.sleep(EVERY_S)


async def _look(crew: Crew, stop: asyncio.Event) -> None:
    async with crew.db.connection() as conn:
        await crew.surroundings.refresh(conn)
        lanes = await work.marked_lanes(conn, MARK_AGE_S)
        alone = await work.due_alone(conn, ALONE_AT_ONCE)
    for lane in lanes:
        await _clear_suspicion(crew, lane, stop)
    for work_id, lane in alone:
        if stop.is_set():
            return
        await _apply_marked(crew, lane, Visit(uuid4(), work_id, work_id, work_id))


async def _clear_suspicion(crew: Crew, lane: int, stop: asyncio.Event) -> None:
    """Apply what is left of the batch that its holder died at, one event at a time."""
    async with crew.db.transaction() as conn:
        if await work.lock_lane(conn, lane) is None:
            return  # its holder lives, and the mark is its own
        found = await work.read_visit(conn, lane)
        if found is None:
            return
        left = await work.work_of_visit(conn, lane, found)
    log.warning("lane is suspect", extra={"lane": lane, "events": len(left)})
    if found.alone_work is not None:
        # We were applying this one, alone, when we died.
        error = "the process that applied this event alone died or hung"
        await charge(crew, lane, found.alone_work, PROCESS_DIED, error, alone=True)
        left = [work_id for work_id in left if work_id != found.alone_work]
    for work_id in left:
        if stop.is_set():
            return
        # The range stays in the mark: if this event kills us, the rest is found again.
        await _apply_marked(
            crew, lane, Visit(uuid4(), work_id, found.last_work, work_id), keep=True
        )
    async with crew.db.transaction() as conn:
        if await work.lock_lane(conn, lane) is not None:
            await work.forget_visit(conn, lane)


async def _apply_marked(crew: Crew, lane: int, mark: Visit, *, keep: bool = False) -> None:
    assert mark.alone_work is not None
    async with crew.marks.connection() as conn:
        await work.mark_visit(conn, lane, mark, crew.name)
    await apply_alone(crew, lane, mark.alone_work)
    if not keep:
        async with crew.marks.connection() as conn:
            await work.clear_visit(conn, lane, mark.token)


async def _work(stop: asyncio.Event, crew: Crew, settings: Settings, endpoints: Endpoints) -> None:
    await work_alone(crew, stop)


def main() -> int:
    """`python -m workers.solitary`."""
    return run_process(_work, "solitary")


if __name__ == "__main__":
    sys.exit(main())
