"""
What `sluice demo` reads back: every row that an event left, by the event's id at the provider.

For the role `operator`. Only `lock_customer` does more than read, and only for as long as the
caller's transaction lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Row


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an event is. `outcome` is None until it is settled and nothing of it is waiting."""

    tracking_id: UUID
    outcome: str | None


# The ledger's key finds the event; what is left to do of it is also a redelivery to be judged.
READ_PROGRESS = """
SELECT l.event_id, l.tracking_id,
       CASE WHEN NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = l.tracking_id)
            THEN (SELECT outcome FROM settlements AS z WHERE z.tracking_id = l.tracking_id
                  ORDER BY run DESC LIMIT 1) END AS outcome
FROM ledger AS l
WHERE l.source_id = (SELECT id FROM sources WHERE name = $1) AND l.account = ''
  AND l.livemode = $2 AND l.event_id = ANY($3::text[])
"""


async def read_progress(
    conn: Conn, source: str, livemode: bool, event_ids: Sequence[str]
) -> dict[str, Progress]:
    """By event id; an event that was never received is missing."""
    rows = await conn.fetch(READ_PROGRESS, source, livemode, list(event_ids))
    return {row["event_id"]: Progress(row["tracking_id"], row["outcome"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Trace:
    """
    How many rows an event left, by table; all 0 where it was never received.

    `records` are its audit records of step 0, `changes` those of later steps.
    """

    ledger: int
    inbox: int
    redeliveries: int
    conflicts: int
    waiting: int
    settlements: int
    failures: int
    observations: int
    records: int
    changes: int

    @property
    def is_empty(self) -> bool:
        """Whether there is no row of it anywhere."""
        return self == Trace(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


# The inbox has no index on event ids, and none is needed: its key leads with the time, and the
# demo's events are minutes old.
READ_TRACES = """
WITH asked AS (
    SELECT a.event_id, s.id AS source_id, l.tracking_id
    FROM unnest($3::text[]) AS a (event_id)
    JOIN sources AS s ON s.name = $1
    LEFT JOIN ledger AS l ON l.source_id = s.id AND l.account = '' AND l.livemode = $2
        AND l.event_id = a.event_id
), received AS (
    SELECT i.source_id, i.event_id, count(*) AS rows
    FROM inbox AS i
    WHERE i.received_at >= $4 AND i.event_id = ANY($3::text[])
    GROUP BY i.source_id, i.event_id
)
SELECT k.event_id,
       (k.tracking_id IS NOT NULL)::int AS ledger,
       coalesce((SELECT r.rows FROM received AS r
                 WHERE r.source_id = k.source_id AND r.event_id = k.event_id), 0) AS inbox,
       (SELECT count(*) FROM deliveries AS d WHERE d.tracking_id = k.tracking_id) AS redeliveries,
       (SELECT count(*) FROM conflicts AS c WHERE c.tracking_id = k.tracking_id) AS conflicts,
       (SELECT count(*) FROM work AS w WHERE w.tracking_id = k.tracking_id) AS waiting,
       (SELECT count(*) FROM settlements AS z WHERE z.tracking_id = k.tracking_id) AS settlements,
       (SELECT count(*) FROM attempts AS f WHERE f.tracking_id = k.tracking_id) AS failures,
       (SELECT count(*) FROM observations AS o WHERE o.tracking_id = k.tracking_id)
           AS observations,
       (SELECT count(*) FROM audit AS a WHERE a.cause = 'event'
        AND a.cause_id = k.tracking_id::text AND a.step = 0) AS records,
       (SELECT count(*) FROM audit AS a WHERE a.cause = 'event'
        AND a.cause_id = k.tracking_id::text AND a.step > 0) AS changes
FROM asked AS k
"""


async def read_traces(
    conn: Conn, source: str, livemode: bool, event_ids: Sequence[str], since: datetime
) -> dict[str, Trace]:
    """By event id, all of them; inbox rows are counted from `since` on, by the gateway's clock."""
    rows = await conn.fetch(READ_TRACES, source, livemode, list(event_ids), since)
    return {row["event_id"]: _trace(row) for row in rows}


def _trace(row: Row) -> Trace:
    return Trace(
        ledger=row["ledger"],
        inbox=row["inbox"],
        redeliveries=row["redeliveries"],
        conflicts=row["conflicts"],
        waiting=row["waiting"],
        settlements=row["settlements"],
        failures=row["failures"],
        observations=row["observations"],
        records=row["records"],
        changes=row["changes"],
    )


IS_AMBIGUOUS = """
SELECT ambiguous FROM objects
WHERE object_id = $4 AND kind = $3 AND account = '' AND livemode = $2
  AND source_id = (SELECT id FROM sources WHERE name = $1)
"""


async def is_ambiguous(
    conn: Conn, source: str, livemode: bool, kind: str, object_id: str
) -> bool | None:
    """Whether the order of an object's events is undecided; None where there is no such object."""
    found: bool | None = await conn.fetchval(IS_AMBIGUOUS, source, livemode, kind, object_id)
    return found


@dataclass(frozen=True, slots=True)
class Import:
    """How far the import of a push is; `failed_lines` are those of the rows that were refused."""

    state: str
    rows: int
    failed: int
    failed_lines: list[int]


READ_IMPORT = """
SELECT j.state, j.done, j.failed,
       ARRAY(SELECT DISTINCT f.line FROM job_failures AS f
             WHERE f.job = j.id AND f.run = j.run ORDER BY f.line) AS lines
FROM jobs AS j WHERE j.id = $1
"""


async def read_import(conn: Conn, tracking_id: UUID) -> Import | None:
    """What became of a push; None before a worker has come to it."""
    row = await conn.fetchrow(READ_IMPORT, tracking_id)
    if row is None:
        return None
    return Import(row["state"], row["done"], row["failed"], list(row["lines"]))


LOCK_CUSTOMER = """
SELECT pg_backend_pid() FROM customers
WHERE source_id = (SELECT id FROM sources WHERE name = $1) AND account = '' AND livemode = $2
  AND customer = $3
FOR UPDATE
"""


async def lock_customer(conn: Conn, source: str, livemode: bool, customer: str) -> int | None:
    """
    Hold a customer's row until the caller's transaction ends: its events wait meanwhile.

    Returns the number of the server process that holds it; None where there is no such customer.
    """
    holder: int | None = await conn.fetchval(LOCK_CUSTOMER, source, livemode, customer)
    return holder


STAY = "SELECT 1"


async def stay(conn: Conn) -> None:
    """Keep a transaction from counting as idle, which would end it after some seconds."""
    await conn.execute(STAY)


# Of the waiting ones only, which are few: pg_blocking_pids stops the lock table for a moment.
IS_WAITED_FOR = """
SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND $1::int = ANY(pg_blocking_pids(pid)))
"""


async def is_waited_for(conn: Conn, holder: int) -> bool:
    """Whether another session waits for a lock of this server process, right now."""
    return bool(await conn.fetchval(IS_WAITED_FOR, holder))


AUDIT_BYTES = "SELECT pg_relation_size('audit')"


async def audit_bytes(conn: Conn) -> int:
    """How much there is to verify, indexes not counted."""
    size: int = await conn.fetchval(AUDIT_BYTES)
    return size
