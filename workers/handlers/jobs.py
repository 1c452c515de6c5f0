"""`StartJob` and `CancelJob`: what was ordered becomes a job, or an end of one."""

from uuid import UUID

from shared.db import Conn
from shared.domain.commands import CancelJob, Ordered, StartJob
from shared.domain.events import StoredEvent
from shared.domain.outcomes import NOT_COVERED, UNKNOWN_JOB, UNKNOWN_SOURCE, Outcome
from shared.store import jobs, operating
from workers.entries import Answer
from workers.handlers.scope import Scope


async def start(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: StartJob
) -> Answer:
    """Begin the job, under the event's tracking id and in its run."""
    del scope
    job, tenant = event.tracking_id, order.tenant if ordered.tenant is None else ordered.tenant
    if order.tenant not in (None, tenant):
        return _answer("ignored", job, NOT_COVERED)
    source_id = None
    if order.source is not None:
        held = await operating.hold_source(conn, order.source)
        if held is None:
            return _answer("ignored", job, UNKNOWN_SOURCE, tenant)
        source_id = held.id
    await jobs.begin(
        conn, job, order.kind, event.run, actor=ordered.actor, source_id=source_id,
        tenant=tenant, arguments=order.arguments,
    )  # fmt: skip
    return _answer("applied", job, None, tenant)


async def cancel(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: CancelJob
) -> Answer:
    """Have a job end before its next step. Another tenant's looks like none."""
    del scope, event
    found = await jobs.read_state(conn, order.job)
    if found is None or ordered.tenant not in (None, found.tenant):
        return _answer("ignored", order.job, UNKNOWN_JOB, ordered.tenant)
    is_news = await jobs.cancel(conn, order.job, ordered.actor)
    return _answer("applied" if is_news else "unchanged", order.job, None, found.tenant)


def _answer(outcome: Outcome, job: UUID, code: str | None, tenant: str | None = None) -> Answer:
    return Answer(outcome, None, f"job/{job}", code, [], 0, concerns=tenant)
