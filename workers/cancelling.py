"""What operators do about jobs: end them before their time."""

from uuid import UUID

from shared.db import Conn
from shared.store import jobs
from workers.actions import new_action, record_action

OPEN = frozenset({"waiting", "running", "paused"})


class UnknownJob(Exception):
    """No job of this id has begun."""


class IsOver(Exception):
    """The job has ended, or is to end already. The text says how."""


async def cancel_job(conn: Conn, job: UUID, actor: str, reason: str) -> UUID:
    """
    Have the job end before its next step, in the caller's transaction. What it has done stays.
    Returns the id of the audited action.

    Raises:
        UnknownJob, IsOver: see there; nothing was written.
    """
    found = await jobs.read_state(conn, job)
    if found is None:
        raise UnknownJob(f"no job {job}")
    if found.state not in OPEN:
        raise IsOver(f"job {job} is {found.state}")
    if not await jobs.cancel(conn, job, actor):
        raise IsOver(f"job {job} is being cancelled already")
    action = new_action()
    await record_action(conn, action, "job.cancelled", actor, subject=f"job/{job}", reason=reason)
    return action
