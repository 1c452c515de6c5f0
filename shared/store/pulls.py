"""
Pulls: how far each source is with asking for its list of events, and for its lists of objects.

A row is claimed under its source's budget, which is locked first, and for a while: whoever dies
with a claim loses it when it runs out. `claim` fences the row: who lost it moves nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from shared.db import Conn

What = Literal["events", "objects"]


@dataclass(frozen=True, slots=True)
class Pull:
    """
    One source's pull as far as it is. `place` is None between two; `reached_at` up to when the
    events were looked at, `now` the database's clock.
    """

    place: Mapping[str, Any] | None
    reached_at: datetime | None
    added_at: datetime
    begun_at: datetime | None
    failures: int
    now: datetime


ADD_PULLS = """
INSERT INTO pulls (source_id, what) SELECT unnest($1::smallint[]), $2 ORDER BY 1
ON CONFLICT (source_id, what) DO NOTHING
"""


async def add_pulls(conn: Conn, source_ids: Sequence[int], what: What) -> None:
    """Make sure that these sources have a row; a new one is due."""
    await conn.execute(ADD_PULLS, list(source_ids), what)


# The first comparison waits for its time: before that, somebody may bring everything in.
DUE_PULLS = """
SELECT source_id FROM pulls
WHERE source_id = ANY($1::smallint[]) AND what = $2 AND due_at <= now()
  AND (claimed_until IS NULL OR claimed_until <= now())
  AND (place IS NOT NULL OR what = 'events' AND finished_at IS NULL
       OR coalesce(begun_at, added_at) <= now() - make_interval(secs => $3))
"""


async def due_pulls(conn: Conn, source_ids: Sequence[int], what: What, every_s: float) -> list[int]:
    """Which of these sources have one to go on with, or to begin."""
    rows = await conn.fetch(DUE_PULLS, list(source_ids), what, every_s)
    return [row["source_id"] for row in rows]


TAKE_PULL = """
SELECT place, reached_at, added_at, begun_at, failures, now() AS now FROM pulls
WHERE source_id = $1 AND what = $2 AND due_at <= now()
  AND (claimed_until IS NULL OR claimed_until <= now())
  AND (place IS NOT NULL OR what = 'events' AND finished_at IS NULL
       OR coalesce(begun_at, added_at) <= now() - make_interval(secs => $3))
FOR NO KEY UPDATE SKIP LOCKED
"""


async def take_pull(conn: Conn, source_id: int, what: What, every_s: float) -> Pull | None:
    """Lock a source's row; None where it is not due any more, or somebody else is at it."""
    row = await conn.fetchrow(TAKE_PULL, source_id, what, every_s)
    if row is None:
        return None
    place, *others = row.values()
    return Pull(None if place is None else json.loads(place), *others)


BEGIN_PULL = """
UPDATE pulls
SET number = number + 1, place = $3, begun_at = now(), looked_at = 0, different = 0, failed = 0
WHERE source_id = $1 AND what = $2
"""


async def begin_pull(conn: Conn, source_id: int, what: What, place: Mapping[str, Any]) -> None:
    """Begin one in a row that the caller has locked."""
    await conn.execute(BEGIN_PULL, source_id, what, json.dumps(place))


CLAIM_PULL = """
UPDATE pulls SET claim = $3, claimed_until = now() + make_interval(secs => $4)
WHERE source_id = $1 AND what = $2
"""


async def claim_pull(conn: Conn, source_id: int, what: What, number: int, for_s: float) -> None:
    """Claim a row that the caller has locked."""
    await conn.execute(CLAIM_PULL, source_id, what, number, for_s)


MOVE_PULL = """
UPDATE pulls
SET place = $4, looked_at = looked_at + $5, different = different + $6, failed = failed + $7,
    reached_at = coalesce($8, reached_at),
    finished_at = CASE WHEN $4::json IS NULL THEN now() ELSE finished_at END,
    claimed_until = NULL, failures = 0, last_error = NULL
WHERE source_id = $1 AND what = $2 AND claim = $3
RETURNING number, looked_at, different, failed, begun_at, now() AS finished_at
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What one came to so far."""

    number: int
    looked_at: int
    different: int
    failed: int
    begun_at: datetime
    finished_at: datetime


async def move_pull(
    conn: Conn,
    source_id: int,
    what: What,
    claim: int,
    place: Mapping[str, Any] | None,
    counts: tuple[int, int, int],
    reached_at: datetime | None = None,
) -> Counted | None:
    """
    The claim's end; `place` is what comes next, None where that was all, and `counts` are what
    was looked at, different and failed. Returns None where the claim was lost: nothing is moved.
    """
    row = await conn.fetchrow(
        MOVE_PULL,
        source_id,
        what,
        claim,
        None if place is None else json.dumps(place),
        *counts,
        reached_at,
    )
    return None if row is None else Counted(*row.values())


PUT_OFF_PULL = """
UPDATE pulls
SET claimed_until = NULL, failures = failures + 1, last_error = $4,
    due_at = now() + make_interval(secs => $5)
WHERE source_id = $1 AND what = $2 AND claim = $3
"""


async def put_off_pull(
    conn: Conn, source_id: int, what: What, claim: int, error: str, delay_s: float
) -> None:
    """The claim's end without an answer: the same step comes again."""
    await conn.execute(PUT_OFF_PULL, source_id, what, claim, error, delay_s)


START_PULLS_AFRESH = "UPDATE pulls SET due_at = now() WHERE source_id = $1 AND due_at > now()"


async def start_pulls_afresh(conn: Conn, source_id: int) -> None:
    """What failed with the key of before is due at once."""
    await conn.execute(START_PULLS_AFRESH, source_id)


AGES_OF_PULLS = """
SELECT source_id, what,
       extract(epoch FROM now() - coalesce(finished_at, added_at))::float8 AS age_s
FROM pulls WHERE source_id = ANY($1::smallint[])
"""


async def ages_of_pulls(conn: Conn, source_ids: Sequence[int]) -> dict[tuple[int, str], float]:
    """By source and what: how long ago the last one came to its end, or was to be the first."""
    rows = await conn.fetch(AGES_OF_PULLS, list(source_ids))
    return {(row["source_id"], row["what"]): row["age_s"] for row in rows}


NEXT_NUMBERS = """
SELECT nextval('fetch_numbers') AS number FROM generate_series(1, $1::int) ORDER BY 1
"""


async def next_numbers(conn: Conn, count: int) -> list[int]:
    """Numbers of requests that begin after this is committed, the smallest first."""
    return [row["number"] for row in await conn.fetch(NEXT_NUMBERS, count)]


NOW = "SELECT now()"


async def now(conn: Conn) -> datetime:
    """The database's clock, by which places are counted."""
    found: datetime = await conn.fetchval(NOW)
    return found


NOTE_COMPARED = """
INSERT INTO compared_objects (object, run)
SELECT object, $2 FROM unnest($1::bigint[]) AS seen (object) ORDER BY object
ON CONFLICT (object) DO UPDATE SET run = excluded.run WHERE compared_objects.run < excluded.run
"""


async def note_compared(conn: Conn, objects: Sequence[int], run: int) -> None:
    """These objects were on a page of this comparison, or were asked for in it."""
    await conn.execute(NOTE_COMPARED, sorted(set(objects)), run)


# What was first told of after it began is none of its business.
NOT_COMPARED = """
SELECT o.id, o.account, o.livemode, o.kind, o.object_id, o.customer
FROM objects o
WHERE o.source_id = $1 AND o.kind = ANY($2::text[]) AND o.account = ANY($3::text[])
  AND o.livemode = $4 AND o.created_at < to_timestamp($5::float8) AND o.id > $8
  AND EXISTS (SELECT FROM grants g WHERE g.object = o.id)
  AND NOT EXISTS (SELECT FROM compared_objects c WHERE c.object = o.id AND c.run >= $6)
ORDER BY o.id
LIMIT $7
"""


@dataclass(frozen=True, slots=True)
class Absent:
    """An object that gives access, and was on no page."""

    id: int
    account: str
    livemode: bool
    kind: str
    object_id: str
    customer: str | None


async def not_compared(
    conn: Conn,
    source_id: int,
    kinds: Sequence[str],
    accounts: Sequence[str],
    livemode: bool,
    before_s: float,
    run: int,
    limit: int,
    *,
    after: int,
) -> list[Absent]:
    """
    What gave access here before `before_s` (unix) and was on no page of this comparison, in the
    order of ids from `after` on: each is passed once.
    """
    rows = await conn.fetch(
        NOT_COMPARED, source_id, list(kinds), list(accounts), livemode, before_s, run, limit, after
    )
    return [Absent(*row.values()) for row in rows]


# What waits for its retry may do so for hours.
COUNT_READY = """
SELECT count(*) FROM (
    SELECT FROM work w JOIN lanes l ON l.id = w.lane
    WHERE l.source_id = $1 AND w.due_at IS NULL LIMIT $2
) AS found
"""


async def count_ready(conn: Conn, source_id: int, most: int) -> int:
    """How many events of a source are to be applied now; `most` means that many, or more."""
    return int(await conn.fetchval(COUNT_READY, source_id, most))
