"""Legal holds: of which tenants nothing may be forgotten."""

from datetime import datetime, timedelta
from typing import NamedTuple

from shared.db import Conn


class Standing(NamedTuple):
    """How a tenant stands; `is_held` by the database's clock, by a merged name of its included."""

    tenant: str
    merged_into: str | None
    erased_at: datetime | None
    held_at: datetime | None
    held_by: str | None
    hold_reason: str | None
    held_until: datetime | None
    is_held: bool


# Whoever forgets bodies has this lock as well: a hold is said before, or after, and never between.
LOCK_BODIES = "SELECT pg_advisory_xact_lock(hashtext('sluice.bodies'))"
LOCK_TENANT = "SELECT tenant FROM tenants WHERE tenant = $1 FOR UPDATE"
READ_STANDING = """
SELECT t.tenant, t.merged_into, t.erased_at, t.held_at, t.held_by, t.hold_reason, t.held_until,
       t.tenant = ANY(held_tenants()) AS is_held
FROM tenants AS t WHERE t.tenant = $1
"""


async def lock(conn: Conn, tenant: str) -> Standing | None:
    """Lock a tenant, and against whoever forgets; None where nothing ever named it."""
    await conn.execute(LOCK_BODIES)
    await conn.execute(LOCK_TENANT, tenant)
    return await read(conn, tenant)


async def read(conn: Conn, tenant: str) -> Standing | None:
    """See `Standing`; None where nothing ever named the tenant."""
    row = await conn.fetchrow(READ_STANDING, tenant)
    return None if row is None else Standing(*row.values())


# Not `now()`: the transaction may have waited for somebody who copies what is held.
HOLD = """
UPDATE tenants SET held_at = clock_timestamp(), held_by = $2, hold_reason = $3,
                   held_until = coalesce($4::timestamptz, now() + $5::interval)
WHERE tenant = $1
"""


async def hold(
    conn: Conn, tenant: str, by: str, reason: str, until: datetime | timedelta | None
) -> None:
    """Hold a tenant that the caller has locked: until a time, for so long, or until released."""
    at = until if isinstance(until, datetime) else None
    after = until if isinstance(until, timedelta) else None
    await conn.execute(HOLD, tenant, by, reason, at, after)


RELEASE = """
UPDATE tenants SET held_at = NULL, held_by = NULL, hold_reason = NULL, held_until = NULL
WHERE tenant = $1
"""


async def release(conn: Conn, tenant: str) -> None:
    """Let it be forgotten as all others are."""
    await conn.execute(RELEASE, tenant)


READ_STANDINGS = """
SELECT t.tenant, t.merged_into, t.erased_at, t.held_at, t.held_by, t.hold_reason, t.held_until,
       t.tenant = ANY(held_tenants()) AS is_held
FROM tenants AS t WHERE t.tenant = ANY($1::text[])
"""


async def read_all(conn: Conn, tenants: list[str]) -> dict[str, Standing]:
    """By name, how each of them stands."""
    rows = await conn.fetch(READ_STANDINGS, tenants)
    return {row["tenant"]: Standing(*row.values()) for row in rows}
