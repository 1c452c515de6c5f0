"""
What a rehearsal reads: settled events as if they were to be applied again, and what they touch.

Nothing here takes a lock, but for what the caller's transaction holds already.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn, columns_of
from shared.domain.events import StoredEvent
from shared.domain.keys import CustomerKey, JointKey, ObjectKey, RecordKey

#: As whose an event is read that nobody has asked for yet.
_ACTOR = "operator:rehearsal"


class Settled(NamedTuple):
    """An event, by when it was received, and its latest run, which is settled."""

    received_at: datetime
    tracking_id: UUID
    run: int


# LATERAL … OFFSET 0 keeps the planner on the inbox's primary key and the one partition.
READ_AGAIN = """
SELECT asked.tracking_id, asked.received_at, asked.run, i.source_id, i.account, i.livemode,
       i.event_id, i.event_type, i.occurred_at, i.subject, i.unreadable, i.body, i.trace_context,
       i.artifact
FROM unnest($1::timestamptz[], $2::uuid[], $3::integer[])
    WITH ORDINALITY AS asked (received_at, tracking_id, run, place)
JOIN LATERAL (
    SELECT source_id, account, livemode, event_id, event_type, occurred_at, subject, unreadable,
           body, trace_context, artifact
    FROM inbox WHERE received_at = asked.received_at AND tracking_id = asked.tracking_id OFFSET 0
) i ON true
ORDER BY asked.place
"""


async def read_again(conn: Conn, settled: Sequence[Settled]) -> list[StoredEvent]:
    """
    Settled events as a worker would read them in their next run, in this order. One whose body is
    not kept any more is missing. There is no work row: `work_id` is minus its place, from -1.
    """
    rows = await conn.fetch(
        READ_AGAIN,
        [one.received_at for one in settled],
        [one.tracking_id for one in settled],
        [one.run + 1 for one in settled],
    )
    return [
        StoredEvent(**row, work_id=-place, attempts=0, actor=_ACTOR, reason=None)
        for place, row in enumerate(rows, start=1)
    ]


ENDED_WITH = """
SELECT asked.tracking_id
FROM unnest($1::uuid[], $2::integer[]) AS asked (tracking_id, run)
WHERE EXISTS (SELECT FROM attempts a WHERE a.tracking_id = asked.tracking_id
              AND a.run = asked.run AND a.code = $3)
   OR EXISTS (SELECT FROM settlements s WHERE s.tracking_id = asked.tracking_id
              AND s.run = asked.run AND s.code = $3)
"""


async def ended_with(conn: Conn, settled: Sequence[Settled], code: str) -> set[UUID]:
    """Those in whose latest settled run an attempt, or the run itself, ended with this code."""
    rows = await conn.fetch(
        ENDED_WITH,
        [one.tracking_id for one in settled],
        [one.run for one in settled],
        code,
    )
    return {row["tracking_id"] for row in rows}


class Standing(NamedTuple):
    """An object as its row has it: whose, and by what it joins others."""

    key: ObjectKey
    owner: CustomerKey | None
    tenant: str | None
    joints: tuple[JointKey, ...]


def _standing(values: Sequence[Any]) -> Standing:
    *named, customer, tenant, joints = values
    key = ObjectKey(*named)
    owner = None if customer is None else CustomerKey(*key[:3], customer)
    return Standing(key, owner, tenant, tuple(JointKey(*key[:3], one) for one in joints or ()))


SEEN_BY = """
SELECT b.tracking_id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.joints
FROM observations b
JOIN objects o ON o.id = b.object
WHERE b.tracking_id = ANY($1::uuid[])
"""


async def seen_by(conn: Conn, tracking_ids: Collection[UUID]) -> list[tuple[UUID, Standing]]:
    """The objects that earlier runs of these events observed, beside the event."""
    rows = await conn.fetch(SEEN_BY, list(tracking_ids))
    return [(row["tracking_id"], _standing(list(row.values())[1:])) for row in rows]


STANDING_AT = """
SELECT o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant, o.joints
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[], $5::text[])
    AS asked (source_id, account, livemode, kind, object_id)
JOIN objects o
  ON o.source_id = asked.source_id AND o.account = asked.account AND o.livemode = asked.livemode
 AND o.kind = asked.kind AND o.object_id = asked.object_id
"""


async def standing_at(conn: Conn, keys: Collection[ObjectKey]) -> list[Standing]:
    """Those of these objects that there are."""
    rows = await conn.fetch(STANDING_AT, *columns_of(keys, 5)) if keys else ()
    return [_standing(list(row.values())) for row in rows]


JOINED_BY = """
SELECT DISTINCT ON (o.id) o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer,
       o.tenant, o.joints
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, joint)
JOIN objects o ON o.joints @> ARRAY[asked.joint] AND o.source_id = asked.source_id
 AND o.account = asked.account AND o.livemode = asked.livemode
"""


async def joined_by(conn: Conn, joints: Collection[JointKey]) -> list[Standing]:
    """Every object that names one of these."""
    rows = await conn.fetch(JOINED_BY, *columns_of(joints, 4)) if joints else ()
    return [_standing(list(row.values())) for row in rows]


TENANTS_OF_CUSTOMERS = """
SELECT DISTINCT asked.source_id, asked.account, asked.livemode, asked.customer, found.tenant
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, customer)
CROSS JOIN LATERAL (
    SELECT o.tenant FROM objects o
    WHERE o.customer = asked.customer AND o.source_id = asked.source_id
      AND o.account = asked.account AND o.livemode = asked.livemode
    UNION
    SELECT c.tenant FROM customers c
    WHERE c.customer = asked.customer AND c.source_id = asked.source_id
      AND c.account = asked.account AND c.livemode = asked.livemode
) found
WHERE found.tenant IS NOT NULL
"""


async def tenants_of(
    conn: Conn, customers: Collection[CustomerKey]
) -> list[tuple[CustomerKey, str]]:
    """Whose the customers' objects are now, and to whom operators have linked them."""
    rows = await conn.fetch(TENANTS_OF_CUSTOMERS, *columns_of(customers, 4)) if customers else ()
    return [(CustomerKey(*list(row.values())[:4]), row["tenant"]) for row in rows]


TENANTS_OF_RECORDS = """
SELECT r.source_id, r.account, r.livemode, r.record_id, r.tenant
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, record_id)
JOIN records r
  ON r.source_id = asked.source_id AND r.account = asked.account
 AND r.livemode = asked.livemode AND r.record_id = asked.record_id
WHERE r.tenant IS NOT NULL
"""


async def tenants_of_records(
    conn: Conn, keys: Collection[RecordKey]
) -> list[tuple[RecordKey, str]]:
    """Whose the records are now, as it was said."""
    rows = await conn.fetch(TENANTS_OF_RECORDS, *columns_of(keys, 4)) if keys else ()
    return [(RecordKey(*list(row.values())[:4]), row["tenant"]) for row in rows]


GIVE_UP_SOON = "SELECT set_config('lock_timeout', '200ms', true)"


async def give_up_soon(conn: Conn) -> None:
    """
    In this transaction, give up soon on a row that somebody holds: sooner than Postgres looks for
    deadlocks, so that of two who wait for each other it is never the other one who loses.
    """
    await conn.execute(GIVE_UP_SOON)


IS_IN_THE_WAY = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
)
"""


async def is_in_the_way(conn: Conn) -> bool:
    """Whether somebody waits for what this transaction holds."""
    found: bool = await conn.fetchval(IS_IN_THE_WAY)
    return found


READ_CLOCK = "SELECT clock_timestamp()"


async def read_clock(conn: Conn) -> datetime:
    """The database's clock, which `now()` of a transaction is not."""
    now: datetime = await conn.fetchval(READ_CLOCK)
    return now
