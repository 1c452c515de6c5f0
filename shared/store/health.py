"""What the whole deployment is at, for whoever looks after it. Nothing of anybody's content."""

from typing import Any, NamedTuple

from shared.db import Conn

UNFINISHED = """
SELECT s.name AS source, s.paused_at IS NOT NULL AS is_paused,
       extract(epoch FROM now() - min(oldest.received_at))::float8 AS oldest_s,
       count(oldest.received_at) AS lanes
FROM sources s
JOIN lanes l ON l.source_id = s.id
CROSS JOIN LATERAL (
    SELECT min(found.received_at) AS received_at FROM (
        (SELECT w.received_at FROM work w WHERE w.lane = l.id AND w.due_at IS NULL
         ORDER BY w.id LIMIT 1)
        UNION ALL
        (SELECT min(w.received_at) FROM work w WHERE w.lane = l.id AND w.due_at IS NOT NULL)
    ) found
) oldest
GROUP BY s.id
HAVING s.removed_at IS NULL OR count(oldest.received_at) > 0
ORDER BY s.name
"""
VISITED = "SELECT count(*) FROM visits"
UNFINISHED_JOBS = """
SELECT kind, count(*) FILTER (WHERE state = 'waiting') AS waiting,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'paused') AS paused
FROM jobs WHERE state IN ('waiting', 'running', 'paused') GROUP BY kind ORDER BY kind
"""
# A name is shown to everybody; what its session does is not.
PROCESSES = """
SELECT application_name AS name, count(*) AS connections FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'sluice%'
GROUP BY application_name ORDER BY application_name
"""


class Health(NamedTuple):
    """
    `sources`: {"source", "is_paused", "oldest_s" (None: nothing is unfinished), "lanes" (in how
    many something is)}. `visited`: lanes that somebody is at now. `jobs`: {"kind", "waiting",
    "running", "paused"}. `processes`: {"name", "connections"} of all that have any.
    """

    sources: list[dict[str, Any]]
    visited: int
    jobs: list[dict[str, Any]]
    processes: list[dict[str, Any]]


async def read_health(conn: Conn) -> Health:
    """Look at what is unfinished; four look-ups, whatever the backlog."""
    return Health(
        sources=[dict(row) for row in await conn.fetch(UNFINISHED)],
        visited=await conn.fetchval(VISITED),
        jobs=[dict(row) for row in await conn.fetch(UNFINISHED_JOBS)],
        processes=[dict(row) for row in await conn.fetch(PROCESSES)],
    )
