"""
Issues: events that are dead or failing, grouped by what fails.

Only failures are looked at, whatever was applied beside them. As in lists, an event counts as long
as its evidence is kept.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain.issues import IssueKey
from shared.domain.selection import Selection


@dataclass(frozen=True, slots=True)
class Issue:
    """
    What fails, of how many events and since when. `dead` are those whose latest run is, `retrying`
    have failed and are tried again. `sample` failed last of them, with `error`.
    """

    key: IssueKey
    dead: int
    retrying: int
    first_at: datetime
    last_at: datetime
    sample: UUID
    error: str | None


# A tracking id begins with the millisecond of its receipt, which is its inbox row's. OFFSET 0 keeps
# the planner on the inbox's primary key and the one partition. NOT EXISTS after the join of what
# is dead: a later run, settled or not, says what became of it.
_FAILING = """
WITH failing AS (
    SELECT z.tracking_id, z.run, z.code, z.error, z.settled_at, true AS is_dead
    FROM settlements AS z
    WHERE z.status = 'dead' AND z.outcome <> 'applied'
      AND NOT EXISTS (SELECT FROM settlements AS n
                      WHERE n.tracking_id = z.tracking_id AND n.run > z.run)
      AND NOT EXISTS (SELECT FROM work AS w
                      WHERE w.tracking_id = z.tracking_id AND w.kind = 'event')
    UNION ALL
    SELECT w.tracking_id, w.run, NULL, NULL, NULL, false
    FROM work AS w
    WHERE w.kind = 'event' AND w.attempts > 0
), known AS (
    SELECT f.tracking_id, f.is_dead, s.name AS source, i.event_type,
           CASE WHEN f.code IS NULL OR f.code = 'attempts_exhausted'
                THEN coalesce(a.code, f.code) ELSE f.code END AS code,
           coalesce(f.error, a.error) AS error,
           coalesce(a.first_at, f.settled_at) AS first_at,
           coalesce(f.settled_at, a.last_at) AS last_at
    FROM failing AS f
    CROSS JOIN LATERAL (
        SELECT source_id, event_type FROM inbox
        WHERE tracking_id = f.tracking_id
          AND received_at = to_timestamp(
              ('x' || translate(left(f.tracking_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
        OFFSET 0
    ) AS i
    JOIN sources AS s ON s.id = i.source_id
    LEFT JOIN LATERAL (
        SELECT min(t.failed_at) AS first_at, max(t.failed_at) AS last_at,
               (array_agg(t.code ORDER BY t.number DESC))[1] AS code,
               (array_agg(t.error ORDER BY t.number DESC))[1] AS error
        FROM attempts AS t WHERE t.tracking_id = f.tracking_id AND t.run = f.run
    ) AS a ON true
)
"""
GROUP_FAILURES = (
    _FAILING
    + """
SELECT source, event_type, code, count(*) FILTER (WHERE is_dead) AS dead,
       count(*) FILTER (WHERE NOT is_dead) AS retrying, min(first_at) AS first_at,
       max(last_at) AS last_at, (array_agg(tracking_id ORDER BY last_at DESC))[1] AS sample,
       (array_agg(error ORDER BY last_at DESC))[1] AS error
FROM known
WHERE code IS NOT NULL
GROUP BY source, event_type, code
ORDER BY max(last_at) DESC, source, event_type, code
"""
)


async def list_issues(conn: Conn) -> list[Issue]:
    """All there are, the one that failed last first."""
    rows = [tuple(row.values()) for row in await conn.fetch(GROUP_FAILURES)]
    return [Issue(IssueKey(*row[:3]), *row[3:]) for row in rows]


async def find_issue(conn: Conn, issue_id: str) -> Selection | None:
    """The dead events of an issue; None where nothing fails like that (any more)."""
    for issue in await list_issues(conn):
        if issue.key.id == issue_id:
            return dead_of(issue.key)
    return None


def dead_of(key: IssueKey) -> Selection:
    """The events that are dead for this reason."""
    return Selection(source=key.source, type=key.event_type, status="dead", code=key.code)
