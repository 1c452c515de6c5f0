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
WITH failing AS MATERIALIZED (
    SELECT z.tracking_id, z.run, z.code, z.error, z.settled_at, true AS is_dead, to_timestamp(
           ('x' || translate(left(z.tracking_id::text, 13), '-', ''))::bit(48)::bigint::float8
           / 1000) AS received_at
    FROM settlements AS z
    WHERE z.outcome = 'dead'
      AND NOT EXISTS (SELECT FROM settlements AS n
                      WHERE n.tracking_id = z.tracking_id AND n.run > z.run)
      AND NOT EXISTS (SELECT FROM work AS w
                      WHERE w.tracking_id = z.tracking_id AND w.kind = 'event')
    UNION ALL
    SELECT w.tracking_id, w.run, NULL, NULL, NULL, false, w.received_at
    FROM work AS w
    WHERE w.kind = 'event' AND w.attempts > 0
), known AS (
    SELECT f.tracking_id, f.received_at, f.is_dead, s.name AS source, i.event_type,
           CASE WHEN f.code IS NULL OR f.code = 'attempts_exhausted'
                THEN coalesce(a.code, f.code) ELSE f.code END AS code,
           coalesce(f.error, a.error) AS error,
           coalesce(a.first_at, f.settled_at) AS first_at,
           coalesce(f.settled_at, a.last_at) AS last_at
    FROM failing AS f
    CROSS JOIN LATERAL (
        SELECT source_id, event_type FROM inbox
        WHERE received_at = f.received_at AND tracking_id = f.tracking_id OFFSET 0
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


# The same texts with other ids in them are told apart: which they are is worth seeing.
ERRORS_OF_ISSUE = (
    _FAILING
    + """
SELECT error, count(*) AS events, max(last_at) AS last_at,
       (array_agg(tracking_id ORDER BY last_at DESC))[1:3] AS samples
FROM known
WHERE source = $1 AND event_type = $2 AND code = $3
GROUP BY error ORDER BY count(*) DESC, max(last_at) DESC LIMIT $4
"""
)


async def read_errors(
    conn: Conn, key: IssueKey, limit: int
) -> list[tuple[str | None, int, datetime, list[UUID]]]:
    """(error text, how many events, last seen, up to three of them), the commonest first."""
    return [tuple(row.values()) for row in await conn.fetch(ERRORS_OF_ISSUE, *key, limit)]


# Whom they concern is known where an earlier run was applied, or where the object is held already.
TENANTS_OF_ISSUE = (
    _FAILING  # noqa: S608
    + """
SELECT o.tenant, count(DISTINCT k.tracking_id) AS events
FROM known AS k
JOIN LATERAL (
    SELECT b.tenant
    FROM inbox AS i
    JOIN objects AS b ON b.object_id = substr(i.subject, strpos(i.subject, '/') + 1)
     AND b.kind = split_part(i.subject, '/', 1) AND b.source_id = i.source_id
     AND b.account = i.account AND b.livemode = i.livemode
    WHERE i.received_at = k.received_at AND i.tracking_id = k.tracking_id
    UNION
    SELECT z.tenant FROM settlements AS z WHERE z.tracking_id = k.tracking_id
) AS o ON o.tenant IS NOT NULL
WHERE k.source = $1 AND k.event_type = $2 AND k.code = $3
GROUP BY o.tenant ORDER BY count(DISTINCT k.tracking_id) DESC, o.tenant LIMIT $4
"""
)


async def read_tenants(conn: Conn, key: IssueKey, limit: int) -> list[tuple[str, int]]:
    """(tenant, how many of the events), as far as it is known; most first."""
    return [tuple(row.values()) for row in await conn.fetch(TENANTS_OF_ISSUE, *key, limit)]
