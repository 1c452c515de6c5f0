"""Records as they are shown: which there are, and every version of one."""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.events import received_at_of
from shared.store.paging import iso

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordName(NamedTuple):
    """What tells a record from every other, whoever counts the rows."""

    source: str
    account: str
    livemode: bool
    record_id: str


def encode_name(name: RecordName) -> str:
    """
    The id by which the API knows a record: as long as there is the record, and the same again
    where it is imported anew. It says nothing of how many there are.
    """
    packed = json.dumps(name, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_name(text: str) -> RecordName | None:
    """The record that has this id; None where none can."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        name = RecordName(*parts)
        # Of the many ways to write it, one is the id. And a NUL is in nobody's.
        is_own = encode_name(name) == text and "\0" not in "".join((*name[:2], name.record_id))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        return None
    return name if is_own and type(name.livemode) is bool else None


LIST_RECORDS = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM records r
JOIN sources s ON s.id = r.source_id
WHERE r.id > $1 AND r.event_id IS NOT NULL AND ($2::text IS NULL OR s.name = $2)
  AND (NOT $3 OR r.tenant IS NULL) AND ($5::text IS NULL OR r.record_id = $5)
ORDER BY r.id LIMIT $4
"""


async def list_records(
    conn: Conn,
    after: int,
    source: str | None,
    is_waiting: bool,
    limit: int,
    record_id: str | None = None,
) -> list[Row]:
    """In the order in which they were first heard of; with `is_waiting`, those of nobody."""
    return await conn.fetch(LIST_RECORDS, after, source, is_waiting, limit, record_id)


# Each name's own page first: of one name its index has the order, of several it has not.
LIST_RECORDS_OF = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
    SELECT id, source_id, account, livemode, record_id, tenant, version, updated_at FROM records
    WHERE tenant = name AND id > $2 AND event_id IS NOT NULL
      AND ($3::text IS NULL OR source_id = (SELECT id FROM sources WHERE sources.name = $3))
      AND ($5::text IS NULL OR record_id = $5)
    ORDER BY id LIMIT $4
) r
JOIN sources s ON s.id = r.source_id
ORDER BY r.id LIMIT $4
"""


async def list_records_of(
    conn: Conn,
    names: Sequence[str],
    after: int,
    source: str | None,
    limit: int,
    record_id: str | None = None,
) -> list[Row]:
    """The same, of a tenant by all of its names."""
    return await conn.fetch(LIST_RECORDS_OF, names, after, source, limit, record_id)


FIND_RECORDS = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, r.version, r.updated_at
FROM records r
JOIN sources s ON s.id = r.source_id
WHERE r.record_id = $1 AND r.event_id IS NOT NULL
  AND ($2::text IS NULL OR s.name = $2) AND ($3::text IS NULL OR r.account = $3)
  AND ($4::boolean IS NULL OR r.livemode = $4)
  AND ($5::text[] IS NULL OR r.tenant = ANY($5))
ORDER BY r.id
"""


async def find_records(
    conn: Conn, record_id: str, source: str | None, account: str | None
) -> list[Row]:
    """Those that have this id at their source; several sources may have one."""
    return await conn.fetch(FIND_RECORDS, record_id, source, account, None, None)


async def find_record(
    conn: Conn, name: RecordName, tenants: Sequence[str] | None = None
) -> Row | None:
    """The one record; with `tenants`, if it is one of theirs."""
    source, account, livemode, record_id = name
    wanted = None if tenants is None else list(tenants)
    rows = await conn.fetch(FIND_RECORDS, record_id, source, account, livemode, wanted)
    return rows[0] if rows else None


READ_VERSIONS = """
SELECT event_id, version, tenant, normalised, tracking_id, mapped_by, run, line
FROM record_versions
WHERE record = $1 AND ($3::bigint IS NULL OR (version, event_id) < ($3, $4 COLLATE "C"))
  AND ($5::text[] IS NULL OR tenant = ANY($5))
ORDER BY version DESC, event_id DESC LIMIT $2
"""


async def read_versions(
    conn: Conn,
    record: int,
    limit: int,
    after: tuple[int, str] | None = None,
    tenants: Sequence[str] | None = None,
) -> list[Row]:
    """
    Its versions, the newest first; the first of all is the one that counts.

    `after` is the version and the event of the last one seen. With `tenants`, those that name one
    of them: a record may have been somebody else's.
    """
    wanted = None if tenants is None else list(tenants)
    version, event_id = after or (None, None)
    return await conn.fetch(READ_VERSIONS, record, limit, version, event_id, wanted)


async def read_history(conn: Conn, record: int, limit: int) -> list[dict[str, Any]]:
    """Its newest versions, as `sluice records show` has them."""
    return [shown_version(row) for row in await read_versions(conn, record, limit)]


class Raw(NamedTuple):
    """
    What a version was read from: a part of its event's body as JSON, or all of it as it was
    received. None where that went by retention, or lies in the artifact store, under `artifact`.
    """

    text: str | None
    is_part: bool = False
    artifact: bytes | None = None
    artifact_bytes: int = 0


READ_RAW = """
SELECT v.raw, i.body, i.artifact, i.artifact_bytes
FROM records r
JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id
LEFT JOIN LATERAL (
    SELECT body, artifact, artifact_bytes FROM inbox
    WHERE received_at = $2 AND tracking_id = v.tracking_id AND v.raw IS NULL
      AND ($3::text[] IS NULL OR NOT EXISTS (
          SELECT 1 FROM record_versions w
          WHERE w.tracking_id = v.tracking_id AND (w.tenant IS NULL OR w.tenant <> ALL($3))
      ))
    OFFSET 0
) i ON true
WHERE r.id = $1
"""


async def read_raw(
    conn: Conn, record: int, tracking_id: UUID, tenants: Sequence[str] | None = None
) -> Raw:
    """
    What the version that counts was read from, which came with that event. With `tenants`, a body
    that reports of others' records too is kept back.
    """
    wanted = None if tenants is None else list(tenants)
    row = await conn.fetchrow(READ_RAW, record, received_at_of(tracking_id), wanted)
    if row is None:
        return Raw(None)
    raw, body, artifact, artifact_bytes = row.values()
    if raw is not None:
        return Raw(str(raw), is_part=True)
    if artifact is not None:
        return Raw(None, False, bytes(artifact), artifact_bytes)
    return Raw(None if body is None else bytes(body).decode("utf-8", "replace"))


def name_of(row: Row) -> RecordName:
    """Of a row of these lists."""
    return RecordName(row["source"], row["account"], row["livemode"], row["record_id"])


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


def shown_version(row: Row) -> dict[str, Any]:
    """A version. `line` is of an import: the row of the file that reported it."""
    tracking_id: UUID = row["tracking_id"]
    return {
        "event": row["event_id"],
        "trackingId": str(tracking_id),
        "run": row["run"],
        "line": row["line"] or None,
        "receivedAt": iso(received_at_of(tracking_id)),
        "version": _moment(row["version"]),
        "tenant": row["tenant"],
        "mappedBy": row["mapped_by"],
        "normalised": json.loads(row["normalised"]),
    }


def _moment(version: int) -> str | None:
    return iso(_EPOCH + timedelta(microseconds=version))
