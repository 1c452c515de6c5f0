"""
What `sluice status` looks at. Every count stops at a bound: what is wrong is told in milliseconds
however much of it there is.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from shared.db import LOOKUPS_ONLY, Conn

#: For the connection: whatever the planner believes of a table that has just grown, indexes are
#: gone along, and no further than to the bound.
SESSION = {**LOOKUPS_ONLY, "enable_bitmapscan": "off"}

#: Unfinished work is gone through up to here, the oldest first.
LOOKED_AT = 100_000
#: Events of a window that are counted one by one; beyond, the sweep's tallies say.
COUNTED = 10_000
#: Of what is parked or not sent; of what died, whose later runs have to be looked up.
LISTED = 2_000
DIED = 500
#: So many of the newest deaths are looked up to find these: what was applied again or ignored since
#: must not hide what is dead still.
DEATHS = 20_000

# Oldest first: whatever lies beyond the bound is younger, but for what is applied again.
READ_WORK = """
WITH by_lane AS MATERIALIZED (
    SELECT lane, count(*) AS rows, min(received_at) AS oldest_at,
           count(*) FILTER (WHERE kind = 'event') AS events,
           count(*) FILTER (WHERE kind = 'event' AND waits) AS retrying
    FROM (SELECT lane, kind, received_at, attempts > 0 OR due_at IS NOT NULL AS waits
          FROM work ORDER BY id LIMIT $1) AS oldest
    GROUP BY lane
), found AS MATERIALIZED (
    SELECT l.source_id, sum(b.rows)::bigint AS rows, sum(b.events)::bigint AS events,
           sum(b.retrying)::bigint AS retrying, min(b.oldest_at) AS oldest_at
    FROM by_lane AS b JOIN lanes AS l ON l.id = b.lane GROUP BY l.source_id
)
SELECT s.name AS source, coalesce(f.rows, 0) AS rows, coalesce(f.events, 0) AS events,
       coalesce(f.retrying, 0) AS retrying,
       extract(epoch FROM now() - f.oldest_at)::float8 AS oldest_s,
       extract(epoch FROM now() - s.paused_at)::float8 AS paused_s, s.paused_by,
       extract(epoch FROM now() - r.last_received_at)::float8 AS heard_s,
       extract(epoch FROM r.longest_gap)::float8 AS longest_gap_s,
       r.silent_at IS NOT NULL AS is_silent
FROM sources AS s
LEFT JOIN found AS f ON f.source_id = s.id
LEFT JOIN rhythms AS r ON r.source_id = s.id
WHERE (s.removed_at IS NULL AND s.provider <> 'sluice') OR f.rows > 0
ORDER BY s.name
"""
# Of the sources that the bound has left out.
READ_YOUNGER = """
SELECT s.name AS source, extract(epoch FROM now() - min(w.received_at))::float8 AS oldest_s
FROM sources AS s
JOIN lanes AS l ON l.source_id = s.id
CROSS JOIN LATERAL (
    SELECT received_at FROM work WHERE lane = l.id AND due_at IS NULL ORDER BY id LIMIT 1
) AS w
GROUP BY s.id
"""
READ_RECEIVED = """
SELECT count(*) AS looked_at, min(received_at) AS back_to, count(*) AS hour,
       count(*) FILTER (WHERE received_at > now() - interval '5 minutes') AS five_minutes,
       count(*) FILTER (WHERE received_at > now() - interval '1 minute') AS minute
FROM (SELECT received_at FROM inbox WHERE received_at > now() - interval '1 hour'
      ORDER BY received_at DESC LIMIT $1) AS newest
"""
# Each run that was settled has one record of step 0, and the trail's end is found by its key.
READ_SETTLED = """
SELECT count(*) AS looked_at, min(at) AS back_to,
       count(*) FILTER (WHERE is_run AND at > now() - interval '1 hour') AS hour,
       count(*) FILTER (WHERE is_run AND at > now() - interval '5 minutes') AS five_minutes,
       count(*) FILTER (WHERE is_run AND at > now() - interval '1 minute') AS minute
FROM (SELECT at, cause = 'event' AND step = 0 AS is_run FROM audit
      ORDER BY id DESC LIMIT $1) AS newest
"""
READ_TALLIES = """
SELECT minutes, count(received) AS received_minutes, sum(received)::bigint AS received,
       count(settled) AS settled_minutes, sum(settled)::bigint AS settled
FROM unnest(ARRAY[1, 5, 60]) AS minutes
JOIN tallies ON minute > (SELECT max(minute) FROM tallies) - make_interval(mins => minutes)
WHERE (SELECT max(minute) FROM tallies) > now() - interval '4 minutes'
GROUP BY minutes
"""
# Dead is what has no later run, settled or not: applied again, ignored, or on its way. Looked up
# one by one, and only until there are enough: a join may go through all of what is unfinished.
READ_DEAD = """
WITH died AS MATERIALIZED (
    SELECT source_id, settled_at
    FROM (SELECT tracking_id, run, source_id, settled_at FROM settlements
          WHERE status = 'dead' AND settled_at > now() - interval '24 hours'
          ORDER BY settled_at DESC LIMIT $2) AS d
    WHERE (SELECT z.run FROM settlements AS z
           WHERE z.tracking_id = d.tracking_id AND z.run > d.run LIMIT 1) IS NULL
      AND (SELECT w.id FROM work AS w
           WHERE w.tracking_id = d.tracking_id AND w.kind = 'event' LIMIT 1) IS NULL
    LIMIT $1
)
SELECT s.name AS source, count(*) AS events, min(d.settled_at) AS first_at,
       (SELECT count(*) FROM died) >= $1 AS more
FROM died AS d JOIN sources AS s ON s.id = d.source_id
GROUP BY s.name ORDER BY events DESC, s.name
"""
READ_PARKED = """
SELECT s.name AS source, p.parked AS needs, count(*) AS objects, min(p.parked_at) AS first_at
FROM (SELECT source_id, parked, parked_at FROM objects WHERE parked IS NOT NULL
      ORDER BY parked_at LIMIT $1) AS p
JOIN sources AS s ON s.id = p.source_id
GROUP BY s.name, p.parked ORDER BY objects DESC, s.name, needs
"""
READ_JOBS = """
SELECT
    (SELECT count(*) FROM (SELECT FROM jobs WHERE state = 'waiting' LIMIT $1) AS a) AS waiting,
    (SELECT count(*) FROM (SELECT FROM jobs WHERE state = 'running' LIMIT $1) AS a) AS running,
    (SELECT count(*) FROM (SELECT finished_at FROM jobs WHERE state = 'failed'
                           ORDER BY id DESC LIMIT $1) AS a
     WHERE finished_at > now() - interval '24 hours') AS failed,
    (SELECT extract(epoch FROM now() - min(due_at))::float8 FROM jobs
     WHERE state IN ('waiting', 'running') AND due_at <= now() AND paused_by IS NULL) AS late_s
"""
READ_OUTBOX = """
SELECT coalesce(u.handler, d.handler) AS handler, coalesce(u.messages, 0) AS unsent,
       coalesce(u.oldest_s, 0) AS oldest_s, coalesce(d.messages, 0) AS dead
FROM (SELECT handler, count(*) AS messages,
             extract(epoch FROM now() - min(entered_at))::float8 AS oldest_s
      FROM (SELECT handler, entered_at FROM outbox ORDER BY message LIMIT $1) AS a
      GROUP BY handler) AS u
FULL JOIN (SELECT handler, count(*) AS messages
           FROM (SELECT handler FROM sendings WHERE outcome = 'dead' LIMIT $1) AS a
           GROUP BY handler) AS d ON d.handler = u.handler
ORDER BY 1
"""
# Of each source 200 at most are kept. Proven: whoever sent it has a secret, and is no stranger.
READ_REFUSED = """
SELECT s.name AS source, count(*) AS requests,
       count(*) FILTER (WHERE r.cause IN ('clock_off', 'wrong_secret', 'body_changed')) AS proven,
       extract(epoch FROM now() - min(r.refused_at))::float8 AS oldest_s,
       extract(epoch FROM now() - max(r.refused_at))::float8 AS newest_s
FROM refusals AS r JOIN sources AS s ON s.id = r.source_id
WHERE r.refused_at > now() - interval '1 hour' AND s.removed_at IS NULL
GROUP BY s.name ORDER BY proven DESC, requests DESC, s.name LIMIT $1
"""
# A process has several connections, of one name and from one address.
READ_PROCESSES = """
SELECT name, address FROM list_sessions() WHERE name LIKE 'sluice%' GROUP BY name, address
ORDER BY name, address
"""
READ_SERVER = """
SELECT current_setting('server_version') AS version,
       pg_database_size(current_database()) AS size_bytes,
       (SELECT sum(numbackends)::int FROM pg_stat_database) AS connections,
       current_setting('max_connections')::int AS max_connections,
       pg_is_in_recovery() AS is_standby,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_names,
       (SELECT min(n) - 1 FROM generate_series(0, 30) AS n
        WHERE to_regclass('public.inbox_' || to_char((now() AT TIME ZONE 'UTC')::date + n,
                                                     'YYYYMMDD')) IS NULL) AS days_ahead
"""
READ_OLDEST = """
SELECT name, pid, transaction_s FROM list_sessions() WHERE transaction_s IS NOT NULL
ORDER BY transaction_s DESC LIMIT 1
"""
READ_STANDBYS = "SELECT name, state, sync_state FROM list_standbys() ORDER BY name"
READ_CONFIGURATION = """
SELECT version, mode, applied_at, actor FROM configuration ORDER BY version DESC LIMIT 1
"""
READ_LOOKED = """
SELECT extract(epoch FROM now() - looked_at)::float8 AS looked_s,
       extract(epoch FROM now() - tried_at)::float8 AS heard_s, now() AS now
FROM listening
"""


class Window(NamedTuple):
    """Events of the last minute, five minutes and hour; None where nobody knows."""

    minute: int | None
    five_minutes: int | None
    hour: int | None


class Looked(NamedTuple):
    """
    All that was found, by the name of its statement; rows as dicts. `is_cut`: there is more work
    than was gone through.
    """

    now: datetime
    sources: list[dict[str, Any]]
    is_cut: bool
    received: Window
    settled: Window
    dead: list[dict[str, Any]]
    parked: list[dict[str, Any]]
    jobs: dict[str, Any]
    outbox: list[dict[str, Any]]
    refused: list[dict[str, Any]]  # samples of the last hour
    processes: list[dict[str, Any]]
    server: dict[str, Any]
    oldest: dict[str, Any] | None
    standbys: list[dict[str, Any]]
    configuration: dict[str, Any]
    looked_s: float | None  # since the sweep last looked for silent sources
    heard_s: float | None  # since any worker's sweep last began to: once a minute one does


async def look(conn: Conn) -> Looked:
    """Look at everything once."""
    looked = await conn.fetchrow(READ_LOOKED)
    assert looked is not None  # migration 0024 writes it
    now = looked["now"]
    sources = [dict(row) for row in await conn.fetch(READ_WORK, LOOKED_AT + 1)]
    is_cut = sum(row["rows"] for row in sources) > LOOKED_AT
    if is_cut:
        younger = {row["source"]: row["oldest_s"] for row in await conn.fetch(READ_YOUNGER)}
        for row in sources:
            row["oldest_s"] = row["oldest_s"] or younger.get(row["source"])
    tallies = {row["minutes"]: row for row in await conn.fetch(READ_TALLIES)}
    received = await conn.fetchrow(READ_RECEIVED, COUNTED)
    settled = await conn.fetchrow(READ_SETTLED, COUNTED)
    jobs = await conn.fetchrow(READ_JOBS, LISTED)
    server = await conn.fetchrow(READ_SERVER)
    oldest = await conn.fetchrow(READ_OLDEST)
    configuration = await conn.fetchrow(READ_CONFIGURATION)
    assert jobs is not None  # of one row each
    assert server is not None
    assert configuration is not None  # migration 0001 writes version 0
    return Looked(
        now=now,
        sources=sources,
        is_cut=is_cut,
        received=_window(received, tallies, "received", now),
        settled=_window(settled, tallies, "settled", now),
        dead=[dict(row) for row in await conn.fetch(READ_DEAD, DIED, DEATHS)],
        parked=[dict(row) for row in await conn.fetch(READ_PARKED, LISTED)],
        jobs=dict(jobs),
        outbox=[dict(row) for row in await conn.fetch(READ_OUTBOX, LISTED)],
        refused=[dict(row) for row in await conn.fetch(READ_REFUSED, LISTED)],
        processes=[dict(row) for row in await conn.fetch(READ_PROCESSES)],
        server=dict(server),
        oldest=None if oldest is None else dict(oldest),
        standbys=[dict(row) for row in await conn.fetch(READ_STANDBYS)],
        configuration=dict(configuration),
        looked_s=looked["looked_s"],
        heard_s=looked["heard_s"],
    )


def _window(counted: Any, tallies: dict[int, Any], what: str, now: datetime) -> Window:
    """What was counted where that goes back far enough; where it does not, what the sweep has."""

    def of(name: str, minutes: int) -> int | None:
        is_all = counted["looked_at"] < COUNTED
        if is_all or counted["back_to"] < now - timedelta(minutes=minutes):
            return int(counted[name])
        tally = tallies.get(minutes)
        if tally is None or tally[f"{what}_minutes"] < minutes:
            return None
        return int(tally[what])

    return Window(of("minute", 1), of("five_minutes", 5), of("hour", 60))
