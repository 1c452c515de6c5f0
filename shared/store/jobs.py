"""
Jobs: long work, and how far it is.

Whoever has a job has its advisory lock, on the connection that takes its steps: it goes with the
process, and needs no transaction that stays open while a step is prepared. What a step did and how
far it got commit together, under the row's lock.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from shared.db import Conn, Row


class Job(msgspec.Struct, frozen=True):
    """
    A job as whoever takes its steps sees it; `id` is the tracking id of the event behind
    it, or its own where an operator has begun it.

    `done` counts rows gone through, `failed` those of them that were not taken; `cursor` is where
    the next step begins, and the kind's own. `deaths` is how many processes in a row have died at
    the next step. `is_left`: the mark is of a process that may have died at it; where Postgres was
    started since, it says nothing. `is_paused`: somebody has paused it, or its source.
    """

    id: UUID
    kind: str
    run: int
    source_id: int | None
    tenant: str | None
    actor: str
    arguments: Mapping[str, Any]
    state: str
    cursor: Mapping[str, Any]
    done: int
    failed: int
    total: int | None
    counts: Mapping[str, int]
    attempts: int
    deaths: int
    mark: UUID | None
    cancelled_by: str | None
    is_left: bool = False
    is_paused: bool = False

    @property
    def is_over(self) -> bool:
        """Whether there is no step to come."""
        return self.state not in ("waiting", "running")


class Progress(msgspec.Struct, frozen=True):
    """
    How far a job is after a step; see `Job`. `result` is what a finished one came to, `wait_s` how
    long it is until the next step, `lanes` are those that the step gave work to.
    """

    cursor: Mapping[str, Any]
    done: int
    failed: int
    counts: Mapping[str, int]
    total: int | None = None
    is_finished: bool = False
    result: Mapping[str, Any] | None = None
    wait_s: float = 0.0
    lanes: Collection[int] = ()


class Failure(NamedTuple):
    """Why a row was not taken. `line` counts from 1, `pointer` is a JSON pointer into the row."""

    line: int
    number: int
    code: str
    pointer: str
    message: str


# A replay begins the work again, from nothing.
BEGIN_JOB = """
INSERT INTO jobs AS j (id, kind, run, source_id, tenant, actor, arguments)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO UPDATE SET
    run = excluded.run, tenant = excluded.tenant, actor = excluded.actor,
    arguments = excluded.arguments, state = 'waiting', cursor = '{}', done = 0, failed = 0,
    total = NULL, counts = '{}', result = NULL, code = NULL, error = NULL, attempts = 0, deaths = 0,
    mark = NULL, cancelled_by = NULL, paused_by = NULL, due_at = now(), started_at = NULL,
    finished_at = NULL, updated_at = now()
WHERE j.run < excluded.run
"""


async def begin(
    conn: Conn,
    job: UUID,
    kind: str,
    run: int,
    *,
    actor: str,
    source_id: int | None = None,
    tenant: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> bool:
    """
    Have a job done, by whoever comes to it; a later run of its event has it done again.

    Returns whether it was not there yet, in this run.
    """
    encoded = json.dumps(arguments or {})
    status = await conn.execute(BEGIN_JOB, job, kind, run, source_id, tenant, actor, encoded)
    return status == "INSERT 0 1"


# Whose turn was longest ago comes first: one that goes on for hours keeps no other waiting.
DUE_JOBS = """
SELECT j.id FROM jobs j
LEFT JOIN sources s ON s.id = j.source_id
WHERE j.state IN ('waiting', 'running') AND j.due_at <= now()
  AND (s.paused_at IS NULL AND j.paused_by IS NULL OR j.cancelled_by IS NOT NULL)
ORDER BY j.due_at, j.id LIMIT $1
"""


async def due_jobs(conn: Conn, limit: int) -> list[UUID]:
    """Which jobs have a step to be taken, in the order of their turns."""
    return [row["id"] for row in await conn.fetch(DUE_JOBS, limit)]


TAKE_JOB = "SELECT pg_try_advisory_lock(hashtextextended('sluice.job/' || $1::uuid::text, 0))"


async def take(conn: Conn, job: UUID) -> bool:
    """Have the job, for as long as this connection lasts or until `leave`; whether it was free."""
    return bool(await conn.fetchval(TAKE_JOB, job))


LEAVE_JOB = "SELECT pg_advisory_unlock(hashtextextended('sluice.job/' || $1::uuid::text, 0))"


async def leave(conn: Conn, job: UUID) -> None:
    """Let others have it."""
    await conn.execute(LEAVE_JOB, job)


# A mark from before Postgres was started is no sign of a death: everybody lost the connection then.
HOLD_JOB = """
SELECT j.id, j.kind, j.run, j.source_id, j.tenant, j.actor, j.arguments, j.state, j.cursor, j.done,
       j.failed, j.total, j.counts, j.attempts, j.deaths, j.mark, j.cancelled_by,
       j.mark IS NOT NULL AND j.updated_at >= pg_postmaster_start_time() AS is_left,
       j.paused_by IS NOT NULL
           OR EXISTS (SELECT FROM sources s WHERE s.id = j.source_id AND s.paused_at IS NOT NULL)
           AS is_paused
FROM jobs j WHERE j.id = $1 FOR UPDATE OF j SKIP LOCKED
"""


async def hold(conn: Conn, job: UUID) -> Job | None:
    """Lock its row for the life of this transaction; None where somebody else has it locked."""
    row = await conn.fetchrow(HOLD_JOB, job)
    return None if row is None else _job(row)


# Behind the others: what kills its process must not be the first that the next one comes to.
MARK_JOB = """
UPDATE jobs SET mark = $2, started_at = coalesce(started_at, now()), state = 'running',
                due_at = now(), updated_at = now()
WHERE id = $1
"""


async def mark(conn: Conn, job: UUID, token: UUID) -> None:
    """Say, before a step, who is at it."""
    await conn.execute(MARK_JOB, job, token)


COUNT_DEATH = """
UPDATE jobs SET deaths = deaths + 1, mark = NULL, updated_at = now(),
                due_at = now() + make_interval(secs => $2)
WHERE id = $1
"""


async def count_death(conn: Conn, job: UUID, delay_s: float) -> None:
    """Whoever left the mark has died at the next step, which is to wait for so long."""
    await conn.execute(COUNT_DEATH, job, delay_s)


WITHDRAW_MARK = """
UPDATE jobs SET mark = NULL, due_at = now() + make_interval(secs => $3)
WHERE id = $1 AND mark = $2
"""


async def withdraw(conn: Conn, job: UUID, token: UUID, delay_s: float) -> None:
    """Our step came to nothing, and nobody died: take our own mark away, and try again later."""
    await conn.execute(WITHDRAW_MARK, job, token, delay_s)


SAVE_PROGRESS = """
UPDATE jobs SET cursor = $2, done = $3, failed = $4, total = $5, counts = $6, result = $7,
                state = CASE WHEN $8 THEN 'done' ELSE 'running' END,
                finished_at = CASE WHEN $8 THEN now() END,
                attempts = 0, deaths = 0, mark = NULL, error = NULL,
                due_at = now() + make_interval(secs => $9), updated_at = now()
WHERE id = $1
"""


async def save(conn: Conn, job: UUID, progress: Progress) -> None:
    """Write how far the job is, in the transaction that did the step."""
    await conn.execute(
        SAVE_PROGRESS,
        job,
        json.dumps(progress.cursor),
        progress.done,
        progress.failed,
        progress.total,
        json.dumps(progress.counts),
        None if progress.result is None else json.dumps(progress.result),
        progress.is_finished,
        progress.wait_s,
    )


PUT_OFF_JOB = """
UPDATE jobs SET attempts = $4, mark = NULL, error = $2, updated_at = now(),
                due_at = now() + make_interval(secs => $3)
WHERE id = $1
"""


async def put_off(conn: Conn, job: UUID, error: str, delay_s: float, attempts: int) -> None:
    """A step failed, after so many attempts in all: the next one comes after `delay_s`."""
    await conn.execute(PUT_OFF_JOB, job, error, delay_s, attempts)


FAIL_JOB = """
UPDATE jobs SET state = 'failed', code = $2, error = $3, mark = NULL, finished_at = now(),
                updated_at = now()
WHERE id = $1
"""


async def fail(conn: Conn, job: UUID, code: str, error: str) -> None:
    """End a job that cannot go on; what it has done stays."""
    await conn.execute(FAIL_JOB, job, code, error)


END_CANCELLED = """
UPDATE jobs SET state = 'cancelled', mark = NULL, error = NULL, finished_at = now(),
                updated_at = now()
WHERE id = $1
"""


async def end_cancelled(conn: Conn, job: UUID) -> None:
    """End a job that somebody wants to end; what it has done stays."""
    await conn.execute(END_CANCELLED, job)


# A job that is paused, or put off after a failure, keeps nobody waiting.
COUNT_JOBS = """
SELECT j.kind, CASE WHEN num_nonnulls(s.paused_at, j.paused_by) > 0 THEN 'paused'
            ELSE j.state END AS state,
       count(*) AS jobs,
       coalesce(max(extract(epoch FROM now() - j.due_at))
                FILTER (WHERE num_nonnulls(s.paused_at, j.paused_by) = 0 AND j.due_at <= now()),
                0)::float8 AS waits_s
FROM jobs j
LEFT JOIN sources s ON s.id = j.source_id
WHERE j.state IN ('waiting', 'running')
GROUP BY 1, 2
"""


class Count(NamedTuple):
    """Jobs of one kind that are not over; `waits_s` is since the first of them was due."""

    kind: str
    state: str
    jobs: int
    waits_s: float


async def count_jobs(conn: Conn) -> list[Count]:
    """By kind and state: "waiting", "running", or "paused", themselves or with their source."""
    return [Count(*row.values()) for row in await conn.fetch(COUNT_JOBS)]


FAILURE_COLUMNS = ("job", "run", "line", "number", "code", "pointer", "message")


async def add_failures(conn: Conn, job: UUID, run: int, failures: Sequence[Failure]) -> None:
    """Keep why rows were not taken."""
    rows = [(job, run, *failure) for failure in failures]
    await conn.copy_records_to_table("job_failures", records=rows, columns=FAILURE_COLUMNS)


FORGET_ASSET = "DELETE FROM job_assets WHERE job = $1 AND name = $2"
ADD_ASSET = """
INSERT INTO job_assets (job, name, media_type, size_bytes, sha256, parts)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def add_asset(
    conn: Conn,
    job: UUID,
    name: str,
    media_type: str,
    size_bytes: int,
    digest: bytes,
    parts: Sequence[bytes] | None = None,
) -> None:
    """
    Name what this run was given or has made; its content is where it belongs already: under its
    digest, or, in their order, under those of its `parts`.
    """
    await conn.execute(FORGET_ASSET, job, name)
    await conn.execute(ADD_ASSET, job, name, media_type, size_bytes, digest, parts)


READ_RECEIVED = """
SELECT received_at, headers, body, artifact, artifact_bytes
FROM inbox WHERE received_at = $2 AND tracking_id = $1
"""


class Received(NamedTuple):
    """An event as a job reads it. The body is empty where it is an artifact."""

    received_at: datetime
    headers: bytes
    body: bytes
    artifact: bytes | None
    artifact_bytes: int | None


async def read_received(conn: Conn, tracking_id: UUID, received_at: datetime) -> Received | None:
    """What was received under this id; None where it went by retention."""
    row = await conn.fetchrow(READ_RECEIVED, tracking_id, received_at)
    return None if row is None else Received(*row.values())


def _job(row: Row) -> Job:
    values = dict(row)
    for name in ("arguments", "cursor", "counts"):
        values[name] = json.loads(values[name])
    return Job(**values)
