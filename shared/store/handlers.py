"""
Handlers of installed packages: how far each has followed the audit trail, what is brought to it,
and the rights that its statements have.

The trail is read in the order of (xid, id), and only below the oldest transaction that is still
open: nothing can commit there any more, so a cursor over it neither skips a record nor meets one
twice. What a record brings is inserted in the transaction that moves the cursor past it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where a handler has followed; `since` is what was committed before its time."""

    xid: str
    id: int
    since: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What a follower reads of an audit record. `is_new`: committed after the handler was seen."""

    id: int
    xid: str
    cause: str
    cause_id: str
    tenant: str
    step: int
    action: str
    source: str
    subject: str
    feature: str
    at: datetime
    is_new: bool


@dataclass(frozen=True, slots=True)
class Original:
    """What is kept of an event that handlers listen to, without its body."""

    tracking_id: UUID
    event_type: str
    livemode: bool
    occurred_at: datetime | None
    subject: str
    trace_context: str


@dataclass(frozen=True, slots=True)
class BroughtEvent:
    """An event of the source `sluice-handlers`, ready to be stored."""

    tracking_id: UUID
    event_id: str
    livemode: bool
    occurred_at: datetime | None
    subject: str
    lane: int
    body: bytes
    body_sha: bytes
    trace_context: str


# The cursor of one that begins to listen is where everything older is finished; what has committed
# between there and now is known by `since`.
NOTE_HANDLER = """
INSERT INTO handlers AS h (name, command, listens_to, xid, id, since)
SELECT $1, $2, $3::text[], CASE WHEN $4 THEN pg_snapshot_xmin(s) END, CASE WHEN $4 THEN 0 END,
       CASE WHEN $4 THEN s END
FROM pg_current_snapshot() AS s
ON CONFLICT (name) DO UPDATE
SET command = excluded.command, listens_to = excluded.listens_to, seen_at = now(),
    xid = coalesce(h.xid, excluded.xid), id = coalesce(h.id, excluded.id),
    since = coalesce(h.since, excluded.since)
"""


async def note_handler(conn: Conn, name: str, command: str, listens_to: Sequence[str]) -> None:
    """Say that this process has a handler; what it listens to, it follows from now on."""
    await conn.execute(NOTE_HANDLER, name, command, list(listens_to), bool(listens_to))


IS_HAD = """
SELECT EXISTS (
    SELECT FROM handlers
    WHERE (name = $1 OR command = $2) AND seen_at > now() - make_interval(secs => $3)
)
"""


async def is_had(conn: Conn, name: str, command: str, within_s: float) -> bool:
    """Whether some worker has said lately that it has the handler of that name or command."""
    found: bool = await conn.fetchval(IS_HAD, name, command, within_s)
    return found


BEHIND = """
SELECT h.name FROM handlers h
WHERE h.name = ANY($1::text[]) AND EXISTS (
    SELECT FROM audit a
    WHERE (a.xid, a.id) > (h.xid, h.id) AND a.xid < pg_snapshot_xmin(pg_current_snapshot()))
"""


async def handlers_behind(conn: Conn, names: Sequence[str]) -> list[str]:
    """Those of these handlers that have records to follow."""
    return [row["name"] for row in await conn.fetch(BEHIND, list(names))]


HOLD = """
SELECT xid::text AS xid, id, since::text AS since
FROM handlers WHERE name = $1 AND xid IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED
"""


async def hold(conn: Conn, name: str) -> Cursor | None:
    """Take a handler's cursor for this transaction; None where somebody else follows."""
    row = await conn.fetchrow(HOLD, name)
    return Cursor(*row.values()) if row is not None else None


# The bitmap that the planner likes for short trails would be sorted whole, for each piece of it.
IN_INDEX_ORDER = "SELECT set_config('enable_bitmapscan', 'off', true)"
# A statement of its own: the snapshot of the one that took the cursor may be older than the last
# holder's commit.
READ_RECORDS = """
SELECT a.id, a.xid::text AS xid, a.cause, a.cause_id, a.tenant, a.step, a.action, a.source,
       a.subject, a.feature, a.at,
       NOT pg_visible_in_snapshot(a.xid, $3::text::pg_snapshot) AS is_new
FROM audit a
WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
  AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY a.xid, a.id
LIMIT $4
"""


async def read_records(conn: Conn, cursor: Cursor, limit: int) -> list[AuditRecord]:
    """The next records after the cursor, in the order of (xid, id); in a transaction."""
    await conn.execute(IN_INDEX_ORDER)
    rows = await conn.fetch(READ_RECORDS, cursor.xid, cursor.id, cursor.since, limit)
    return [AuditRecord(*row.values()) for row in rows]


READ_ORIGINALS = """
SELECT i.tracking_id, i.event_type, i.livemode, i.occurred_at, i.subject, i.trace_context
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
CROSS JOIN LATERAL (
    SELECT tracking_id, event_type, livemode, occurred_at, subject, trace_context
    FROM inbox WHERE received_at = asked.received_at AND tracking_id = asked.tracking_id OFFSET 0
) i
"""


async def read_originals(conn: Conn, tracking_ids: Sequence[UUID]) -> dict[UUID, Original]:
    """By tracking id; an event whose evidence is gone is missing."""
    received_at = [received_at_of(one) for one in tracking_ids]
    rows = await conn.fetch(READ_ORIGINALS, received_at, list(tracking_ids))
    return {row["tracking_id"]: Original(*row.values()) for row in rows}


# The ledger's key makes each (handler, event) and each (handler, record) unique for good: an event
# that an operator has applied again was brought the first time.
INSERT_BROUGHT = """
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::uuid[], $3::timestamptz[], $4::text[], $5::boolean[], $6::timestamptz[], $7::text[],
        $8::integer[], $9::bytea[], $10::bytea[], $11::text[]
    ) WITH ORDINALITY AS t (
        tracking_id, received_at, event_id, livemode, occurred_at, subject, lane, body, body_sha,
        trace_context, position
    )
), fresh AS (
    INSERT INTO ledger (source_id, account, livemode, event_id, tracking_id, body_sha, received_at)
    SELECT $1, '', livemode, event_id, tracking_id, body_sha, received_at
    FROM batch ORDER BY livemode, event_id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING tracking_id
), kept AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                       occurred_at, subject, lane, secret, headers, body, trace_context)
    SELECT received_at, tracking_id, $1, '', livemode, event_id, $12, occurred_at, subject, lane,
           'handler', '[]'::bytea, body, trace_context
    FROM batch JOIN fresh USING (tracking_id)
)
INSERT INTO work (tracking_id, received_at, lane, actor)
SELECT tracking_id, received_at, lane, 'system:handlers'
FROM batch JOIN fresh USING (tracking_id)
ORDER BY position
"""


async def insert_brought(
    conn: Conn, source_id: int, event_type: str, events: Sequence[BroughtEvent]
) -> None:
    """Store what is brought to one handler as events, in this order; what it has, it keeps."""
    await conn.execute(
        INSERT_BROUGHT,
        source_id,
        [one.tracking_id for one in events],
        [received_at_of(one.tracking_id) for one in events],
        [one.event_id for one in events],
        [one.livemode for one in events],
        [one.occurred_at for one in events],
        [one.subject for one in events],
        [one.lane for one in events],
        [one.body for one in events],
        [one.body_sha for one in events],
        [one.trace_context for one in events],
        event_type,
    )


ADVANCE = "UPDATE handlers SET xid = $2::text::xid8, id = $3 WHERE name = $1"


async def advance(conn: Conn, name: str, last: AuditRecord) -> None:
    """Move a cursor that the caller holds behind this record."""
    await conn.execute(ADVANCE, name, last.xid, last.id)


LAGS = """
SELECT h.name, coalesce(extract(epoch FROM now() - first.at), 0)::float8 AS lag_s
FROM handlers h
LEFT JOIN LATERAL (
    SELECT a.at FROM audit a WHERE (a.xid, a.id) > (h.xid, h.id) ORDER BY a.xid, a.id LIMIT 1
) first ON true
WHERE h.name = ANY($1::text[])
"""


async def lags_s(conn: Conn, names: Sequence[str]) -> dict[str, float]:
    """By handler: the age in seconds of the first record that it has not followed; 0: none."""
    return {row["name"]: row["lag_s"] for row in await conn.fetch(LAGS, list(names))}


# What a handler is given ----------------------------------------------------------------------

READ_BROUGHT = """
SELECT i.tracking_id, s.name AS source, s.provider, i.event_id, i.event_type, i.subject, i.account,
       i.livemode, i.received_at, i.occurred_at, i.body, i.headers
FROM inbox i JOIN sources s ON s.id = i.source_id
WHERE i.received_at = $1 AND i.tracking_id = $2
"""


async def read_event(conn: Conn, tracking_id: UUID) -> Mapping[str, Any] | None:
    """An event's identity, body and headers (JSON), by column; None where its evidence is gone."""
    row = await conn.fetchrow(READ_BROUGHT, received_at_of(tracking_id), tracking_id)
    return dict(row.items()) if row is not None else None


READ_CHANGE = """
SELECT a.tenant, a.feature, a.action, a.source, a.at, c.before, c.after,
       num_nonnulls(a.before_digest, a.after_digest) > 0
       AND num_nonnulls(c.before, c.after) = 0 AS erased
FROM audit a LEFT JOIN audit_content c ON c.audit_id = a.id
WHERE a.id = $1
"""


@dataclass(frozen=True, slots=True)
class Change:
    """An entitlement that changed; `before` and `after` are JSON, None where there was none."""

    tenant: str
    feature: str
    action: str
    source: str  # '' where no source's event caused it
    at: datetime
    before: bytes | None
    after: bytes | None
    erased: bool


async def read_change(conn: Conn, record: int) -> Change | None:
    """An audit record with its contents."""
    row = await conn.fetchrow(READ_CHANGE, record)
    return Change(*row.values()) if row is not None else None


# The rights that its statements have ----------------------------------------------------------

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"


async def check_constraints(conn: Conn) -> None:
    """Check at once what is deferred to the commit, and from now on what would be."""
    await conn.execute(CHECK_CONSTRAINTS)


# Row by row, what a setting is, is read before it is set.
TAKE_SETTINGS = """
WITH found AS MATERIALIZED (
    SELECT name, value, current_setting(name) AS before
    FROM unnest($1::text[], $2::text[]) AS t (name, value)
)
SELECT name, before, set_config(name, coalesce(value, before), true) FROM found
"""


async def take_settings(conn: Conn, settings: Mapping[str, str | None]) -> dict[str, str]:
    """
    Set these, the role among them, for the rest of this transaction, or until its savepoint is
    rolled back; None leaves one as it is. Returns what they were.
    """
    rows = await conn.fetch(TAKE_SETTINGS, list(settings), list(settings.values()))
    return {row["name"]: row["before"] for row in rows}
