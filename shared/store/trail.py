"""Reading the audit trail: for people, record by record, and for verification, chain by chain."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.audit import Record
from shared.store.paging import Page, iso, page_of


@dataclass(frozen=True, slots=True)
class Content:
    """What a record's digests are of. All None once it is erased."""

    salt: bytes | None
    before: bytes | None
    after: bytes | None
    reason: bytes | None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: how many records it has, and the last one's hash."""

    chain: str
    length: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A record in its chain, as stored. `content` and `head` are None where there is no row."""

    id: int
    record: Record
    previous_hash: bytes
    hash: bytes
    content: Content | None
    head: Head | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records to list; None asks nothing. An action that ends in "." is a family of them."""

    tenant: str | None = None
    source: str | None = None
    actor: str | None = None
    action: str | None = None
    cause: str | None = None
    feature: str | None = None
    since: datetime | None = None
    until: datetime | None = None


#: Contents that are read at once, in about.
_PAGE_BYTES = 16 << 20

_COLUMNS = """
SELECT a.id, a.chain, a.position, a.cause, a.cause_id, a.run, a.tenant, a.step, a.action, a.actor,
       a.source, a.subject, a.feature, a.catalog_version, a.at, c.before,
       {after} AS after, c.reason,
       num_nonnulls(a.before_digest, a.after_digest, a.reason_digest) > 0
       AND num_nonnulls(c.before, c.after, c.reason) = 0 AS erased
FROM audit AS a
LEFT JOIN audit_content AS c ON c.audit_id = a.id
"""
# A manifest of an import may have a thousand changes: lists say how large it is, and no more.
_RECORD = _COLUMNS.replace(
    "{after}",
    "CASE WHEN a.action LIKE 'records.%' AND octet_length(c.after) > 8192 THEN"
    " convert_to(json_build_object('bytes', octet_length(c.after))::text, 'UTF8')"
    " ELSE c.after END",
)
# An action's family is found by its beginning: "entitlement.".
LIST_RECORDS = (
    _RECORD
    + """
WHERE ($1::bigint IS NULL OR a.id < $1) AND ($2::text IS NULL OR a.tenant = $2)
  AND ($4::text IS NULL OR a.source = $4) AND ($5::text IS NULL OR a.actor = $5)
  AND ($6::text IS NULL OR a.action = $6 OR right($6, 1) = '.' AND starts_with(a.action, $6))
  AND ($7::text IS NULL OR a.cause = $7) AND ($8::text IS NULL OR a.feature = $8)
  AND ($9::timestamptz IS NULL OR a.at >= $9) AND ($10::timestamptz IS NULL OR a.at < $10)
ORDER BY a.id DESC
LIMIT $3
"""
)


async def list_records(conn: Conn, after: int | None, wanted: Wanted, limit: int) -> Page:
    """
    Newest first.

    {"id", "cause", "causeId", "run", "tenant", "step", "action", "actor", "before", "after", "at",
    "reason", "source", "subject", "feature", "catalogVersion", "chain", "position", "erased"}.
    """
    rows = await conn.fetch(
        LIST_RECORDS,
        after,
        wanted.tenant,
        limit + 1,
        wanted.source,
        wanted.actor,
        wanted.action,
        wanted.cause,
        wanted.feature,
        wanted.since,
        wanted.until,
    )
    return page_of(rows, limit, _shown, lambda row: (row["id"],))


READ_RECORD = _COLUMNS.replace("{after}", "c.after") + "WHERE a.id = $1"


async def read_record(conn: Conn, number: int) -> dict[str, Any] | None:
    """One record, with all of its contents; None where there is none."""
    row = await conn.fetchrow(READ_RECORD, number)
    return None if row is None else _shown(row)


RECORDS_OF_EVENT = (
    _RECORD
    + """
WHERE ((a.cause = 'event' AND a.cause_id = $1)
       OR (a.cause = 'operator' AND a.cause_id = ANY($2::text[])))
  AND ($3::bigint IS NULL OR a.id < $3) AND ($4::text IS NULL OR a.tenant = $4)
ORDER BY a.id DESC
LIMIT $5
"""
)


async def list_records_of_event(
    conn: Conn,
    tracking_id: UUID,
    actions: Sequence[UUID],
    after: int | None,
    tenant: str | None,
    limit: int,
) -> Page:
    """What an event caused, and the operators' actions (by id) that had it applied again."""
    rows = await conn.fetch(
        RECORDS_OF_EVENT,
        str(tracking_id),
        [str(action) for action in actions],
        after,
        tenant,
        limit + 1,
    )
    return page_of(rows, limit, _shown, lambda row: (row["id"],))


# One statement, so one snapshot: a chain's records and its head belong together, although
# workers append all the while. A manifest of an import is large: not more of them at once than
# $4 bytes, but one.
READ_LINKS = """
SELECT a.id, a.chain, a.position, a.previous_hash, a.hash, a.cause, a.cause_id, a.run, a.tenant,
       a.step, a.action, a.actor, a.source, a.subject, a.feature, a.catalog_version,
       a.xid::text::bigint AS xid, a.at, a.before_digest, a.after_digest, a.reason_digest,
       c.audit_id IS NOT NULL AS kept, c.salt, c.before, c.after, c.reason,
       h.length AS head_length, h.hash AS head_hash
FROM (
    SELECT b.*, sum(coalesce(octet_length(s.before), 0) + coalesce(octet_length(s.after), 0))
                    OVER (ORDER BY b.chain, b.position ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW)
                    AS bytes_before
    FROM (
        SELECT id, chain, position, previous_hash, hash, cause, cause_id, run, tenant, step, action,
               actor, source, subject, feature, catalog_version, xid, at, before_digest,
               after_digest, reason_digest
        FROM audit
        WHERE (chain, position) > ($1, $2)
        ORDER BY chain, position
        LIMIT $3
    ) AS b
    LEFT JOIN audit_content AS s ON s.audit_id = b.id
) AS a
LEFT JOIN audit_content AS c ON c.audit_id = a.id
LEFT JOIN audit_heads AS h ON h.chain = a.chain
WHERE coalesce(a.bytes_before, 0) < $4
ORDER BY a.chain, a.position
"""


async def read_links(conn: Conn, chain: str, position: int, limit: int) -> list[Link]:
    """The next records in (chain, position) order; an empty chain name begins."""
    rows = await conn.fetch(READ_LINKS, chain, position, limit, _PAGE_BYTES)
    return [_link(row) for row in rows]


HEADS_WITHOUT_CHAIN = """
SELECT h.chain, h.length, h.hash
FROM audit_heads AS h
WHERE h.chain > $1 AND NOT EXISTS (SELECT 1 FROM audit AS a WHERE a.chain = h.chain)
ORDER BY h.chain
LIMIT $2
"""


async def heads_without_chain(conn: Conn, after: str, limit: int) -> list[Head]:
    """Heads of chains that have no record at all."""
    return [_head(row) for row in await conn.fetch(HEADS_WITHOUT_CHAIN, after, limit)]


CONTENTS_WITHOUT_RECORD = """
SELECT c.audit_id
FROM audit_content AS c
WHERE c.audit_id > $1 AND NOT EXISTS (SELECT 1 FROM audit AS a WHERE a.id = c.audit_id)
ORDER BY c.audit_id
LIMIT $2
"""


async def contents_without_record(conn: Conn, after: int, limit: int) -> list[int]:
    """The ids of records whose content is kept and which are not there themselves."""
    return [row["audit_id"] for row in await conn.fetch(CONTENTS_WITHOUT_RECORD, after, limit)]


READ_HEADS = """
SELECT chain, length, hash FROM audit_heads WHERE chain > $1 ORDER BY chain LIMIT $2
"""


async def read_heads(conn: Conn, after: str, limit: int) -> list[Head]:
    """The heads in chain order; an empty name begins."""
    return [_head(row) for row in await conn.fetch(READ_HEADS, after, limit)]


HASHES_AT = """
SELECT w.chain, a.hash
FROM unnest($1::text[], $2::bigint[]) AS w (chain, position)
JOIN audit AS a ON a.chain = w.chain AND a.position = w.position
"""


async def hashes_at(conn: Conn, heads: Sequence[Head]) -> dict[str, bytes]:
    """By chain, the hash of the record that each head ended at; missing where it is gone."""
    rows = await conn.fetch(
        HASHES_AT, [head.chain for head in heads], [head.length for head in heads]
    )
    return {row["chain"]: row["hash"] for row in rows}


def _head(row: Row) -> Head:
    return Head(row["chain"], row["length"], row["hash"])


def _link(row: Row) -> Link:
    record = Record(
        chain=row["chain"],
        position=row["position"],
        cause=row["cause"],
        cause_id=row["cause_id"],
        run=row["run"],
        tenant=row["tenant"],
        step=row["step"],
        action=row["action"],
        actor=row["actor"],
        source=row["source"],
        subject=row["subject"],
        feature=row["feature"],
        catalog_version=row["catalog_version"],
        xid=row["xid"],
        at=row["at"],
        before_digest=row["before_digest"],
        after_digest=row["after_digest"],
        reason_digest=row["reason_digest"],
    )
    content = None
    if row["kept"]:
        content = Content(row["salt"], row["before"], row["after"], row["reason"])
    head = None
    if row["head_hash"] is not None:
        head = Head(row["chain"], row["head_length"], row["head_hash"])
    return Link(row["id"], record, row["previous_hash"], row["hash"], content, head)


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "cause": row["cause"],
        "causeId": row["cause_id"],
        "run": row["run"],
        "tenant": row["tenant"] or None,
        "step": row["step"],
        "action": row["action"],
        "actor": row["actor"],
        "before": _decoded(row["before"]),
        "after": _decoded(row["after"]),
        "at": iso(row["at"]),
        "reason": None if row["reason"] is None else row["reason"].decode(errors="replace"),
        "source": row["source"] or None,
        "subject": row["subject"] or None,
        "feature": row["feature"] or None,
        "catalogVersion": row["catalog_version"],
        "chain": row["chain"],
        "position": row["position"],
        "erased": row["erased"],
    }


def _decoded(content: bytes | None) -> Any:
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError:
        # Shown as it lies there: `audit verify` is who says that it was altered.
        return content.decode(errors="replace")
