"""Provider objects as operators see them: which ones wait, and for what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.db import Conn, Row

LIST_PARKED = """
SELECT o.id, s.name AS source, s.provider, o.account, o.livemode, o.kind, o.object_id, o.customer,
       o.tenant, o.parked, o.parked_at, o.ambiguous, o.register
FROM objects AS o
JOIN sources AS s ON s.id = o.source_id
WHERE o.parked IS NOT NULL
  AND ($1::timestamptz IS NULL OR (o.parked_at, o.id) > ($1, $2::bigint))
  AND ($3::text IS NULL OR s.name = $3)
ORDER BY o.parked_at, o.id
LIMIT $4
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """
    An object that waits. `needs` is its code; `newest` is its newest state as it is stored:
    {"status", "items": [{"refs": […]}], …}.
    """

    id: int
    source: str
    provider: str
    account: str
    livemode: bool
    kind: str
    object_id: str
    customer: str | None
    tenant: str | None
    needs: str
    since: datetime
    newest: Mapping[str, Any]


async def list_parked(
    conn: Conn, after: tuple[datetime, int] | None, source: str | None, limit: int
) -> list[Parked]:
    """Those that have waited longest first."""
    since, object_row = after or (None, None)
    return [_parked(row) for row in await conn.fetch(LIST_PARKED, since, object_row, source, limit)]


COUNT_PARKED = """
SELECT source_id, parked, count(*) AS count FROM objects
WHERE parked IS NOT NULL GROUP BY source_id, parked
"""


async def count_parked(conn: Conn) -> dict[tuple[int, str], int]:
    """How many wait, by (source, what for)."""
    rows = await conn.fetch(COUNT_PARKED)
    return {(row["source_id"], row["parked"]): row["count"] for row in rows}


def _parked(row: Row) -> Parked:
    register = json.loads(row["register"])
    sightings = register.get("sightings") or [{}]
    return Parked(
        id=row["id"],
        source=row["source"],
        provider=row["provider"],
        account=row["account"],
        livemode=row["livemode"],
        kind=row["kind"],
        object_id=row["object_id"],
        customer=row["customer"],
        tenant=row["tenant"],
        needs=row["parked"],
        since=row["parked_at"],
        newest=register.get("unknown") or sightings[0].get("state", {}),
    )
