"""
Sources as the API shows them: how they are, and which secrets they have, but never one of them.

Read in the role `sluice_reader`, which may see neither nonce nor ciphertext.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.db import Conn

#: How many of the newest events are looked through for the last one of each source: an index for
#: this alone would be paid for by every event.
LOOKED_THROUGH = 20_000


@dataclass(frozen=True, slots=True)
class Integration:
    """A source. `livemode` is None where its provider has no such notion."""

    id: int
    name: str
    provider: str
    livemode: bool | None
    tenant: str | None
    settings: Mapping[str, Any]
    created_at: datetime
    paused_at: datetime | None
    paused_by: str | None
    secret_version: int
    has_api_key: bool


LIST_INTEGRATIONS = """
SELECT s.id, s.name, s.provider, s.livemode, s.tenant, s.settings, s.created_at, s.paused_at,
       s.paused_by, s.secret_version,
       EXISTS (SELECT FROM source_keys AS k WHERE k.source_id = s.id) AS has_api_key
FROM sources AS s
WHERE s.removed_at IS NULL AND s.provider <> 'sluice'
  AND ($1::text IS NULL OR s.name > $1) AND ($2::text IS NULL OR s.name = $2)
ORDER BY s.name
LIMIT $3
"""


async def list_integrations(conn: Conn, after: str | None, limit: int) -> list[Integration]:
    """By name; none of Sluice's own, and none that was removed."""
    rows = await conn.fetch(LIST_INTEGRATIONS, after, None, limit)
    return [Integration(*row.values()) for row in rows]


async def read_integration(conn: Conn, name: str) -> Integration | None:
    """The source of that name, or None."""
    rows = await conn.fetch(LIST_INTEGRATIONS, None, name, 1)
    return Integration(*rows[0].values()) if rows else None


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """
    What may be known of a secret; `key_id` says what it is sealed with, `added_by` who rotated it
    in, None where `sluice apply` wrote it. From `retires_at` on it opens nothing; `is_retired`
    says, by the database's clock, that it does not.
    """

    slot: int
    version: int
    key_id: str
    added_at: datetime
    added_by: str | None
    retires_at: datetime | None
    is_retired: bool


READ_VERSIONS = """
SELECT source_id, slot, version, key_id, added_at, added_by, retires_at,
       coalesce(retires_at <= now(), false) AS is_retired
FROM source_secrets WHERE source_id = ANY($1::smallint[])
ORDER BY source_id, version DESC, slot
"""


async def read_secret_versions(
    conn: Conn, source_ids: Sequence[int]
) -> dict[int, list[SecretVersion]]:
    """By source, the newest first."""
    found: dict[int, list[SecretVersion]] = {source_id: [] for source_id in source_ids}
    for row in await conn.fetch(READ_VERSIONS, list(source_ids)):
        source_id, *values = row.values()
        found[source_id].append(SecretVersion(*values))
    return found


@dataclass(frozen=True, slots=True)
class Activity:
    """
    What came of a source lately. `received_at` and `settled_at` are None where that was before
    `looked_from`, the oldest event that was looked at; that is None where all were.
    """

    received_at: datetime | None
    settled_at: datetime | None
    looked_from: datetime | None
    unfinished: int
    oldest_unfinished_s: float | None
    dead: int


READ_LATEST = """
SELECT source_id, max(received_at) AS received_at, min(received_at) AS looked_from,
       count(*) AS events
FROM (SELECT source_id, received_at FROM inbox ORDER BY received_at DESC, tracking_id DESC LIMIT $1)
     AS latest
GROUP BY source_id
"""
READ_SETTLED = """
SELECT source_id, max(settled_at) AS settled_at
FROM (SELECT source_id, settled_at FROM settlements ORDER BY tracking_id DESC, run DESC LIMIT $1)
     AS latest
GROUP BY source_id
"""
COUNT_UNFINISHED = """
SELECT l.source_id, count(*) AS unfinished,
       extract(epoch FROM now() - min(w.received_at))::float8 AS oldest_s
FROM work AS w JOIN lanes AS l ON l.id = w.lane
WHERE w.kind = 'event'
GROUP BY l.source_id
"""
COUNT_DEAD = """
SELECT d.source_id, count(*) AS dead
FROM settlements AS d
WHERE d.status = 'dead'
  AND NOT EXISTS (
      SELECT FROM settlements AS n WHERE n.tracking_id = d.tracking_id AND n.run > d.run)
  AND NOT EXISTS (SELECT FROM work AS w WHERE w.tracking_id = d.tracking_id AND w.kind = 'event')
GROUP BY d.source_id
"""


async def read_activity(conn: Conn, source_ids: Sequence[int]) -> dict[int, Activity]:
    """How it goes with these sources."""
    latest = await conn.fetch(READ_LATEST, LOOKED_THROUGH)
    is_all = sum(row["events"] for row in latest) < LOOKED_THROUGH
    looked_from = None if is_all else min(row["looked_from"] for row in latest)
    received = {row["source_id"]: row["received_at"] for row in latest}
    settled = {
        row["source_id"]: row["settled_at"]
        for row in await conn.fetch(READ_SETTLED, LOOKED_THROUGH)
    }
    waiting = {
        row["source_id"]: (row["unfinished"], row["oldest_s"])
        for row in await conn.fetch(COUNT_UNFINISHED)
    }
    dead = {row["source_id"]: row["dead"] for row in await conn.fetch(COUNT_DEAD)}
    return {
        source_id: Activity(
            received.get(source_id),
            settled.get(source_id),
            looked_from,
            *waiting.get(source_id, (0, None)),
            dead.get(source_id, 0),
        )
        for source_id in source_ids
    }
