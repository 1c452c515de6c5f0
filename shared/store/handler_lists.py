"""Handlers of installed packages for people: how far each has followed, and what waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain import events

#: What lies further back is not counted.
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class ListedHandler:
    """
    A handler that some worker has had. `lag_records` were written after what was brought to it,
    the first of them `lag_s` ago; None: it listens to nothing. `is_had`: a worker has said so
    within the last minute.
    """

    name: str
    listens_to: tuple[str, ...]
    first_seen_at: datetime
    seen_at: datetime
    is_had: bool
    lag_records: int | None
    lag_s: float | None


LIST_HANDLERS = """
SELECT h.name, h.listens_to, h.first_seen_at, h.seen_at,
       h.seen_at > now() - interval '60 s' AS is_had,
       CASE WHEN h.xid IS NOT NULL THEN lag.records END AS lag_records,
       CASE WHEN h.xid IS NOT NULL THEN
           greatest(coalesce(extract(epoch FROM now() - lag.since), 0), 0)::float8 END AS lag_s
FROM handlers h
CROSS JOIN LATERAL (
    SELECT count(*) AS records, min(at) AS since FROM (
        SELECT a.at FROM audit a WHERE (a.xid, a.id) > (h.xid, h.id)
        ORDER BY a.xid, a.id LIMIT $1
    ) behind
) lag
ORDER BY h.name
"""


async def list_handlers(conn: Conn) -> list[ListedHandler]:
    """By name; at most `MOST_COUNTED` records are counted for each."""
    rows = await conn.fetch(LIST_HANDLERS, MOST_COUNTED)
    return [ListedHandler(row["name"], tuple(row["listens_to"]), *row[2:]) for row in rows]


COUNT_UNFINISHED = """
SELECT i.event_type, count(*) FILTER (WHERE w.attempts = 0) AS waiting,
       count(*) FILTER (WHERE w.attempts > 0) AS retrying
FROM work w
JOIN lanes l ON l.id = w.lane
JOIN sources s ON s.id = l.source_id AND s.name = 'sluice-handlers'
CROSS JOIN LATERAL (
    SELECT event_type FROM inbox
    WHERE received_at = w.received_at AND tracking_id = w.tracking_id OFFSET 0
) i
GROUP BY i.event_type
"""


async def count_unfinished(conn: Conn) -> dict[str, tuple[int, int]]:
    """By handler: how much of what was brought to it waits, and how much has failed so far."""
    return {
        row["event_type"].removeprefix(events.BROUGHT): (row["waiting"], row["retrying"])
        for row in await conn.fetch(COUNT_UNFINISHED)
    }


READ_DEAD = """
SELECT z.tracking_id
FROM settlements z
JOIN sources s ON s.id = z.source_id AND s.name = 'sluice-handlers'
WHERE z.status = 'dead'
  AND NOT EXISTS (SELECT FROM settlements later
                  WHERE later.tracking_id = z.tracking_id AND later.run > z.run)
  AND NOT EXISTS (SELECT FROM work w WHERE w.tracking_id = z.tracking_id)
LIMIT $1
"""
COUNT_BY_TYPE = """
SELECT i.event_type, count(*) AS events
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
CROSS JOIN LATERAL (
    SELECT event_type FROM inbox
    WHERE received_at = asked.received_at AND tracking_id = asked.tracking_id OFFSET 0
) i
GROUP BY i.event_type
"""


async def count_dead(conn: Conn) -> dict[str, int]:
    """By handler: how many of its events are dead letters, as long as their evidence is kept."""
    found = await conn.fetch(READ_DEAD, MOST_COUNTED)
    dead: Sequence[UUID] = [row["tracking_id"] for row in found]
    rows = await conn.fetch(COUNT_BY_TYPE, [events.received_at_of(one) for one in dead], dead)
    return {row["event_type"].removeprefix(events.BROUGHT): row["events"] for row in rows}
