"""
What explaining reads besides what deciding does: now, and as it was at an earlier moment.

Read only, and all of one snapshot: `begin_snapshot` comes first in the transaction.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn, Row, columns_of
from shared.domain.events import received_at_of
from shared.domain.explanation import EventRead, Given, OperatorLink, Recorded
from shared.domain.keys import CustomerKey, ObjectKey

BEGIN_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


async def begin_snapshot(conn: Conn) -> None:
    """Let every later statement of the transaction see the same moment. Must be its first."""
    await conn.execute(BEGIN_SNAPSHOT)


class Standing(NamedTuple):
    """The tenant's catalog version, the newest one, and the database's clock."""

    catalog_version: int
    newest_catalog: int
    now: datetime


READ_STANDING = """
SELECT (SELECT catalog_version FROM tenants WHERE tenant = $1) AS catalog_version,
       (SELECT max(version) FROM catalogs) AS newest_catalog, now() AS now
"""


async def read_standing(conn: Conn, tenant: str) -> Standing:
    """With the newest catalog for a tenant that has no row: nothing of its was derived before."""
    row = await conn.fetchrow(READ_STANDING, tenant)
    assert row is not None  # a SELECT without FROM has one row
    newest = row["newest_catalog"]
    version = newest if row["catalog_version"] is None else row["catalog_version"]
    return Standing(version, newest, row["now"])


# The CASEs: what was revoked after that moment was not revoked yet.
READ_GIVEN = """
SELECT object, feature, value, valid_until, actor, reason, granted_at,
       CASE WHEN revoked_at <= $3 THEN revoked_at END AS revoked_at,
       CASE WHEN revoked_at <= $3 THEN revoked_by END AS revoked_by,
       CASE WHEN revoked_at <= $3 THEN revoke_reason END AS revoke_reason
FROM manual_grants
WHERE given_to = ANY($1::text[]) AND feature = $2 AND granted_at <= $3
ORDER BY object
"""


async def read_given(
    conn: Conn, names: Sequence[str], feature: str, until: datetime
) -> list[Given]:
    """What operators had given of the feature by then, revoked or not, to who had these names."""
    given = []
    for row in await conn.fetch(READ_GIVEN, list(names), feature, until):
        object_row, name, value, *rest = row.values()
        given.append(Given(object_row, name, json.loads(value), *rest))
    return given


LINKED_TO = """
SELECT source_id, account, livemode, customer, tenant, linked_by, linked_at
FROM customers WHERE tenant = ANY($1::text[])
"""
LINKS_OF = """
SELECT c.source_id, c.account, c.livemode, c.customer, c.tenant, c.linked_by, c.linked_at
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, customer)
JOIN customers AS c ON c.source_id = asked.source_id AND c.account = asked.account
    AND c.livemode = asked.livemode AND c.customer = asked.customer
WHERE c.linked_at IS NOT NULL
"""


async def read_linked_to(conn: Conn, tenants: Sequence[str]) -> dict[CustomerKey, OperatorLink]:
    """The customers that operators have linked to a tenant, by any of its names."""
    return dict(map(_link, await conn.fetch(LINKED_TO, list(tenants))))


async def read_links_of(
    conn: Conn, customers: Iterable[CustomerKey]
) -> dict[CustomerKey, OperatorLink]:
    """What operators say of these customers; who was unlinked is linked to None."""
    columns = columns_of(sorted(customers), 4)
    return dict(map(_link, await conn.fetch(LINKS_OF, *columns))) if columns[0] else {}


READ_EVENTS = """
SELECT asked.tracking_id, i.event_id, i.event_type, i.occurred_at, z.settled_at, z.outcome
FROM unnest($1::timestamptz[], $2::uuid[]) AS asked (received_at, tracking_id)
LEFT JOIN inbox AS i
  ON i.received_at = asked.received_at AND i.tracking_id = asked.tracking_id
LEFT JOIN LATERAL (
    SELECT settled_at, outcome FROM settlements
    WHERE tracking_id = asked.tracking_id AND settled_at <= $3
    ORDER BY run DESC LIMIT 1
) AS z ON true
"""


async def read_events(
    conn: Conn, tracking_ids: Sequence[UUID], until: datetime
) -> dict[UUID, EventRead]:
    """These events, as far as they are kept, with what had become of them by then."""
    received = {one: received_at_of(one) for one in tracking_ids}
    rows = await conn.fetch(READ_EVENTS, list(received.values()), list(received), until)
    return {
        row["tracking_id"]: EventRead(
            tracking_id=row["tracking_id"],
            received_at=received[row["tracking_id"]],
            event_id=row["event_id"],
            type=row["event_type"],
            occurred_at=row["occurred_at"],
            settled_at=row["settled_at"],
            outcome=row["outcome"],
        )
        for row in rows
    }


READ_RECORD = """
SELECT a.at, a.action, a.actor, a.cause, a.cause_id, a.subject, a.catalog_version, a.chain,
       a.position, a.hash, c.after, a.after_digest IS NOT NULL AND c.after IS NULL AS erased
FROM audit AS a
LEFT JOIN audit_content AS c ON c.audit_id = a.id
WHERE a.tenant = $1 AND a.feature = $2 AND a.at <= $3
ORDER BY a.id DESC
LIMIT 1
"""


async def read_record(conn: Conn, tenant: str, feature: str, until: datetime) -> Recorded | None:
    """The newest record of the feature by then; None where there was none."""
    row = await conn.fetchrow(READ_RECORD, tenant, feature, until)
    if row is None:
        return None
    after = json.loads(row["after"]) if row["after"] is not None else {}
    ends = after.get("validUntil")
    return Recorded(
        at=row["at"],
        action=row["action"],
        actor=row["actor"],
        cause=row["cause"],
        cause_id=row["cause_id"],
        subject=row["subject"] or None,
        catalog_version=row["catalog_version"],
        chain=row["chain"],
        position=row["position"],
        hash=row["hash"].hex(),
        value=after.get("value"),
        valid_until=None if ends is None else datetime.fromisoformat(ends),
        is_erased=row["erased"],
    )


# As it was --------------------------------------------------------------------------------------


class Configured(NamedTuple):
    """The configuration at a moment; `mode` is None before there was one."""

    mode: str | None
    catalog_version: int | None
    removed: frozenset[int]  # sources


READ_CONFIGURED = """
SELECT (SELECT mode FROM configuration WHERE applied_at <= $1 ORDER BY version DESC LIMIT 1)
           AS mode,
       (SELECT max(version) FROM catalogs WHERE applied_at <= $1) AS catalog_version,
       array(SELECT id FROM sources WHERE removed_at <= $1) AS removed
"""


async def read_configured(conn: Conn, at: datetime) -> Configured:
    """Mode, catalog and removed sources as they were then."""
    row = await conn.fetchrow(READ_CONFIGURED, at)
    assert row is not None  # a SELECT without FROM has one row
    return Configured(row["mode"], row["catalog_version"], frozenset(row["removed"]))


# Times follow the records' order but for moments: a transaction that waited for the tenant's lock
# has begun before the one that it waited for.
WAS_RECORDED = """
SELECT EXISTS (
    SELECT FROM (SELECT at FROM audit WHERE tenant = $1 ORDER BY id LIMIT 100) AS first
    WHERE at <= $2
)
"""


async def was_recorded(conn: Conn, tenant: str, until: datetime) -> bool:
    """Whether anything of the tenant was recorded by then."""
    found: bool = await conn.fetchval(WAS_RECORDED, tenant, until)
    return found


SETTLED_BY = """
SELECT DISTINCT tracking_id FROM settlements
WHERE tracking_id = ANY($1::uuid[]) AND status = 'processed' AND settled_at <= $2
"""


async def settled_by(conn: Conn, tracking_ids: Iterable[UUID], until: datetime) -> set[UUID]:
    """Which of these events had been applied by then."""
    rows = await conn.fetch(SETTLED_BY, sorted(tracking_ids), until)
    return {row["tracking_id"] for row in rows}


TOUCHED_OBJECTS = """
SELECT DISTINCT o.source_id, o.account, o.livemode, o.kind, o.object_id
FROM audit AS a
JOIN sources AS s ON s.name = a.source
JOIN objects AS o ON o.source_id = s.id AND o.kind = split_part(a.subject, '/', 1)
    AND o.object_id = substr(a.subject, strpos(a.subject, '/') + 1)
WHERE a.tenant = $1 AND a.feature = $2 AND a.at <= $3 AND a.subject <> ''
"""
TOUCHED_CUSTOMERS = """
SELECT DISTINCT o.source_id, o.account, o.livemode, o.customer
FROM audit AS a
JOIN sources AS s ON s.name = a.source
JOIN objects AS o ON o.source_id = s.id
    AND o.customer = substr(a.subject, strpos(a.subject, '/') + 1)
WHERE a.tenant = $1 AND a.feature = $2 AND a.at <= $3 AND a.subject LIKE 'customer/%'
"""


async def read_touched(
    conn: Conn, tenant: str, feature: str, until: datetime
) -> tuple[list[ObjectKey], list[CustomerKey]]:
    """By what the feature was changed until then, whosever it is now: objects, and by links."""
    seen = await conn.fetch(TOUCHED_OBJECTS, tenant, feature, until)
    linked = await conn.fetch(TOUCHED_CUSTOMERS, tenant, feature, until)
    return [ObjectKey(*row.values()) for row in seen], [CustomerKey(*r.values()) for r in linked]


MOVED_LATER = """
SELECT DISTINCT ON (a.source, a.subject) a.source, a.subject, c.before
FROM audit AS a
LEFT JOIN audit_content AS c ON c.audit_id = a.id
WHERE a.tenant = ANY($1::text[]) AND a.action = 'customer.linked' AND a.at > $2
ORDER BY a.source, a.subject, a.id
"""


async def read_moved_later(
    conn: Conn, tenants: Iterable[str], after: datetime
) -> dict[tuple[str, str], str | None]:
    """
    (source's name, customer) → the link that held until an operator first linked the customer
    to one of these tenants after that moment. Erased, it is None, as where there was no link.
    """
    rows = await conn.fetch(MOVED_LATER, sorted(tenants), after)
    return {
        (row["source"], row["subject"].partition("/")[2]): _tenant_of(row["before"]) for row in rows
    }


def _tenant_of(before: bytes | None) -> str | None:
    content = {} if before is None else json.loads(before)
    tenant: str | None = content.get("tenant")
    return tenant


def _link(row: Row) -> tuple[CustomerKey, OperatorLink]:
    *key, tenant, actor, at = row.values()
    return CustomerKey(*key), OperatorLink(tenant, actor, at)
