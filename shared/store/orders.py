"""What became of an order: an event of the source `operator`, as the API shows it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of


@dataclass(frozen=True, slots=True)
class KeptOrder:
    """
    An order. `body` is an encoded `Ordered`; `status`, `code` and `settled_at` are its last run's,
    and None while a run is unfinished. `attempts` are the failed ones of that run, `error` the
    last one's.
    """

    tracking_id: UUID
    received_at: datetime
    body: bytes
    status: str | None
    code: str | None
    settled_at: datetime | None
    attempts: int
    error: str | None


READ_ORDER = """
SELECT i.tracking_id, i.received_at, i.body,
       CASE WHEN w.id IS NULL THEN z.status END AS status,
       CASE WHEN w.id IS NULL THEN z.code END AS code,
       CASE WHEN w.id IS NULL THEN z.settled_at END AS settled_at,
       coalesce(w.attempts, 0) AS attempts,
       CASE WHEN w.id IS NULL THEN z.error ELSE a.error END AS error
FROM inbox AS i
LEFT JOIN work AS w ON w.tracking_id = i.tracking_id AND w.kind = 'event'
LEFT JOIN LATERAL (
    SELECT status, code, error, settled_at FROM settlements
    WHERE tracking_id = i.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
LEFT JOIN LATERAL (
    SELECT error FROM attempts
    WHERE tracking_id = i.tracking_id AND run = w.run ORDER BY number DESC LIMIT 1
) AS a ON true
WHERE i.received_at = $1 AND i.tracking_id = $2
  AND i.source_id = (SELECT id FROM sources WHERE name = 'operator')
"""


async def read_order(conn: Conn, tracking_id: UUID) -> KeptOrder | None:
    """The order of that id; None where there is none, or where it went by retention."""
    row = await conn.fetchrow(READ_ORDER, received_at_of(tracking_id), tracking_id)
    return None if row is None else KeptOrder(*row.values())


FIND_ORDER = """
SELECT tracking_id, body_sha FROM ledger
WHERE source_id = (SELECT id FROM sources WHERE name = 'operator')
  AND account = '' AND livemode AND event_id = $1
"""


async def find_order(conn: Conn, event_id: str) -> tuple[UUID, bytes] | None:
    """The tracking id of the order with that id, and the digest of what was asked for."""
    row = await conn.fetchrow(FIND_ORDER, event_id)
    return None if row is None else (row["tracking_id"], row["body_sha"])
