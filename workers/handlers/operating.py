"""
`Ordered`: what operators and applications ask for over the API, one function for each order.

An order that cannot be done is settled `ignored`, with a code: trying it again would not help. One
that was done is done once, however often its event is delivered or replayed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shared.db import Conn
from shared.domain.commands import (
    CancelJob,
    Ordered,
    PauseJob,
    PauseSource,
    ReprocessRecord,
    ResumeJob,
    ResumeSource,
    RotateSecret,
    StartJob,
)
from shared.domain.events import StoredEvent
from shared.domain.outcomes import (
    NOT_COVERED,
    UNKNOWN_ORDER,
    UNKNOWN_SOURCE,
    Outcome,
)
from shared.store import operating
from workers import rotating
from workers.actions import encoded
from workers.entries import Answer, Told
from workers.handlers import jobs, rereading
from workers.handlers.scope import Asked, Scope
from workers.pausing import PAUSED, RESUMED, switch
from workers.rotating import ROTATED

#: (conn, scope, the event, what was ordered, the order in it) → what became of it
CarryOut = Callable[[Conn, Scope, StoredEvent, Ordered, Any], Awaitable[Answer]]


async def carry_out(conn: Conn, scope: Scope, asked: Sequence[Asked[Ordered]]) -> list[Answer]:
    """Carry out a batch's orders, one after the other in the order of their receipt."""
    # Whoever ordered it may just have applied the source that it names.
    await scope.surroundings.refresh(conn)
    answers = []
    for one in asked:
        ordered = one.command
        act = ORDERS.get(type(ordered.order), _refuse_unknown)
        answer = await act(conn, scope, one.event, ordered, ordered.order)
        answers.append(replace(answer, actor=ordered.actor, reason=ordered.reason))
    return answers


async def pause(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: PauseSource
) -> Answer:
    """From now on the source's events wait."""
    del scope
    return await _switch(conn, event, ordered, order.source, PAUSED)


async def resume(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: ResumeSource
) -> Answer:
    """From now on the source's events are applied, those that waited first."""
    del scope
    return await _switch(conn, event, ordered, order.source, RESUMED)


async def _switch(
    conn: Conn, event: StoredEvent, ordered: Ordered, source: str, action: str
) -> Answer:
    if ordered.tenant is not None:
        return refused(NOT_COVERED)
    subject = f"source/{source}"
    if await _is_done_already(conn, event):
        return answered("unchanged", subject)
    switched = await switch(
        conn, source, is_paused=action == PAUSED, actor=ordered.actor, work_id=event.work_id
    )
    if switched is None:
        return refused(UNKNOWN_SOURCE, subject)
    if switched.outcome != "applied":
        return answered(switched.outcome, subject)
    told = Told(
        "", action, subject, encoded(switched.before), encoded(switched.after), source=source
    )
    return answered("applied", subject, told)


async def rotate(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: RotateSecret
) -> Answer:
    """Put the new secret beside the one that it replaces; see `workers.rotating.rotate`."""
    del scope
    subject = f"source/{order.source}"
    if ordered.tenant is not None:
        return refused(NOT_COVERED)
    if await _is_done_already(conn, event):
        return answered("unchanged", subject)
    rotated = await rotating.rotate(conn, order, ordered.actor)
    if rotated.code is not None:
        return refused(rotated.code, subject)
    told = Told(
        "",
        ROTATED,
        subject,
        encoded(rotated.before),
        encoded(rotated.after),
        source=order.source,
    )
    return answered("applied", subject, told)


async def _refuse_unknown(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: object
) -> Answer:
    return refused(UNKNOWN_ORDER)


async def _is_done_already(conn: Conn, event: StoredEvent) -> bool:
    return event.run > 1 and await operating.was_applied(conn, event.tracking_id)


def answered(outcome: Outcome, subject: str, *told: Told) -> Answer:
    """What became of an order."""
    return Answer(outcome, None, subject, None, [], 0, list(told))


def refused(code: str, subject: str = "") -> Answer:
    """It cannot be done, and trying again would not help."""
    return Answer("ignored", None, subject, code, [], 0)


ORDERS: Mapping[type, CarryOut] = {
    PauseSource: pause,
    ResumeSource: resume,
    RotateSecret: rotate,
    StartJob: jobs.start,
    CancelJob: jobs.cancel,
    PauseJob: jobs.pause,
    ResumeJob: jobs.resume,
    ReprocessRecord: rereading.reprocess,
}
