"""
What is exported, page by page, in the order of rows' numbers.

Every page looks at so many rows and no more, and says how far it looked: where a filter leaves
little, a page may be empty, and is still short to read.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from shared.db import Conn, Row
from shared.domain.audit import OWN_CONTENTS, actor_for_tenant, subject_for_tenant
from shared.domain.events import received_at_of
from shared.store.paging import iso

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Filter(NamedTuple):
    """Whose, from where and of when; None: of all. `names` are all of one tenant's."""

    names: Sequence[str] | None
    source: str | None
    since: datetime | None
    until: datetime | None


class Looked(NamedTuple):
    """The rows of a page, and the number of the last one that was looked at; None: it was empty."""

    rows: list[dict[str, Any]]
    last: int | None


NAMES_OF_TENANT = """
WITH actual AS (
    SELECT coalesce((SELECT merged_into FROM tenants WHERE tenant = $1), $1) AS tenant
)
SELECT tenant FROM actual
UNION ALL
SELECT t.tenant FROM tenants AS t JOIN actual AS a ON t.merged_into = a.tenant
"""


async def names_of_tenant(conn: Conn, tenant: str) -> list[str]:
    """All of its names; the first is the one that it goes by."""
    return [row["tenant"] for row in await conn.fetch(NAMES_OF_TENANT, tenant)]


# Nothing below the oldest open transaction can be added any more: what lies there stays the same
# for as long as an export takes. Ids are taken before commits, so the largest one is read too.
HORIZON = """
SELECT coalesce(max(id), 0) AS last, pg_snapshot_xmin(pg_current_snapshot())::text AS xid FROM audit
"""


async def horizon(conn: Conn) -> tuple[int, str]:
    """Up to which id, and below which transaction, the trail does not change."""
    row = await conn.fetchrow(HORIZON)
    assert row is not None
    return row["last"], row["xid"]


_RECORD = """
SELECT r.id, s.name AS source, r.account, r.livemode, r.record_id, r.tenant, v.version,
       v.normalised, v.event_id, v.tracking_id, v.mapped_by, r.updated_at
"""
_VERSION = """
JOIN sources s ON s.id = r.source_id
LEFT JOIN record_versions v
  ON v.record = r.id AND v.event_id = r.event_id AND ($4::text IS NULL OR s.name = $4)
 AND ($5::timestamptz IS NULL OR r.updated_at >= $5)
 AND ($6::timestamptz IS NULL OR r.updated_at < $6)
ORDER BY r.id LIMIT $3
"""
_ALL_RECORDS = """
FROM (
    SELECT id, source_id, account, livemode, record_id, tenant, event_id, updated_at
    FROM records WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3
) r
"""
_THEIR_RECORDS = """
FROM unnest($7::text[]) AS name
CROSS JOIN LATERAL (
    SELECT id, source_id, account, livemode, record_id, tenant, event_id, updated_at
    FROM records WHERE tenant = name AND id > $1 AND id <= $2 ORDER BY id LIMIT $3
) r
"""
EXPORT_RECORDS = _RECORD + _ALL_RECORDS + _VERSION
EXPORT_RECORDS_OF = _RECORD + _THEIR_RECORDS + _VERSION


async def read_records(conn: Conn, after: int, until: int, limit: int, wanted: Filter) -> Looked:
    """Records with the version that counts now."""
    arguments = (after, until, limit, wanted.source, wanted.since, wanted.until)
    if wanted.names is None:
        rows = await conn.fetch(EXPORT_RECORDS, *arguments)
    else:
        rows = await conn.fetch(EXPORT_RECORDS_OF, *arguments, wanted.names)
    shown = [_record(row) for row in rows if row["event_id"] is not None]
    return Looked(shown, rows[-1]["id"] if rows else None)


_EVENT = """
SELECT a.id, a.at, a.tenant, a.action, a.feature, a.source, a.subject, a.actor, a.cause, a.cause_id,
       a.run, a.step, a.catalog_version, a.chain, a.position, a.is_wanted,
       c.before, c.after, c.reason,
       num_nonnulls(a.before_digest, a.after_digest, a.reason_digest) > 0
       AND num_nonnulls(c.before, c.after, c.reason) = 0 AS erased
"""
_WANTED = """
    SELECT id, at, tenant, action, feature, source, subject, actor, cause, cause_id, run, step,
           catalog_version, chain, position, before_digest, after_digest, reason_digest,
           ($4::text IS NULL OR source = $4) AND ($5::timestamptz IS NULL OR at >= $5)
           AND ($6::timestamptz IS NULL OR at < $6) AS is_wanted
    FROM audit WHERE id > $1 AND id <= $2 AND xid < $8::text::xid8
"""
_CONTENT = """
LEFT JOIN audit_content c ON c.audit_id = a.id AND a.is_wanted
ORDER BY a.id LIMIT $3
"""
_ALL_EVENTS = "FROM (" + _WANTED + " AND $7::text[] IS NULL ORDER BY id LIMIT $3) a"
_THEIR_EVENTS = (
    "FROM unnest($7::text[]) AS name CROSS JOIN LATERAL ("
    + _WANTED
    + " AND tenant = name ORDER BY id LIMIT $3) a"
)
EXPORT_EVENTS = _EVENT + _ALL_EVENTS + _CONTENT
EXPORT_EVENTS_OF = _EVENT + _THEIR_EVENTS + _CONTENT


async def read_events(
    conn: Conn, after: int, until: int, xid: str, limit: int, wanted: Filter
) -> Looked:
    """Records of the trail below a `horizon`. Of a tenant's, no number tells of the others'."""
    arguments = (after, until, limit, wanted.source, wanted.since, wanted.until, wanted.names, xid)
    is_of_all = wanted.names is None
    if is_of_all:
        rows = await conn.fetch(EXPORT_EVENTS, *arguments)
    else:
        rows = await conn.fetch(EXPORT_EVENTS_OF, *arguments)
    shown = [_event(row, is_of_all=is_of_all) for row in rows if row["is_wanted"]]
    return Looked(shown, rows[-1]["id"] if rows else None)


NEXT_TENANTS = """
SELECT tenant, now() AS now FROM tenants
WHERE tenant > $1 AND merged_into IS NULL ORDER BY tenant LIMIT $2
"""


async def next_tenants(conn: Conn, after: str, limit: int) -> tuple[list[str], datetime | None]:
    """Those that go by their own name, in order, and the database's clock."""
    rows = await conn.fetch(NEXT_TENANTS, after, limit)
    return [row["tenant"] for row in rows], rows[0]["now"] if rows else None


CLOCK = "SELECT now()"


async def read_clock(conn: Conn) -> datetime:
    """The database's."""
    found: datetime = await conn.fetchval(CLOCK)
    return found


def _record(row: Row) -> dict[str, Any]:
    version = _EPOCH + timedelta(microseconds=row["version"])
    return {
        "record": row["record_id"],
        "source": row["source"],
        "account": row["account"],
        "livemode": row["livemode"],
        "tenant": row["tenant"],
        "version": iso(version),
        "normalised": json.loads(row["normalised"]),
        "event": row["event_id"],
        "trackingId": str(row["tracking_id"]),
        "receivedAt": iso(received_at_of(row["tracking_id"])),
        "mappedBy": row["mapped_by"],
        "updatedAt": iso(row["updated_at"]),
    }


def _event(row: Row, *, is_of_all: bool) -> dict[str, Any]:
    shown = {
        "at": iso(row["at"]),
        "tenant": row["tenant"],
        "action": row["action"],
        "feature": row["feature"],
        "source": row["source"],
        "subject": row["subject"],
        "actor": row["actor"],
        "cause": row["cause"],
        "causeId": row["cause_id"],
        "run": row["run"],
        "step": row["step"],
        "catalogVersion": row["catalog_version"],
        "before": _json(row["before"]),
        "after": _json(row["after"]),
        "reason": None
        if row["reason"] is None
        else bytes(row["reason"]).decode("utf-8", "replace"),
        "erased": row["erased"],
    }
    if is_of_all:
        return shown | {"id": row["id"], "chain": row["chain"], "position": row["position"]}
    hidden: dict[str, Any] = {"run": None, "step": None, "reason": None}
    if row["action"] not in OWN_CONTENTS:
        hidden |= {"before": None, "after": None, "erased": False}
    return (
        shown
        | hidden
        | {
            "actor": actor_for_tenant(row["actor"]),
            "subject": subject_for_tenant(row["subject"]),
            # Of the others it holds rows' numbers.
            "causeId": row["cause_id"] if row["cause"] == "event" else None,
        }
    )


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode("utf-8", "replace")


def _json(content: bytes | None) -> Any:
    return None if content is None else json.loads(content)
