"""
What a tenant may use now, which objects give it that, which customers are its own, and who its
members are.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from shared.db import Conn, Row
from shared.domain import states
from shared.domain.entitlements import Entitlement, Grant, aggregate
from shared.store.paging import Page, iso, page_of

IS_KNOWN = """
SELECT now() AS now, t.merged_into, t.merged_at,
       t.tenant IS NOT NULL
       OR EXISTS (SELECT 1 FROM grants WHERE tenant = $1)
       OR EXISTS (SELECT 1 FROM objects WHERE tenant = $1) AS known
FROM (SELECT) AS one LEFT JOIN tenants AS t ON t.tenant = $1
"""


#: The kinds of object whose id is a customer's.
_ARE_CUSTOMERS = (states.CUSTOMER_KIND, states.ORGANIZATION_KIND, states.USER_KIND)


class KnownTenant(NamedTuple):
    """A tenant that something named. `now` is the database's clock."""

    now: datetime
    merged_into: str | None
    merged_at: datetime | None


async def find_tenant(conn: Conn, tenant: str) -> KnownTenant | None:
    """Whether anything ever named the tenant, and into whom it was merged."""
    if "\0" in tenant:
        return None
    found = await conn.fetchrow(IS_KNOWN, tenant)
    assert found is not None  # one row, whatever there is
    now, merged_into, merged_at, is_known = found.values()
    return KnownTenant(now, merged_into, merged_at) if is_known else None


# A merged tenant's name is looked up by each statement for itself: read before, it would show
# nothing at all to whom the merge came between.
READ_GRANTS = """
SELECT g.plan, g.feature, g.tenant, g.value, g.rank, g.valid_from, g.valid_until,
       g.adds, g.catalog_version, coalesce(s.name, 'operator') AS source,
       coalesce(o.kind, 'manual') AS kind, coalesce(o.object_id, g.object::text) AS object_id
FROM grants AS g
LEFT JOIN objects AS o ON o.id = g.object
LEFT JOIN sources AS s ON s.id = o.source_id
WHERE g.tenant = coalesce((SELECT merged_into FROM tenants WHERE tenant = $1), $1)
  AND (g.valid_until IS NULL OR $2 < g.valid_until)
ORDER BY g.feature, g.plan, source, kind, object_id
"""
READ_CUSTOMERS = """
WITH actual AS (
    SELECT coalesce((SELECT merged_into FROM tenants WHERE tenant = $1), $1) AS tenant
), names AS (
    SELECT tenant FROM actual
    UNION ALL
    SELECT t.tenant FROM tenants AS t JOIN actual AS a ON t.merged_into = a.tenant
), keys AS (
    SELECT o.source_id, o.account, o.livemode, o.customer
    FROM objects AS o JOIN actual AS a ON a.tenant = o.tenant
    WHERE o.customer IS NOT NULL
    UNION
    SELECT c.source_id, c.account, c.livemode, c.customer
    FROM customers AS c JOIN names AS n ON n.tenant = c.tenant
)
SELECT s.name AS source, s.provider, k.account, k.livemode, k.customer, c.linked_by, c.linked_at,
       EXISTS (
           SELECT 1 FROM objects AS i
           WHERE i.object_id = k.customer AND i.kind = ANY($2::text[])
             AND i.source_id = k.source_id AND i.account = k.account AND i.livemode = k.livemode
             AND i.register #>> '{sightings,0,state,status}' = 'deleted'
       ) AS is_deleted
FROM keys AS k
JOIN sources AS s ON s.id = k.source_id
LEFT JOIN customers AS c ON c.source_id = k.source_id AND c.account = k.account
    AND c.livemode = k.livemode AND c.customer = k.customer
    AND c.tenant IN (SELECT tenant FROM names)
ORDER BY s.name, k.account, k.livemode, k.customer
"""


async def read_tenant(conn: Conn, tenant: str) -> dict[str, Any] | None:
    """
    What `sluice tenants show` and the API answer; None for a tenant that nothing ever named.

    {"tenant", "mergedInto", "mergedAt",
    "entitlements": [{"feature", "value", "validUntil", "grants": […]}],
    "customers": [{"source", "account", "livemode", "customer", "linkedBy", "linkedAt",
    "isDeleted"}]}. Times are RFC 3339; live or not is decided by the database's clock. What an
    operator gave by hand has the source "operator" and the object "manual/ID". `linkedBy` is
    "operator:NAME", or "provider:NAME" where the provider's own objects name the tenant;
    `isDeleted` says that the provider deleted the customer, whatever else pays for the tenant. A
    merged tenant is answered with what the one has that it was merged into, whose name is
    `mergedInto`.
    """
    found = await find_tenant(conn, tenant)
    if found is None:
        return None
    now = found.now
    customers = await conn.fetch(READ_CUSTOMERS, tenant, _ARE_CUSTOMERS)
    grants: list[tuple[Grant, dict[str, Any]]] = [
        (_grant(row), _shown_grant(row)) for row in await conn.fetch(READ_GRANTS, tenant, now)
    ]
    entitlements = aggregate([grant for grant, _ in grants], now)
    return {
        "tenant": tenant,
        "mergedInto": found.merged_into,
        "mergedAt": iso(found.merged_at),
        "entitlements": [
            {
                "feature": feature,
                "value": entitlement.value,
                "validUntil": iso(entitlement.valid_until),
                "grants": [
                    shown
                    for grant, shown in grants
                    if grant.feature == feature and grant.is_live(now)
                ],
            }
            for feature, entitlement in entitlements.items()
        ],
        "customers": [_customer(row) for row in customers],
    }


# Of the other mode and of a pruned source nobody is a member: whoever asks may let them in.
READ_MEMBERS = """
SELECT o.id, s.name AS source, o.account, o.livemode, o.kind, o.object_id, o.customer,
       o.register #>> '{sightings,0,state,member}' AS member,
       o.register #>> '{sightings,0,state,role}' AS role,
       (o.register #>> '{sightings,0,state,started_at}')::bigint AS started_at
FROM objects AS o
JOIN sources AS s ON s.id = o.source_id AND s.removed_at IS NULL
WHERE o.tenant = coalesce((SELECT merged_into FROM tenants WHERE tenant = $1), $1)
  AND o.kind = $2 AND o.id > $3
  AND o.register #>> '{sightings,0,state,status}' = 'present'
  AND (s.livemode IS NULL OR o.livemode =
       ((SELECT mode FROM configuration ORDER BY version DESC LIMIT 1) = 'live'))
  AND NOT EXISTS (
      SELECT 1 FROM objects AS i
      WHERE (i.kind, i.object_id) IN (
              ($4, o.register #>> '{sightings,0,state,member}'), ($5, o.customer)
          )
        AND i.source_id = o.source_id AND i.account = o.account AND i.livemode = o.livemode
        AND i.register #>> '{sightings,0,state,status}' = 'deleted'
  )
ORDER BY o.id
LIMIT $6
"""


async def read_members(conn: Conn, tenant: str, after: int, limit: int) -> Page | None:
    """
    Who is a member of the tenant, in the order in which they were heard of; None as `read_tenant`.

    {"member", "role", "since", "source", "account", "livemode", "customer" (of which of the
    tenant's organizations), "object"}. A member is its id at the provider, and listed once for
    each organization. `after` is the cursor's number, 0 for the first page.
    """
    if await find_tenant(conn, tenant) is None:
        return None
    kinds = states.USER_KIND, states.ORGANIZATION_KIND
    rows = await conn.fetch(READ_MEMBERS, tenant, states.MEMBERSHIP_KIND, after, *kinds, limit + 1)
    return page_of(rows, limit, _member, lambda row: (row["id"],))


# A name's bytes decide its order, and this character is behind every other one.
LIST_TENANTS = """
SELECT t.tenant, t.created_at, t.catalog_version, t.merged_into,
       (SELECT count(DISTINCT g.feature) FROM grants AS g
        WHERE g.tenant = t.tenant AND (g.valid_from IS NULL OR g.valid_from <= now())
          AND (g.valid_until IS NULL OR now() < g.valid_until)) AS features
FROM tenants AS t
WHERE ($1::text IS NULL OR t.tenant > $1)
  AND t.tenant >= $3::text AND t.tenant < $3::text || chr(1114111)
  AND ($4::text IS NULL OR t.tenant = $4)
ORDER BY t.tenant
LIMIT $2
"""


async def list_tenants(
    conn: Conn, after: str | None, limit: int, prefix: str = "", only: str | None = None
) -> Page:
    """
    By name: {"tenant", "features" (how many it may use now), "catalogVersion", "createdAt",
    "mergedInto" (the tenant it is another name of)}. Those whose name begins with `prefix`; with
    `only` none but that one.
    """
    rows = await conn.fetch(LIST_TENANTS, after, limit + 1, prefix, only)
    return page_of(rows, limit, _listed, lambda row: (row["tenant"],))


CHECK_FEATURES = """
SELECT now() AS now, asked.tenant AS asked_for, g.plan, g.feature, g.tenant, g.value, g.rank,
       g.valid_from, g.valid_until, g.adds
FROM (
    SELECT one.tenant, coalesce(t.merged_into, one.tenant) AS holder
    FROM unnest($1::text[]) AS one (tenant) LEFT JOIN tenants AS t ON t.tenant = one.tenant
) AS asked
JOIN grants AS g ON g.tenant = asked.holder AND g.feature = ANY($2::text[])
WHERE g.valid_until IS NULL OR now() < g.valid_until
"""


async def check_features(
    conn: Conn, tenants: Iterable[str], features: Iterable[str]
) -> dict[tuple[str, str], Entitlement]:
    """
    By (tenant, feature) what tenants may use of these features now, in one statement. A merged
    tenant has what the other one has; what nobody ever named has nothing.
    """
    rows = await conn.fetch(CHECK_FEATURES, sorted(set(tenants)), sorted(set(features)))
    held: dict[str, list[Grant]] = {}
    for row in rows:
        held.setdefault(row["asked_for"], []).append(_grant(row))
    return {
        (tenant, feature): entitlement
        for tenant, grants in held.items()
        for feature, entitlement in aggregate(grants, rows[0]["now"]).items()
    }


def _listed(row: Row) -> dict[str, Any]:
    return {
        "tenant": row["tenant"],
        "features": row["features"],
        "catalogVersion": row["catalog_version"],
        "createdAt": iso(row["created_at"]),
        "mergedInto": row["merged_into"],
    }


def _grant(row: Row) -> Grant:
    return Grant(
        tenant=row["tenant"],
        plan=row["plan"],
        feature=row["feature"],
        value=json.loads(row["value"]),
        rank=row["rank"],
        valid_from=row["valid_from"],
        valid_until=row["valid_until"],
        adds=row["adds"],
    )


def _shown_grant(row: Row) -> dict[str, Any]:
    return {
        "plan": row["plan"],
        "value": json.loads(row["value"]),
        "validFrom": iso(row["valid_from"]),
        "validUntil": iso(row["valid_until"]),
        "source": row["source"],
        "object": f"{row['kind']}/{row['object_id']}",
        "catalogVersion": row["catalog_version"],
    }


def _member(row: Row) -> dict[str, Any]:
    since = row["started_at"]
    return {
        "member": row["member"],
        "role": row["role"],
        "since": None if since is None else iso(datetime.fromtimestamp(since, UTC)),
        "source": row["source"],
        "account": row["account"],
        "livemode": row["livemode"],
        "customer": row["customer"],
        "object": f"{row['kind']}/{row['object_id']}",
    }


def _customer(row: Row) -> dict[str, Any]:
    return {
        "source": row["source"],
        "account": row["account"],
        "livemode": row["livemode"],
        "customer": row["customer"],
        "linkedBy": row["linked_by"] or f"provider:{row['provider']}",
        "linkedAt": iso(row["linked_at"]),
        "isDeleted": row["is_deleted"],
    }
