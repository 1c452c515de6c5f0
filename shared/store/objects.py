"""
Provider objects: the caches of their registers, whose they are, and what they wait for.

Read and written under the locks of `shared.store.customers`.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from shared.db import Conn, Row, columns_of
from shared.domain.keys import CustomerKey, JointKey, ObjectKey
from shared.domain.payments import joints_of
from shared.domain.register import Register, Want
from shared.domain.states import COMMON_KINDS

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_register = msgspec.json.Decoder(Register).decode


@dataclass(slots=True)
class StoredObject:
    """
    An object's row. `id` is 0 until it has one.

    `owner` is the customer whose lock covers it: its own, or that of the payment it joins. An
    object without one is covered by its joints and its lane. `adverse` ones may speak against
    others of the same payment; `wants` is why a fetch would help.
    """

    id: int
    key: ObjectKey
    owner: CustomerKey | None
    tenant: str | None
    register: Register
    parked: str | None
    adverse: bool = False
    wants: Want | None = None

    @property
    def customer(self) -> str | None:
        """The owner's id at the provider."""
        return self.owner.customer if self.owner is not None else None

    @property
    def joints(self) -> tuple[JointKey, ...]:
        """By what it joins others."""
        names = joints_of(self.key.kind, self.key.object_id, self.register.newest.refs)
        return tuple(JointKey(*self.key[:3], name) for name in names)


OBJECTS_OF_CUSTOMERS = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked, o.adverse, o.wants
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[], $5::boolean[])
    AS asked (source_id, account, livemode, customer, is_whole)
JOIN objects o
  ON o.source_id = asked.source_id AND o.account = asked.account
 AND o.livemode = asked.livemode AND o.customer = asked.customer
 AND (asked.is_whole OR o.adverse OR o.kind = ANY($6::text[]))
 AND o.kind <> ALL($7::text[])
"""
OBJECTS_BY_KEY = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked, o.adverse, o.wants
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[], $5::text[])
    AS asked (source_id, account, livemode, kind, object_id)
JOIN objects o
  ON o.source_id = asked.source_id AND o.account = asked.account AND o.livemode = asked.livemode
 AND o.kind = asked.kind AND o.object_id = asked.object_id
"""


async def read_objects(
    conn: Conn,
    customers: Iterable[CustomerKey],
    whole: Container[CustomerKey],
    others: Iterable[ObjectKey],
    *,
    without: Collection[str] = (),
) -> list[StoredObject]:
    """
    What the customers' objects say of their links and against each other, and what sums them up;
    all objects of those that are in `whole`, but those of the kinds `without`; and those at
    `others`, wherever they belong.
    """
    asked = [(*customer, customer in whole) for customer in customers]
    kinds = COMMON_KINDS, list(without)
    rows = await conn.fetch(OBJECTS_OF_CUSTOMERS, *columns_of(asked, 5), *kinds)
    found = {row["id"]: _stored_object(row) for row in rows}
    known = {stored.key for stored in found.values()}
    missing = [key for key in others if key not in known]
    if missing:
        for row in await conn.fetch(OBJECTS_BY_KEY, *columns_of(missing, 5)):
            found[row["id"]] = _stored_object(row)
    return list(found.values())


OBJECTS_OF_TENANT = """
SELECT id, source_id, account, livemode, kind, object_id, customer, tenant, register, parked,
       adverse, wants
FROM objects WHERE tenant = $1 AND kind <> ALL($2::text[]) ORDER BY id
"""


async def read_objects_of_tenant(
    conn: Conn, tenant: str, *, without: Collection[str] = ()
) -> list[StoredObject]:
    """Every object that resolves to the tenant, but those of the kinds `without`."""
    rows = await conn.fetch(OBJECTS_OF_TENANT, tenant, list(without))
    return [_stored_object(row) for row in rows]


OBJECTS_SEEN_BY = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked, o.adverse, o.wants
FROM objects o WHERE o.id IN (SELECT object FROM observations WHERE tracking_id = ANY($1::uuid[]))
"""


async def read_objects_seen_by(conn: Conn, tracking_ids: Sequence[UUID]) -> list[StoredObject]:
    """The objects that earlier runs of these events observed."""
    return [_stored_object(row) for row in await conn.fetch(OBJECTS_SEEN_BY, list(tracking_ids))]


REACHED_BY_JOINTS = """
WITH RECURSIVE reached (source_id, account, livemode, joint) AS (
    SELECT source_id, account COLLATE "C", livemode, joint COLLATE "C"
    FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
        AS asked (source_id, account, livemode, joint)
    UNION
    SELECT r.source_id, r.account, r.livemode, further.joint
    FROM reached r
    JOIN objects o ON o.joints @> ARRAY[r.joint] AND o.source_id = r.source_id
     AND o.account = r.account AND o.livemode = r.livemode
    CROSS JOIN unnest(o.joints) AS further (joint)
)
SELECT r.source_id, r.account, r.livemode, r.joint, o.customer
FROM reached r
LEFT JOIN objects o ON o.joints @> ARRAY[r.joint] AND o.source_id = r.source_id
 AND o.account = r.account AND o.livemode = r.livemode
"""


async def reach_by_joints(
    conn: Conn, joints: Iterable[JointKey]
) -> tuple[set[JointKey], set[CustomerKey]]:
    """Everything that joins these, however far: all joints of it, and all its customers."""
    columns = columns_of(sorted(joints), 4)
    reached: set[JointKey] = set()
    customers: set[CustomerKey] = set()
    for row in await conn.fetch(REACHED_BY_JOINTS, *columns) if columns[0] else ():
        source_id, account, livemode, joint, customer = row.values()
        reached.add(JointKey(source_id, account, livemode, joint))
        if customer is not None:
            customers.add(CustomerKey(source_id, account, livemode, customer))
    return reached, customers


OBJECTS_OF_JOINTS = """
SELECT DISTINCT ON (o.id) o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer,
       o.tenant, o.register, o.parked, o.adverse, o.wants
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, joint)
JOIN objects o ON o.joints @> ARRAY[asked.joint] AND o.source_id = asked.source_id
 AND o.account = asked.account AND o.livemode = asked.livemode
"""


async def read_objects_of_joints(conn: Conn, joints: Iterable[JointKey]) -> list[StoredObject]:
    """Every object that names one of these."""
    columns = columns_of(sorted(joints), 4)
    rows = await conn.fetch(OBJECTS_OF_JOINTS, *columns) if columns[0] else ()
    return [_stored_object(row) for row in rows]


NAMES_OF_OBJECTS = """
SELECT o.id, s.name AS source, o.kind, o.object_id
FROM objects o JOIN sources s ON s.id = o.source_id
WHERE o.id = ANY($1::bigint[])
"""


async def read_names(conn: Conn, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """By id, the name of the source and "kind/id"; what is no provider object is missing."""
    rows = await conn.fetch(NAMES_OF_OBJECTS, list(ids))
    return {row["id"]: (row["source"], f"{row['kind']}/{row['object_id']}") for row in rows}


TAKE_OBJECT_IDS = """
SELECT nextval('objects_id_seq') AS id FROM generate_series(1, $1::int)
"""
OBJECT_COLUMNS = (
    "id", "source_id", "account", "livemode", "kind", "object_id", "customer", "tenant",
    "register", "parked", "parked_at", "ambiguous", "joints", "adverse", "wants",
)  # fmt: skip


async def add_objects(conn: Conn, objects: Sequence[StoredObject], now: datetime) -> None:
    """Insert objects, in key order, and set their ids."""
    new = sorted(objects, key=lambda stored: stored.key)
    for row, stored in zip(await conn.fetch(TAKE_OBJECT_IDS, len(new)), new, strict=True):
        stored.id = row["id"]
    rows = [
        (
            stored.id,
            *stored.key,
            stored.customer,
            stored.tenant,
            _encode(stored.register).decode(),
            stored.parked,
            now if stored.parked is not None else None,
            stored.register.ambiguous,
            [key.joint for key in stored.joints] or None,
            stored.adverse,
            stored.wants,
        )
        for stored in new
    ]
    await conn.copy_records_to_table("objects", records=rows, columns=OBJECT_COLUMNS)


SAVE_OBJECTS = """
UPDATE objects o SET customer = new.customer, tenant = new.tenant, register = new.register::json,
    parked = new.parked, ambiguous = new.ambiguous, adverse = new.adverse, wants = new.wants,
    joints = CASE WHEN new.joints IS NOT NULL
                  THEN ARRAY(SELECT json_array_elements_text(new.joints::json)) END,
    updated_at = now(),
    parked_at = CASE WHEN new.parked IS NULL THEN NULL
                     WHEN new.parked = o.parked THEN o.parked_at ELSE now() END
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[],
            $7::boolean[], $8::text[], $9::text[])
    AS new (id, customer, tenant, register, parked, ambiguous, adverse, wants, joints)
WHERE o.id = new.id
"""


async def save_objects(conn: Conn, objects: Sequence[StoredObject]) -> None:
    """Write back changed objects."""
    changed = sorted(objects, key=lambda stored: stored.id)
    joints = [[key.joint for key in stored.joints] for stored in changed]
    await conn.execute(
        SAVE_OBJECTS,
        [stored.id for stored in changed],
        [stored.customer for stored in changed],
        [stored.tenant for stored in changed],
        [_encode(stored.register).decode() for stored in changed],
        [stored.parked for stored in changed],
        [stored.register.ambiguous for stored in changed],
        [stored.adverse for stored in changed],
        [stored.wants for stored in changed],
        [_encode(names).decode() if names else None for names in joints],
    )


def _stored_object(row: Row) -> StoredObject:
    (
        number, source_id, account, livemode, kind, object_id, customer, tenant, register, parked,
        adverse, wants,
    ) = row.values()  # fmt: skip
    return StoredObject(
        number,
        ObjectKey(source_id, account, livemode, kind, object_id),
        CustomerKey(source_id, account, livemode, customer) if customer is not None else None,
        tenant,
        _decode_register(register),
        parked,
        adverse,
        wants,
    )
