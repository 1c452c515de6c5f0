"""What waits to be applied: in which lanes, and since when."""

from shared.db import Conn

LANES_WITH_DUE_WORK = """
SELECT l.id FROM lanes l
JOIN sources s ON s.id = l.source_id AND s.paused_at IS NULL
WHERE EXISTS (SELECT FROM work w WHERE w.lane = l.id AND w.due_at IS NULL)
   OR EXISTS (SELECT FROM work w WHERE w.lane = l.id AND w.due_at <= now() AND NOT w.alone)
"""


async def lanes_with_due_work(conn: Conn) -> list[int]:
    """Every lane that has something a worker could apply now; none of a paused source."""
    return [row["id"] for row in await conn.fetch(LANES_WITH_DUE_WORK)]


OLDEST_UNFINISHED = """
SELECT l.source_id, extract(epoch FROM now() - min(oldest.received_at))::float8 AS age_s
FROM lanes l
JOIN sources s ON s.id = l.source_id AND s.paused_at IS NULL
CROSS JOIN LATERAL (
    (SELECT w.received_at FROM work w WHERE w.lane = l.id AND w.due_at IS NULL
     ORDER BY w.id LIMIT 1)
    UNION ALL
    (SELECT min(w.received_at) FROM work w WHERE w.lane = l.id AND w.due_at IS NOT NULL)
) oldest
WHERE oldest.received_at IS NOT NULL
GROUP BY l.source_id
"""


async def oldest_unfinished_s(conn: Conn) -> dict[int, float]:
    """By source: the age of its oldest unfinished event in seconds. Paused ones are left out."""
    return {row["source_id"]: row["age_s"] for row in await conn.fetch(OLDEST_UNFINISHED)}
