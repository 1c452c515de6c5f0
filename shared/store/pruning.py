"""
What is kept for a time besides bodies and jobs: the ledger and the evidence that goes with it,
messages, observations. In pieces, each of which is a transaction.

Every statement says for itself what must not go, whoever runs it. What is held is told by the
inbox: as long as an event's body is there, everything that is known of it stays.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from shared.db import Conn
from shared.domain.register import Observation
from shared.domain.states import ObjectState

_decode_state = msgspec.json.Decoder(ObjectState).decode

MOMENT_BEFORE = "SELECT now() - $1::interval"


async def moment_before(conn: Conn, age: timedelta) -> datetime:
    """So long ago, by the database's clock."""
    moment: datetime = await conn.fetchval(MOMENT_BEFORE, age)
    return moment


READ_PLACE = "SELECT place FROM prunings WHERE class = $1"
SAVE_PLACE = """
INSERT INTO prunings (class, place) VALUES ($1, $2)
ON CONFLICT (class) DO UPDATE SET place = excluded.place, ran_at = now()
"""


async def read_place(conn: Conn, name: str) -> int:
    """How far a class was looked through; 0: from its beginning."""
    return int(await conn.fetchval(READ_PLACE, name) or 0)


async def save_place(conn: Conn, name: str, place: int) -> None:
    """Write it down, in the transaction of what went."""
    await conn.execute(SAVE_PLACE, name, place)


# The ledger and its events ------------------------------------------------------------------------

MOVE_HORIZON = """
UPDATE ledger_horizon SET pruned_before = $1
WHERE pruned_before IS NULL OR pruned_before < $1
"""


async def move_horizon(conn: Conn, before: datetime) -> None:
    """
    Say that the ledger may have forgotten what is older, in a transaction before that of what goes:
    from then on such an event is not applied (`shared.store.ledger`). It never goes back.
    """
    await conn.execute(MOVE_HORIZON, before)


BLOCKS_OF_LEDGER = "SELECT pg_relation_size('ledger') / current_setting('block_size')::bigint"


async def blocks_of_ledger(conn: Conn) -> int:
    """How many blocks there are to be looked through."""
    return int(await conn.fetchval(BLOCKS_OF_LEDGER))


# Block by block: an index on the time would be paid for by every receipt.
FORGET_LEDGER = """
DELETE FROM ledger WHERE ctid = ANY(ARRAY(
    SELECT l.ctid FROM ledger AS l
    WHERE l.ctid >= ('(' || $2::bigint || ',0)')::tid AND l.ctid < ('(' || $3::bigint || ',0)')::tid
      AND l.received_at < least($1, (SELECT pruned_before FROM ledger_horizon))
      AND NOT EXISTS (SELECT FROM work AS w
                      WHERE w.tracking_id = l.tracking_id AND w.kind = 'event')
      AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = l.tracking_id
                      AND j.state IN ('waiting', 'running', 'paused'))
      AND NOT EXISTS (SELECT FROM inbox AS i
                      WHERE i.received_at = l.received_at AND i.tracking_id = l.tracking_id)
))
"""


async def forget_ledger(conn: Conn, before: datetime, block: int, upto: int) -> int:
    """Delete old rows of these blocks; returns how many went."""
    return _count(await conn.execute(FORGET_LEDGER, before, block, upto))


# The key of settlements is in the order of time: the oldest come first, and none is looked for.
OLDEST_EVENTS = """
SELECT s.tracking_id
FROM settlements AS s
WHERE s.tracking_id > $3 AND s.tracking_id < first_id($1)
ORDER BY s.tracking_id LIMIT $2
"""


async def oldest_events(conn: Conn, before: datetime, limit: int, after: UUID) -> list[UUID]:
    """Events that were received before, the oldest first; one comes once for each of its runs."""
    return [row["tracking_id"] for row in await conn.fetch(OLDEST_EVENTS, before, limit, after)]


FORGETTABLE = """
SELECT asked.id FROM (SELECT DISTINCT unnest($1::uuid[]) AS id) AS asked
WHERE NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = asked.id AND w.kind = 'event')
  AND NOT EXISTS (SELECT FROM work AS w JOIN deliveries AS d ON d.id = w.delivery_id
                  WHERE d.tracking_id = asked.id AND w.tracking_id = asked.id)
  AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = asked.id
                  AND j.state IN ('waiting', 'running', 'paused'))
  AND NOT EXISTS (SELECT FROM inbox AS i
                  WHERE i.received_at = received_at_of(asked.id) AND i.tracking_id = asked.id)
  AND NOT EXISTS (SELECT FROM settlements AS s
                  WHERE s.tracking_id = asked.id AND s.settled_at >= $2)
"""


async def forgettable(conn: Conn, ids: Sequence[UUID], before: datetime) -> list[UUID]:
    """Those of them that are finished since before, and whose bodies are gone."""
    return [row["id"] for row in await conn.fetch(FORGETTABLE, list(ids), before)]


FORGET_CONFLICTS = "DELETE FROM conflicts WHERE tracking_id = ANY($1::uuid[])"
FORGET_DELIVERIES = "DELETE FROM deliveries WHERE tracking_id = ANY($1::uuid[])"
FORGET_ATTEMPTS = "DELETE FROM attempts WHERE tracking_id = ANY($1::uuid[])"
FORGET_MISSED = "DELETE FROM missed_events WHERE tracking_id = ANY($1::uuid[])"
FORGET_SETTLEMENTS = "DELETE FROM settlements WHERE tracking_id = ANY($1::uuid[])"


async def forget_events(conn: Conn, ids: Sequence[UUID]) -> int:
    """Delete what is known of these events besides the trail; returns how many rows went."""
    gone = _count(await conn.execute(FORGET_CONFLICTS, list(ids)))
    gone += _count(await conn.execute(FORGET_DELIVERIES, list(ids)))
    gone += _count(await conn.execute(FORGET_ATTEMPTS, list(ids)))
    gone += _count(await conn.execute(FORGET_MISSED, list(ids)))
    return gone + _count(await conn.execute(FORGET_SETTLEMENTS, list(ids)))


COUNT_OLDER = """
SELECT count(*) FROM ledger AS l
WHERE l.received_at < $1
  AND NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = l.tracking_id AND w.kind = 'event')
  AND NOT EXISTS (SELECT FROM inbox AS i
                  WHERE i.received_at = l.received_at AND i.tracking_id = l.tracking_id)
"""


async def count_events(conn: Conn, before: datetime) -> int:
    """Rows of the ledger that are older and may go. Reads all of it."""
    return int(await conn.fetchval(COUNT_OLDER, before))


# Observations -------------------------------------------------------------------------------------

# Of an object that was settled before the horizon by a newer observation than these.
OLD_OBSERVATIONS = """
SELECT o.id, o.kind, s.provider, b.observation, b.version, b.shape, b.before, b.after, b.state,
       b.ceiling, b.number, b.floor, b.version < bound.version
           AND b.tracking_id < first_id($1) AS is_old
FROM (SELECT id, kind, source_id FROM objects WHERE id > $2 ORDER BY id LIMIT $3) AS o
JOIN sources AS s ON s.id = o.source_id
CROSS JOIN LATERAL (
    SELECT max(n.version) AS version FROM observations AS n
    WHERE n.object = o.id AND n.tracking_id < first_id($1) AND n.shape <> 'hint'
      AND EXISTS (SELECT FROM settlements AS z
                  WHERE z.tracking_id = n.tracking_id AND z.status = 'processed'
                 UNION ALL
                 SELECT FROM ledger_horizon AS h WHERE h.pruned_before >= $1)
) AS bound
JOIN observations AS b ON b.object = o.id
WHERE bound.version IS NOT NULL
"""
LAST_OBJECT = """
SELECT max(id) FROM (SELECT id FROM objects WHERE id > $1 ORDER BY id LIMIT $2) AS next
"""


class Seen(msgspec.Struct):
    """An object's observations: those that may go, and those that stay."""

    provider: str
    kind: str
    old: list[Observation] = []
    rest: list[Observation] = []


async def old_observations(
    conn: Conn, before: datetime, after: int, limit: int
) -> tuple[dict[int, Seen], int | None]:
    """Of the next objects those with old observations, and the last one's id; None: no more."""
    last = await conn.fetchval(LAST_OBJECT, after, limit)
    found: dict[int, Seen] = {}
    for row in await conn.fetch(OLD_OBSERVATIONS, before, after, limit):
        (number, kind, provider, name, version, shape, was, state_is, state, ceiling, ordinal,
         floor, is_old) = row.values()  # fmt: skip
        seen = found.setdefault(number, Seen(provider, kind))
        one = Observation(
            name, version, shape, was, state_is, _decode_state(state), ceiling, ordinal, floor
        )
        (seen.old if is_old else seen.rest).append(one)
    return {number: seen for number, seen in found.items() if seen.old}, last


COUNT_OBSERVATIONS = """
SELECT count(*) FROM observations AS b
WHERE b.tracking_id < first_id($1) AND EXISTS (
    SELECT FROM observations AS n WHERE n.object = b.object AND n.version > b.version
      AND n.tracking_id < first_id($1) AND n.shape <> 'hint')
"""


async def count_observations(conn: Conn, before: datetime) -> int:
    """Old ones below another old one; whether the fold needs them is found when they are pruned."""
    return int(await conn.fetchval(COUNT_OBSERVATIONS, before))


FORGET_OBSERVATIONS = """
DELETE FROM observations AS b
USING unnest($1::bigint[], $2::text[]) AS gone (object, observation)
WHERE b.object = gone.object AND b.observation = gone.observation
"""


async def forget_observations(conn: Conn, gone: Sequence[tuple[int, str]]) -> int:
    """Delete these observations, each by its object and name."""
    objects, names = [one[0] for one in gone], [one[1] for one in gone]
    return _count(await conn.execute(FORGET_OBSERVATIONS, objects, names))


# Messages -----------------------------------------------------------------------------------------

# What is dead waits for an operator, who sends it again or drops it.
COUNT_MESSAGES = """
SELECT count(*) FROM (
    SELECT e.message FROM sendings AS e
    JOIN messages AS m ON m.id = e.message
    WHERE e.outcome IN ('sent', 'dropped') AND e.ended_at < $1 AND m.created_at < $1
      AND NOT EXISTS (SELECT FROM inbox AS i WHERE i.received_at = received_at_of(m.tracking_id)
                      AND i.tracking_id = m.tracking_id)
) AS sent
"""
FORGET_MESSAGES = """
WITH gone AS MATERIALIZED (
    SELECT e.message FROM sendings AS e
    JOIN messages AS m ON m.id = e.message
    WHERE e.outcome IN ('sent', 'dropped') AND e.ended_at < $1 AND m.created_at < $1
      AND NOT EXISTS (SELECT FROM inbox AS i WHERE i.received_at = received_at_of(m.tracking_id)
                      AND i.tracking_id = m.tracking_id)
    ORDER BY e.message LIMIT $2
), sent AS (
    DELETE FROM sendings WHERE message IN (SELECT message FROM gone)
)
DELETE FROM messages WHERE id IN (SELECT message FROM gone)
"""


async def count_messages(conn: Conn, before: datetime) -> int:
    """Messages that were sent or dropped before, and may go."""
    return int(await conn.fetchval(COUNT_MESSAGES, before))


async def forget_messages(conn: Conn, before: datetime, limit: int) -> int:
    """Delete them; returns how many went."""
    return _count(await conn.execute(FORGET_MESSAGES, before, limit))


# Artifacts ----------------------------------------------------------------------------------------

# By an asset or a part of one, by what an unfinished job has written so far, by an inbox row. The
# inbox has no index on it, and may be large: of events with an artifact there is a job as long as
# the body is there, or they are not applied yet, or could not be.
NAMED = """
SELECT a.sha256 AS digest FROM job_assets AS a WHERE a.sha256 = ANY($1::bytea[])
UNION SELECT p.part FROM job_assets AS a CROSS JOIN unnest(a.parts) AS p (part)
      WHERE p.part = ANY($1::bytea[])
UNION SELECT d.digest FROM unnest($1::bytea[]) AS d (digest) JOIN jobs AS j
      ON j.state IN ('waiting', 'running', 'paused') AND j.id IS DISTINCT FROM $2
     AND strpos(j.cursor::text, encode(d.digest, 'hex')) > 0
UNION SELECT i.artifact FROM (
          SELECT j.id FROM jobs AS j WHERE j.kind = 'import'
          UNION SELECT w.tracking_id FROM work AS w
          UNION SELECT s.tracking_id FROM settlements AS s WHERE s.status = 'dead'
      ) AS e
      CROSS JOIN LATERAL (
          SELECT n.artifact FROM inbox AS n
          WHERE n.received_at = received_at_of(e.id) AND n.tracking_id = e.id OFFSET 0
      ) AS i
      WHERE i.artifact = ANY($1::bytea[])
"""


async def named_artifacts(
    conn: Conn, digests: Sequence[bytes], but: UUID | None = None
) -> set[bytes]:
    """Those of them that some row names, other than that of the job `but`."""
    rows = await conn.fetch(NAMED, list(digests), but, timeout=60)
    return {row["digest"] for row in rows}


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
