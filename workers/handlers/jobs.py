"""`StartJob` and what is ordered about jobs: one begins, waits, goes on, or ends."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.commands import CancelJob, Ordered, PauseJob, ResumeJob, StartJob
from shared.domain.events import StoredEvent
from shared.domain.jobs import NOT_ALLOWED, UNKNOWN_SOURCE, UnfitError, read_arguments
from shared.store import jobs, operating, steering
from workers.entries import Answer
from workers.handlers.scope import Scope
from workers.surroundings import UnknownSource

#: What a tenant's token may have done, of its own.
FOR_TENANTS = frozenset({"export"})
#: Nothing of that id, or nothing that whoever ordered it may touch.
UNKNOWN_JOB = "unknown_job"


class JobNotBegun(Exception):
    """What asks for the job waits to be applied itself; the next attempt finds the job."""


async def start(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: StartJob
) -> Answer:
    """
    Begin the job, under the event's tracking id and in its run.

    One that cannot be done begins too, and has failed: whoever was told its id finds out why.
    """
    job, tenant = event.tracking_id, order.tenant if ordered.tenant is None else ordered.tenant
    unfit = _problem_with(ordered, order)
    source_id = None
    if unfit is None and order.source is not None:
        try:
            source_id = scope.surroundings.source_named(order.source).id
        except UnknownSource:
            unfit = UnfitError(UNKNOWN_SOURCE, "/source", f"no source {order.source!r}")
    arguments: Mapping[str, Any] = order.arguments
    is_new = await jobs.begin(
        conn, job, order.kind, event.run, actor=ordered.actor, source_id=source_id,
        tenant=tenant, arguments=arguments,
    )  # fmt: skip
    if not is_new:
        return _answer("unchanged", job, None, tenant)
    if unfit is not None:
        await jobs.fail(conn, job, unfit.code, f"{unfit.pointer}: {unfit.message}")
        return _answer("ignored", job, unfit.code, tenant)
    return _answer("applied", job, None, tenant)


async def cancel(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: CancelJob
) -> Answer:
    """
    Have a job end before its next step.

    Raises:
        JobNotBegun: its order was received, and is applied later than this one.
    """
    del scope
    by = ordered.actor
    return await _steer(
        conn, event, ordered, order.job, lambda: steering.cancel(conn, order.job, by)
    )


async def pause(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: PauseJob
) -> Answer:
    """Have a job take no further step until it is resumed. Otherwise as `cancel`."""
    del scope
    by = ordered.actor
    return await _steer(
        conn, event, ordered, order.job, lambda: steering.pause(conn, order.job, by)
    )


async def resume(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: ResumeJob
) -> Answer:
    """Have a job go on where it was paused. Otherwise as `cancel`."""
    del scope
    return await _steer(conn, event, ordered, order.job, lambda: steering.resume(conn, order.job))


async def _steer(
    conn: Conn,
    event: StoredEvent,
    ordered: Ordered,
    job: UUID,
    act: Callable[[], Awaitable[bool]],
) -> Answer:
    """Do that to the job, once, where whoever ordered it may."""
    found = await steering.read_state(conn, job)
    if found is None and await steering.is_unfinished(conn, job):
        raise JobNotBegun(f"job {job} has not begun yet")
    if found is None or ordered.tenant not in (None, found.tenant):
        return _answer("ignored", job, UNKNOWN_JOB, ordered.tenant)
    is_news = False
    if event.run == 1 or not await operating.was_applied(conn, event.tracking_id):
        is_news = await act()
    return _answer("applied" if is_news else "unchanged", job, None, found.tenant)


def _problem_with(ordered: Ordered, order: StartJob) -> UnfitError | None:
    """Why it cannot be done; the API has looked already, which may be of another version."""
    if ordered.tenant is not None:
        if order.kind not in FOR_TENANTS:
            return UnfitError(NOT_ALLOWED, "/kind", "not for a tenant to ask for")
        if order.tenant not in (None, ordered.tenant):
            return UnfitError(NOT_ALLOWED, "/tenant", "not the tenant that the token is for")
    try:
        read_arguments(order.kind, order.arguments, order.tenant or ordered.tenant, order.source)
    except UnfitError as error:
        return error
    return None


def _answer(outcome: Any, job: Any, code: str | None, tenant: str | None) -> Answer:
    return Answer(outcome, None, f"job/{job}", code, [], 0, concerns=tenant)
