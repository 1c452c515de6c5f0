"""
What became of an event: its receipt, deliveries, runs, failed attempts and what it touched.

Read only. An event is listed as long as its evidence is kept; afterwards only its runs are known.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import Arrival, Identity, Status, received_at_of
from shared.store.paging import Page, iso, page_of


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events to list; None asks nothing."""

    source: str | None = None
    event_type: str | None = None
    status: Status | None = None
    event_id: str | None = None
    with_conflicts: bool = False  # only where another body came under the event's id


@dataclass(frozen=True, slots=True)
class Evidence:
    """One event: `shown` as lists show it, and what only the inbox knows."""

    shown: dict[str, Any]
    source_id: int
    arrival: Arrival
    secret: str
    unreadable: str | None
    trace_context: str
    artifact: bytes | None = None  # the SHA-256 under which the artifact store has the body
    artifact_bytes: int | None = None


_EVENT = """
SELECT i.received_at, i.tracking_id, s.name AS source, i.source_id, i.event_id, i.event_type,
       i.occurred_at, i.account, i.livemode, i.subject, i.secret, i.unreadable, i.trace_context,
       w.id IS NOT NULL AS unfinished, w.attempts AS open_attempts, z.outcome, z.tenant,
       CASE WHEN w.id IS NULL THEN coalesce(z.status, 'received')
            WHEN w.attempts > 0 OR w.due_at IS NOT NULL THEN 'retrying'
            ELSE 'received' END AS status,
       CASE WHEN w.id IS NOT NULL THEN a.error ELSE coalesce(z.error, z.code) END AS error,
       (SELECT coalesce(sum(t.attempts), 0) FROM settlements AS t
        WHERE t.tracking_id = i.tracking_id) AS settled_attempts,
       (SELECT count(*) FROM deliveries AS d WHERE d.tracking_id = i.tracking_id) AS redeliveries
FROM inbox AS i
JOIN sources AS s ON s.id = i.source_id
LEFT JOIN work AS w ON w.tracking_id = i.tracking_id AND w.kind = 'event'
LEFT JOIN LATERAL (
    SELECT status, outcome, code, error, tenant FROM settlements
    WHERE tracking_id = i.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
LEFT JOIN LATERAL (
    SELECT error FROM attempts
    WHERE tracking_id = i.tracking_id AND run = w.run ORDER BY number DESC LIMIT 1
) AS a ON true
"""
# The IN conditions say nothing new: they let the scan skip, before the joins, what cannot match.
LIST_EVENTS = (
    _EVENT  # noqa: S608 - two constants
    + """
WHERE ($1::timestamptz IS NULL OR (i.received_at, i.tracking_id) < ($1, $2::uuid))
  AND ($3::text IS NULL OR i.source_id = (SELECT id FROM sources WHERE name = $3))
  AND ($4::text IS NULL OR i.event_type = $4)
  AND ($5::text IS NULL OR i.event_id = $5)
  AND ($6::text IS NULL OR $6 = CASE WHEN w.id IS NULL THEN coalesce(z.status, 'received')
       WHEN w.attempts > 0 OR w.due_at IS NOT NULL THEN 'retrying' ELSE 'received' END)
  AND ($6::text IS NULL OR $6 <> 'dead'
       OR i.tracking_id IN (SELECT tracking_id FROM settlements WHERE status = 'dead'))
  AND ($6::text IS NULL OR $6 NOT IN ('received', 'retrying')
       OR i.tracking_id IN (SELECT tracking_id FROM work))
  AND (NOT $7 OR i.tracking_id IN (SELECT tracking_id FROM conflicts))
ORDER BY i.received_at DESC, i.tracking_id DESC
LIMIT $8
"""
)


async def list_events(
    conn: Conn, wanted: Filter, after: tuple[datetime, UUID] | None, limit: int
) -> Page:
    """
    Newest first.

    {"trackingId", "source", "eventId", "type", "status", "outcome", "occurredAt", "receivedAt",
    "tenant", "attempts", "deliveries", "error"}: `status`, `outcome` and `error` are the latest
    run's, `attempts` counts failed and successful ones of all runs, `deliveries` the first too.
    """
    received_at, tracking_id = after or (None, None)
    rows = await conn.fetch(
        LIST_EVENTS,
        received_at,
        tracking_id,
        wanted.source,
        wanted.event_type,
        wanted.event_id,
        wanted.status,
        wanted.with_conflicts,
        limit + 1,
    )
    return page_of(
        rows, limit, _shown, lambda row: (iso(row["received_at"]), str(row["tracking_id"]))
    )


READ_EVENT = _EVENT + "WHERE i.received_at = $1 AND i.tracking_id = $2"
READ_BODY = """
SELECT body, headers, artifact, artifact_bytes
FROM inbox WHERE received_at = $1 AND tracking_id = $2
"""


async def read_event(conn: Conn, tracking_id: UUID) -> Evidence | None:
    """The event, or None where its evidence is not (or no longer) kept."""
    received_at = received_at_of(tracking_id)
    row = await conn.fetchrow(READ_EVENT, received_at, tracking_id)
    came = await conn.fetchrow(READ_BODY, received_at, tracking_id)
    if row is None or came is None:
        return None
    identity = Identity(
        row["event_id"],
        row["event_type"],
        row["subject"],
        row["occurred_at"],
        row["account"],
        row["livemode"],
    )
    headers = tuple((name, value) for name, value in json.loads(came["headers"]))
    return Evidence(
        shown=_shown(row),
        source_id=row["source_id"],
        arrival=Arrival(identity, came["body"], headers, received_at),
        secret=row["secret"],
        unreadable=row["unreadable"],
        trace_context=row["trace_context"],
        artifact=came["artifact"],
        artifact_bytes=came["artifact_bytes"],
    )


READ_REDELIVERIES = """
SELECT d.received_at, d.secret, d.trace_context, d.body IS NOT NULL AS differs,
       c.found_at AS conflict_at
FROM deliveries AS d
LEFT JOIN conflicts AS c ON c.delivery_id = d.id
WHERE d.tracking_id = $1
ORDER BY d.id
"""


async def read_redeliveries(conn: Conn, tracking_id: UUID) -> list[dict[str, Any]]:
    """
    The deliveries after the first one, in order.

    `sameBody` is byte for byte; `conflictAt` is set where a worker judged that the difference is
    more than the provider's moving fields.
    """
    return [
        {
            "receivedAt": iso(row["received_at"]),
            "secret": row["secret"],
            "traceContext": row["trace_context"],
            "sameBody": not row["differs"],
            "conflictAt": iso(row["conflict_at"]),
        }
        for row in await conn.fetch(READ_REDELIVERIES, tracking_id)
    ]


READ_RUNS = """
SELECT s.run, s.status, s.outcome, s.code, s.error, s.tenant, s.attempts, s.settled_at,
       NULL::timestamptz AS due_at, a.actor, convert_from(c.reason, 'UTF8') AS reason
FROM settlements AS s
LEFT JOIN audit AS a ON a.cause = 'event' AND a.cause_id = s.tracking_id::text AND a.run = s.run
                    AND a.step = 0 AND a.actor LIKE 'operator:%'
LEFT JOIN audit_content AS c ON c.audit_id = a.id
WHERE s.tracking_id = $1
UNION ALL
SELECT run, CASE WHEN attempts > 0 OR due_at IS NOT NULL THEN 'retrying' ELSE 'received' END,
       NULL, NULL, NULL, NULL, attempts, NULL, due_at, actor, reason
FROM work WHERE tracking_id = $1 AND kind = 'event'
ORDER BY run
"""


async def read_runs(conn: Conn, tracking_id: UUID) -> list[dict[str, Any]]:
    """Every run in order, with who asked for it; an unfinished one is last, with when it is due."""
    return [
        {
            "run": row["run"],
            "status": row["status"],
            "outcome": row["outcome"],
            "code": row["code"],
            "error": row["error"],
            "tenant": row["tenant"],
            "attempts": row["attempts"],
            "settledAt": iso(row["settled_at"]),
            "dueAt": iso(row["due_at"]),
            "actor": row["actor"],
            "reason": row["reason"],
        }
        for row in await conn.fetch(READ_RUNS, tracking_id)
    ]


READ_FAILURES = """
SELECT run, number, failed_at, code, error, worker
FROM attempts WHERE tracking_id = $1 ORDER BY run, number
"""


async def read_failures(conn: Conn, tracking_id: UUID) -> list[dict[str, Any]]:
    """The failed attempts of all runs, in order."""
    return [
        {
            "run": row["run"],
            "number": row["number"],
            "failedAt": iso(row["failed_at"]),
            "code": row["code"],
            "error": row["error"],
            "worker": row["worker"],
        }
        for row in await conn.fetch(READ_FAILURES, tracking_id)
    ]


READ_OBJECTS = """
SELECT b.observation, b.version, b.shape, b.state, o.kind, o.object_id, o.customer, o.tenant,
       o.parked, o.ambiguous
FROM observations AS b
JOIN objects AS o ON o.id = b.object
WHERE b.tracking_id = $1
ORDER BY o.kind, o.object_id, b.observation
"""


async def read_objects(conn: Conn, tracking_id: UUID) -> list[dict[str, Any]]:
    """What the event observed, beside how that object stands now."""
    return [
        {
            "object": f"{row['kind']}/{row['object_id']}",
            "observation": row["observation"],
            "version": row["version"],
            "shape": row["shape"],
            "state": json.loads(row["state"]),
            "customer": row["customer"],
            "tenant": row["tenant"],
            "needs": row["parked"],
            "ambiguous": row["ambiguous"],
        }
        for row in await conn.fetch(READ_OBJECTS, tracking_id)
    ]


def _shown(row: Row) -> dict[str, Any]:
    return {
        "trackingId": str(row["tracking_id"]),
        "source": row["source"],
        "eventId": row["event_id"],
        "type": row["event_type"],
        "status": row["status"],
        "outcome": None if row["unfinished"] else row["outcome"],
        "occurredAt": iso(row["occurred_at"]),
        "receivedAt": iso(row["received_at"]),
        "tenant": row["tenant"],
        "attempts": row["settled_attempts"] + (row["open_attempts"] or 0),
        "deliveries": 1 + row["redeliveries"],
        "error": row["error"],
    }
