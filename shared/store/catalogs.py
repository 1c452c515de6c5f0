"""
The catalog's versions, and how far the tenants have followed: what operators ask. What a new
version would concern is found here too, by reading every object once.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from shared.db import Conn, Row
from shared.domain.register import Register
from shared.store.paging import Page, iso, page_of

_decode_register = msgspec.json.Decoder(Register).decode

_AT_ONCE = 2000

LIST_CATALOGS = """
SELECT c.version, c.applied_at, c.actor,
       (SELECT count(*) FROM jsonb_object_keys(c.document -> 'plans')) AS plans,
       (SELECT count(*) FROM tenants AS t WHERE t.catalog_version = c.version
           AND t.merged_into IS NULL) AS tenants,
       c.version = (SELECT max(version) FROM catalogs) AS is_current
FROM catalogs AS c
WHERE $1::bigint IS NULL OR c.version < $1
ORDER BY c.version DESC
LIMIT $2
"""


async def list_catalogs(conn: Conn, before: int | None, limit: int) -> Page:
    """
    Newest first: {"version", "appliedAt", "actor", "plans" (how many), "tenants" (whose grants
    were derived with it), "isCurrent"}.
    """
    rows = await conn.fetch(LIST_CATALOGS, before, limit + 1)
    return page_of(rows, limit, _listed, lambda row: (row["version"],))


def _listed(row: Row) -> dict[str, Any]:
    return {
        "version": row["version"],
        "appliedAt": iso(row["applied_at"]),
        "actor": row["actor"],
        "plans": row["plans"],
        "tenants": row["tenants"],
        "isCurrent": row["is_current"],
    }


READ_CATALOG = """
SELECT c.version, c.applied_at, c.actor, c.document,
       (SELECT count(*) FROM tenants AS t WHERE t.catalog_version = c.version
           AND t.merged_into IS NULL) AS tenants,
       c.version = (SELECT max(version) FROM catalogs) AS is_current
FROM catalogs AS c
WHERE c.version = coalesce($1::bigint, (SELECT max(version) FROM catalogs))
"""


async def read_catalog(conn: Conn, version: int | None) -> dict[str, Any] | None:
    """
    A version, or the current one: {"version", "appliedAt", "actor", "tenants", "isCurrent",
    "plans", "features"}, the last two as they are stored. None: there is no such version.
    """
    row = await conn.fetchrow(READ_CATALOG, version)
    if row is None:
        return None
    document = row["document"]
    return {
        "version": row["version"],
        "appliedAt": iso(row["applied_at"]),
        "actor": row["actor"],
        "tenants": row["tenants"],
        "isCurrent": row["is_current"],
        "plans": document.get("plans", {}),
        "features": document.get("features", {}),
    }


@dataclass(frozen=True, slots=True)
class Following:
    """How far tenants have followed a version. `oldest` is any tenant's, None without tenants."""

    version: int
    applied_at: datetime
    tenants: int
    remaining: int
    oldest: int | None

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "version": self.version,
            "appliedAt": iso(self.applied_at),
            "tenants": self.tenants,
            "upToDate": self.tenants - self.remaining,
            "remaining": self.remaining,
            "oldest": self.oldest,
        }


READ_FOLLOWING = """
SELECT c.version, c.applied_at,
       (SELECT count(*) FROM tenants WHERE merged_into IS NULL) AS tenants,
       (SELECT count(*) FROM tenants AS t WHERE t.catalog_version < c.version
           AND t.merged_into IS NULL) AS remaining,
       (SELECT min(catalog_version) FROM tenants WHERE merged_into IS NULL) AS oldest
FROM catalogs AS c
WHERE c.version = coalesce($1::bigint, (SELECT max(version) FROM catalogs))
"""


async def read_following(conn: Conn, version: int | None = None) -> Following:
    """How far the tenants have followed this version, which exists, or the current one."""
    row = await conn.fetchrow(READ_FOLLOWING, version)
    assert row is not None
    return Following(
        row["version"], row["applied_at"], row["tenants"], row["remaining"], row["oldest"]
    )


COUNT_REMAINING = """
SELECT count(*) FROM tenants WHERE catalog_version < $1 AND merged_into IS NULL
"""


async def count_remaining(conn: Conn, version: int) -> int:
    """How many tenants have not followed yet; cheaper than all of `read_following`."""
    remaining: int = await conn.fetchval(COUNT_REMAINING, version)
    return remaining


TENANTS_BEHIND = """
SELECT tenant FROM tenants WHERE catalog_version < $1 AND tenant > $2 ORDER BY tenant LIMIT $3
"""


async def tenants_behind(conn: Conn, version: int) -> AsyncIterator[str]:
    """The tenants that are still to be derived with this version or a later one."""
    last = ""
    while rows := await conn.fetch(TENANTS_BEHIND, version, last, _AT_ONCE):
        for row in rows:
            yield row["tenant"]
        last = rows[-1]["tenant"]


class Owned(NamedTuple):
    """An object that a tenant has, and what is known of it."""

    id: int
    source_id: int
    livemode: bool
    tenant: str
    register: Register


OWNED_OBJECTS = """
SELECT id, source_id, livemode, tenant, register
FROM objects WHERE id > $1 AND tenant IS NOT NULL ORDER BY id LIMIT $2
"""


async def owned_objects(conn: Conn) -> AsyncIterator[list[Owned]]:
    """Every object of a tenant, in pieces and by id; outside a transaction, nothing is held."""
    last = 0
    while rows := await conn.fetch(OWNED_OBJECTS, last, _AT_ONCE):
        yield [
            Owned(number, source_id, livemode, tenant, _decode_register(register))
            for number, source_id, livemode, tenant, register in (row.values() for row in rows)
        ]
        last = rows[-1]["id"]


WAIT_BRIEFLY = "SELECT set_config('lock_timeout', '500ms', true)"


async def wait_briefly(conn: Conn) -> None:
    """In this transaction, give up sooner on a row that somebody holds."""
    await conn.execute(WAIT_BRIEFLY)
