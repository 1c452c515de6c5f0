"""Settled events are applied again: the next runs' work rows, and what became of a job's."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of


@dataclass(frozen=True, slots=True)
class Replayable:
    """Where the event's evidence lies."""

    received_at: datetime
    lane: int
    source: str
    subject: str
    event_id: str


FIND_EVIDENCE = """
SELECT i.tracking_id, i.received_at, i.lane, s.name AS source, i.subject, i.event_id
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
JOIN inbox AS i ON i.received_at = asked.received_at AND i.tracking_id = asked.tracking_id
JOIN sources AS s ON s.id = i.source_id
"""


async def find_evidence(conn: Conn, ids: Collection[UUID]) -> dict[UUID, Replayable]:
    """By tracking id, those whose body is kept."""
    asked = list(ids)
    rows = await conn.fetch(FIND_EVIDENCE, [received_at_of(one) for one in asked], asked)
    return {
        row["tracking_id"]: Replayable(
            row["received_at"], row["lane"], row["source"], row["subject"], row["event_id"]
        )
        for row in rows
    }


WAIT_LONGER = "SELECT set_config('lock_timeout', '15s', true)"
LOCK_LANES = "SELECT id FROM lanes WHERE id = ANY ($1::integer[]) ORDER BY id FOR NO KEY UPDATE"


async def lock_lanes(conn: Conn, lanes: Collection[int]) -> None:
    """
    Wait for the lanes. Whoever holds one may be settling the very event; only a statement after
    this one sees that.
    """
    await conn.execute(WAIT_LONGER)
    await conn.execute(LOCK_LANES, sorted(lanes))


TAKE_LANES = """
SELECT l.id FROM lanes AS l JOIN sources AS s ON s.id = l.source_id AND s.paused_at IS NULL
WHERE l.id = ANY ($1::integer[]) ORDER BY l.id FOR NO KEY UPDATE OF l SKIP LOCKED
"""


async def take_lanes(conn: Conn, lanes: Collection[int]) -> set[int]:
    """Those of the lanes that nobody holds at the moment, locked, and of no paused source."""
    return {row["id"] for row in await conn.fetch(TAKE_LANES, sorted(lanes))}


AWAIT_LANE_OF_RUN = "SELECT id FROM lanes WHERE id = $1 FOR NO KEY UPDATE"


async def await_lane(conn: Conn, lane: int) -> None:
    """Wait for one lane, for as long as the connection's `lock_timeout` says."""
    await conn.execute(AWAIT_LANE_OF_RUN, lane)


class Runs(NamedTuple):
    """The number of an event's unfinished run and of its last settled one; None: there is none."""

    unfinished: int | None
    settled: int | None


LATEST_RUNS = """
SELECT asked.tracking_id,
       (SELECT w.run FROM work AS w
        WHERE w.tracking_id = asked.tracking_id AND w.kind = 'event') AS unfinished,
       (SELECT max(z.run) FROM settlements AS z
        WHERE z.tracking_id = asked.tracking_id) AS settled
FROM unnest($1::uuid[]) AS asked (tracking_id)
"""


async def latest_runs(conn: Conn, ids: Collection[UUID]) -> dict[UUID, Runs]:
    """By tracking id, of each that is asked for."""
    rows = await conn.fetch(LATEST_RUNS, list(ids))
    return {row["tracking_id"]: Runs(row["unfinished"], row["settled"]) for row in rows}


INSERT_RUNS = """
INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)
SELECT one.tracking_id, one.received_at, one.lane, one.run, $5, $6
FROM unnest($1::uuid[], $2::timestamptz[], $3::integer[], $4::integer[])
     WITH ORDINALITY AS one (tracking_id, received_at, lane, run, place)
ORDER BY one.place
"""


async def insert_runs(
    conn: Conn, opening: Mapping[UUID, tuple[Replayable, int]], actor: str, reason: str
) -> None:
    """Open these runs, in that order; due at once."""
    await conn.execute(
        INSERT_RUNS,
        list(opening),
        [one.received_at for one, _ in opening.values()],
        [one.lane for one, _ in opening.values()],
        [run for _, run in opening.values()],
        actor,
        reason,
    )


# A job's runs -------------------------------------------------------------------------------------


class ToOpen(NamedTuple):
    """An event of a plan, and the settled run that it was frozen at."""

    position: int
    tracking_id: UUID
    lane: int
    run: int


# The largest position is the oldest event.
NEXT_ITEMS = """
SELECT position, tracking_id, lane, run FROM replay_items
WHERE plan = $1 AND code IS NULL AND replay IS NULL AND lane <> ALL ($2::integer[])
ORDER BY position DESC LIMIT $3
"""


async def next_items(conn: Conn, plan: UUID, not_in: Collection[int], limit: int) -> list[ToOpen]:
    """What is to be opened next, the oldest first; nothing of those lanes."""
    rows = await conn.fetch(NEXT_ITEMS, plan, list(not_in), limit)
    return [ToOpen(*row.values()) for row in rows]


HAS_TO_OPEN = """
SELECT EXISTS (SELECT FROM replay_items WHERE plan = $1 AND code IS NULL AND replay IS NULL)
"""


async def has_to_open(conn: Conn, plan: UUID) -> bool:
    """Whether there is anything left to open."""
    return bool(await conn.fetchval(HAS_TO_OPEN, plan))


NOTE_OPENED = """
UPDATE replay_items AS i SET replay = $2, opened_run = one.run
FROM unnest($3::bigint[], $4::integer[]) AS one (position, run)
WHERE i.plan = $1 AND i.position = one.position
"""


async def note_opened(conn: Conn, plan: UUID, job: UUID, runs: Mapping[int, int]) -> None:
    """By position, the run that the job has opened, in the transaction that opens it."""
    await conn.execute(NOTE_OPENED, plan, job, list(runs), list(runs.values()))


NOTE_PASSED_OVER = """
UPDATE replay_items AS i SET replay = $2, code = one.code
FROM unnest($3::bigint[], $4::text[]) AS one (position, code)
WHERE i.plan = $1 AND i.position = one.position
"""


async def note_passed_over(conn: Conn, plan: UUID, job: UUID, codes: Mapping[int, str]) -> None:
    """By position, why the job has not opened it."""
    await conn.execute(NOTE_PASSED_OVER, plan, job, list(codes), list(codes.values()))


NOTE_SETTLED = """
WITH ended AS (
    SELECT i.plan, i.position, z.outcome
    FROM replay_items AS i
    JOIN settlements AS z ON z.tracking_id = i.tracking_id AND z.run = i.opened_run
    WHERE i.replay = $1 AND i.opened_run IS NOT NULL AND NOT i.settled
    LIMIT $2
), noted AS (
    UPDATE replay_items AS i SET settled = true FROM ended
    WHERE i.plan = ended.plan AND i.position = ended.position
)
SELECT outcome, count(*) AS runs FROM ended GROUP BY outcome
"""


async def note_settled(conn: Conn, job: UUID, limit: int) -> dict[str, int]:
    """How many of the job's runs ended since it last looked, by outcome."""
    rows = await conn.fetch(NOTE_SETTLED, job, limit)
    return {row["outcome"]: row["runs"] for row in rows}


OPEN_BY_LANE = """
SELECT lane, count(*) AS runs FROM replay_items
WHERE replay = $1 AND opened_run IS NOT NULL AND NOT settled GROUP BY lane
"""


async def open_by_lane(conn: Conn, job: UUID) -> dict[int, int]:
    """How many of the job's runs are open, by lane."""
    return {row["lane"]: row["runs"] for row in await conn.fetch(OPEN_BY_LANE, job)}


# A redelivery has its event's time of receipt, and a later run too: they tell nothing of waiting.
IS_LIVE_LATE = """
SELECT EXISTS (
    SELECT FROM lanes AS l
    JOIN sources AS s ON s.id = l.source_id AND s.paused_at IS NULL
    CROSS JOIN LATERAL (
        (SELECT w.received_at AS since FROM work AS w
         WHERE w.lane = l.id AND w.due_at IS NULL AND w.run = 1 AND w.kind = 'event'
         ORDER BY w.id LIMIT 1)
        UNION ALL
        (SELECT w.due_at FROM work AS w
         WHERE w.lane = l.id AND w.due_at IS NOT NULL AND w.run = 1 AND w.kind = 'event'
           AND NOT w.alone
         ORDER BY w.due_at LIMIT 1)
    ) AS oldest
    WHERE oldest.since < now() - make_interval(secs => $1)
)
"""


async def is_live_late(conn: Conn, late_s: float) -> bool:
    """Whether an event that came by itself has been due for longer than that, and is unsettled."""
    return bool(await conn.fetchval(IS_LIVE_LATE, late_s))


CLOCK = "SELECT extract(epoch FROM now())::float8"


async def clock_s(conn: Conn) -> float:
    """The database's clock, since 1970."""
    return float(await conn.fetchval(CLOCK))
