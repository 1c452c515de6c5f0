"""What operators do about jobs: begin, pause, resume and end them. Each is audited."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.events import new_tracking_id
from shared.store import steering
from workers.actions import begin_action, new_action, record_action

OPEN = frozenset({"waiting", "running", "paused"})


class UnknownJob(Exception):
    """No job of this id has begun."""


class IsOver(Exception):
    """The job has ended, or is to end already, or is as it is wanted. The text says how."""


async def begin_job(
    conn: Conn,
    kind: str,
    arguments: Mapping[str, Any],
    actor: str,
    reason: str,
    *,
    source_id: int | None = None,
    tenant: str | None = None,
) -> UUID:
    """
    Have a job done, in the caller's transaction; returns its id.

    Nothing asked for it but its operator: there is no event behind it, and nothing to replay. The
    caller has checked the arguments (`shared.domain.jobs`).
    """
    job = new_tracking_id(datetime.now(UTC), os.urandom(10))
    await steering.add(
        conn, job, kind, actor=actor, source_id=source_id, tenant=tenant, arguments=arguments
    )
    await record_action(
        conn,
        begin_action(job),
        "job.begun",
        actor,
        subject=f"job/{job}",
        after={"kind": kind, "arguments": arguments},
        reason=reason,
    )
    return job


async def cancel_job(conn: Conn, job: UUID, actor: str, reason: str) -> UUID:
    """
    Have the job end before its next step, in the caller's transaction. What it has done stays.
    Returns the id of the audited action.

    Raises:
        UnknownJob, IsOver: see there; nothing was written.
    """
    await _check_open(conn, job)
    if not await steering.cancel(conn, job, actor):
        raise IsOver(f"job {job} is being cancelled already")
    return await _record(conn, job, "job.cancelled", actor, reason)


async def pause_job(conn: Conn, job: UUID, actor: str, reason: str) -> UUID:
    """
    Have the job take no further step until it is resumed. Otherwise as `cancel_job`.

    Raises:
        UnknownJob, IsOver: see there; nothing was written.
    """
    await _check_open(conn, job)
    if not await steering.pause(conn, job, actor):
        raise IsOver(f"job {job} is paused already")
    return await _record(conn, job, "job.paused", actor, reason)


async def resume_job(conn: Conn, job: UUID, actor: str, reason: str) -> UUID:
    """
    Have the job go on where it was paused. Otherwise as `cancel_job`.

    Raises:
        UnknownJob, IsOver: see there; nothing was written.
    """
    await _check_open(conn, job)
    if not await steering.resume(conn, job):
        raise IsOver(f"job {job} is not paused")
    return await _record(conn, job, "job.resumed", actor, reason)


async def _check_open(conn: Conn, job: UUID) -> None:
    found = await steering.read_state(conn, job)
    if found is None:
        raise UnknownJob(f"no job {job}")
    if found.state not in OPEN:
        raise IsOver(f"job {job} is {found.state}")


async def _record(conn: Conn, job: UUID, action: str, actor: str, reason: str) -> UUID:
    number = new_action()
    await record_action(conn, number, action, actor, subject=f"job/{job}", reason=reason)
    return number
