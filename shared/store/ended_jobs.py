"""
Jobs whose time is over, and what goes with them: failures, the names of assets, plans of replays.

Every statement says for itself what must not go, as those of `pruning` do.
"""

from datetime import datetime
from uuid import UUID

from shared.db import Conn

# A plan stays for as long as the job that last carried it out.
COUNT_JOBS = """
SELECT count(*) FROM (
    SELECT j.id FROM jobs AS j
    WHERE j.state IN ('done', 'failed', 'cancelled') AND j.finished_at < $1
      AND (j.tenant IS NULL OR j.tenant <> ALL(held_tenants()))
      AND NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = j.id AND w.kind = 'event')
      AND NOT EXISTS (SELECT FROM inbox AS i
                      WHERE i.received_at = received_at_of(j.id) AND i.tracking_id = j.id)
      AND NOT EXISTS (SELECT FROM replay_plans AS p JOIN jobs AS r ON r.id = p.run_by
                      WHERE p.plan = j.id
                        AND (r.finished_at IS NULL OR r.finished_at >= $1))
) AS over
"""
FORGET_JOBS = """
WITH gone AS MATERIALIZED (
    SELECT j.id FROM jobs AS j
    WHERE j.state IN ('done', 'failed', 'cancelled') AND j.finished_at < $1
      AND (j.tenant IS NULL OR j.tenant <> ALL(held_tenants()))
      AND NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = j.id AND w.kind = 'event')
      AND NOT EXISTS (SELECT FROM inbox AS i
                      WHERE i.received_at = received_at_of(j.id) AND i.tracking_id = j.id)
      AND NOT EXISTS (SELECT FROM replay_plans AS p JOIN jobs AS r ON r.id = p.run_by
                      WHERE p.plan = j.id
                        AND (r.finished_at IS NULL OR r.finished_at >= $1))
    ORDER BY j.id LIMIT $2 FOR UPDATE SKIP LOCKED
), failures AS (
    DELETE FROM job_failures WHERE job IN (SELECT id FROM gone)
), assets AS (
    DELETE FROM job_assets WHERE job IN (SELECT id FROM gone)
)
DELETE FROM jobs WHERE id IN (SELECT id FROM gone)
"""


async def count_jobs(conn: Conn, before: datetime) -> int:
    """Jobs that ended before, and may go."""
    return int(await conn.fetchval(COUNT_JOBS, before))


async def forget_jobs(conn: Conn, before: datetime, limit: int) -> int:
    """Delete them with their failures and what names their assets; returns how many jobs went."""
    return _count(await conn.execute(FORGET_JOBS, before, limit))


# No plan has a row before its job has. The plans of the items are found one by one: there may be a
# million of one.
PLANS_WITHOUT_JOB = """
WITH RECURSIVE plans AS (
    (SELECT plan FROM replay_items ORDER BY plan LIMIT 1)
    UNION ALL
    SELECT (SELECT i.plan FROM replay_items AS i WHERE i.plan > p.plan ORDER BY i.plan LIMIT 1)
    FROM plans AS p WHERE p.plan IS NOT NULL
)
SELECT found.plan FROM (SELECT plan FROM plans UNION SELECT plan FROM replay_plans) AS found
WHERE found.plan IS NOT NULL AND NOT EXISTS (SELECT FROM jobs AS j WHERE j.id = found.plan)
"""


async def plans_without_job(conn: Conn) -> list[UUID]:
    """Plans of which the job is gone."""
    return [row["plan"] for row in await conn.fetch(PLANS_WITHOUT_JOB)]


FORGET_ITEMS = """
DELETE FROM replay_items WHERE plan = $1 AND position = ANY(ARRAY(
    SELECT position FROM replay_items WHERE plan = $1 ORDER BY position LIMIT $2))
"""


async def forget_items(conn: Conn, plan: UUID, limit: int) -> int:
    """Delete events of a plan whose job is gone; returns how many went."""
    return _count(await conn.execute(FORGET_ITEMS, plan, limit))


FORGET_PLAN_TENANTS = "DELETE FROM replay_tenants WHERE plan = $1"
FORGET_PLAN = "DELETE FROM replay_plans WHERE plan = $1"


async def forget_plan(conn: Conn, plan: UUID) -> None:
    """Delete a plan that has no events any more."""
    await conn.execute(FORGET_PLAN_TENANTS, plan)
    await conn.execute(FORGET_PLAN, plan)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
