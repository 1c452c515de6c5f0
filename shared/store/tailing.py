"""
What is received and settled, as it happens, and nothing skipped that commits late.

What is received stands in `work` until it is settled, in the order of numbers that may commit out
of turn: the numbers that somebody may still commit are read again. What is settled stands in the
trail, which is read in the order of (xid, id) below the oldest transaction that is still open
(ADR 31). An event that comes and goes between two looks is seen in the trail alone.
"""

from typing import NamedTuple
from uuid import UUID

from shared.db import Conn


class Clock(NamedTuple):
    """
    How far the database is: the largest number that work has had, a transaction's number that is
    larger than all that were given out, and the oldest one that is open.
    """

    last_work: int
    xid: int
    horizon: int


# The snapshot's own upper end is behind the last transaction that has ended: one that is open may
# be above it. A number of our own is above all.
READ_CLOCK = """
SELECT coalesce(pg_sequence_last_value('work_order'), 0) AS last_work,
       pg_current_xact_id()::text::bigint AS xid, pg_snapshot_xmin(s)::text::bigint AS horizon
FROM pg_current_snapshot() AS s
"""


async def read_clock(conn: Conn) -> Clock:
    """How far it is now."""
    row = await conn.fetchrow(READ_CLOCK)
    assert row is not None  # one snapshot, one row
    return Clock(*row.values())


READ_UNFINISHED = """
SELECT id, tracking_id FROM work WHERE id > $1 AND kind = 'event' ORDER BY id LIMIT $2
"""


async def read_unfinished(conn: Conn, after: int, limit: int) -> list[tuple[int, UUID]]:
    """(number, tracking id) of what is unfinished behind that number, in its order."""
    return [tuple(row.values()) for row in await conn.fetch(READ_UNFINISHED, after, limit)]


class Place(NamedTuple):
    """Behind which record of the trail somebody has read."""

    xid: int
    id: int


class Told(NamedTuple):
    """A record of the trail; of a run that was settled where `is_settled`."""

    place: Place
    is_settled: bool
    cause_id: str
    run: int


READ_TOLD = """
SELECT a.xid::text::bigint AS xid, a.id, a.cause = 'event' AND a.step = 0 AS is_settled, a.cause_id,
       a.run
FROM audit AS a
WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
  AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY a.xid, a.id LIMIT $3
"""


async def read_told(conn: Conn, after: Place, limit: int) -> list[Told]:
    """The next records, where nothing can commit any more."""
    rows = await conn.fetch(READ_TOLD, str(after.xid), after.id, limit)
    return [Told(Place(row[0], row[1]), row[2], row[3], row[4]) for row in rows]
