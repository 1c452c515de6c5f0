"""What a worker must know to judge a redelivery, and what it may do about one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from shared.db import Conn

REOPEN_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One redelivery beside the event it repeats. Bodies only where they differ."""

    delivery_id: int
    tracking_id: UUID
    source_id: int
    original_body: bytes | None
    body: bytes | None
    unfinished: bool
    dead_run: int | None  # the run to open, where the event is dead and may be run again


READ_JUDGEMENTS = """
SELECT d.id, d.tracking_id, i.source_id, d.body,
       CASE WHEN d.body IS NOT NULL THEN i.body END AS original_body,
       EXISTS (SELECT FROM work w WHERE w.tracking_id = d.tracking_id AND w.kind = 'event')
           AS unfinished,
       s.run, s.status, s.run = 1 OR s.settled_at < now() - $3::interval AS may_reopen
FROM unnest($1::bigint[], $2::timestamptz[]) AS asked (delivery_id, event_received_at)
JOIN deliveries d ON d.id = asked.delivery_id
JOIN LATERAL (
    SELECT source_id, body FROM inbox
    WHERE received_at = asked.event_received_at AND tracking_id = d.tracking_id OFFSET 0
) i ON true
LEFT JOIN LATERAL (
    SELECT run, status, settled_at FROM settlements
    WHERE tracking_id = d.tracking_id ORDER BY run DESC LIMIT 1
) s ON true
ORDER BY d.id
"""


async def read_judgements(
    conn: Conn, delivery_ids: Sequence[int], received_at: Sequence[object]
) -> list[Judgement]:
    """What to judge; a delivery whose event's body is gone by retention is left out."""
    rows = await conn.fetch(READ_JUDGEMENTS, list(delivery_ids), list(received_at), REOPEN_EVERY)
    return [
        Judgement(
            delivery_id=row["id"],
            tracking_id=row["tracking_id"],
            source_id=row["source_id"],
            original_body=row["original_body"],
            body=row["body"],
            unfinished=row["unfinished"],
            dead_run=row["run"] + 1 if row["status"] == "dead" and row["may_reopen"] else None,
        )
        for row in rows
    ]


RECORD_CONFLICTS = """
INSERT INTO conflicts (delivery_id, tracking_id)
SELECT * FROM unnest($1::bigint[], $2::uuid[]) ON CONFLICT DO NOTHING
"""


async def record_conflicts(conn: Conn, found: Sequence[Judgement]) -> None:
    """List bodies that came under another body's event id."""
    await conn.execute(
        RECORD_CONFLICTS, [one.delivery_id for one in found], [one.tracking_id for one in found]
    )


# What has killed a process keeps its place apart, whatever the provider sends.
WAKE = """
UPDATE work SET due_at = CASE WHEN alone THEN now() END
WHERE kind = 'event' AND due_at IS NOT NULL AND tracking_id = ANY($1::uuid[])
"""


async def wake(conn: Conn, tracking_ids: Sequence[UUID]) -> None:
    """Make unfinished events due at once."""
    await conn.execute(WAKE, list(tracking_ids))


REOPEN = """
INSERT INTO work (tracking_id, received_at, lane, run)
SELECT i.tracking_id, i.received_at, i.lane, asked.run
FROM unnest($1::uuid[], $2::timestamptz[], $3::int[]) AS asked (tracking_id, received_at, run)
JOIN LATERAL (
    SELECT tracking_id, received_at, lane FROM inbox
    WHERE received_at = asked.received_at AND tracking_id = asked.tracking_id OFFSET 0
) i ON true
ON CONFLICT (tracking_id) WHERE kind = 'event' DO NOTHING
"""


async def reopen(
    conn: Conn, tracking_ids: Sequence[UUID], received_at: Sequence[object], runs: Sequence[int]
) -> None:
    """Open a new run of dead events."""
    await conn.execute(REOPEN, list(tracking_ids), list(received_at), list(runs))
