"""Merged tenants: names that stand for another tenant, for good."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from shared.db import Conn
from shared.domain.keys import CustomerKey, ObjectKey

READ_MERGES = """
SELECT tenant, merged_into, merged_at, erased_at FROM tenants WHERE tenant = ANY($1::text[])
"""


@dataclass(frozen=True, slots=True)
class Merge:
    """
    Into whom a tenant was merged, and when; None, None: it stands for itself. `erased_at`: it was
    erased.
    """

    into: str | None
    at: datetime | None
    erased_at: datetime | None = None


async def read_merges(conn: Conn, tenants: Iterable[str]) -> dict[str, Merge]:
    """By name; a tenant that nothing ever named is missing."""
    rows = await conn.fetch(READ_MERGES, list(tenants))
    return {
        row["tenant"]: Merge(row["merged_into"], row["merged_at"], row["erased_at"]) for row in rows
    }


NAMES_OF_TENANT = "SELECT tenant FROM tenants WHERE merged_into = $1 ORDER BY tenant"


async def names_of(conn: Conn, tenant: str) -> list[str]:
    """The tenants that were merged into this one."""
    return [row["tenant"] for row in await conn.fetch(NAMES_OF_TENANT, tenant)]


ALIASES_AT = "SELECT tenant FROM tenants WHERE merged_into = $1 AND merged_at <= $2"


async def aliases_at(conn: Conn, tenant: str, at: datetime) -> dict[str, str]:
    """The names that stood for the tenant at that moment, each with the tenant's own."""
    return {row["tenant"]: tenant for row in await conn.fetch(ALIASES_AT, tenant, at)}


IN_CONFLICT_OVER = """
SELECT DISTINCT o.source_id, o.account, o.livemode, o.kind, o.object_id, o.customer
FROM objects o
JOIN objects s ON s.customer = o.customer AND s.source_id = o.source_id
 AND s.account = o.account AND s.livemode = o.livemode AND s.kind = 'checkout.session'
WHERE o.parked = 'link_conflict'
  AND s.register #>> '{sightings,0,state,reference}' = ANY($1::text[])
"""


async def in_conflict_over(conn: Conn, tenants: Iterable[str]) -> dict[ObjectKey, CustomerKey]:
    """Objects parked between tenants of which one is among these, with their customers."""
    found = {}
    for row in await conn.fetch(IN_CONFLICT_OVER, list(tenants)):
        source_id, account, livemode, kind, object_id, customer = row.values()
        key = ObjectKey(source_id, account, livemode, kind, object_id)
        found[key] = CustomerKey(*key[:3], customer)
    return found


MERGE_TENANT = """
UPDATE tenants SET merged_into = $2, merged_at = coalesce(merged_at, now())
WHERE tenant = $1 OR merged_into = $1
"""


async def merge(conn: Conn, tenant: str, into: str) -> None:
    """Make a tenant, and what was merged into it before, names of another. All are locked."""
    await conn.execute(MERGE_TENANT, tenant, into)
