"""What jobs are told from outside: to begin, to wait, to go on, to end before their time."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn

ADD_JOB = """
INSERT INTO jobs (id, kind, source_id, tenant, actor, arguments) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def add(
    conn: Conn,
    job: UUID,
    kind: str,
    *,
    actor: str,
    source_id: int | None,
    tenant: str | None,
    arguments: Mapping[str, Any],
) -> None:
    """Have a job done that no event asks for: its id is its own."""
    await conn.execute(ADD_JOB, job, kind, source_id, tenant, actor, json.dumps(arguments))


CANCEL_JOB = """
UPDATE jobs SET cancelled_by = $2, due_at = now(), updated_at = now()
WHERE id = $1 AND state IN ('waiting', 'running', 'paused') AND cancelled_by IS NULL
"""


async def cancel(conn: Conn, job: UUID, by: str) -> bool:
    """Have the job end before its next step; whether that was news."""
    return await conn.execute(CANCEL_JOB, job, by) == "UPDATE 1"


PAUSE_JOB = """
UPDATE jobs SET paused_by = $2, updated_at = now()
WHERE id = $1 AND state IN ('waiting', 'running', 'paused') AND paused_by IS NULL
"""


async def pause(conn: Conn, job: UUID, by: str) -> bool:
    """Have the job take no further step until `resume`; whether that was news."""
    return await conn.execute(PAUSE_JOB, job, by) == "UPDATE 1"


RESUME_JOB = """
UPDATE jobs SET paused_by = NULL, due_at = now(), updated_at = now()
WHERE id = $1 AND state IN ('waiting', 'running', 'paused') AND paused_by IS NOT NULL
"""


async def resume(conn: Conn, job: UUID) -> bool:
    """Have the job go on where it was paused; whether that was news."""
    return await conn.execute(RESUME_JOB, job) == "UPDATE 1"


READ_STATE = "SELECT kind, state, tenant FROM jobs WHERE id = $1"


class State(NamedTuple):
    """What a job is, how it stands, and whose it is."""

    kind: str
    state: str
    tenant: str | None


async def read_state(conn: Conn, job: UUID) -> State | None:
    """None where there is no such job."""
    row = await conn.fetchrow(READ_STATE, job)
    return None if row is None else State(*row.values())


IS_UNFINISHED = "SELECT EXISTS (SELECT FROM work WHERE tracking_id = $1 AND kind = 'event')"


async def is_unfinished(conn: Conn, tracking_id: UUID) -> bool:
    """Whether the event that may come to ask for a job of this id waits to be applied."""
    return bool(await conn.fetchval(IS_UNFINISHED, tracking_id))
