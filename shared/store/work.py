"""
Lanes, work, attempts and settlements: what a worker takes, and how it gives it back.

A lane's row lock is the right to apply its events. It lasts as long as the transaction that
applies them, so a worker that is paused or dead cannot commit, and nobody has to rescue anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import StoredEvent


@dataclass(frozen=True, slots=True)
class LaneLock:
    """A locked lane, and the moment and number of the transaction that holds it."""

    lane: int
    now: datetime
    xid: int


@dataclass(frozen=True, slots=True)
class Visit:
    """The mark that a holder leaves before it applies a batch."""

    token: UUID
    first_work: int
    last_work: int
    alone_work: int | None


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A redelivery that a worker has to judge."""

    work_id: int
    delivery_id: int
    tracking_id: UUID
    received_at: datetime  # of the event's inbox row
    attempts: int


class Settlement(NamedTuple):
    """How a run ended."""

    work_id: int
    tracking_id: UUID
    run: int
    source_id: int
    status: str
    outcome: str
    code: str | None
    error: str | None
    tenant: str | None
    attempts: int


# Whether the source is paused is asked here: once that is committed, nobody begins to apply.
LOCK_LANE = """
SELECT now() AS now, pg_current_xact_id()::text::bigint AS xid
FROM lanes AS l JOIN sources AS s ON s.id = l.source_id AND s.paused_at IS NULL
WHERE l.id = $1 FOR NO KEY UPDATE OF l SKIP LOCKED
"""


async def lock_lane(conn: Conn, lane: int) -> LaneLock | None:
    """The lane for the life of this transaction; None: somebody else's, or its source is paused."""
    row = await conn.fetchrow(LOCK_LANE, lane)
    return LaneLock(lane, *row.values()) if row is not None else None


AWAIT_LANE = """
SELECT now() AS now, pg_current_xact_id()::text::bigint AS xid
FROM lanes AS l JOIN sources AS s ON s.id = l.source_id AND s.paused_at IS NULL
WHERE l.id = $1 FOR NO KEY UPDATE OF l
"""


async def await_lane(conn: Conn, lane: int) -> LaneLock | None:
    """The same, but wait for it as long as `lock_timeout` says."""
    row = await conn.fetchrow(AWAIT_LANE, lane)
    return LaneLock(lane, *row.values()) if row is not None else None


# A statement of its own: the snapshot of the one that took the lock may be older than the last
# holder's commit, and would show work that is done.
READ_VISIT = "SELECT token, first_work, last_work, alone_work FROM visits WHERE lane = $1"


async def read_visit(conn: Conn, lane: int) -> Visit | None:
    """The mark of a holder that died at this lane, or None."""
    row = await conn.fetchrow(READ_VISIT, lane)
    if row is None:
        return None
    return Visit(row["token"], row["first_work"], row["last_work"], row["alone_work"])


# LATERAL … OFFSET 0 keeps the planner on the inbox's primary key and the one partition.
READ_READY = """
SELECT w.id, w.kind, w.tracking_id, w.received_at, w.run, w.attempts, w.delivery_id, w.actor,
       w.reason, i.source_id, i.account, i.livemode, i.event_id, i.event_type, i.occurred_at,
       i.subject, i.unreadable, i.body, i.trace_context, i.artifact
FROM (
    (SELECT id, kind, tracking_id, received_at, run, attempts, delivery_id, actor, reason
     FROM work WHERE lane = $1 AND due_at IS NULL ORDER BY id LIMIT $2)
    UNION ALL
    (SELECT id, kind, tracking_id, received_at, run, attempts, delivery_id, actor, reason
     FROM work WHERE lane = $1 AND due_at <= now() AND NOT alone ORDER BY due_at LIMIT $2)
) w
LEFT JOIN LATERAL (
    SELECT source_id, account, livemode, event_id, event_type, occurred_at, subject, unreadable,
           body, trace_context, artifact
    FROM inbox WHERE received_at = w.received_at AND tracking_id = w.tracking_id OFFSET 0
) i ON true
ORDER BY w.id LIMIT $2
"""


async def read_ready(
    conn: Conn, lane: int, limit: int
) -> tuple[list[StoredEvent], list[Redelivery], list[Row]]:
    """
    What is due in the lane, oldest first, at most `limit` in all.

    Returns:
        Events, redeliveries, and the work rows whose inbox row is gone.
    """
    return _sorted_out(await conn.fetch(READ_READY, lane, limit))


READ_ONE = """
SELECT w.id, w.kind, w.tracking_id, w.received_at, w.run, w.attempts, w.delivery_id, w.actor,
       w.reason, i.source_id, i.account, i.livemode, i.event_id, i.event_type, i.occurred_at,
       i.subject, i.unreadable, i.body, i.trace_context, i.artifact
FROM work w
LEFT JOIN LATERAL (
    SELECT source_id, account, livemode, event_id, event_type, occurred_at, subject, unreadable,
           body, trace_context, artifact
    FROM inbox WHERE received_at = w.received_at AND tracking_id = w.tracking_id OFFSET 0
) i ON true
WHERE w.id = $1 AND (NOT $2 OR w.due_at IS NULL OR w.due_at <= now())
"""


async def read_one(
    conn: Conn, work_id: int, *, only_due: bool = False
) -> tuple[list[StoredEvent], list[Redelivery], list[Row]]:
    """The same for one work row; nothing where it is finished, or not due though it must be."""
    return _sorted_out(await conn.fetch(READ_ONE, work_id, only_due))


READ_HEADERS = """
SELECT i.tracking_id, i.headers
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
JOIN inbox i ON i.received_at = asked.received_at AND i.tracking_id = asked.tracking_id
"""


async def read_headers(conn: Conn, events: Sequence[StoredEvent]) -> dict[UUID, bytes]:
    """By tracking id, the headers that the events came with: a JSON array of pairs."""
    received_at = [event.received_at for event in events]
    rows = await conn.fetch(READ_HEADERS, received_at, [event.tracking_id for event in events])
    return {row["tracking_id"]: row["headers"] for row in rows}


def _sorted_out(rows: Sequence[Row]) -> tuple[list[StoredEvent], list[Redelivery], list[Row]]:
    events, redeliveries, lost = [], [], []
    for row in rows:
        if row["kind"] == "redelivery":
            redeliveries.append(
                Redelivery(
                    row["id"],
                    row["delivery_id"],
                    row["tracking_id"],
                    row["received_at"],
                    row["attempts"],
                )
            )
        elif row["body"] is None:
            lost.append(row)
        else:
            events.append(
                StoredEvent(
                    work_id=row["id"],
                    tracking_id=row["tracking_id"],
                    received_at=row["received_at"],
                    source_id=row["source_id"],
                    account=row["account"],
                    livemode=row["livemode"],
                    event_id=row["event_id"],
                    event_type=row["event_type"],
                    occurred_at=row["occurred_at"],
                    subject=row["subject"],
                    unreadable=row["unreadable"],
                    body=row["body"],
                    trace_context=row["trace_context"],
                    run=row["run"],
                    attempts=row["attempts"],
                    actor=row["actor"],
                    reason=row["reason"],
                    artifact=row["artifact"],
                )
            )
    return events, redeliveries, lost


MARK_VISIT = """
INSERT INTO visits (lane, token, worker, first_work, last_work, alone_work)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (lane) DO UPDATE SET token = excluded.token, worker = excluded.worker,
    started_at = now(), first_work = excluded.first_work, last_work = excluded.last_work,
    alone_work = excluded.alone_work
"""


async def mark_visit(conn: Conn, lane: int, visit: Visit, worker: str) -> None:
    """Leave the mark. On another connection than the lane's lock: it must outlive our death."""
    await conn.execute(
        MARK_VISIT, lane, visit.token, worker, visit.first_work, visit.last_work, visit.alone_work
    )


SURVIVE = "UPDATE visits SET alone_work = NULL WHERE lane = $1 AND token = $2"


async def survive(conn: Conn, lane: int, token: UUID) -> None:
    """Say, together with its effects, that the event applied alone has killed nobody."""
    await conn.execute(SURVIVE, lane, token)


CLEAR_VISIT = "DELETE FROM visits WHERE lane = $1 AND token = $2"


async def clear_visit(conn: Conn, lane: int, token: UUID) -> None:
    """Take our own mark away, and nobody else's."""
    await conn.execute(CLEAR_VISIT, lane, token)


MARKED_LANES = """
SELECT lane FROM visits WHERE started_at < now() - make_interval(secs => $1)
ORDER BY started_at
"""


async def marked_lanes(conn: Conn, older_than_s: float) -> list[int]:
    """Lanes with a mark of that age. Whether its holder is dead, the lane's lock tells."""
    return [row["lane"] for row in await conn.fetch(MARKED_LANES, older_than_s)]


DUE_ALONE = """
SELECT w.id, w.lane FROM work w
JOIN lanes l ON l.id = w.lane
JOIN sources s ON s.id = l.source_id AND s.paused_at IS NULL
WHERE w.alone AND w.due_at <= now() ORDER BY w.due_at LIMIT $1
"""


async def due_alone(conn: Conn, limit: int) -> list[tuple[int, int]]:
    """(work id, lane) of events that have killed a process and are due again."""
    return [(row["id"], row["lane"]) for row in await conn.fetch(DUE_ALONE, limit)]


WORK_OF_VISIT = """
SELECT id FROM work
WHERE lane = $1 AND id BETWEEN $2 AND $3 AND (due_at IS NULL OR due_at <= now())
ORDER BY id
"""


async def work_of_visit(conn: Conn, lane: int, visit: Visit) -> list[int]:
    """What is left of the batch that a dead holder was at."""
    rows = await conn.fetch(WORK_OF_VISIT, lane, visit.first_work, visit.last_work)
    return [row["id"] for row in rows]


SETTLEMENT_COLUMNS = (
    "tracking_id", "run", "source_id", "status", "outcome", "code", "error", "tenant", "attempts",
)  # fmt: skip
FINISH_WORK = "DELETE FROM work WHERE id = ANY($1::bigint[])"


async def settle(conn: Conn, settled: Sequence[Settlement]) -> None:
    """
    Write the settlements and delete their work, which must still be there.

    Raises:
        LostWork: somebody else has finished one of them; the transaction must roll back.
    """
    if not settled:
        return
    rows = [one[1:] for one in settled]
    await conn.copy_records_to_table("settlements", records=rows, columns=SETTLEMENT_COLUMNS)
    await finish(conn, [one.work_id for one in settled])


async def finish(conn: Conn, work_ids: Sequence[int]) -> None:
    """
    Delete work that is done.

    Raises:
        LostWork: not all of it was there.
    """
    status = await conn.execute(FINISH_WORK, list(work_ids))
    if status != f"DELETE {len(work_ids)}":
        raise LostWork(f"expected {len(work_ids)} work rows, {status}")


class LostWork(Exception):
    """Work was finished by somebody else while this transaction held its lane."""


CHARGE = """
INSERT INTO attempts (tracking_id, run, number, code, error, worker)
SELECT tracking_id, run, attempts + 1, $2, $3, $4 FROM work WHERE id = $1
"""
PUT_OFF = """
UPDATE work SET attempts = attempts + 1, alone = alone OR $3,
                due_at = now() + make_interval(secs => $2)
WHERE id = $1
"""


async def charge(
    conn: Conn, work_id: int, *, code: str, error: str, worker: str, delay_s: float, alone: bool
) -> None:
    """Write down a failed attempt and when the next one is due, by the database's clock."""
    await record_attempt(conn, work_id, code=code, error=error, worker=worker)
    await put_off(conn, work_id, delay_s, alone=alone)


async def record_attempt(conn: Conn, work_id: int, *, code: str, error: str, worker: str) -> None:
    """Write down the attempt that was the last one; the settlement follows in this transaction."""
    await conn.execute(CHARGE, work_id, code, error, worker)


async def put_off(conn: Conn, work_id: int, delay_s: float, *, alone: bool = False) -> None:
    """Count an attempt, and be due again later."""
    await conn.execute(PUT_OFF, work_id, delay_s, alone)


DEFER = """
UPDATE work SET due_at = now() + make_interval(secs => $2) WHERE id = $1
"""


async def defer(conn: Conn, work_id: int, delay_s: float) -> None:
    """Put an event off without charging it."""
    await conn.execute(DEFER, work_id, delay_s)


LEAVE_TO_OTHERS = """
UPDATE work
SET due_at = now() + (0.5 + $2::float8) * least(
    interval '30 s', greatest(interval '0.5 s', (now() - received_at) / 8))
WHERE id = $1
"""


async def leave_to_others(conn: Conn, work_id: int, random: float) -> None:
    """Put off, uncharged, what this process cannot apply: the longer, the older it is."""
    await conn.execute(LEAVE_TO_OTHERS, work_id, random)
