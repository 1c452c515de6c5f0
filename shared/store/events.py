"""
What became of an event: its receipt, deliveries, runs, failed attempts and what it touched.

Read only. An event is listed as long as its evidence is kept; afterwards only its runs are known.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import Arrival, Identity, received_at_of
from shared.store.paging import iso


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
       CASE WHEN w.id IS NOT NULL THEN a.code ELSE z.code END AS code, z.settled_at,
       (SELECT coalesce(sum(t.attempts), 0) FROM settlements AS t
        WHERE t.tracking_id = i.tracking_id) AS settled_attempts,
       (SELECT count(*) FROM deliveries AS d WHERE d.tracking_id = i.tracking_id) AS redeliveries
FROM inbox AS i
JOIN sources AS s ON s.id = i.source_id
LEFT JOIN work AS w ON w.tracking_id = i.tracking_id AND w.kind = 'event'
LEFT JOIN LATERAL (
    SELECT status, outcome, code, error, tenant, settled_at FROM settlements
    WHERE tracking_id = i.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
LEFT JOIN LATERAL (
    SELECT code, error FROM attempts
    WHERE tracking_id = i.tracking_id AND run = w.run ORDER BY number DESC LIMIT 1
) AS a ON true
"""
LIST_EVENTS = (
    _EVENT
    + """
JOIN unnest($1::timestamptz[], $2::uuid[]) WITH ORDINALITY AS c (received_at, tracking_id, place)
  ON i.received_at = c.received_at AND i.tracking_id = c.tracking_id
ORDER BY c.place
"""
)


async def list_events(conn: Conn, tracking_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """
    These events in their order, as lists show them; one whose evidence is gone is missing.

    {"trackingId", "source", "eventId", "type", "status", "outcome", "code", "occurredAt",
    "receivedAt", "settledAt", "tenant", "attempts", "deliveries", "error"}: `status`, `outcome`,
    `code` and `error` are the latest run's, `attempts` counts failed and successful ones of all
    runs, `deliveries` the first too.
    """
    received_at = [received_at_of(one) for one in tracking_ids]
    rows = await conn.fetch(LIST_EVENTS, received_at, list(tracking_ids))
    return [_shown(row) for row in rows]


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


READ_REDELIVERED = """
SELECT body, body_sha FROM deliveries WHERE tracking_id = $1 ORDER BY id OFFSET $2 LIMIT 1
"""


async def read_redelivered(
    conn: Conn, tracking_id: UUID, number: int
) -> tuple[bytes | None, bytes] | None:
    """
    The body of a redelivery, the first being number 0, and its SHA-256; None where there is none.

    No body: it was the event's own, to the byte. An empty one with another digest than that of
    nothing lies in the artifact store.
    """
    row = await conn.fetchrow(READ_REDELIVERED, tracking_id, number)
    return None if row is None else (row["body"], row["body_sha"])


READ_RUNS = """
SELECT s.run, s.status, s.outcome, s.code, s.error, s.tenant, s.attempts, s.settled_at,
       NULL::timestamptz AS due_at, a.actor, convert_from(c.reason, 'UTF8') AS reason, r.replay
FROM settlements AS s
LEFT JOIN audit AS a ON a.cause = 'event' AND a.cause_id = s.tracking_id::text AND a.run = s.run
                    AND a.step = 0
                    AND (a.actor LIKE 'operator:%' OR a.actor LIKE 'token:%' AND a.run > 1)
LEFT JOIN audit_content AS c ON c.audit_id = a.id
LEFT JOIN replay_items AS r ON r.tracking_id = s.tracking_id AND r.opened_run = s.run
WHERE s.tracking_id = $1
UNION ALL
SELECT w.run, CASE WHEN w.attempts > 0 OR w.due_at IS NOT NULL THEN 'retrying' ELSE 'received' END,
       NULL, NULL, NULL, NULL, w.attempts, NULL, w.due_at, w.actor, w.reason, r.replay
FROM work AS w
LEFT JOIN replay_items AS r ON r.tracking_id = w.tracking_id AND r.opened_run = w.run
WHERE w.tracking_id = $1 AND w.kind = 'event'
ORDER BY run
"""


async def read_runs(conn: Conn, tracking_id: UUID) -> list[dict[str, Any]]:
    """
    Every run in order, with who asked for it, and `replay`, the job that opened it, where one did;
    an unfinished one is last, with when it is due.
    """
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
            "replay": None if row["replay"] is None else str(row["replay"]),
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
        "code": row["code"],
        "occurredAt": iso(row["occurred_at"]),
        "receivedAt": iso(row["received_at"]),
        "settledAt": None if row["unfinished"] else iso(row["settled_at"]),
        "tenant": row["tenant"],
        "attempts": row["settled_attempts"] + (row["open_attempts"] or 0),
        "deliveries": 1 + row["redeliveries"],
        "error": row["error"],
    }
