"""
What is taken away of a tenant that is erased, piece by piece.

Each piece looks for what is there and takes it: done twice, the second time finds nothing. `names`
are the tenant's own and those that were merged into it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.keys import CustomerKey

# Jobs ---------------------------------------------------------------------------------------------

OPEN_JOBS = """
SELECT EXISTS (SELECT FROM jobs WHERE tenant = ANY($1::text[])
               AND state IN ('waiting', 'running', 'paused'))
"""
FIRST_ID_NOW = "SELECT first_id(now())"
OPEN_EXPORTS_OF_ALL = """
SELECT EXISTS (SELECT FROM jobs WHERE tenant IS NULL AND kind = 'export' AND id < $1
               AND state IN ('waiting', 'running', 'paused'))
"""
EXPORTS_OF_ALL = """
SELECT j.id FROM jobs AS j
WHERE j.tenant IS NULL AND j.kind = 'export' AND j.state IN ('done', 'failed', 'cancelled')
  AND j.id < $2 AND EXISTS (SELECT FROM job_assets AS a WHERE a.job = j.id)
ORDER BY j.id LIMIT $1
"""
JOBS_OF = "SELECT id FROM jobs WHERE tenant = ANY($1::text[]) ORDER BY id LIMIT $2"
ASSETS_OF = "SELECT sha256, parts FROM job_assets WHERE job = ANY($1::uuid[])"
FORGET_ASSETS = "DELETE FROM job_assets WHERE job = ANY($1::uuid[])"
FORGET_FAILURES = "DELETE FROM job_failures WHERE job = ANY($1::uuid[])"
FORGET_JOBS = "DELETE FROM jobs WHERE id = ANY($1::uuid[])"


# A plan is of many tenants: what it says of this one goes, and what it counts stays.
ERASE_EFFECTS = """
UPDATE jobs AS j SET result = jsonb_set(j.result::jsonb, '{effect,changes}', (
    SELECT coalesce(jsonb_agg(c.change ORDER BY c.place), '[]')
    FROM jsonb_array_elements(j.result::jsonb #> '{effect,changes}')
         WITH ORDINALITY AS c (change, place)
    WHERE c.change ->> 'tenant' <> ALL($1::text[])))::json
WHERE j.kind = 'replay-plan' AND jsonb_typeof(j.result::jsonb #> '{effect,changes}') = 'array'
  AND EXISTS (SELECT FROM replay_tenants AS t WHERE t.plan = j.id AND t.tenant = ANY($1::text[]))
"""


async def erase_effects(conn: Conn, names: Sequence[str]) -> None:
    """What plans of replays would have changed for the tenant."""
    await conn.execute(ERASE_EFFECTS, list(names))


async def has_open_jobs(conn: Conn, names: Sequence[str]) -> bool:
    """Whether one of its jobs is not over yet."""
    return bool(await conn.fetchval(OPEN_JOBS, list(names)))


async def first_id_now(conn: Conn) -> UUID:
    """What begins from now on has no smaller id."""
    return await conn.fetchval(FIRST_ID_NOW)  # type: ignore[no-any-return]


async def has_open_exports(conn: Conn, upto: UUID) -> bool:
    """Whether an export of all tenants that began before is not over yet."""
    return bool(await conn.fetchval(OPEN_EXPORTS_OF_ALL, upto))


async def erase_exports(conn: Conn, upto: UUID, limit: int) -> tuple[int, set[bytes]]:
    """What was exported of all tenants before, and is still here; how many, and their files."""
    ids = [row["id"] for row in await conn.fetch(EXPORTS_OF_ALL, limit, upto)]
    return len(ids), await _erase_files(conn, ids)


async def erase_jobs(conn: Conn, names: Sequence[str], limit: int) -> tuple[int, set[bytes]]:
    """Jobs of the tenant, failures and assets included; how many, and what files they named."""
    ids = [row["id"] for row in await conn.fetch(JOBS_OF, list(names), limit)]
    files = await _erase_files(conn, ids)
    await conn.execute(FORGET_JOBS, ids)
    return len(ids), files


async def _erase_files(conn: Conn, jobs: Sequence[UUID]) -> set[bytes]:
    files: set[bytes] = set()
    for row in await conn.fetch(ASSETS_OF, list(jobs)):
        files.update((row["sha256"], *(row["parts"] or ())))
    await conn.execute(FORGET_ASSETS, list(jobs))
    await conn.execute(FORGET_FAILURES, list(jobs))
    return files


# Bodies -------------------------------------------------------------------------------------------

NEXT_BODY = "SELECT min(received_at) FROM inbox WHERE received_at >= $1"


async def next_body(conn: Conn, since: datetime) -> datetime | None:
    """When the next event was received; None: there is none."""
    found: datetime | None = await conn.fetchval(NEXT_BODY, since)
    return found


class Found(NamedTuple):
    """An event of the tenant. `is_shared_held`: it is also one of a tenant that is held."""

    received_at: datetime
    tracking_id: UUID
    is_unfinished: bool
    is_shared_held: bool


EVENTS_OF = """
SELECT e.received_at, e.tracking_id,
       EXISTS (SELECT FROM work AS w WHERE w.tracking_id = e.tracking_id AND w.kind = 'event')
       OR EXISTS (SELECT FROM jobs AS j WHERE j.id = e.tracking_id
                  AND j.state IN ('waiting', 'running', 'paused')) AS is_unfinished,
       e.tracking_id IN (SELECT h.tracking_id FROM events_of_tenants(held_tenants(), $2, $3) AS h)
           AS is_shared_held
FROM events_of_tenants($1::text[], $2, $3) AS e
ORDER BY e.received_at, e.tracking_id
"""


async def events_of(
    conn: Conn, names: Sequence[str], since: datetime, upto: datetime
) -> list[Found]:
    """What of a stretch of the inbox had to do with the tenant."""
    rows = await conn.fetch(EVENTS_OF, list(names), since, upto, timeout=60)
    return [Found(*row.values()) for row in rows]


ERASE_BODIES = "SELECT artifact FROM erase_bodies($1, $2::timestamptz[], $3::uuid[]) AS artifact"
ERASE_DELIVERIES = """
UPDATE deliveries SET body = NULL WHERE tracking_id = ANY($1::uuid[]) AND body IS NOT NULL
"""
ERASE_SETTLEMENTS = """
UPDATE settlements SET error = NULL WHERE tracking_id = ANY($1::uuid[]) AND error IS NOT NULL
"""
ERASE_ATTEMPTS = "UPDATE attempts SET error = '' WHERE tracking_id = ANY($1::uuid[])"
ERASE_MESSAGES = r"""
UPDATE messages SET payload = '\x6e756c6c' WHERE tracking_id = ANY($1::uuid[])
"""
ERASE_MISSED = "DELETE FROM missed_events WHERE tracking_id = ANY($1::uuid[])"


async def erase_events(conn: Conn, tenant: str, found: Sequence[Found]) -> set[bytes]:
    """
    Their bodies, those of their redeliveries, what failed with them and what was sent for them.
    Returns the artifacts that they named.
    """
    ids = [one.tracking_id for one in found]
    rows = await conn.fetch(ERASE_BODIES, tenant, [one.received_at for one in found], ids)
    await conn.execute(ERASE_DELIVERIES, ids)
    await conn.execute(ERASE_SETTLEMENTS, ids)
    await conn.execute(ERASE_ATTEMPTS, ids)
    await conn.execute(ERASE_MESSAGES, ids)
    await conn.execute(ERASE_MISSED, ids)
    # An import is a job of the same id; its failures tell of its rows.
    return {row["artifact"] for row in rows} | await _erase_files(conn, ids)


# Records ------------------------------------------------------------------------------------------

RECORDS_NEAR = """
SELECT r.id FROM records AS r
WHERE r.id > $2 AND r.id <= $3 AND (
    r.tenant = ANY($1::text[])
    OR EXISTS (SELECT FROM record_versions AS v
               WHERE v.record = r.id AND v.tenant = ANY($1::text[])))
"""
LAST_RECORD = "SELECT coalesce(max(id), 0) FROM records"
LOCK_RECORDS = """
SELECT id FROM records WHERE id = ANY($1::bigint[])
ORDER BY source_id, account, livemode, record_id FOR UPDATE
"""
ERASE_VERSIONS = """
DELETE FROM record_versions WHERE record = ANY($1::bigint[]) AND tenant = ANY($2::text[])
"""
# What others reported of the same thing before stays, and does not come to count again.
UNPOINT_RECORDS = """
UPDATE records AS r SET tenant = NULL, version = NULL, event_id = NULL, updated_at = now()
WHERE r.id = ANY($1::bigint[]) AND r.tenant = ANY($2::text[])
"""
ERASE_RECORDS = """
DELETE FROM records AS r WHERE r.id = ANY($1::bigint[])
  AND NOT EXISTS (SELECT FROM record_versions AS v WHERE v.record = r.id)
"""


async def last_record(conn: Conn) -> int:
    """The number of the youngest record."""
    return int(await conn.fetchval(LAST_RECORD))


async def erase_records(conn: Conn, names: Sequence[str], after: int, upto: int) -> int:
    """Versions of the tenant among these records, and the records that have no other."""
    ids = [row["id"] for row in await conn.fetch(RECORDS_NEAR, list(names), after, upto)]
    if ids:
        await conn.execute(LOCK_RECORDS, ids)
        await conn.execute(ERASE_VERSIONS, ids, list(names))
        await conn.execute(UNPOINT_RECORDS, ids, list(names))
        await conn.execute(ERASE_RECORDS, ids)
    return len(ids)


# Objects ------------------------------------------------------------------------------------------

CUSTOMERS_NEAR = """
SELECT source_id, account, livemode, customer FROM (
    SELECT o.source_id, o.account, o.livemode, o.customer FROM objects AS o
    WHERE o.tenant = ANY($1::text[]) AND o.customer IS NOT NULL
    UNION
    SELECT o.source_id, o.account, o.livemode, o.customer FROM objects AS o
    WHERE o.parked IS NOT NULL AND o.customer IS NOT NULL AND is_of(o, $1::text[])
    UNION
    SELECT source_id, account, livemode, customer FROM customers WHERE tenant = ANY($1::text[])
) AS near
ORDER BY source_id, account, livemode, customer LIMIT $2
"""


async def customers_of(conn: Conn, names: Sequence[str], limit: int) -> list[CustomerKey]:
    """Its next customers. Unlocked: only to know what to lock."""
    rows = await conn.fetch(CUSTOMERS_NEAR, list(names), limit)
    return [CustomerKey(*row.values()) for row in rows]


# Of its customers also what is nobody's: payments, say. What is another tenant's stays.
OBJECTS_NEAR = """
SELECT o.id FROM objects AS o
JOIN unnest($2::smallint[], $3::text[], $4::boolean[], $5::text[])
    AS asked (source_id, account, livemode, customer)
  ON o.source_id = asked.source_id AND o.account = asked.account
 AND o.livemode = asked.livemode AND o.customer = asked.customer
WHERE o.tenant IS NULL OR o.tenant = ANY($1::text[])
"""
OBJECTS_WITHOUT_CUSTOMER = """
SELECT o.id FROM objects AS o
WHERE o.customer IS NULL AND (o.tenant = ANY($1::text[]) OR o.parked IS NOT NULL)
  AND is_of(o, $1::text[])
ORDER BY o.id LIMIT $2
"""
UNLINK = """
UPDATE customers AS c SET tenant = NULL, linked_by = NULL, linked_at = NULL
FROM unnest($2::smallint[], $3::text[], $4::boolean[], $5::text[])
    AS asked (source_id, account, livemode, customer)
WHERE c.source_id = asked.source_id AND c.account = asked.account
  AND c.livemode = asked.livemode AND c.customer = asked.customer AND c.tenant = ANY($1::text[])
"""
LOCK_OBJECTS = "SELECT id FROM objects WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
ERASE_OBSERVATIONS = "DELETE FROM observations WHERE object = ANY($1::bigint[])"
ERASE_FETCHES = "DELETE FROM fetches WHERE object = ANY($1::bigint[])"
ERASE_GRANTS = "DELETE FROM grants WHERE object = ANY($1::bigint[])"
ERASE_COMPARED = "DELETE FROM compared_objects WHERE object = ANY($1::bigint[])"
ERASE_OBJECTS = "DELETE FROM objects WHERE id = ANY($1::bigint[])"


async def erase_customers(
    conn: Conn, names: Sequence[str], columns: Sequence[Sequence[object]]
) -> int:
    """Objects and operators' links of customers that the caller has locked, as columns."""
    rows = await conn.fetch(OBJECTS_NEAR, list(names), *columns)
    await conn.execute(UNLINK, list(names), *columns)
    return await _erase_objects(conn, [row["id"] for row in rows])


async def erase_orphans(conn: Conn, names: Sequence[str], limit: int) -> int:
    """Objects of the tenant that name no customer."""
    rows = await conn.fetch(OBJECTS_WITHOUT_CUSTOMER, list(names), limit)
    return await _erase_objects(conn, [row["id"] for row in rows])


async def _erase_objects(conn: Conn, ids: Sequence[int]) -> int:
    if ids:
        await conn.execute(LOCK_OBJECTS, ids)
        await conn.execute(ERASE_OBSERVATIONS, ids)
        await conn.execute(ERASE_FETCHES, ids)
        await conn.execute(ERASE_GRANTS, ids)
        await conn.execute(ERASE_COMPARED, ids)
        await conn.execute(ERASE_OBJECTS, ids)
    return len(ids)


# The trail ----------------------------------------------------------------------------------------

RECORDS_OF_TRAIL = """
SELECT id, cause, cause_id, run FROM audit
WHERE tenant = ANY($1::text[]) AND id > $2 ORDER BY id LIMIT $3
"""
EMPTY_CONTENTS = """
UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL
WHERE audit_id = ANY($1::bigint[]) AND num_nonnulls(salt, before, after, reason) > 0
"""


# What names nobody: of an event, and of what operators did to it.
RECORDS_OF_EVENTS = """
SELECT id FROM audit
WHERE tenant = '' AND (cause = 'event' AND cause_id = ANY($1::text[])
                       OR cause = 'operator' AND cause_id = ANY($2::text[]))
"""
RUNS_OF_EVENTS = """
SELECT tracking_id, max(run) AS run FROM settlements
WHERE tracking_id = ANY($1::uuid[]) GROUP BY tracking_id
"""


class Emptied(NamedTuple):
    """
    Of how many records the contents went, and the last one that was looked at (None: that was all);
    the events that they are of, each with the largest run that was met.
    """

    gone: int
    last: int | None
    runs: dict[UUID, int]


async def empty_contents(conn: Conn, names: Sequence[str], after: int, limit: int) -> Emptied:
    """Contents and salts of the next records of its."""
    rows = await conn.fetch(RECORDS_OF_TRAIL, list(names), after, limit)
    ids = [row["id"] for row in rows]
    runs: dict[UUID, int] = {}
    for row in rows:
        if row["cause"] == "event":
            event = UUID(row["cause_id"])
            runs[event] = max(row["run"], runs.get(event, 1))
    return Emptied(await _empty(conn, ids), ids[-1] if ids else None, runs)


async def runs_of(conn: Conn, ids: Sequence[UUID]) -> dict[UUID, int]:
    """By event, its latest settled run; 1 where none is known."""
    rows = await conn.fetch(RUNS_OF_EVENTS, list(ids))
    return {**dict.fromkeys(ids, 1), **{row["tracking_id"]: row["run"] for row in rows}}


async def empty_contents_of_events(
    conn: Conn, events: Sequence[UUID], actions: Sequence[UUID]
) -> int:
    """The same of records of nobody: these events' own, and those of actions on them."""
    asked = [str(one) for one in events], [str(one) for one in actions]
    return await _empty(conn, [row["id"] for row in await conn.fetch(RECORDS_OF_EVENTS, *asked)])


async def _empty(conn: Conn, ids: Sequence[int]) -> int:
    return int((await conn.execute(EMPTY_CONTENTS, list(ids))).rpartition(" ")[2])


ERASE_GIFTS = """
UPDATE manual_grants SET reason = '', revoke_reason = '' WHERE tenant = ANY($1::text[])
"""


async def erase_gifts(conn: Conn, names: Sequence[str]) -> None:
    """What operators wrote about it, giving by hand."""
    await conn.execute(ERASE_GIFTS, list(names))
