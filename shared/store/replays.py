"""An operator has a settled event applied again: the next run's work row."""

from dataclasses import dataclass
from datetime import datetime
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
SELECT i.received_at, i.lane, s.name AS source, i.subject, i.event_id
FROM inbox AS i
JOIN sources AS s ON s.id = i.source_id
WHERE i.received_at = $1 AND i.tracking_id = $2
"""


async def find_evidence(conn: Conn, tracking_id: UUID) -> Replayable | None:
    """None where the event's body is not kept (any more)."""
    row = await conn.fetchrow(FIND_EVIDENCE, received_at_of(tracking_id), tracking_id)
    if row is None:
        return None
    return Replayable(
        row["received_at"], row["lane"], row["source"], row["subject"], row["event_id"]
    )


WAIT_LONGER = "SELECT set_config('lock_timeout', '15s', true)"
LOCK_LANE = "SELECT id FROM lanes WHERE id = $1 FOR NO KEY UPDATE"


async def lock_lane(conn: Conn, lane: int) -> None:
    """
    Wait for the lane. Whoever holds it may be settling the very event; only a statement after
    this one sees that.
    """
    await conn.execute(WAIT_LONGER)
    await conn.execute(LOCK_LANE, lane)


LATEST_RUNS = """
SELECT (SELECT run FROM work WHERE tracking_id = $1 AND kind = 'event') AS unfinished,
       (SELECT max(run) FROM settlements WHERE tracking_id = $1) AS settled
"""


async def latest_runs(conn: Conn, tracking_id: UUID) -> tuple[int | None, int | None]:
    """The number of the unfinished run and of the last settled one; None where there is none."""
    row = await conn.fetchrow(LATEST_RUNS, tracking_id)
    assert row is not None  # a SELECT without FROM has one row
    return row["unfinished"], row["settled"]


INSERT_RUN = """
INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def insert_run(
    conn: Conn, tracking_id: UUID, evidence: Replayable, run: int, actor: str, reason: str
) -> None:
    """Open the run; due at once."""
    await conn.execute(
        INSERT_RUN, tracking_id, evidence.received_at, evidence.lane, run, actor, reason
    )
