"""
The spine of the fleet: one visit to one lane.

    lock the lane · read what is due · translate · apply · audit and settle · commit

A lane's events are applied as one batch. The platform's faults roll the batch back and charge
nobody. Anything else isolates: the same events one per transaction, and only the guilty one is
charged. Events that run code of installed packages are isolated always, so that a slow handler
holds no batch. This module holds the only decision to retry.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from shared import telemetry
from shared.db import Conn, is_lock_timeout, is_platform_fault, storable
from shared.domain.events import StoredEvent
from shared.domain.outcomes import ATTEMPTS_EXHAUSTED, NO_HANDLER, PROCESS_DIED
from shared.store import work
from shared.store.work import LaneLock, Redelivery, Settlement
from workers import applying, judging, settling
from workers.crew import Crew
from workers.entries import NO_LOCKS, Locks, SetGrew
from workers.extensions.presence import is_elsewhere
from workers.extensions.running import HandlerFailed, NoHandler
from workers.marks import AloneMark, VisitMark, marked
from workers.reporting import report
from workers.surroundings import UnknownSource

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How long an event whose customer somebody else holds is put off, uncharged.
LOCKED_DELAY_S = 0.5
#: How long events are applied one per transaction before other lanes have their turn.
ISOLATED_S = 0.2


class Progress(Enum):
    """How a visit went."""

    NOTHING = "nothing"  # nothing due, somebody else holds the lane, or its source is paused
    SUSPECT = "suspect"  # its last holder died at it: for the process that works alone
    DONE = "done"  # what was due is settled, put off or charged
    MORE = "more"  # the batch was full: there may be more
    FAULT = "fault"  # the platform failed; nothing was charged


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read of a lane."""

    begun_ns: int  # when its transaction had the lane; since 1970, by this process's clock
    events: list[Any]
    redeliveries: list[Any]
    lost: list[Any]

    @property
    def work_ids(self) -> list[int]:
        """In the order of receipt."""
        everything = [one.work_id for one in (*self.events, *self.redeliveries)]
        return sorted(everything + [row["id"] for row in self.lost])


async def visit(crew: Crew, lane: int) -> Progress:
    """Apply what is due in a lane, at most one batch. Raises nothing but cancellation."""
    if lane in crew.surroundings.paused_lanes:
        return Progress.NOTHING  # the lane's lock would say so, and cost a transaction
    work_ids: list[int] = []
    try:
        async with marked(crew, lane) as mark:
            progress, apart = await _apply_batch(crew, lane, mark, work_ids)
        return await isolate(crew, lane, apart, progress)
    except _NotOurs as left:
        return left.progress
    except Exception as error:
        is_fault = is_platform_fault(error) and not is_lock_timeout(error)
        if is_fault or not work_ids:
            # Without work, nothing of the lane's own can be to blame.
            _log_fault(lane, error)
            return Progress.FAULT
        if isinstance(error, UnknownSource) and await _refreshed(crew):
            return Progress.MORE
        log.warning("batch isolated", extra={"lane": lane, "error": repr(error)})
    return await isolate(crew, lane, work_ids)


async def isolate(
    crew: Crew, lane: int, work_ids: Sequence[int], progress: Progress = Progress.MORE
) -> Progress:
    """Apply these one per transaction, while a visit may last; only the guilty are charged."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ISOLATED_S
    for number, work_id in enumerate(work_ids):
        if number and loop.time() >= until_s:
            return progress if progress is Progress.FAULT else Progress.MORE
        try:
            async with marked(crew, lane) as mark:
                if not await apply_alone(crew, lane, work_id, mark):
                    return Progress.NOTHING
        except Exception as error:
            if not is_platform_fault(error):
                # It could not even be charged. It stays due, its neighbours go on, and we pause.
                log.exception("event could not be charged", extra={"lane": lane, "work": work_id})
            else:
                _log_fault(lane, error)
                if not await _stepped_over(crew, lane, work_id):
                    return Progress.FAULT
            progress = Progress.FAULT
    return progress


async def apply_alone(crew: Crew, lane: int, work_id: int, mark: VisitMark | AloneMark) -> bool:
    """
    Apply one event in a transaction of its own, under this mark, and charge it if that fails.

    Returns whether the lane was ours. Raises platform faults only, or what keeps it from being
    charged.
    """
    failed: HandlerFailed | None = None

    async def act(conn: Conn, held: LaneLock, more: Locks) -> _Applied | None:
        nonlocal failed
        begun_ns = time.time_ns()
        found = await work.read_visit(conn, lane)
        if found is not None and found.token != mark.token:
            return None
        await mark.leave_at(work_id)
        try:
            # Since it was seen to be due, somebody else may have failed at it and put it off.
            batch = Batch(begun_ns, *await work.read_one(conn, work_id, only_due=True))
            applied = await _apply(conn, crew, held, batch, more, alone=True)
            await mark.finish(conn)
        except Exception as error:
            # Still under the lane's lock, or nobody else could tell this from a death.
            await asyncio.shield(mark.withdraw())
            failed = error if isinstance(error, HandlerFailed) else None
            raise
        return applied

    try:
        applied = await _in_lane(crew, lane, act, waits=mark.waits)
    except Exception as error:
        if failed is not None:
            # It may have cost us the connection, and then the rollback's error hides it.
            return await charge(crew, lane, work_id, failed)
        if is_lock_timeout(error):
            return await _put_off(crew, lane, work_id)
        if is_platform_fault(error):
            raise
        if isinstance(error, NoHandler) and await is_elsewhere(crew, error):
            return await _leave_to_others(crew, lane, work_id)
        return await charge(crew, lane, work_id, error)
    if applied is not None:
        mark.forget()
        _report(crew, applied)
    return applied is not None


async def charge(crew: Crew, lane: int, work_id: int, error: Exception) -> bool:
    """Write down a failed attempt; put the event off, or settle it dead. Whether it was ours."""
    code, text = applying.code_of(error), storable(str(error) or repr(error))
    is_permanent = isinstance(error, HandlerFailed) and error.is_permanent

    async def act(conn: Conn, held: LaneLock, _: Locks) -> bool:
        await charge_in(conn, crew, held, work_id, code, text, is_permanent=is_permanent)
        return True

    return await _in_lane(crew, lane, act) is not None


async def charge_in(
    conn: Conn,
    crew: Crew,
    held: LaneLock,
    work_id: int,
    code: str,
    error: str,
    *,
    alone: bool = False,
    is_permanent: bool = False,
) -> None:
    """The same, in a transaction that holds the lane."""
    events, redeliveries, _ = await work.read_one(conn, work_id)
    for redelivery in redeliveries:
        await _give_up_or_put_off(conn, crew, redelivery, error)
    for event in events:
        failed = event.attempts + 1
        telemetry.attempt_failed(crew.surroundings.name_of(event.source_id), code)
        fields = {"tracking_id": str(event.tracking_id), "code": code, "attempt": failed}
        if is_permanent or crew.retry.is_exhausted(failed):
            await work.record_attempt(conn, work_id, code=code, error=error, worker=crew.name)
            keeps_code = is_permanent or code in (PROCESS_DIED, NO_HANDLER)
            final = code if keeps_code else ATTEMPTS_EXHAUSTED
            await settling.bury(conn, crew.surroundings, held, event, final, error)
            log.error("event is dead", extra={**fields, "reason": error})
        else:
            await work.charge(
                conn,
                work_id,
                code=code,
                error=error,
                worker=crew.name,
                delay_s=crew.retry.delay_s(failed, random.random()),  # noqa: S311 - jitter
                alone=alone,
            )
            log.warning("attempt failed", extra={**fields, "reason": error})


async def _give_up_or_put_off(conn: Conn, crew: Crew, redelivery: Redelivery, error: str) -> None:
    """A redelivery that cannot be judged: its row stays as evidence, its event is untouched."""
    failed = redelivery.attempts + 1
    fields = {"tracking_id": str(redelivery.tracking_id), "attempt": failed, "reason": error}
    if crew.retry.is_exhausted(failed):
        await work.finish(conn, [redelivery.work_id])
        log.error("redelivery was never judged", extra=fields)
    else:
        delay_s = crew.retry.delay_s(failed, random.random())  # noqa: S311 - jitter
        await work.put_off(conn, redelivery.work_id, delay_s)
        log.warning("redelivery could not be judged", extra=fields)


Act = Callable[[Conn, LaneLock, Locks], Awaitable[T]]


async def _in_lane(crew: Crew, lane: int, act: Act[T], *, waits: bool = False) -> T | None:
    """
    Act in a transaction that holds the lane; None where it cannot be had.

    Begins again, with more locks, where an object turns out to have another owner.
    """
    more = NO_LOCKS
    while True:
        try:
            async with crew.db.transaction() as conn:
                lock = work.await_lane if waits else work.lock_lane
                held = await lock(conn, lane)
                return await act(conn, held, more) if held is not None else None
        except SetGrew as grew:
            more = grew.locks


async def _apply_batch(
    crew: Crew, lane: int, mark: VisitMark, work_ids: list[int]
) -> tuple[Progress, list[int]]:
    """
    One transaction; `work_ids` is filled as soon as they are known. Returns which of them it left
    to be applied one by one.
    """

    async def act(conn: Conn, held: LaneLock, more: Locks) -> _Applied:
        begun_ns = time.time_ns()
        found = await work.read_visit(conn, lane)
        if found is not None and found.token != mark.token:
            raise _NotOurs(Progress.SUSPECT)
        batch = Batch(begun_ns, *await work.read_ready(conn, lane, crew.batch_size))
        work_ids[:] = batch.work_ids
        if not work_ids:
            raise _NotOurs(Progress.NOTHING)
        await mark.leave(work_ids)
        applied = await _apply(conn, crew, held, batch, more)
        await mark.finish(conn)
        return applied

    applied = await _in_lane(crew, lane, act)
    if applied is None:
        return Progress.NOTHING, []
    mark.forget()
    _report(crew, applied)
    sources = {event.source_id for event in applied.apart}
    if not sources <= crew.extended:
        # From now on these may not take all slots: begin again under that rule.
        crew.extended |= sources
        return Progress.MORE, []
    progress = Progress.MORE if len(work_ids) >= crew.batch_size else Progress.DONE
    return progress, [event.work_id for event in applied.apart]


@dataclass(frozen=True, slots=True)
class _Applied:
    """What a transaction did, to be reported once it has committed."""

    held: LaneLock
    begun_ns: int
    events: list[StoredEvent]
    apart: list[StoredEvent]  # left to be applied alone
    settled: list[Settlement]


async def _apply(
    conn: Conn, crew: Crew, held: LaneLock, batch: Batch, more: Locks, *, alone: bool = False
) -> _Applied:
    """Everything that a batch changes, in the transaction that holds its lane."""
    if batch.redeliveries:
        await judging.judge(conn, crew.surroundings, batch.redeliveries)
    applied = await applying.apply(
        conn, crew.surroundings, held.now, batch.events, more, alone=alone
    )
    settled = await settling.settle(
        conn, crew.surroundings, held, applied.done, applied.refused, batch.lost
    )
    return _Applied(held, batch.begun_ns, applied.events, applied.apart, settled)


class _NotOurs(Exception):
    """Leave the lane as it is."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress.value)
        self.progress = progress


# Failures ---------------------------------------------------------------------------------------


async def _put_off(crew: Crew, lane: int, work_id: int) -> bool:
    """Somebody holds a row this event needs: try later, charge nobody, hold up nobody."""
    delay_s = LOCKED_DELAY_S * (0.5 + random.random())  # noqa: S311 - jitter

    async def act(conn: Conn, _: LaneLock, __: Locks) -> bool:
        await work.defer(conn, work_id, delay_s)
        return True

    return await _in_lane(crew, lane, act) is not None


async def _stepped_over(crew: Crew, lane: int, work_id: int) -> bool:
    """Whether the platform is there to put the event off, uncharged."""
    try:
        # Then the fault may be its own doing: some query crashes its server process each time.
        return await _put_off(crew, lane, work_id)
    except Exception as error:
        if not is_platform_fault(error):
            raise
        return False


async def _refreshed(crew: Crew) -> bool:
    """Whether the configuration has moved on, as after an event of a source just applied."""
    try:
        async with crew.db.connection() as conn:
            return await crew.surroundings.refresh(conn)
    except Exception as error:
        if not is_platform_fault(error):
            raise
        return False


async def _leave_to_others(crew: Crew, lane: int, work_id: int) -> bool:
    """Put off, uncharged and ever longer, what a worker with the handler will find due."""

    async def act(conn: Conn, _: LaneLock, __: Locks) -> bool:
        await work.leave_to_others(conn, work_id, random.random())  # noqa: S311 - jitter
        return True

    return await _in_lane(crew, lane, act) is not None


def _log_fault(lane: int, error: Exception) -> None:
    log.warning("platform fault, nothing charged", extra={"lane": lane, "error": repr(error)})


def _report(crew: Crew, applied: _Applied) -> None:
    report(crew.surroundings, applied.held.now, applied.begun_ns, applied.events, applied.settled)
