"""Records as operators see them: which there are, and every version of one."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import received_at_of
from shared.store.paging import iso

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LIST_RECORDS = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM records r
JOIN sources s ON s.id = r.source_id
WHERE r.id > $1 AND r.event_id IS NOT NULL AND ($2::text IS NULL OR s.name = $2)
  AND (NOT $3 OR r.tenant IS NULL)
ORDER BY r.id LIMIT $4
"""


async def list_records(
    conn: Conn, after: int, source: str | None, is_waiting: bool, limit: int
) -> list[Row]:
    """In the order in which they were first heard of; with `is_waiting`, those of nobody."""
    return await conn.fetch(LIST_RECORDS, after, source, is_waiting, limit)


# Each name's own page first: of one name its index has the order, of several it has not.
LIST_RECORDS_OF = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
    SELECT id, source_id, account, livemode, record_id, tenant, version, updated_at FROM records
    WHERE tenant = name AND id > $2 AND event_id IS NOT NULL
      AND ($3::text IS NULL OR source_id = (SELECT id FROM sources WHERE sources.name = $3))
    ORDER BY id LIMIT $4
) r
JOIN sources s ON s.id = r.source_id
ORDER BY r.id LIMIT $4
"""


async def list_records_of(
    conn: Conn, names: Sequence[str], after: int, source: str | None, limit: int
) -> list[Row]:
    """The same, of a tenant by all of its names."""
    return await conn.fetch(LIST_RECORDS_OF, names, after, source, limit)


FIND_RECORDS = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM records r
JOIN sources s ON s.id = r.source_id
WHERE r.record_id = $1 AND r.event_id IS NOT NULL
  AND ($2::text IS NULL OR s.name = $2) AND ($3::text IS NULL OR r.account = $3)
ORDER BY r.id
"""


async def find_records(
    conn: Conn, record_id: str, source: str | None, account: str | None
) -> list[Row]:
    """Those that have this id at their source; several sources may have one."""
    return await conn.fetch(FIND_RECORDS, record_id, source, account)


READ_VERSIONS = """
SELECT event_id, version, tenant, normalised, tracking_id, mapped_by, run, line
FROM record_versions WHERE record = $1 ORDER BY version DESC, event_id DESC LIMIT $2
"""


async def read_history(conn: Conn, record: int, limit: int) -> list[dict[str, Any]]:
    """Its versions, as `sluice records show` has them; the first is the one that counts."""
    return [_version(row) for row in await conn.fetch(READ_VERSIONS, record, limit)]


READ_RAW = """
SELECT v.raw, i.body
FROM records r
JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id
LEFT JOIN LATERAL (
    SELECT body FROM inbox WHERE received_at = $2 AND tracking_id = v.tracking_id OFFSET 0
) i ON true
WHERE r.id = $1
"""


async def read_raw(conn: Conn, record: int, tracking_id: UUID) -> str | None:
    """
    What the version that counts was read from, which came with that event: a part of its body as
    JSON, or all of it as it was received. None where that went by retention.
    """
    row = await conn.fetchrow(READ_RAW, record, received_at_of(tracking_id))
    if row is None or row["raw"] is not None:
        return None if row is None else str(row["raw"])
    return None if row["body"] is None else bytes(row["body"]).decode("utf-8", "replace")


def summary(row: Row) -> dict[str, Any]:
    """A record without its content. `needs` is what it waits for."""
    return {
        "id": row["id"],
        "record": row["record_id"],
        "source": row["source"],
        "account": row["account"],
        "livemode": row["livemode"],
        "tenant": row["tenant"],
        "needs": "needs:tenant" if row["tenant"] is None else None,
        "version": _moment(row["version"]),
        "updatedAt": iso(row["updated_at"]),
    }


def _version(row: Row) -> dict[str, Any]:
    tracking_id: UUID = row["tracking_id"]
    return {
        "event": row["event_id"],
        "trackingId": str(tracking_id),
        "receivedAt": iso(received_at_of(tracking_id)),
        "version": _moment(row["version"]),
        "tenant": row["tenant"],
        "mappedBy": row["mapped_by"],
        "run": row["run"],
        "line": row["line"] or None,
        "normalised": json.loads(row["normalised"]),
    }


def _moment(version: int) -> str | None:
    return iso(_EPOCH + timedelta(microseconds=version))
