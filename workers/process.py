"""
The spine of the fleet: one visit to one lane.

    lock the lane · read what is due · translate · apply · audit and settle · commit

A lane's events are applied as one batch. The platform's faults roll the batch back and charge
nobody. Anything else isolates: the same events one per transaction, and only the guilty one is
charged. This module holds the only decision to retry.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

from opentelemetry.trace import SpanKind

from shared import telemetry
from shared.db import Conn, is_lock_timeout, is_platform_fault
from shared.domain.outcomes import ATTEMPTS_EXHAUSTED, PROCESS_DIED
from shared.store import work
from shared.store.work import LaneLock, Redelivery, Visit
from workers import handlers, judging, settling
from workers.books import SetGrew
from workers.crew import Crew
from workers.handlers.scope import Scope
from workers.surroundings import UnknownSource

log = logging.getLogger(__name__)

#: How long an event whose customer somebody else holds is put off, uncharged.
LOCKED_DELAY_S = 0.5


class Progress(Enum):
    """How a visit went."""

    NOTHING = "nothing"  # nothing due, or somebody else holds the lane
    SUSPECT = "suspect"  # its last holder died at it: for the process that works alone
    DONE = "done"  # what was due is settled, put off or charged
    MORE = "more"  # the batch was full: there may be more
    FAULT = "fault"  # the platform failed; nothing was charged


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read of a lane."""

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
    work_ids: list[int] = []
    try:
        async with _marked(crew, lane) as mark:
            size = await _apply_batch(crew, lane, mark, work_ids)
            return _progress(crew, size)
    except _NotOurs as left:
        return left.progress
    except Exception as error:
        if is_platform_fault(error) and not is_lock_timeout(error):
            _log_fault(lane, error)
            return Progress.FAULT
        if isinstance(error, UnknownSource) and await _refreshed(crew):
            return Progress.MORE
        log.warning("batch isolated", extra={"lane": lane, "error": repr(error)})
    return await isolate(crew, lane, work_ids)


async def isolate(crew: Crew, lane: int, work_ids: Sequence[int]) -> Progress:
    """Apply these one per transaction; only the guilty are charged."""
    for work_id in work_ids:
        try:
            if not await apply_alone(crew, lane, work_id):
                return Progress.NOTHING
        except Exception as error:
            if not is_platform_fault(error):
                raise
            _log_fault(lane, error)
            return Progress.FAULT
    return Progress.MORE


async def apply_alone(crew: Crew, lane: int, work_id: int) -> bool:
    """
    Apply one event in a transaction of its own, and charge it if that fails.

    Returns whether the lane was ours. Raises platform faults only.
    """
    try:
        async with crew.db.transaction() as conn:
            held = await work.lock_lane(conn, lane)
            if held is None:
                return False
            batch = Batch(*await work.read_one(conn, work_id))
            await _apply(conn, crew, held, batch)
    except Exception as error:
        if is_lock_timeout(error):
            return await _put_off(crew, lane, work_id)
        if is_platform_fault(error):
            raise
        return await charge(crew, lane, work_id, _code_of(error), _text_of(error))
    _report(crew, held, batch)
    return True


async def charge(
    crew: Crew, lane: int, work_id: int, code: str, error: str, *, alone: bool = False
) -> bool:
    """Write down a failed attempt; put the event off, or settle it dead. Whether it was ours."""
    async with crew.db.transaction() as conn:
        held = await work.lock_lane(conn, lane)
        if held is None:
            return False
        events, redeliveries, _ = await work.read_one(conn, work_id)
        for redelivery in redeliveries:
            await _give_up_or_put_off(conn, crew, redelivery, error)
        for event in events:
            failed = event.attempts + 1
            source = crew.surroundings.name_of(event.source_id)
            telemetry.attempt_failed(source, code)
            fields = {"tracking_id": str(event.tracking_id), "code": code, "attempt": failed}
            if crew.retry.is_exhausted(failed):
                await work.record_attempt(conn, work_id, code=code, error=error, worker=crew.name)
                final = PROCESS_DIED if code == PROCESS_DIED else ATTEMPTS_EXHAUSTED
                await settling.bury(conn, crew.surroundings, held, event, final, error)
                log.error("event is dead", extra={**fields, "reason": error})
            else:
                delay_s = crew.retry.delay_s(failed, random.random())  # noqa: S311 - jitter
                await work.charge(
                    conn,
                    work_id,
                    code=code,
                    error=error,
                    worker=crew.name,
                    delay_s=delay_s,
                    alone=alone,
                )
                log.warning("attempt failed", extra={**fields, "reason": error})
    return True


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


async def _apply_batch(crew: Crew, lane: int, mark: "_Mark", work_ids: list[int]) -> int:
    """One transaction; `work_ids` is filled as soon as they are known."""
    more_customers: frozenset[Any] = frozenset()
    while True:
        try:
            async with crew.db.transaction() as conn:
                held = await work.lock_lane(conn, lane)
                if held is None:
                    raise _NotOurs(Progress.NOTHING)
                found = await work.read_visit(conn, lane)
                if found is not None and found.token != mark.token:
                    raise _NotOurs(Progress.SUSPECT)
                batch = Batch(*await work.read_ready(conn, lane, crew.batch_size))
                work_ids[:] = batch.work_ids
                if not work_ids:
                    raise _NotOurs(Progress.NOTHING)
                await mark.leave(work_ids)
                await _apply(conn, crew, held, batch, more_customers)
                await work.clear_visit(conn, lane, mark.token)
            mark.is_left = False
        except SetGrew as grew:
            more_customers = grew.customers
            continue
        _report(crew, held, batch)
        return len(work_ids)


async def _apply(
    conn: Conn,
    crew: Crew,
    held: LaneLock,
    batch: Batch,
    more_customers: frozenset[Any] = frozenset(),
) -> None:
    """Everything that a batch changes, in the transaction that holds its lane."""
    if batch.redeliveries:
        await judging.judge(conn, crew.surroundings, batch.redeliveries)
    translated, refused = settling.translate(
        crew.surroundings, batch.events, await settling.horizon(conn)
    )
    scope = Scope(crew.surroundings, held.now, more_customers)
    done = await handlers.apply(conn, scope, translated)
    await settling.settle(conn, crew.surroundings, held, done, refused, batch.lost)


# The mark ---------------------------------------------------------------------------------------


class _Mark:
    """Says, from outside the batch's transaction, that this process is at this lane."""

    def __init__(self, crew: Crew, lane: int) -> None:
        self.token: UUID = uuid4()
        self.is_left = False
        self._crew = crew
        self._lane = lane

    async def leave(self, work_ids: Sequence[int]) -> None:
        visited = Visit(self.token, work_ids[0], work_ids[-1], None)
        self.is_left = True
        async with self._crew.marks.connection() as conn:
            await work.mark_visit(conn, self._lane, visited, self._crew.name)

    async def clear(self) -> None:
        if not self.is_left:
            return
        try:
            async with self._crew.marks.connection() as conn:
                await work.clear_visit(conn, self._lane, self.token)
        except Exception as error:
            # Left behind, it costs the lane a careful round, and nothing else.
            log.warning("mark not cleared", extra={"lane": self._lane, "error": repr(error)})


@asynccontextmanager
async def _marked(crew: Crew, lane: int) -> AsyncGenerator[_Mark]:
    mark = _Mark(crew, lane)
    try:
        yield mark
    finally:
        await asyncio.shield(mark.clear())


class _NotOurs(Exception):
    """Leave the lane as it is."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress.value)
        self.progress = progress


# Failures ---------------------------------------------------------------------------------------


async def _put_off(crew: Crew, lane: int, work_id: int) -> bool:
    """Somebody holds a row this event needs: try later, charge nobody, hold up nobody."""
    async with crew.db.transaction() as conn:
        if await work.lock_lane(conn, lane) is None:
            return False
        await work.defer(conn, work_id, LOCKED_DELAY_S * (0.5 + random.random()))  # noqa: S311
    return True


async def _refreshed(crew: Crew) -> bool:
    """Whether the configuration has moved on, as after an event of a source just applied."""
    try:
        async with crew.db.connection() as conn:
            return await crew.surroundings.refresh(conn)
    except Exception as error:
        if not is_platform_fault(error):
            raise
        return False


def _code_of(error: Exception) -> str:
    return "unknown_source" if isinstance(error, UnknownSource) else type(error).__name__


def _text_of(error: Exception) -> str:
    return (str(error) or repr(error))[:2000].replace("\0", "␀")


def _log_fault(lane: int, error: Exception) -> None:
    log.warning("platform fault, nothing charged", extra={"lane": lane, "error": repr(error)})


def _progress(crew: Crew, size: int) -> Progress:
    return Progress.MORE if size >= crew.batch_size else Progress.DONE


def _report(crew: Crew, held: LaneLock, batch: Batch) -> None:
    telemetry.batch(len(batch.events))
    for event in batch.events:
        telemetry.end_to_end((held.now - event.received_at).total_seconds())
    if not telemetry.records_spans():
        return
    for event in batch.events:
        span = telemetry.start_span("process event", SpanKind.CONSUMER, event.trace_context)
        span.set_attribute("messaging.system", "sluice")
        span.set_attribute("messaging.operation.type", "process")
        span.set_attribute("messaging.destination.name", "inbox")
        span.set_attribute("messaging.message.id", str(event.tracking_id))
        span.set_attribute("sluice.event_type", event.event_type)
        span.set_attribute("sluice.run", event.run)
        span.end()
