"""
Events that a selection may mean, the newest first: what the narrowest of its conditions finds.

A tracking id begins with the millisecond of its receipt, so that their order is that of receipt, in
every index that holds them.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import received_at_of
from shared.domain.selection import Selection

#: Of a source with fewer events in the ledger than that, all are looked at.
_FEW = 5_000


class Stretch(NamedTuple):
    """Tracking ids from `low` on, below `high`."""

    low: UUID
    high: UUID


class Asked(NamedTuple):
    """
    A selection, and what has to be known to look for it: its source, where that has few events, and
    all the names of its tenant.
    """

    wanted: Selection
    small_source: int | None
    tenants: list[str] | None


async def ask(conn: Conn, wanted: Selection) -> Asked:
    """Find out what has to be known."""
    source = None if wanted.source is None else await _small_source(conn, wanted.source)
    tenants = None if wanted.tenant is None else await _names_of(conn, wanted.tenant)
    return Asked(wanted, source, tenants)


async def find_candidates(  # noqa: C901, PLR0911, PLR0912 - a line for each index
    conn: Conn, asked: Asked, within: Stretch, limit: int
) -> list[UUID]:
    """Up to `limit` events that may be meant, the newest first. Fewer are all there are."""
    wanted = asked.wanted
    if wanted.ids is not None:
        inside = {one for one in wanted.ids if within.low <= one < within.high}
        return sorted(inside, reverse=True)[:limit]
    if wanted.replay is not None:
        return await _of_replay(conn, wanted.replay, within, limit)
    if wanted.event is not None:
        return await _of_event_id(conn, wanted.event, within, limit)
    if wanted.trace is not None:
        return await _of_trace(conn, wanted.trace, within, limit)
    if wanted.conflicts:
        return await _in_conflict(conn, within, limit)
    if wanted.status in ("received", "retrying"):
        return await _unfinished(conn, within, limit)
    if wanted.customer is not None:
        return await _of_customer(conn, wanted.customer, within, limit)
    outcome = wanted.status if wanted.status in ("dead", "ignored") else wanted.outcome
    if outcome == "dead":
        return await _of_outcome(conn, outcome, within, limit)
    if wanted.code is not None:
        return await _of_code(conn, wanted.code, within, limit)
    if asked.tenants is not None:
        return await _of_tenant(conn, asked.tenants, within, limit)
    if wanted.attempts is not None and wanted.attempts > 1:
        return await _tried_again(conn, within, limit)
    if outcome is not None and outcome != "applied":
        return await _of_outcome(conn, outcome, within, limit)
    if asked.small_source is not None:
        return await _of_source(conn, asked.small_source, within, limit)
    return await _in_inbox(conn, wanted, within, limit)


# The ledger's key begins with (source, account, livemode), of which there are few: each of them is
# jumped to, and the id looked up in it.
OF_EVENT_ID = """
WITH RECURSIVE places AS (
    (SELECT source_id, account, livemode FROM ledger ORDER BY source_id, account, livemode LIMIT 1)
    UNION ALL
    SELECT n.source_id, n.account, n.livemode
    FROM places AS p
    CROSS JOIN LATERAL (
        SELECT source_id, account, livemode FROM ledger
        WHERE (source_id, account, livemode) > (p.source_id, p.account, p.livemode)
        ORDER BY source_id, account, livemode LIMIT 1
    ) AS n
)
SELECT l.tracking_id
FROM places AS p
CROSS JOIN LATERAL (
    SELECT tracking_id FROM ledger
    WHERE source_id = p.source_id AND account = p.account AND livemode = p.livemode
      AND event_id = $1
    OFFSET 0
) AS l
WHERE l.tracking_id >= $2 AND l.tracking_id < $3
ORDER BY l.tracking_id DESC LIMIT $4
"""


async def _of_event_id(conn: Conn, event_id: str, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_EVENT_ID, event_id, *within, limit))


OF_TRACE = """
SELECT DISTINCT f.tracking_id FROM events_of_trace($1, $2, $3) AS f (tracking_id)
WHERE f.tracking_id >= $4 AND f.tracking_id < $5
ORDER BY f.tracking_id DESC LIMIT $6
"""


async def _of_trace(conn: Conn, trace: str, within: Stretch, limit: int) -> list[UUID]:
    times = received_at_of(within.low), received_at_of(within.high)
    return _ids(await conn.fetch(OF_TRACE, trace, *times, *within, limit))


OF_REPLAY = """
SELECT tracking_id FROM replay_items
WHERE replay = $1 AND opened_run IS NOT NULL AND tracking_id >= $2 AND tracking_id < $3
ORDER BY tracking_id DESC LIMIT $4
"""


async def _of_replay(conn: Conn, job: UUID, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_REPLAY, job, *within, limit))


IN_CONFLICT = """
SELECT DISTINCT tracking_id FROM conflicts
WHERE tracking_id >= $1 AND tracking_id < $2
ORDER BY tracking_id DESC LIMIT $3
"""


async def _in_conflict(conn: Conn, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(IN_CONFLICT, *within, limit))


UNFINISHED = """
SELECT tracking_id FROM work
WHERE kind = 'event' AND tracking_id >= $1 AND tracking_id < $2
ORDER BY tracking_id DESC LIMIT $3
"""


async def _unfinished(conn: Conn, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(UNFINISHED, *within, limit))


OF_OUTCOME = """
SELECT DISTINCT tracking_id FROM settlements
WHERE outcome = $1 AND outcome <> 'applied' AND tracking_id >= $2 AND tracking_id < $3
ORDER BY tracking_id DESC LIMIT $4
"""


async def _of_outcome(conn: Conn, outcome: str, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_OUTCOME, outcome, *within, limit))


# What is dead because its attempts are used up, and what waits for its next one, may have failed
# with the code.
OF_CODE = """
SELECT DISTINCT tracking_id
FROM (
    (SELECT tracking_id FROM settlements
     WHERE code = $1 AND tracking_id >= $2 AND tracking_id < $3
     ORDER BY tracking_id DESC LIMIT $4)
    UNION ALL
    (SELECT tracking_id FROM settlements AS z
     WHERE code = 'attempts_exhausted' AND tracking_id >= $2 AND tracking_id < $3
       AND EXISTS (SELECT FROM attempts
                   WHERE tracking_id = z.tracking_id AND run = z.run AND code = $1)
     ORDER BY tracking_id DESC LIMIT $4)
    UNION ALL
    (SELECT tracking_id FROM work AS w
     WHERE kind = 'event' AND attempts > 0 AND tracking_id >= $2 AND tracking_id < $3
       AND EXISTS (SELECT FROM attempts
                   WHERE tracking_id = w.tracking_id AND run = w.run AND code = $1)
     ORDER BY tracking_id DESC LIMIT $4)
) AS f
ORDER BY tracking_id DESC LIMIT $4
"""


async def _of_code(conn: Conn, code: str, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_CODE, code, *within, limit))


# All runs of an event whose attempts are more than one have failed, or are several.
TRIED_AGAIN = """
SELECT DISTINCT tracking_id
FROM (
    (SELECT DISTINCT tracking_id FROM attempts
     WHERE tracking_id >= $1 AND tracking_id < $2
     ORDER BY tracking_id DESC LIMIT $3)
    UNION ALL
    (SELECT DISTINCT tracking_id FROM settlements
     WHERE run > 1 AND tracking_id >= $1 AND tracking_id < $2
     ORDER BY tracking_id DESC LIMIT $3)
) AS f
ORDER BY tracking_id DESC LIMIT $3
"""


async def _tried_again(conn: Conn, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(TRIED_AGAIN, *within, limit))


# What failed, or is not finished, has observed nothing, and is told by its subject alone. When it
# was received is known before the inbox is asked: OFFSET 0 keeps the planner on that one partition.
# Each is looked up once, whoever owns how much: MATERIALIZED and IS TRUE keep the planner, which
# knows neither how many failed nor how many are owned, from doing it again for each object.
_ABOUT_OBJECTS = """
, reported AS (
    SELECT b.tracking_id FROM owned AS o
    JOIN observations AS b ON b.object = o.id
), open AS MATERIALIZED (
    SELECT tracking_id, received_at FROM work
    WHERE kind = 'event' AND tracking_id >= $2 AND tracking_id < $3
    UNION ALL
    SELECT tracking_id, to_timestamp(
        ('x' || translate(left(tracking_id::text, 13), '-', ''))::bit(48)::bigint::float8 / 1000)
    FROM settlements
    WHERE outcome = 'dead' AND tracking_id >= $2 AND tracking_id < $3
), stated AS MATERIALIZED (
    SELECT n.tracking_id, i.source_id, i.account, i.livemode, i.subject
    FROM open AS n
    CROSS JOIN LATERAL (
        SELECT source_id, account, livemode, subject FROM inbox
        WHERE received_at = n.received_at AND tracking_id = n.tracking_id OFFSET 0
    ) AS i
    WHERE EXISTS (SELECT FROM owned)
), about AS (
    SELECT tracking_id FROM stated
    WHERE ((source_id, account, livemode, subject) IN (
        SELECT source_id, account, livemode, kind || '/' || object_id FROM owned)) IS TRUE
)
"""
OF_CUSTOMER = (
    """
WITH owned AS MATERIALIZED (
    SELECT id, source_id, account, livemode, kind, object_id FROM objects WHERE customer = $1
)"""  # noqa: S608
    + _ABOUT_OBJECTS
    + """
SELECT DISTINCT tracking_id
FROM (SELECT tracking_id FROM reported UNION ALL SELECT tracking_id FROM about) AS f
WHERE tracking_id >= $2 AND tracking_id < $3
ORDER BY tracking_id DESC LIMIT $4
"""
)


async def _of_customer(conn: Conn, customer: str, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_CUSTOMER, customer, *within, limit))


# What was applied before a merge is in the trail under the name of then.
NAMES_OF_TENANT = """
WITH own AS (SELECT coalesce((SELECT merged_into FROM tenants WHERE tenant = $1), $1) AS tenant)
SELECT tenant FROM own
UNION
SELECT tenant FROM tenants WHERE merged_into = (SELECT tenant FROM own)
"""


async def _names_of(conn: Conn, tenant: str) -> list[str]:
    return [row[0] for row in await conn.fetch(NAMES_OF_TENANT, tenant)]


OF_TENANT = (
    """
WITH owned AS MATERIALIZED (
    SELECT id, source_id, account, livemode, kind, object_id FROM objects
    WHERE tenant = ANY ($1::text[])
)"""  # noqa: S608
    + _ABOUT_OBJECTS
    + """
, told AS MATERIALIZED (
    SELECT cause_id FROM audit WHERE tenant = ANY ($1::text[]) AND cause = 'event'
)
SELECT DISTINCT tracking_id
FROM (
    SELECT cause_id::uuid AS tracking_id FROM told
    UNION ALL
    SELECT tracking_id FROM reported
    UNION ALL
    SELECT tracking_id FROM about
) AS f
WHERE tracking_id >= $2 AND tracking_id < $3
ORDER BY tracking_id DESC LIMIT $4
"""
)


async def _of_tenant(conn: Conn, names: list[str], within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_TENANT, names, *within, limit))


# By its number in a statement of its own: the planner knows how many events that one has.
FIND_SOURCE = "SELECT id FROM sources WHERE name = $1"
COUNT_FEW = """
SELECT count(*) FROM (SELECT FROM ledger WHERE source_id = $1 LIMIT $2) AS l
"""


async def _small_source(conn: Conn, name: str) -> int | None:
    source: int | None = await conn.fetchval(FIND_SOURCE, name)
    if source is None:
        return -1  # there is none, and nothing of it
    return source if await conn.fetchval(COUNT_FEW, source, _FEW) < _FEW else None


OF_SOURCE = """
SELECT tracking_id FROM ledger
WHERE source_id = $1 AND tracking_id >= $2 AND tracking_id < $3
ORDER BY tracking_id DESC LIMIT $4
"""


async def _of_source(conn: Conn, source: int, within: Stretch, limit: int) -> list[UUID]:
    return _ids(await conn.fetch(OF_SOURCE, source, *within, limit))


# From its newest end, and of each day no more than it takes; where the type is rare, by the blocks
# that it may be in.
IN_INBOX = """
SELECT i.tracking_id FROM inbox AS i
WHERE i.tracking_id >= $1 AND i.tracking_id < $2 AND i.received_at >= $3 AND i.received_at <= $4
  AND ($5::text IS NULL OR i.source_id = (SELECT id FROM sources WHERE name = $5))
  AND ($6::text IS NULL OR i.event_type = $6
       OR right($6, 1) = '*' AND starts_with(i.event_type, left($6, -1)))
ORDER BY i.received_at DESC, i.tracking_id DESC LIMIT $7
"""


async def _in_inbox(conn: Conn, wanted: Selection, within: Stretch, limit: int) -> list[UUID]:
    rows = await conn.fetch(
        IN_INBOX,
        *within,
        received_at_of(within.low),
        received_at_of(within.high),
        wanted.source,
        wanted.type,
        limit,
    )
    return _ids(rows)


def _ids(rows: Sequence[Row]) -> list[UUID]:
    return [row[0] for row in rows]
