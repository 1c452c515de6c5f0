"""Plans of replays: which events were frozen, and whether that still holds."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.keys import CustomerKey

ITEM_COLUMNS = (
    "plan", "position", "tracking_id", "received_at", "source_id", "lane", "run", "code",
)  # fmt: skip


#: Of a list that may have a million rows, what one statement goes through.
_AT_ONCE = 10_000


class Item(NamedTuple):
    """
    An event of a plan. `run` is the settled run that was its latest, `code` why it is not to be
    applied again; source and lane are None where the event is not known.
    """

    position: int
    tracking_id: UUID
    received_at: datetime
    source_id: int | None
    lane: int | None
    run: int | None
    code: str | None


async def add_items(conn: Conn, plan: UUID, items: Sequence[Item]) -> None:
    """Freeze these."""
    rows = [(plan, *item) for item in items]
    await conn.copy_records_to_table("replay_items", records=rows, columns=ITEM_COLUMNS)


# A process that applies events plans look-ups only; whoever looks through a day of them may not.
ALLOW_SCANS = """
SELECT set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true),
       set_config('enable_mergejoin', 'on', true), set_config('statement_timeout', '60s', true)
"""


async def allow_scans(conn: Conn) -> None:
    """Let this transaction look through whole tables, and take a minute for it."""
    await conn.execute(ALLOW_SCANS)


FROZEN_AT = "SELECT now() AS now"


async def frozen_at(conn: Conn) -> datetime:
    """What was received after it is in no plan that begins now."""
    return await conn.fetchval(FROZEN_AT)  # type: ignore[no-any-return]


class Told(NamedTuple):
    """
    What a plan counts by: `status` and `code` are of the latest settled run, `code` the last
    attempt's where they were used up.
    """

    tracking_id: UUID
    event_type: str
    status: str | None
    code: str | None


DESCRIBE_EVENTS = """
SELECT i.tracking_id, i.event_type, z.status, coalesce(
           CASE z.code WHEN 'attempts_exhausted' THEN (
               SELECT a.code FROM attempts AS a
               WHERE a.tracking_id = i.tracking_id AND a.run = z.run ORDER BY a.number DESC LIMIT 1)
           END, z.code) AS code
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
JOIN inbox AS i ON i.received_at = asked.received_at AND i.tracking_id = asked.tracking_id
LEFT JOIN LATERAL (
    SELECT run, status, code FROM settlements
    WHERE tracking_id = i.tracking_id ORDER BY run DESC LIMIT 1
) AS z ON true
"""


async def describe(
    conn: Conn, received_at: Sequence[datetime], ids: Sequence[UUID]
) -> dict[UUID, Told]:
    """By tracking id, those whose evidence is kept."""
    rows = await conn.fetch(DESCRIBE_EVENTS, list(received_at), list(ids))
    return {row["tracking_id"]: Told(*row.values()) for row in rows}


KNOWN_RUNS = """
SELECT DISTINCT ON (tracking_id) tracking_id, run, source_id, status, code FROM settlements
WHERE tracking_id = ANY ($1::uuid[]) ORDER BY tracking_id, run DESC
"""


class KnownRun(NamedTuple):
    """The latest settled run of an event whose evidence may be gone."""

    tracking_id: UUID
    run: int
    source_id: int
    status: str
    code: str | None


async def known_runs(conn: Conn, ids: Collection[UUID]) -> dict[UUID, KnownRun]:
    """By tracking id."""
    rows = await conn.fetch(KNOWN_RUNS, list(ids))
    return {row["tracking_id"]: KnownRun(*row.values()) for row in rows}


# The moment is in the id: its first 48 bits are milliseconds since 1970.
DEAD_WITHOUT_BODY = """
SELECT z.tracking_id, z.run, z.source_id, z.status, z.code
FROM settlements AS z
WHERE z.status = 'dead' AND z.tracking_id < $1
  AND ($2::text IS NULL OR z.source_id = (SELECT id FROM sources WHERE name = $2))
  AND ($3::text IS NULL OR z.code = $3 OR z.code = 'attempts_exhausted' AND $3 = (
      SELECT a.code FROM attempts AS a
      WHERE a.tracking_id = z.tracking_id AND a.run = z.run ORDER BY a.number DESC LIMIT 1))
  AND ($4::uuid IS NULL OR z.tracking_id >= $4)
  AND NOT EXISTS (SELECT FROM settlements AS n
                  WHERE n.tracking_id = z.tracking_id AND n.run > z.run)
  AND NOT EXISTS (
      SELECT FROM inbox AS i
      WHERE i.tracking_id = z.tracking_id
        AND i.received_at = to_timestamp(('x0000' || translate(
            left(z.tracking_id::text, 13), '-', ''))::bit(64)::bigint / 1000.0))
ORDER BY z.tracking_id DESC LIMIT $5
"""


async def dead_without_body(
    conn: Conn,
    before: UUID,
    since: UUID | None,
    source: str | None,
    code: str | None,
    limit: int,
) -> list[KnownRun]:
    """Dead events whose evidence went by retention, the newest first."""
    rows = await conn.fetch(DEAD_WITHOUT_BODY, before, source, code, since, limit)
    return [KnownRun(*row.values()) for row in rows]


READ_REPLAYABLE = """
SELECT position, tracking_id, received_at, source_id, lane, run, code
FROM replay_items WHERE plan = $1 AND code IS NULL AND position > $2
ORDER BY position LIMIT $3
"""


async def read_replayable(conn: Conn, plan: UUID, after: int, limit: int) -> list[Item]:
    """What is to be applied again, from that position on."""
    return [Item(*row.values()) for row in await conn.fetch(READ_REPLAYABLE, plan, after, limit)]


CUSTOMER_COLUMNS = ("plan", "position", "source_id", "account", "livemode", "customer", "tenant")
ADD_TENANTS = """
INSERT INTO replay_tenants (plan, tenant) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING
"""
ADD_PLAN = """
INSERT INTO replay_plans (plan, configuration, snapshot, made_at) VALUES ($1, $2, $3, $4)
"""


class Place(NamedTuple):
    """Where a plan was made: when, by which configuration, and what the trail held."""

    made_at: datetime
    snapshot: str


READ_PLACE = "SELECT now() AS made_at, pg_current_snapshot()::text AS snapshot"


async def read_place(conn: Conn) -> Place:
    """Where things stand; asked before anything is found out that has to hold from then on."""
    row = await conn.fetchrow(READ_PLACE)
    assert row is not None  # a SELECT without FROM has one row
    return Place(*row.values())


async def add_ground(
    conn: Conn, plan: UUID, tenants: Collection[str], links: Mapping[CustomerKey, str | None]
) -> None:
    """Whose entitlements were looked at, and the customers behind them with operators' links."""
    names = sorted(tenants)
    for first in range(0, len(names), _AT_ONCE):
        await conn.execute(ADD_TENANTS, plan, names[first : first + _AT_ONCE])
    rows = [(plan, place, *key, link) for place, (key, link) in enumerate(sorted(links.items()))]
    for first in range(0, len(rows), _AT_ONCE):
        await conn.copy_records_to_table(
            "replay_customers", records=rows[first : first + _AT_ONCE], columns=CUSTOMER_COLUMNS
        )


async def finish(conn: Conn, plan: UUID, place: Place, configuration: int) -> None:
    """The plan is made, and may be carried out."""
    await conn.execute(ADD_PLAN, plan, configuration, place.snapshot, place.made_at)


HAS_ITEMS = "SELECT EXISTS (SELECT FROM replay_items WHERE plan = $1)"


async def has_items(conn: Conn, plan: UUID) -> bool:
    """Whether anything was frozen for it."""
    return bool(await conn.fetchval(HAS_ITEMS, plan))


class Standing(NamedTuple):
    """
    How a plan stands. `state` is of the job that makes it; the rest is None until it is made.
    `run_state` is of the job that took it last, None where there is none; `configuration` by which
    version it was made, `current` the one that holds.
    """

    kind: str
    state: str
    age_s: float | None
    configuration: int | None
    current: int
    run_by: UUID | None
    run_state: str | None


READ_STANDING = """
SELECT j.kind, j.state, extract(epoch FROM now() - p.made_at)::float8 AS age_s, p.configuration,
       (SELECT max(version) FROM configuration) AS current, p.run_by, r.state AS run_state
FROM jobs AS j
LEFT JOIN replay_plans AS p ON p.plan = j.id
LEFT JOIN jobs AS r ON r.id = p.run_by
WHERE j.id = $1
"""


async def read_standing(conn: Conn, plan: UUID) -> Standing | None:
    """None where there is no such job."""
    row = await conn.fetchrow(READ_STANDING, plan)
    return None if row is None else Standing(*row.values())


LOCK_PLAN = "SELECT plan FROM replay_plans WHERE plan = $1 FOR NO KEY UPDATE"


async def lock(conn: Conn, plan: UUID) -> None:
    """Of several jobs that would carry it out, one looks at it at a time."""
    await conn.execute(LOCK_PLAN, plan)


TAKE_PLAN = "UPDATE replay_plans SET run_by = $2 WHERE plan = $1"


async def take(conn: Conn, plan: UUID, job: UUID) -> None:
    """The plan is this job's to carry out."""
    await conn.execute(TAKE_PLAN, plan, job)


COUNT_TO_OPEN = """
SELECT count(*) FROM replay_items WHERE plan = $1 AND code IS NULL AND replay IS NULL
"""


async def count_to_open(conn: Conn, plan: UUID) -> int:
    """How many of its events nobody has opened yet."""
    return int(await conn.fetchval(COUNT_TO_OPEN, plan))


FIND_MOVED = """
SELECT max(i.position) AS last,
       min(i.tracking_id::text) FILTER (WHERE EXISTS (
           SELECT FROM work AS w WHERE w.tracking_id = i.tracking_id AND w.kind = 'event'
       ) OR EXISTS (
           SELECT FROM settlements AS z WHERE z.tracking_id = i.tracking_id AND z.run > i.run
       )) AS moved
FROM (
    SELECT position, tracking_id, run FROM replay_items
    WHERE plan = $1 AND code IS NULL AND replay IS NULL AND position > $2
    ORDER BY position LIMIT $3
) AS i
"""


async def find_moved(conn: Conn, plan: UUID) -> UUID | None:
    """One of its events, not opened by it, that has a newer run by now or is unfinished."""
    after = -1
    while True:
        row = await conn.fetchrow(FIND_MOVED, plan, after, _AT_ONCE)
        if row is None or row["last"] is None:
            return None
        if row["moved"] is not None:
            return UUID(row["moved"])
        after = row["last"]


# What its own runs changed is no news: a plan may be taken up again after a job was cancelled.
FIND_CHANGED = """
SELECT max(t.tenant) AS last, (array_agg((t.tenant, x.feature, x.at) ORDER BY t.tenant)
                               FILTER (WHERE x.at IS NOT NULL))[1] AS changed
FROM replay_plans AS p
CROSS JOIN LATERAL (
    SELECT tenant FROM replay_tenants WHERE plan = p.plan AND tenant > $2 ORDER BY tenant LIMIT $3
) AS t
LEFT JOIN LATERAL (
    SELECT a.feature, a.at FROM audit AS a
    WHERE a.tenant = t.tenant AND a.xid >= pg_snapshot_xmin(p.snapshot::pg_snapshot)
      AND NOT pg_visible_in_snapshot(a.xid, p.snapshot::pg_snapshot)
      AND a.feature <> ''
      AND NOT (a.cause = 'event' AND EXISTS (
          SELECT FROM replay_items AS i
          WHERE i.tracking_id = CASE WHEN a.cause = 'event' THEN a.cause_id::uuid END
            AND i.opened_run = a.run AND i.plan = p.plan))
    ORDER BY a.xid, a.id LIMIT 1
) AS x ON true
WHERE p.plan = $1
"""


async def find_changed(conn: Conn, plan: UUID) -> tuple[str, str, datetime] | None:
    """(tenant, feature, when) of an entitlement it looked at and that changed since."""
    after = ""
    while True:
        row = await conn.fetchrow(FIND_CHANGED, plan, after, _AT_ONCE)
        if row is None or row["last"] is None:
            return None
        if row["changed"] is not None:
            tenant, feature, at = row["changed"]
            return tenant, feature, at
        after = row["last"]


FIND_LINKED = """
SELECT max(r.position) AS last, min(r.customer) FILTER (WHERE c.tenant IS DISTINCT FROM r.tenant
    OR EXISTS (SELECT FROM objects AS o
               WHERE o.customer = r.customer AND o.source_id = r.source_id
                 AND o.account = r.account AND o.livemode = r.livemode
                 AND o.tenant IS NOT NULL
                 AND NOT EXISTS (SELECT FROM replay_tenants AS t
                                 WHERE t.plan = $1 AND t.tenant = o.tenant))) AS linked
FROM (
    SELECT position, source_id, account, livemode, customer, tenant FROM replay_customers
    WHERE plan = $1 AND position > $2 ORDER BY position LIMIT $3
) AS r
LEFT JOIN customers AS c ON c.source_id = r.source_id AND c.account = r.account
 AND c.livemode = r.livemode AND c.customer = r.customer
"""


async def find_linked(conn: Conn, plan: UUID) -> str | None:
    """
    A customer that the plan knew, and whom somebody has linked otherwise since, or who has objects
    of a tenant that it did not look at.
    """
    after = -1
    while True:
        row = await conn.fetchrow(FIND_LINKED, plan, after, _AT_ONCE)
        if row is None or row["last"] is None:
            return None
        if row["linked"] is not None:
            return str(row["linked"])
        after = row["last"]
