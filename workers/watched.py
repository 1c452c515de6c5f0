"""
A connection that says which locks are asked for, and lets none be taken that was not foreseen.

Handlers find out under their first locks what else they have to lock. Who applies several batches
in one transaction would so lock customers behind tenants, against everybody's order: it has to know
all locks before the first, and begin again with more where it did not.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from shared.db import Conn, Row, Statement
from shared.domain.keys import CustomerKey, JointKey, RecordKey
from shared.store import customers, grants, records

#: Under what transactions meet: ("customer", its key), ("tenant", its name), and so on. Keys alone
#: would not do: as tuples, those of a customer and of a joint may be equal.
Node = tuple[str, object]

CUSTOMER, JOINT, TENANT, RECORD = "customer", "joint", "tenant", "record"

#: What locks, or makes, rows that transactions meet under, and what the keys are that it is given.
_KEYED: dict[str, tuple[str, type[CustomerKey | JointKey | RecordKey]]] = {
    customers.ADD_CUSTOMERS: (CUSTOMER, CustomerKey),
    customers.LOCK_CUSTOMERS: (CUSTOMER, CustomerKey),
    customers.ADD_JOINTS: (JOINT, JointKey),
    customers.LOCK_JOINTS: (JOINT, JointKey),
    records.ADD_RECORDS: (RECORD, RecordKey),
    records.LOCK_RECORDS: (RECORD, RecordKey),
}


class Outgrown(Exception):
    """What is to be locked was not foreseen: roll back, and begin again with `nodes` too."""

    def __init__(self, nodes: frozenset[Node]) -> None:
        super().__init__("what has to be locked was not foreseen")
        self.nodes = nodes


class Watched:
    """A `Conn` whose transaction holds the locks of `held`, and is to take no others."""

    def __init__(self, conn: Conn, held: frozenset[Node]) -> None:
        self._conn = conn
        self._held = held

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See `Conn`. Raises `Outgrown` before anything is locked."""
        self._check(query, args)
        return await self._conn.execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Row]:
        """See `Conn`. Raises `Outgrown` before anything is locked."""
        self._check(query, args)
        return await self._conn.fetch(query, *args, timeout=timeout)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Row | None:
        """See `Conn`."""
        return await self._conn.fetchrow(query, *args, timeout=timeout)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """See `Conn`."""
        return await self._conn.fetchval(query, *args, timeout=timeout)

    async def prepare(self, query: str, *, timeout: float | None = None) -> Statement:
        """See `Conn`."""
        return await self._conn.prepare(query, timeout=timeout)

    async def executemany(
        self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None
    ) -> None:
        """See `Conn`."""
        await self._conn.executemany(command, args, timeout=timeout)

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        """See `Conn`."""
        return await self._conn.copy_records_to_table(table_name, records=records, columns=columns)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """See `Conn`: a savepoint."""
        return self._conn.transaction()

    def _check(self, query: str, args: Sequence[Any]) -> None:
        nodes: frozenset[Node]
        if query == grants.LOCK_TENANTS:
            nodes = frozenset((TENANT, name) for name in args[0])
        elif query in _KEYED:
            kind, key = _KEYED[query]
            nodes = frozenset((kind, key(*values)) for values in zip(*args, strict=True))
        else:
            return
        if not nodes <= self._held:
            raise Outgrown(nodes.difference(self._held))


class LockedAll(NamedTuple):
    """What the rows said under their locks: operators' links of customers, and tenants."""

    links: dict[CustomerKey, str | None]
    tenants: dict[str, grants.LockedTenant]


async def lock_all(conn: Conn, held: Collection[Node]) -> LockedAll:
    """Lock all of it, in the order in which everybody locks; what is missing is made."""

    def of(kind: str) -> list[Any]:
        return [key for one, key in held if one == kind]

    links = await customers.lock_customers(conn, of(CUSTOMER))
    await customers.lock_joints(conn, of(JOINT))
    locked: dict[str, grants.LockedTenant] = {}
    if tenants := of(TENANT):
        await grants.add_tenants(conn, tenants)
        locked = await grants.lock_tenants(conn, tenants)
    if found := of(RECORD):
        await records.lock_records(conn, found)
    return LockedAll(links, locked)
