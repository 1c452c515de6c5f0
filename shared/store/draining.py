"""What was received up to a moment and is not settled."""

from datetime import datetime
from typing import NamedTuple

from shared.db import Conn

NEWEST_WORK = "SELECT coalesce(max(id), 0) FROM work"


async def newest_work(conn: Conn) -> int:
    """The newest work there is: whatever was acknowledged by now has no larger number."""
    number: int = await conn.fetchval(NEWEST_WORK)
    return number


class Undone(NamedTuple):
    """
    Of one source: `ready` could be applied now, or is being applied; `waiting` waits for its next
    attempt, of which the first is due at `next_at`. `oldest_s` is the age of the oldest of both.
    """

    source: str
    is_paused: bool
    ready: int
    waiting: int
    oldest_s: float
    next_at: datetime | None


# What is due is a little late at most times: it is ready once it is due.
READ_UNDONE = """
SELECT s.name, s.paused_at IS NOT NULL, w.ready, w.waiting,
       extract(epoch FROM now() - w.oldest_at)::float8, w.next_at
FROM sources AS s
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE due_at IS NULL OR due_at <= now()) AS ready,
           count(*) FILTER (WHERE due_at > now()) AS waiting,
           min(received_at) AS oldest_at, min(due_at) FILTER (WHERE due_at > now()) AS next_at
    FROM work WHERE id <= $1 AND lane IN (SELECT id FROM lanes WHERE source_id = s.id)
) AS w
WHERE w.ready + w.waiting > 0 AND ($2::text IS NULL OR s.name = $2)
ORDER BY s.name
"""


async def read_undone(conn: Conn, upto: int, source: str | None) -> list[Undone]:
    """Sources that have work up to that number left; of one source only where it is named."""
    return [Undone(*row.values()) for row in await conn.fetch(READ_UNDONE, upto, source)]
