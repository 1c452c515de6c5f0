"""
Tenants, the grants they hold, and the catalog that these were derived with.

A tenant's lock comes after its customers' (see `shared.store.objects`); only what is read under
it may be derived with.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.db import Conn
from shared.domain.entitlements import Grant

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_value = msgspec.json.Decoder(bool | int | float | str).decode

ADD_TENANTS = """
INSERT INTO tenants (tenant, catalog_version)
SELECT tenant, (SELECT max(version) FROM catalogs) FROM unnest($1::text[]) AS tenant
ON CONFLICT DO NOTHING
"""
LOCK_TENANTS = """
SELECT tenant, catalog_version FROM tenants WHERE tenant = ANY($1::text[])
ORDER BY tenant FOR UPDATE
"""


async def lock_tenants(conn: Conn, tenants: Iterable[str]) -> dict[str, int]:
    """Make sure that the tenants exist and lock them. Returns their catalog versions."""
    names = sorted(tenants)
    if not names:
        return {}
    await conn.execute(ADD_TENANTS, names)
    rows = await conn.fetch(LOCK_TENANTS, names)
    return {row["tenant"]: row["catalog_version"] for row in rows}


GRANTS_OF_TENANTS = """
SELECT object, tenant, plan, feature, value, rank, valid_from, valid_until, adds
FROM grants WHERE tenant = ANY($1::text[]) ORDER BY object, plan, feature
"""


async def read_grants(conn: Conn, tenants: Iterable[str]) -> dict[int, tuple[Grant, ...]]:
    """All grants of the tenants, by object, each object's in key order."""
    found: dict[int, list[Grant]] = {}
    for row in await conn.fetch(GRANTS_OF_TENANTS, list(tenants)):
        number, tenant, plan, feature, value, *rest = row.values()
        grant = Grant(tenant, plan, feature, _decode_value(value), *rest)
        found.setdefault(number, []).append(grant)
    return {number: tuple(grants) for number, grants in found.items()}


REMOVE_GRANTS = "DELETE FROM grants WHERE object = ANY($1::bigint[])"
GRANT_COLUMNS = (
    "object", "plan", "feature", "tenant", "value", "rank", "valid_from", "valid_until",
    "adds", "catalog_version",
)  # fmt: skip


async def replace_grants(
    conn: Conn, grants: Mapping[int, Sequence[Grant]], had_some: Sequence[int], version: int
) -> None:
    """Give each object exactly these grants. `had_some` are the objects that have any now."""
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
        )
        for number, given in sorted(grants.items())
        for grant in given
    ]
    if rows:
        await conn.copy_records_to_table("grants", records=rows, columns=GRANT_COLUMNS)


OUTDATED_TENANTS = """
SELECT tenant FROM tenants WHERE catalog_version < (SELECT max(version) FROM catalogs)
ORDER BY tenant LIMIT $1
"""


async def outdated_tenants(conn: Conn, limit: int) -> list[str]:
    """Tenants whose grants stand on an older catalog than the current one."""
    return [row["tenant"] for row in await conn.fetch(OUTDATED_TENANTS, limit)]


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
