"""
Appending to the audit trail.

Chaining needs each chain's lock: the tenant's row, the lane's row, or an operator's action that
nobody else writes to. The caller holds it.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime

from shared.db import Conn
from shared.domain.audit import GENESIS, Draft, Record, content_digest, record_hash

READ_HEADS = "SELECT chain, length, hash FROM audit_heads WHERE chain = ANY($1::text[])"
APPEND = """
INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant, step, action,
                   actor, source, subject, feature, catalog_version, xid, at, before_digest,
                   after_digest, reason_digest)
SELECT chain, position, previous_hash, hash, cause, cause_id, run, tenant, step, action, actor,
       source, subject, feature, catalog_version, pg_current_xact_id(), now(), before_digest,
       after_digest, reason_digest
FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::int[],
            $8::text[], $9::int[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
            $15::bigint[], $16::bytea[], $17::bytea[], $18::bytea[])
    AS new (chain, position, previous_hash, hash, cause, cause_id, run, tenant, step, action, actor,
            source, subject, feature, catalog_version, before_digest, after_digest, reason_digest)
RETURNING id, chain, position
"""
KEEP_CONTENT = """
INSERT INTO audit_content (audit_id, salt, before, after, reason)
SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[])
"""
MOVE_HEADS = """
INSERT INTO audit_heads (chain, length, hash)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])
ON CONFLICT (chain) DO UPDATE SET length = excluded.length, hash = excluded.hash
"""


async def append(conn: Conn, drafts: Sequence[Draft], *, now: datetime, xid: int) -> None:
    """
    Chain the drafts, in their order, and write them.

    `now` and `xid` are this transaction's `now()` and `pg_current_xact_id()`: they enter the hash.
    """
    if not drafts:
        return
    rows = await conn.fetch(READ_HEADS, sorted({draft.chain for draft in drafts}))
    heads: dict[str, tuple[int, bytes]] = {
        row["chain"]: (row["length"], row["hash"]) for row in rows
    }
    salts = secrets.token_bytes(16 * len(drafts))
    columns: list[list[object]] = [[] for _ in range(18)]
    contents: dict[tuple[str, int], tuple[bytes, Draft]] = {}
    for index, draft in enumerate(drafts):
        length, previous = heads.get(draft.chain, (0, GENESIS))
        salt = salts[16 * index : 16 * index + 16]
        record = Record(
            draft.chain,
            length + 1,
            draft.cause,
            draft.cause_id,
            draft.run,
            draft.tenant,
            draft.step,
            draft.action,
            draft.actor,
            draft.source,
            draft.subject,
            draft.feature,
            draft.catalog_version,
            xid,
            now,
            content_digest(salt, "before", draft.before),
            content_digest(salt, "after", draft.after),
            content_digest(salt, "reason", draft.reason),
        )
        hashed = record_hash(previous, record)
        heads[draft.chain] = (length + 1, hashed)
        if draft.before is not None or draft.after is not None or draft.reason is not None:
            contents[draft.chain, length + 1] = (salt, draft)
        row = (
            record.chain,
            record.position,
            previous,
            hashed,
            record.cause,
            record.cause_id,
            record.run,
            record.tenant,
            record.step,
            record.action,
            record.actor,
            record.source,
            record.subject,
            record.feature,
            record.catalog_version,
            record.before_digest,
            record.after_digest,
            record.reason_digest,
        )
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    written = await conn.fetch(APPEND, *columns)
    kept = [
        (row["id"], *contents[place])
        for row in written
        if (place := (row["chain"], row["position"])) in contents
    ]
    if kept:
        await conn.execute(
            KEEP_CONTENT,
            [number for number, _, _ in kept],
            [salt for _, salt, _ in kept],
            [draft.before for _, _, draft in kept],
            [draft.after for _, _, draft in kept],
            [draft.reason for _, _, draft in kept],
        )
    moved = sorted({draft.chain for draft in drafts})
    await conn.execute(
        MOVE_HEADS,
        moved,
        [heads[chain][0] for chain in moved],
        [heads[chain][1] for chain in moved],
    )


MOMENT = "SELECT now() AS now, pg_current_xact_id()::text::bigint AS xid"


async def moment(conn: Conn) -> tuple[datetime, int]:
    """This transaction's `now()` and number, as `append` wants them."""
    row = await conn.fetchrow(MOMENT)
    assert row is not None
    return row["now"], row["xid"]
