"""Replays as people see them: the events of a plan, and what became of each."""

from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn, Row
from shared.domain import outcomes
from shared.store.paging import Page, iso, page_of


class Wanted(NamedTuple):
    """Events of a plan; of those, what one job has gone through, and what came to this outcome."""

    plan: UUID
    replay: UUID | None = None
    outcome: str | None = None


#: What becomes of an event of a plan: how its run ended, why there was none, what it waits for.
ITEM_OUTCOMES = (
    *outcomes.OUTCOMES, outcomes.OVERTAKEN, outcomes.BODY_EXPIRED, outcomes.UNFINISHED,
    outcomes.IS_AN_ORDER, outcomes.UNKNOWN_EVENT, "waiting", "open",
)  # fmt: skip

# What is neither left out nor settled: it waits to be opened, or to be applied.
_OUTCOME = """coalesce(i.code, z.outcome, CASE WHEN i.opened_run IS NULL THEN 'waiting'
          ELSE 'open' END)"""
LIST_ITEMS = (
    """
SELECT i.position, i.tracking_id, i.received_at, s.name AS source, i.run, i.opened_run, i.replay,
       z.code, z.error, z.tenant, z.settled_at, """
    + _OUTCOME
    + """ AS outcome
FROM replay_items AS i
LEFT JOIN sources AS s ON s.id = i.source_id
LEFT JOIN settlements AS z ON z.tracking_id = i.tracking_id AND z.run = i.opened_run
WHERE i.plan = $1 AND ($2::uuid IS NULL OR i.replay = $2)
  AND ($3::text IS NULL OR """
    + _OUTCOME
    + """ = $3)
  AND ($4::bigint IS NULL OR i.position < $4)
ORDER BY i.position DESC LIMIT $5
"""
)


async def list_items(conn: Conn, wanted: Wanted, before: int | None, limit: int) -> Page:
    """
    In the order in which they are opened: the oldest first.

    {"trackingId", "source", "receivedAt", "frozenRun", "run", "outcome", "code", "error", "tenant",
    "settledAt", "replay"}: `run` is the one that was opened, `outcome` how that ended, or why none
    was, or "waiting" (to be opened), or "open".
    """
    rows = await conn.fetch(LIST_ITEMS, *wanted, before, limit + 1)
    return page_of(rows, limit, _shown, lambda row: (row["position"],))


COUNT_OUTCOMES = (
    """
SELECT """
    + _OUTCOME
    + """ AS outcome, count(*) AS events
FROM replay_items AS i
LEFT JOIN settlements AS z ON z.tracking_id = i.tracking_id AND z.run = i.opened_run
WHERE i.replay = $1 GROUP BY 1
"""
)


async def count_outcomes(conn: Conn, job: UUID) -> dict[str, int]:
    """What has become of the events that a job has gone through, as of now; see `list_items`."""
    rows = await conn.fetch(COUNT_OUTCOMES, job)
    return {row["outcome"]: row["events"] for row in rows}


READ_ENDED = """
SELECT asked.tracking_id, z.run, z.outcome, z.code, z.error
FROM unnest($1::uuid[], $2::integer[]) AS asked (tracking_id, run)
JOIN settlements AS z ON z.tracking_id = asked.tracking_id AND z.run = asked.run
"""


async def read_ended(conn: Conn, runs: dict[UUID, int]) -> dict[UUID, dict[str, Any]]:
    """Of these runs those that have ended, by tracking id: {"outcome", "code", "error"}."""
    rows = await conn.fetch(READ_ENDED, list(runs), list(runs.values()))
    return {
        row["tracking_id"]: {name: row[name] for name in ("outcome", "code", "error")}
        for row in rows
    }


def _shown(row: Row) -> dict[str, Any]:
    return {
        "trackingId": str(row["tracking_id"]),
        "source": row["source"],
        "receivedAt": iso(row["received_at"]),
        "frozenRun": row["run"],
        "run": row["opened_run"],
        "outcome": row["outcome"],
        "code": row["code"],
        "error": row["error"],
        "tenant": row["tenant"],
        "settledAt": iso(row["settled_at"]),
        "replay": None if row["replay"] is None else str(row["replay"]),
    }
