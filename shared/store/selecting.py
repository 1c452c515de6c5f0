"""Which events a selection means, newest first."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.selection import Selection


class Selected(NamedTuple):
    """
    An event that is meant. `run` is the latest run that is settled, None where there is none;
    `is_unfinished`: there is one that is not.
    """

    received_at: datetime
    tracking_id: UUID
    source_id: int
    lane: int
    run: int | None
    is_unfinished: bool


# The IN conditions on work, settlements and conflicts say nothing new: they let the scan skip,
# before the joins, what cannot match.
SELECT_EVENTS = """
SELECT i.received_at, i.tracking_id, i.source_id, i.lane, z.run, w.id IS NOT NULL AS is_unfinished
FROM inbox AS i
LEFT JOIN work AS w ON w.tracking_id = i.tracking_id AND w.kind = 'event'
LEFT JOIN LATERAL (
    SELECT run, status, outcome, code FROM settlements
    WHERE tracking_id = i.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
LEFT JOIN LATERAL (
    SELECT code FROM attempts
    WHERE tracking_id = i.tracking_id AND run = w.run ORDER BY number DESC LIMIT 1
) AS a ON true
WHERE ($1::timestamptz IS NULL OR (i.received_at, i.tracking_id) < ($1, $2::uuid))
  AND ($3::text IS NULL OR i.source_id = (SELECT id FROM sources WHERE name = $3))
  AND ($4::text IS NULL OR i.event_type = $4
       OR right($4, 1) = '*' AND starts_with(i.event_type, left($4, -1)))
  AND ($5::text IS NULL OR $5 = CASE WHEN w.id IS NULL THEN coalesce(z.status, 'received')
       WHEN w.attempts > 0 OR w.due_at IS NOT NULL THEN 'retrying' ELSE 'received' END)
  AND ($5::text IS NULL OR $5 <> 'dead'
       OR i.tracking_id IN (SELECT tracking_id FROM settlements WHERE status = 'dead'))
  AND ($5::text IS NULL OR $5 NOT IN ('received', 'retrying')
       OR i.tracking_id IN (SELECT tracking_id FROM work))
  AND ($6::text IS NULL OR w.id IS NULL AND z.outcome = $6)
  AND ($7::text IS NULL OR $7 = CASE WHEN w.id IS NULL THEN z.code ELSE a.code END)
  AND ($8::text IS NULL
       OR i.tracking_id IN (SELECT cause_id::uuid FROM audit WHERE cause = 'event' AND tenant = $8)
       OR (i.source_id, i.subject) IN (SELECT source_id, kind || '/' || object_id FROM objects
                                       WHERE tenant = $8))
  AND ($9::text IS NULL
       OR (i.source_id, i.subject) IN (SELECT source_id, kind || '/' || object_id FROM objects
                                       WHERE customer = $9)
       OR i.tracking_id IN (SELECT b.tracking_id FROM observations AS b
                            JOIN objects AS o ON o.id = b.object WHERE o.customer = $9))
  AND ($10::text IS NULL OR i.event_id = $10)
  AND ($11::integer IS NULL
       OR $11 <= coalesce(w.attempts, 0) + (SELECT coalesce(sum(t.attempts), 0)
                                            FROM settlements AS t
                                            WHERE t.tracking_id = i.tracking_id))
  AND ($12::timestamptz IS NULL OR i.received_at >= $12)
  AND ($13::timestamptz IS NULL OR i.received_at < $13)
  AND ($14::text IS NULL OR split_part(i.trace_context, '-', 2) = $14)
  AND (NOT $15 OR i.tracking_id IN (SELECT tracking_id FROM conflicts))
  AND ($16::uuid[] IS NULL OR i.tracking_id = ANY ($16))
ORDER BY i.received_at DESC, i.tracking_id DESC
LIMIT $17
"""


async def select_events(
    conn: Conn, wanted: Selection, after: tuple[datetime, UUID] | None, limit: int
) -> list[Selected]:
    """Up to `limit` of them, after (older than) the one whose key that is."""
    received_at, tracking_id = after or (None, None)
    rows = await conn.fetch(
        SELECT_EVENTS,
        received_at,
        tracking_id,
        wanted.source,
        wanted.type,
        wanted.status,
        wanted.outcome,
        wanted.code,
        wanted.tenant,
        wanted.customer,
        wanted.event,
        wanted.attempts,
        wanted.since,
        wanted.until,
        wanted.trace,
        wanted.conflicts,
        None if wanted.ids is None else list(wanted.ids),
        limit,
    )
    return [Selected(*row.values()) for row in rows]
