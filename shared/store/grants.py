"""
Tenants, the grants they hold, and the catalog that these were derived with.

A tenant's lock comes after its customers' (see `shared.store.objects`); only what is read under
it may be derived with.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from shared.db import Conn, columns_of
from shared.domain import verdicts
from shared.domain.entitlements import Grant
from shared.domain.turns import HeldGrant

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_value = msgspec.json.Decoder(bool | int | float | str).decode

# Unlocked: a name that stands for itself here may be merged before its lock is had.
ADD_TENANTS = """
WITH added AS (
    INSERT INTO tenants (tenant, catalog_version)
    SELECT tenant, (SELECT max(version) FROM catalogs) FROM unnest($1::text[]) AS tenant
    ON CONFLICT DO NOTHING
)
SELECT tenant, merged_into, erased_at IS NOT NULL AS is_erased FROM tenants
WHERE tenant = ANY($1::text[] || $2::text[]) AND (merged_into IS NOT NULL OR erased_at IS NOT NULL)
"""


async def add_tenants(
    conn: Conn, tenants: Iterable[str], others: Iterable[str] = ()
) -> dict[str, str]:
    """
    Make sure that the tenants exist. Returns into which others those of them that were merged, and
    of `others`, were.
    """
    rows = await conn.fetch(ADD_TENANTS, sorted(tenants), sorted(others))
    return {row["tenant"]: row["merged_into"] for row in rows if row["merged_into"] is not None}


async def add_resolving(
    conn: Conn, tenants: Iterable[str], others: Iterable[str] = ()
) -> dict[str, str]:
    """The same, with `ERASED` for those that were erased: no object resolves to them."""
    rows = await conn.fetch(ADD_TENANTS, sorted(tenants), sorted(others))
    return {
        row["tenant"]: verdicts.ERASED if row["is_erased"] else row["merged_into"] for row in rows
    }


READ_ALIASES = """
SELECT tenant, merged_into FROM tenants
WHERE tenant = ANY($1::text[]) AND merged_into IS NOT NULL
"""


async def read_aliases(conn: Conn, tenants: Iterable[str]) -> dict[str, str]:
    """Into which others those that were merged were. Unlocked, like `add_tenants`."""
    rows = await conn.fetch(READ_ALIASES, sorted(tenants))
    return {row["tenant"]: row["merged_into"] for row in rows}


# The clock is read as each row is handed on, which is after it was locked: it is later than what
# any holder before read there. `now()` is not, in a transaction that had to wait.
LOCK_TENANTS = """
WITH locked AS MATERIALIZED (
    SELECT tenant, catalog_version,
           CASE WHEN erased_at IS NULL THEN merged_into ELSE '' END AS merged_into
    FROM tenants WHERE tenant = ANY($1::text[])
    ORDER BY tenant FOR UPDATE
)
SELECT tenant, catalog_version, merged_into, clock_timestamp() AS at FROM locked
"""


class LockedTenant(NamedTuple):
    """
    What a tenant's row says under its lock: the catalog that its grants were derived with, and
    the tenant that it was merged into, `ERASED` of an erased one. `at` is when it was locked.
    """

    catalog_version: int
    merged_into: str | None
    at: datetime


async def lock_tenants(conn: Conn, tenants: Iterable[str]) -> dict[str, LockedTenant]:
    """Lock tenants that exist, in the order of their names."""
    rows = await conn.fetch(LOCK_TENANTS, sorted(tenants))
    return {
        row["tenant"]: LockedTenant(row["catalog_version"], row["merged_into"], row["at"])
        for row in rows
    }


GRANTS_OF_TENANTS = """
SELECT object, turns_at, tenant, plan, feature, value, rank, valid_from, valid_until, adds
FROM grants WHERE tenant = ANY($1::text[]) ORDER BY object, plan, feature
"""


async def read_grants(conn: Conn, tenants: Iterable[str]) -> list[HeldGrant]:
    """All grants of the tenants, in key order."""
    found = []
    for row in await conn.fetch(GRANTS_OF_TENANTS, list(tenants)):
        number, turns_at, tenant, plan, feature, value, *rest = row.values()
        grant = Grant(tenant, plan, feature, _decode_value(value), *rest)
        found.append(HeldGrant(number, grant, turns_at))
    return found


REMOVE_GRANTS = "DELETE FROM grants WHERE object = ANY($1::bigint[])"
GRANT_COLUMNS = (
    "object", "plan", "feature", "tenant", "value", "rank", "valid_from", "valid_until",
    "adds", "catalog_version", "turns_at",
)  # fmt: skip


async def replace_grants(
    conn: Conn,
    grants: Mapping[int, Sequence[Grant]],
    had_some: Sequence[int],
    version: int,
    now: datetime,
) -> None:
    """
    Give each object exactly these grants. `had_some` are the objects that have any now, `now` is
    when their tenants were locked.
    """
    if had_some:
        await conn.execute(REMOVE_GRANTS, list(had_some))
    rows = [
        (
            number,
            grant.plan,
            grant.feature,
            grant.tenant,
            _encode(grant.value).decode(),
            grant.rank,
            grant.valid_from,
            grant.valid_until,
            grant.adds,
            version,
            grant.next_turn(now),
        )
        for number, given in sorted(grants.items())
        for grant in given
    ]
    if rows:
        await conn.copy_records_to_table("grants", records=rows, columns=GRANT_COLUMNS)


MOVE_TURNS = """
UPDATE grants g SET turns_at = new.turns_at
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[])
    AS new (object, plan, feature, turns_at)
WHERE g.object = new.object AND g.plan = new.plan AND g.feature = new.feature
"""


async def move_turns(conn: Conn, turned: Iterable[HeldGrant], now: datetime) -> None:
    """Write down of each what its next turn is, now that the trail tells of those before."""
    rows = [
        (one.object_row, one.grant.plan, one.grant.feature, one.grant.next_turn(now))
        for one in turned
    ]
    await conn.execute(MOVE_TURNS, *columns_of(rows, 4))


TENANTS_THAT_TURNED = """
SELECT tenant FROM grants WHERE turns_at <= now()
GROUP BY tenant ORDER BY min(turns_at) LIMIT $1
"""


async def tenants_that_turned(conn: Conn, limit: int) -> list[str]:
    """Tenants with grants that began or ended and that nobody has told the trail of yet."""
    return [row["tenant"] for row in await conn.fetch(TENANTS_THAT_TURNED, limit)]


OUTDATED_TENANTS = """
SELECT tenant FROM tenants
WHERE catalog_version < (SELECT max(version) FROM catalogs) AND merged_into IS NULL
  AND erased_at IS NULL AND tenant <> ALL($2::text[])
ORDER BY tenant LIMIT $1
"""


async def outdated_tenants(conn: Conn, limit: int, but: Collection[str] = ()) -> list[str]:
    """Tenants, others than these, whose grants stand on an older catalog than the current one."""
    return [row["tenant"] for row in await conn.fetch(OUTDATED_TENANTS, limit, list(but))]


SET_CATALOG_VERSION = "UPDATE tenants SET catalog_version = $2 WHERE tenant = $1"


async def set_catalog_version(conn: Conn, tenant: str, version: int) -> None:
    """Write down that all of the tenant's objects were derived with that catalog."""
    await conn.execute(SET_CATALOG_VERSION, tenant, version)


CURRENT_CATALOG_VERSION = "SELECT max(version) FROM catalogs"


async def current_catalog_version(conn: Conn) -> int:
    """The newest version; only what is read under a tenant's lock may be derived with."""
    version: int = await conn.fetchval(CURRENT_CATALOG_VERSION)
    return version


READ_CATALOG = "SELECT document FROM catalogs WHERE version = $1"


async def read_catalog(conn: Conn, version: int) -> dict[str, Any]:
    """A version's document."""
    document: dict[str, Any] = await conn.fetchval(READ_CATALOG, version)
    return document
