"""
Customers, the provider objects they own, and what was observed of these.

Lock order everywhere: customers, tenants, objects, each in key order. A customer's lock covers its
links and its objects; what is read about them is read in a later statement.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from shared.db import Conn, Row
from shared.domain.register import Observation, Register
from shared.domain.states import LINKING_KINDS, ObjectState, encode_state

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_register = msgspec.json.Decoder(Register).decode
_decode_state = msgspec.json.Decoder(ObjectState).decode


class CustomerKey(NamedTuple):
    """A customer at a provider."""

    source_id: int
    account: str
    livemode: bool
    customer: str


class ObjectKey(NamedTuple):
    """A provider object."""

    source_id: int
    account: str
    livemode: bool
    kind: str
    object_id: str


@dataclass(slots=True)
class StoredObject:
    """
    An object's row. `id` is 0 until it has one.

    `owner` is the customer whose lock covers it; an object without one is covered by its lane.
    """

    id: int
    key: ObjectKey
    owner: CustomerKey | None
    tenant: str | None
    register: Register
    parked: str | None

    @property
    def customer(self) -> str | None:
        """The owner's id at the provider."""
        return self.owner.customer if self.owner is not None else None


@dataclass(frozen=True, slots=True)
class NewObservation:
    """An observation to be written, of the object at `key`."""

    key: ObjectKey
    observation: Observation
    tracking_id: UUID


ADD_CUSTOMERS = """
INSERT INTO customers (source_id, account, livemode, customer)
SELECT * FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
ON CONFLICT DO NOTHING
"""
LOCK_CUSTOMERS = """
SELECT c.source_id, c.account, c.livemode, c.customer, c.tenant
FROM customers c
JOIN unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, customer)
  ON c.source_id = asked.source_id AND c.account = asked.account
 AND c.livemode = asked.livemode AND c.customer = asked.customer
ORDER BY c.source_id, c.account, c.livemode, c.customer
FOR UPDATE OF c
"""


async def lock_customers(
    conn: Conn, customers: Iterable[CustomerKey]
) -> dict[CustomerKey, str | None]:
    """Make sure that the customers exist and lock them. Returns the operators' links."""
    columns = _columns(sorted(customers), 4)
    if not columns[0]:
        return {}
    await conn.execute(ADD_CUSTOMERS, *columns)
    rows = await conn.fetch(LOCK_CUSTOMERS, *columns)
    return {CustomerKey(*list(row.values())[:4]): row["tenant"] for row in rows}


OBJECTS_OF_CUSTOMERS = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[], $5::boolean[])
    AS asked (source_id, account, livemode, customer, is_whole)
JOIN objects o
  ON o.source_id = asked.source_id AND o.account = asked.account
 AND o.livemode = asked.livemode AND o.customer = asked.customer
 AND (asked.is_whole OR o.kind = ANY($6::text[]))
"""
OBJECTS_BY_KEY = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked
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
) -> list[StoredObject]:
    """
    What the customers' objects say of their links; all objects of those that are in `whole`; and
    those at `others`, wherever they belong.
    """
    asked = [(*customer, customer in whole) for customer in customers]
    rows = await conn.fetch(OBJECTS_OF_CUSTOMERS, *_columns(asked, 5), LINKING_KINDS)
    found = {row["id"]: _stored_object(row) for row in rows}
    known = {stored.key for stored in found.values()}
    missing = [key for key in others if key not in known]
    if missing:
        for row in await conn.fetch(OBJECTS_BY_KEY, *_columns(missing, 5)):
            found[row["id"]] = _stored_object(row)
    return list(found.values())


OBJECTS_OF_TENANT = """
SELECT id, source_id, account, livemode, kind, object_id, customer, tenant, register, parked
FROM objects WHERE tenant = $1 ORDER BY id
"""


async def read_objects_of_tenant(conn: Conn, tenant: str) -> list[StoredObject]:
    """Every object that resolves to the tenant."""
    return [_stored_object(row) for row in await conn.fetch(OBJECTS_OF_TENANT, tenant)]


READ_OBSERVATIONS = """
SELECT object, observation, version, shape, before, after, state, tracking_id
FROM observations WHERE object = ANY($1::bigint[])
"""


async def read_observations(
    conn: Conn, objects: Sequence[int]
) -> dict[int, dict[str, tuple[UUID, Observation]]]:
    """By object, by observation id: which event it came with, and what it saw."""
    found: dict[int, dict[str, tuple[UUID, Observation]]] = {}
    for row in await conn.fetch(READ_OBSERVATIONS, list(objects)):
        number, name, version, shape, before, after, state, tracking_id = row.values()
        seen = Observation(name, version, shape, before, after, _decode_state(state))
        found.setdefault(number, {})[name] = (tracking_id, seen)
    return found


OBJECTS_SEEN_BY = """
SELECT o.id, o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer, o.tenant,
       o.register, o.parked
FROM objects o WHERE o.id IN (SELECT object FROM observations WHERE tracking_id = ANY($1::uuid[]))
"""


async def read_objects_seen_by(conn: Conn, tracking_ids: Sequence[UUID]) -> list[StoredObject]:
    """The objects that earlier runs of these events observed."""
    return [_stored_object(row) for row in await conn.fetch(OBJECTS_SEEN_BY, list(tracking_ids))]


FORGET_OBSERVATIONS = "DELETE FROM observations WHERE tracking_id = ANY($1::uuid[])"


async def forget_observations(conn: Conn, tracking_ids: Sequence[UUID]) -> None:
    """Remove what earlier runs of these events observed: a replay replaces its own."""
    await conn.execute(FORGET_OBSERVATIONS, list(tracking_ids))


TAKE_OBJECT_IDS = """
SELECT nextval('objects_id_seq') AS id FROM generate_series(1, $1::int)
"""
OBJECT_COLUMNS = (
    "id", "source_id", "account", "livemode", "kind", "object_id", "customer", "tenant",
    "register", "parked", "parked_at", "ambiguous",
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
        )
        for stored in new
    ]
    await conn.copy_records_to_table("objects", records=rows, columns=OBJECT_COLUMNS)


SAVE_OBJECTS = """
UPDATE objects o SET customer = new.customer, tenant = new.tenant, register = new.register::json,
    parked = new.parked, ambiguous = new.ambiguous, updated_at = now(),
    parked_at = CASE WHEN new.parked IS NULL THEN NULL
                     WHEN new.parked = o.parked THEN o.parked_at ELSE now() END
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[])
    AS new (id, customer, tenant, register, parked, ambiguous)
WHERE o.id = new.id
"""


async def save_objects(conn: Conn, objects: Sequence[StoredObject]) -> None:
    """Write back changed objects."""
    changed = sorted(objects, key=lambda stored: stored.id)
    await conn.execute(
        SAVE_OBJECTS,
        [stored.id for stored in changed],
        [stored.customer for stored in changed],
        [stored.tenant for stored in changed],
        [_encode(stored.register).decode() for stored in changed],
        [stored.parked for stored in changed],
        [stored.register.ambiguous for stored in changed],
    )


OBSERVATION_COLUMNS = (
    "object", "observation", "version", "shape", "before", "after", "state", "tracking_id",
)  # fmt: skip


async def add_observations(
    conn: Conn, new: Sequence[NewObservation], ids: Mapping[ObjectKey, int]
) -> None:
    """Insert observations of objects that have their ids."""
    rows = [
        (
            ids[one.key],
            one.observation.id,
            one.observation.version,
            one.observation.shape,
            one.observation.before,
            one.observation.after,
            encode_state(one.observation.state).decode(),
            one.tracking_id,
        )
        for one in new
    ]
    await conn.copy_records_to_table("observations", records=rows, columns=OBSERVATION_COLUMNS)


SET_LINK = """
UPDATE customers SET tenant = $5, linked_by = $6, linked_at = now()
WHERE source_id = $1 AND account = $2 AND livemode = $3 AND customer = $4
"""


async def set_link(conn: Conn, customer: CustomerKey, tenant: str | None, actor: str) -> None:
    """Write the operator's link of a customer that the caller has locked."""
    await conn.execute(SET_LINK, *customer, tenant, actor)


def _stored_object(row: Row) -> StoredObject:
    number, source_id, account, livemode, kind, object_id, customer, tenant, register, parked = (
        row.values()
    )
    return StoredObject(
        number,
        ObjectKey(source_id, account, livemode, kind, object_id),
        CustomerKey(source_id, account, livemode, customer) if customer is not None else None,
        tenant,
        _decode_register(register),
        parked,
    )


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]
