"""
How often sources are heard: the longest gap each ever left, learned from the inbox behind receipt.

One worker at a time reads on where the last one stopped. Receipt has no part in it.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from shared.db import Conn

#: A source is called silent only after so long: what a provider, a network or a deployment takes to
#: come back is nobody's silence.
SILENT_AFTER_S = 3600.0
#: And only once it was known for a week, nights and a weekend among it …
KNOWN_FOR_S = 7 * 86400.0
#: … in which it was heard in so many minutes of the clock: however many events come at once, as
#: from an import or somebody's test, they are one.
KNOWN_MINUTES = 10
#: Not looked for so long, Sluice was away itself: nothing is learned from that time.
AWAY_AFTER_S = 300.0
#: Receipt commits within a second; clocks of gateways differ by no more than a minute.
_SETTLES_S = 5.0
_CLOCKS_S = 60.0


# `tried_at` keeps the other workers away for a while, the row's lock from reading beside us.
TAKE_TURN = """
WITH free AS (
    SELECT singleton FROM listening
    WHERE tried_at IS NULL OR tried_at <= now() - make_interval(secs => $1)
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE listening AS l
SET tried_at = now(),
    since = CASE WHEN l.looked_at < now() - make_interval(secs => $2) THEN now() ELSE l.since END
FROM free WHERE free.singleton = l.singleton
RETURNING l.singleton
"""


async def take_turn(conn: Conn, every_s: float) -> bool:
    """Whether nobody has begun to listen for `every_s`: then it is the caller's turn."""
    return await conn.fetchval(TAKE_TURN, every_s, AWAY_AFTER_S) is not None


# Heard is what one of the source's secrets has proven: what Sluice itself fetches or brings in is
# no sign of its source. A late row is found by going back a little: what was heard already counts
# once, for it is not after its source's last. A source that was declared again begins anew.
LISTEN = """
WITH place AS MATERIALIZED (
    SELECT CASE WHEN $2 THEN read_at - make_interval(secs => $3) ELSE read_at END AS read_at,
           CASE WHEN NOT $2 THEN read_id END AS read_id, read_at AS reached_at, since
    FROM listening
), came AS MATERIALIZED (
    SELECT i.received_at, i.tracking_id, i.source_id, i.secret
    FROM inbox AS i
    WHERE i.received_at >= (SELECT read_at FROM place)
      AND (i.received_at > (SELECT read_at FROM place)
           OR (i.tracking_id > (SELECT read_id FROM place)) IS NOT FALSE)
      AND i.received_at <= now() - make_interval(secs => $4)
    ORDER BY i.received_at, i.tracking_id LIMIT $1
), heard AS (
    SELECT c.source_id, c.received_at, r.last_received_at,
           greatest(lag(c.received_at) OVER (PARTITION BY c.source_id ORDER BY c.received_at),
                    r.last_received_at) AS before_at
    FROM came AS c
    JOIN sources AS s ON s.id = c.source_id AND s.provider <> 'sluice' AND s.removed_at IS NULL
    LEFT JOIN rhythms AS r ON r.source_id = c.source_id
    WHERE c.secret ~ '^[0-9]'
      AND c.received_at > coalesce(r.last_received_at, (SELECT reached_at FROM place))
), learned AS (
    INSERT INTO rhythms AS r (source_id, first_received_at, last_received_at, longest_gap, minutes)
    SELECT h.source_id, min(h.received_at), max(h.received_at),
           coalesce(max(h.received_at - greatest(
               h.before_at, CASE WHEN p.since < h.received_at THEN p.since END
           )) FILTER (WHERE h.before_at IS NOT NULL), '0'),
           count(DISTINCT date_trunc('minute', h.received_at))
               FILTER (WHERE date_trunc('minute', h.received_at)
                             IS DISTINCT FROM date_trunc('minute', h.last_received_at))
    FROM heard AS h CROSS JOIN place AS p
    GROUP BY h.source_id
    ON CONFLICT (source_id) DO UPDATE
    SET last_received_at = excluded.last_received_at,
        longest_gap = greatest(r.longest_gap, excluded.longest_gap),
        minutes = r.minutes + excluded.minutes, silent_at = NULL
), last AS (
    SELECT received_at, tracking_id FROM came ORDER BY received_at DESC, tracking_id DESC LIMIT 1
)
UPDATE listening AS l
SET tried_at = now(),
    read_at = greatest(l.read_at, (SELECT received_at FROM last)),
    read_id = CASE WHEN (SELECT received_at FROM last) >= l.read_at
                   THEN (SELECT tracking_id FROM last) ELSE l.read_id END
RETURNING (SELECT count(*) FROM came)
"""


# In a statement of its own, or who waited here would go on from the new place with old rhythms.
LOCK_PLACE = "SELECT FROM listening FOR NO KEY UPDATE"


async def listen(conn: Conn, limit: int, *, again: bool) -> int:
    """
    Learn from up to `limit` events, in the order of their receipt, where the last time ended;
    `again`: and from those of the minute before, for rows that came late. Returns how many there
    were; fewer than `limit`: there are no more.
    """
    await conn.execute(LOCK_PLACE)
    count: int = await conn.fetchval(LISTEN, limit, again, _CLOCKS_S, _SETTLES_S)
    return count


class Silent(NamedTuple):
    """A source that has fallen silent: when it was heard last, and its longest gap before."""

    source: str
    last_received_at: datetime
    longest_gap: timedelta


FORGET_REMOVED = """
DELETE FROM rhythms AS r USING sources AS s WHERE s.id = r.source_id AND s.removed_at IS NOT NULL
"""
NOTE_LOOKED = "UPDATE listening SET looked_at = now() RETURNING since"
NOTE_SILENT = """
UPDATE rhythms AS r SET silent_at = now()
FROM sources AS s
WHERE s.id = r.source_id AND r.silent_at IS NULL AND r.minutes >= $2
  AND r.last_received_at - r.first_received_at >= make_interval(secs => $3)
  AND now() - greatest(r.last_received_at, $1)
      > greatest(r.longest_gap, make_interval(secs => $4))
RETURNING s.name, r.last_received_at, r.longest_gap
"""


async def note_silent(conn: Conn) -> list[Silent]:
    """
    Say which sources have now been silent for longer than ever; they are returned this once. For
    whoever has read all there was; a source that was removed is forgotten.
    """
    await conn.execute(FORGET_REMOVED)
    since = await conn.fetchval(NOTE_LOOKED)
    rows = await conn.fetch(NOTE_SILENT, since, KNOWN_MINUTES, KNOWN_FOR_S, SILENT_AFTER_S)
    return [Silent(*row.values()) for row in rows]


SILENT_SOURCES = """
SELECT s.name, extract(epoch FROM now() - r.last_received_at)::float8 AS age_s
FROM rhythms AS r JOIN sources AS s ON s.id = r.source_id
WHERE r.silent_at IS NOT NULL AND s.removed_at IS NULL
"""


async def silent_s(conn: Conn) -> dict[str, float]:
    """By name, for how many seconds each silent source has been."""
    return {row["name"]: row["age_s"] for row in await conn.fetch(SILENT_SOURCES)}


class Rhythm(NamedTuple):
    """How a source was heard so far. `silent_at` is None unless it is silent."""

    first_received_at: datetime
    last_received_at: datetime
    longest_gap: timedelta
    minutes: int
    silent_at: datetime | None


READ_RHYTHMS = """
SELECT s.name, r.first_received_at, r.last_received_at, r.longest_gap, r.minutes, r.silent_at
FROM rhythms AS r JOIN sources AS s ON s.id = r.source_id
"""


async def read_rhythms(conn: Conn) -> dict[str, Rhythm]:
    """By source; those that were never heard have none."""
    rows = await conn.fetch(READ_RHYTHMS)
    return {row["name"]: Rhythm(*list(row.values())[1:]) for row in rows}


# A minute is counted again in the next one: what was received or begun in it may commit later. Each
# run that was settled has one record of step 0; what came before the minute lies before the end of
# the trail as it was then.
TALLY = """
WITH span AS (
    SELECT date_trunc('minute', now()) - interval '2 minutes' AS first_at,
           (SELECT coalesce(max(id), 0) FROM audit) AS audit_id
), place AS MATERIALIZED (
    SELECT t.audit_id FROM tallies AS t
    WHERE t.tallied_at <= (SELECT first_at FROM span) ORDER BY t.minute DESC LIMIT 1
), settled AS MATERIALIZED (
    SELECT date_trunc('minute', at) AS minute, count(*) AS runs FROM audit
    WHERE id > (SELECT audit_id FROM place) AND cause = 'event' AND step = 0
    GROUP BY 1
)
INSERT INTO tallies (minute, audit_id, received, settled)
SELECT m, s.audit_id,
       (SELECT count(*) FROM inbox
        WHERE received_at >= m AND received_at < m + interval '1 minute'),
       CASE WHEN EXISTS (SELECT FROM place)
            THEN coalesce((SELECT runs FROM settled WHERE minute = m), 0) END
FROM span AS s, generate_series(s.first_at, s.first_at + interval '1 minute', '1 minute') AS m
ON CONFLICT (minute) DO UPDATE
SET received = excluded.received, settled = coalesce(excluded.settled, tallies.settled)
"""
FORGET_TALLIES = "DELETE FROM tallies WHERE minute < now() - interval '2 hours'"


async def tally(conn: Conn) -> None:
    """Count the last two minutes that are over; forget those of long ago."""
    await conn.execute(TALLY)
    await conn.execute(FORGET_TALLIES)
