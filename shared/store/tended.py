"""What operators do to single events: have them tried at once, have them ignored, write notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of


@dataclass(frozen=True, slots=True)
class Tended:
    """
    An event as it stands. `work_id` is that of its unfinished run, `run` that run's number or that
    of the last settled one, which ended with `status`. `is_waiting`: its next attempt is not due.
    """

    tracking_id: UUID
    source_id: int
    source: str
    subject: str
    event_id: str
    lane: int
    run: int
    status: str | None
    work_id: int | None
    attempts: int
    is_waiting: bool
    is_paused: bool

    @property
    def ended_run(self) -> int:
        """Which run it is that ends now: the open one, or one more that never began."""
        return self.run if self.work_id is not None else self.run + 1


class Act(NamedTuple):
    """A record of what an operator did to an event; `note` is what a note says."""

    action: str
    actor: str
    at: datetime
    reason: str | None
    note: str | None


FIND_EVENTS = """
SELECT i.tracking_id, i.source_id, s.name AS source, i.subject, i.event_id, i.lane,
       coalesce(w.run, z.run, 0) AS run, CASE WHEN w.id IS NULL THEN z.status END AS status,
       w.id AS work_id, coalesce(w.attempts, 0) AS attempts,
       w.due_at IS NOT NULL AND w.due_at > now() AS is_waiting, s.paused_at IS NOT NULL AS is_paused
FROM unnest($1::timestamptz[], $2::uuid[]) AS c (received_at, tracking_id)
CROSS JOIN LATERAL (
    SELECT tracking_id, source_id, subject, event_id, lane FROM inbox
    WHERE received_at = c.received_at AND tracking_id = c.tracking_id OFFSET 0
) AS i
JOIN sources AS s ON s.id = i.source_id
LEFT JOIN LATERAL (
    SELECT id, run, attempts, due_at FROM work
    WHERE tracking_id = c.tracking_id AND kind = 'event' OFFSET 0
) AS w ON true
LEFT JOIN LATERAL (
    SELECT run, status FROM settlements
    WHERE tracking_id = c.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
"""


async def find_events(conn: Conn, tracking_ids: Sequence[UUID]) -> dict[UUID, Tended]:
    """By tracking id; one that is not known, or whose evidence is gone, is missing."""
    received_at = [received_at_of(one) for one in tracking_ids]
    rows = await conn.fetch(FIND_EVENTS, received_at, list(tracking_ids))
    return {row["tracking_id"]: Tended(*row.values()) for row in rows}


WAIT_LONGER = "SELECT set_config('lock_timeout', '15s', true)"
LOCK_LANE = "SELECT id FROM lanes WHERE id = $1 FOR NO KEY UPDATE"


async def lock_lane(conn: Conn, lane: int) -> None:
    """Wait for whoever is at the lane; only a statement after this one sees what they did."""
    await conn.execute(WAIT_LONGER)
    await conn.execute(LOCK_LANE, lane)


# What has killed a process keeps its place apart. Who settles an event has locked its row: it is
# being tried as we speak, and nobody waits for how that ends.
MAKE_DUE = """
UPDATE work SET due_at = CASE WHEN alone THEN now() END
WHERE id IN (SELECT id FROM work
             WHERE kind = 'event' AND due_at > now() AND tracking_id = ANY($1::uuid[])
             ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
RETURNING tracking_id
"""


async def make_due(conn: Conn, tracking_ids: Sequence[UUID]) -> set[UUID]:
    """Make unfinished events due now that wait for their next attempt; returns which did."""
    return {row[0] for row in await conn.fetch(MAKE_DUE, list(tracking_ids))}


# Numbered like a run that was opened and ended at once, unless one is open.
SETTLE_IGNORED = """
INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, attempts)
SELECT tracking_id, run, source_id, 'ignored', 'ignored', $5, attempts
FROM unnest($1::uuid[], $2::integer[], $3::smallint[], $4::integer[])
     AS t (tracking_id, run, source_id, attempts)
"""


async def settle_ignored(conn: Conn, events: Sequence[Tended], code: str) -> None:
    """Settle them under the numbers that `ended_run` says; the caller holds their lane."""
    await conn.execute(
        SETTLE_IGNORED,
        [one.tracking_id for one in events],
        [one.ended_run for one in events],
        [one.source_id for one in events],
        [one.attempts for one in events],
        code,
    )


DROP_WORK = "DELETE FROM work WHERE id = ANY($1::bigint[])"


async def drop_work(conn: Conn, work_ids: Sequence[int]) -> None:
    """Nobody is to apply these any more; the caller holds their lane."""
    await conn.execute(DROP_WORK, list(work_ids))


READ_ACTS = """
SELECT cause_id, max(run) AS number FROM audit
WHERE cause = 'operator' AND cause_id = ANY($1::text[]) GROUP BY cause_id
"""
HOLD_ACTS = """
SELECT pg_advisory_xact_lock(hashtextextended('sluice.act:' || name, 0))
FROM unnest($1::text[]) AS name
"""


async def count_acts(conn: Conn, acts: Sequence[UUID]) -> Mapping[str, int]:
    """
    How often operators have acted on each of these, by its id in the trail; 0 is missing. Until
    this transaction ends, nobody else acts on them.
    """
    names = sorted(str(act) for act in acts)
    await conn.execute(HOLD_ACTS, names)
    return {row["cause_id"]: row["number"] for row in await conn.fetch(READ_ACTS, names)}


READ_ACTED = """
SELECT a.action, a.actor, a.at, convert_from(c.reason, 'UTF8') AS reason,
       convert_from(c.after, 'UTF8')::json ->> 'note' AS note
FROM audit AS a
LEFT JOIN audit_content AS c ON c.audit_id = a.id
WHERE a.cause = 'operator' AND a.cause_id = $1
ORDER BY a.run
"""


async def read_acts(conn: Conn, act: UUID) -> list[Act]:
    """What operators did to an event, in order."""
    return [Act(*row.values()) for row in await conn.fetch(READ_ACTED, str(act))]
