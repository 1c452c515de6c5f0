"""What operators gave by hand: who gave it, why, and whether it was taken back."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import msgspec

from shared.db import Conn, Row
from shared.domain.catalog import FeatureValue

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_value = msgspec.json.Decoder(bool | int | float | str).decode


@dataclass(frozen=True, slots=True)
class ManualGrant:
    """
    One grant by hand. Its row in `grants` stands under the same id. `valid_until` None: until it
    is revoked.
    """

    id: int
    tenant: str
    feature: str
    value: FeatureValue
    valid_until: datetime | None
    actor: str
    reason: str
    granted_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None


ADD_MANUAL_GRANT = """
INSERT INTO manual_grants (object, tenant, given_to, feature, value, valid_until, actor, reason)
VALUES (nextval('objects_id_seq'), $1, $1, $2, $3, $4, $5, $6)
RETURNING object, tenant, feature, value, valid_until, actor, reason, granted_at, revoked_at,
          revoked_by
"""


async def add(
    conn: Conn,
    tenant: str,
    feature: str,
    value: FeatureValue,
    valid_until: datetime | None,
    actor: str,
    reason: str,
) -> ManualGrant:
    """Write down a grant to a tenant that the caller has locked, and give it its id."""
    row = await conn.fetchrow(
        ADD_MANUAL_GRANT, tenant, feature, _encode(value).decode(), valid_until, actor, reason
    )
    assert row is not None  # an INSERT answers with its row
    return _manual_grant(row)


READ_MANUAL_GRANT = """
SELECT object, tenant, feature, value, valid_until, actor, reason, granted_at, revoked_at,
       revoked_by
FROM manual_grants WHERE object = $1
"""


async def find(conn: Conn, number: int) -> ManualGrant | None:
    """A grant by its id, revoked or not."""
    row = await conn.fetchrow(READ_MANUAL_GRANT, number)
    return None if row is None else _manual_grant(row)


LIST_MANUAL_GRANTS = """
SELECT object, tenant, feature, value, valid_until, actor, reason, granted_at, revoked_at,
       revoked_by
FROM manual_grants
WHERE tenant = $1 AND revoked_at IS NULL
ORDER BY object
"""


async def of_tenant(conn: Conn, tenant: str) -> list[ManualGrant]:
    """A tenant's grants that nobody has revoked, those that have ended included."""
    return [_manual_grant(row) for row in await conn.fetch(LIST_MANUAL_GRANTS, tenant)]


TENANTS_GIVEN = """
SELECT DISTINCT tenant FROM manual_grants
WHERE feature = ANY($1::text[]) AND revoked_at IS NULL
"""


async def tenants_given(conn: Conn, features: Collection[str]) -> set[str]:
    """Those that were given one of these features by hand, and have it not revoked."""
    return {row["tenant"] for row in await conn.fetch(TENANTS_GIVEN, list(features))}


REVOKE_MANUAL_GRANT = """
UPDATE manual_grants SET revoked_at = now(), revoked_by = $2, revoke_reason = $3 WHERE object = $1
"""


async def revoke(conn: Conn, number: int, actor: str, reason: str) -> None:
    """Write down that it was taken back; the row stays."""
    await conn.execute(REVOKE_MANUAL_GRANT, number, actor, reason)


MOVE_MANUAL_GRANTS = """
UPDATE manual_grants SET tenant = $2 WHERE tenant = $1 RETURNING object, revoked_at
"""


async def move(conn: Conn, tenant: str, into: str) -> list[int]:
    """Give a tenant's grants to another, both locked. Returns the ids of those not revoked."""
    rows = await conn.fetch(MOVE_MANUAL_GRANTS, tenant, into)
    return sorted(row["object"] for row in rows if row["revoked_at"] is None)


def _manual_grant(row: Row) -> ManualGrant:
    return ManualGrant(
        id=row["object"],
        tenant=row["tenant"],
        feature=row["feature"],
        value=_decode_value(row["value"]),
        valid_until=row["valid_until"],
        actor=row["actor"],
        reason=row["reason"],
        granted_at=row["granted_at"],
        revoked_at=row["revoked_at"],
        revoked_by=row["revoked_by"],
    )
