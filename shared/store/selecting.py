"""
Which events a selection means, newest first.

What narrows it most, if anything has an index, brings candidates in the order of their tracking
ids, piece by piece; of each piece is kept what all of the selection is true of, by look-ups of one
row each. So the inbox, to which receipt writes and which therefore has no other index of rows than
its key, is gone through only where nothing narrower was asked, and then from its newest end.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of
from shared.domain.selection import Selection
from shared.store.candidates import Asked, Stretch, ask, find_candidates

#: Candidates that are looked at at once: the first time, and at most.
_FIRST, _MOST = 500, 5000
_SMALLEST, _LARGEST = UUID(int=0), UUID(int=2**128 - 1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_MILLISECOND = timedelta(milliseconds=1)


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


async def select_events(
    conn: Conn, wanted: Selection, after: tuple[datetime, UUID] | None, limit: int
) -> list[Selected]:
    """Up to `limit` of them, after (older than) the one whose key that is."""
    low = _SMALLEST if wanted.since is None else _first_since(wanted.since)
    high = _LARGEST if wanted.until is None else _first_since(wanted.until)
    if after is not None:
        high = min(high, after[1])
    found: list[Selected] = []
    some = min(max(_FIRST, limit), _MOST)
    asked = await ask(conn, wanted)
    while len(found) < limit and low < high:
        candidates = await find_candidates(conn, asked, Stretch(low, high), some)
        found += await _fitting(conn, asked, candidates, limit - len(found))
        if len(candidates) < some:
            break
        high, some = candidates[-1], min(some * 4, _MOST)
    return found


async def fitting(conn: Conn, wanted: Selection, tracking_ids: Sequence[UUID]) -> list[Selected]:
    """Those of these events that are meant, in their order."""
    low = _SMALLEST if wanted.since is None else _first_since(wanted.since)
    high = _LARGEST if wanted.until is None else _first_since(wanted.until)
    named = tracking_ids if wanted.ids is None else set(wanted.ids).intersection(tracking_ids)
    inside = [one for one in tracking_ids if low <= one < high and one in named]
    return await _fitting(conn, await ask(conn, wanted), inside, len(inside))


def _first_since(moment: datetime) -> UUID:
    """The smallest tracking id of what was received then or later."""
    milliseconds = -((_EPOCH - moment) // _MILLISECOND)  # rounded up
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)


# Look-ups by key for each candidate; OFFSET 0 keeps the planner on the one partition.
FITTING = """
SELECT i.received_at, c.tracking_id, i.source_id, i.lane, z.run, w.id IS NOT NULL AS is_unfinished
FROM unnest($1::timestamptz[], $2::uuid[]) WITH ORDINALITY AS c (received_at, tracking_id, place)
CROSS JOIN LATERAL (
    SELECT received_at, source_id, account, livemode, event_id, event_type, subject, lane,
           trace_context
    FROM inbox WHERE received_at = c.received_at AND tracking_id = c.tracking_id OFFSET 0
) AS i
LEFT JOIN LATERAL (
    SELECT id, run, attempts, due_at FROM work
    WHERE tracking_id = c.tracking_id AND kind = 'event' OFFSET 0
) AS w ON true
LEFT JOIN LATERAL (
    SELECT run, status, outcome, code FROM settlements
    WHERE tracking_id = c.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
LEFT JOIN LATERAL (
    SELECT code FROM attempts
    WHERE tracking_id = c.tracking_id AND run = coalesce(w.run, z.run) AND $7::text IS NOT NULL
    ORDER BY number DESC LIMIT 1
) AS a ON true
WHERE ($3::text IS NULL OR i.source_id = (SELECT id FROM sources WHERE name = $3))
  AND ($4::text IS NULL OR i.event_type = $4
       OR right($4, 1) = '*' AND starts_with(i.event_type, left($4, -1)))
  AND ($5::text IS NULL OR $5 = CASE WHEN w.id IS NULL THEN coalesce(z.status, 'received')
       WHEN w.attempts > 0 OR w.due_at IS NOT NULL THEN 'retrying' ELSE 'received' END)
  AND ($6::text IS NULL OR w.id IS NULL AND z.outcome = $6)
  AND ($7::text IS NULL
       OR CASE WHEN w.id IS NULL
               THEN $7 = z.code OR z.code = 'attempts_exhausted' AND $7 = a.code
               ELSE $7 = a.code END)
  AND ($8::text[] IS NULL
       OR EXISTS (SELECT FROM audit AS e
                  WHERE e.cause = 'event' AND e.cause_id = c.tracking_id::text
                    AND e.tenant = ANY ($8))
       OR EXISTS (SELECT FROM observations AS b JOIN objects AS o ON o.id = b.object
                  WHERE b.tracking_id = c.tracking_id AND o.tenant = ANY ($8))
       OR (w.id IS NOT NULL OR z.outcome = 'dead')
          AND EXISTS (SELECT FROM objects AS o
                      WHERE o.object_id = substr(i.subject, strpos(i.subject, '/') + 1)
                        AND o.kind = split_part(i.subject, '/', 1) AND o.source_id = i.source_id
                        AND o.account = i.account AND o.livemode = i.livemode
                        AND o.tenant = ANY ($8)))
  AND ($9::text IS NULL
       OR EXISTS (SELECT FROM observations AS b JOIN objects AS o ON o.id = b.object
                  WHERE b.tracking_id = c.tracking_id AND o.customer = $9)
       OR (w.id IS NOT NULL OR z.outcome = 'dead')
          AND EXISTS (SELECT FROM objects AS o
                      WHERE o.object_id = substr(i.subject, strpos(i.subject, '/') + 1)
                        AND o.kind = split_part(i.subject, '/', 1) AND o.source_id = i.source_id
                        AND o.account = i.account AND o.livemode = i.livemode
                        AND o.customer = $9))
  AND ($10::text IS NULL OR i.event_id = $10)
  AND ($11::integer IS NULL
       OR $11 <= coalesce(w.attempts, 0) + (SELECT coalesce(sum(t.attempts), 0)
                                            FROM settlements AS t
                                            WHERE t.tracking_id = c.tracking_id))
  AND ($12::text IS NULL OR substring(i.trace_context, 4, 32) = $12
       OR EXISTS (SELECT FROM deliveries AS d
                  WHERE d.tracking_id = c.tracking_id AND substring(d.trace_context, 4, 32) = $12))
  AND (NOT $13 OR EXISTS (SELECT FROM conflicts AS x WHERE x.tracking_id = c.tracking_id))
  AND ($14::uuid IS NULL OR EXISTS (SELECT FROM replay_items AS r
                                    WHERE r.tracking_id = c.tracking_id AND r.replay = $14
                                      AND r.opened_run IS NOT NULL))
ORDER BY c.place
LIMIT $15
"""


async def _fitting(
    conn: Conn, asked: Asked, tracking_ids: Sequence[UUID], limit: int
) -> list[Selected]:
    if not tracking_ids:
        return []
    wanted = asked.wanted
    rows = await conn.fetch(
        FITTING,
        [received_at_of(one) for one in tracking_ids],
        list(tracking_ids),
        wanted.source,
        wanted.type,
        wanted.status,
        wanted.outcome,
        wanted.code,
        asked.tenants,
        wanted.customer,
        wanted.event,
        wanted.attempts,
        wanted.trace,
        wanted.conflicts,
        wanted.replay,
        limit,
    )
    return [Selected(*row.values()) for row in rows]
