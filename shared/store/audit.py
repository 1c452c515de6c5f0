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

SALT_BYTES = 16

READ_HEADS = """
SELECT chain, length, hash FROM audit_heads WHERE chain = ANY($1::text[])
"""
TAKE_IDS = """
SELECT nextval('audit_id_seq') AS id FROM generate_series(1, $1::int)
"""
COLUMNS = (
    "id", "chain", "position", "cause", "cause_id", "run", "tenant", "step", "action", "actor",
    "source", "subject", "feature", "catalog_version", "xid", "at", "before_digest",
    "after_digest", "reason_digest", "previous_hash", "hash",
)  # fmt: skip
CONTENT_COLUMNS = ("audit_id", "salt", "before", "after", "reason")
MOVE_HEADS = """
INSERT INTO audit_heads (chain, length, hash)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])
ON CONFLICT (chain) DO UPDATE SET length = excluded.length, hash = excluded.hash
"""


async def append(conn: Conn, drafts: Sequence[Draft], *, now: datetime, xid: int) -> None:
    """
    Chain the drafts, in their order, and write them.

    `now` is when it happened, as a rule this transaction's `now()`, and `xid` its
    `pg_current_xact_id()`: they enter the hash.
    """
    if not drafts:
        return
    rows = await conn.fetch(READ_HEADS, sorted({draft.chain for draft in drafts}))
    heads: dict[str, tuple[int, bytes]] = {
        row["chain"]: (row["length"], row["hash"]) for row in rows
    }
    ids = [row["id"] for row in await conn.fetch(TAKE_IDS, len(drafts))]
    salts = secrets.token_bytes(SALT_BYTES * len(drafts))
    chained: list[tuple[object, ...]] = []
    contents: list[tuple[object, ...]] = []
    for index, (number, draft) in enumerate(zip(ids, drafts, strict=True)):
        length, previous = heads.get(draft.chain, (0, GENESIS))
        salt = salts[SALT_BYTES * index : SALT_BYTES * (index + 1)]
        record = _record(draft, length + 1, salt, now, xid)
        hashed = record_hash(previous, record)
        heads[draft.chain] = (length + 1, hashed)
        chained.append((number, *record, previous, hashed))
        if draft.before is not None or draft.after is not None or draft.reason is not None:
            contents.append((number, salt, draft.before, draft.after, draft.reason))
    await conn.copy_records_to_table("audit", records=chained, columns=COLUMNS)
    if contents:
        await conn.copy_records_to_table("audit_content", records=contents, columns=CONTENT_COLUMNS)
    moved = sorted({draft.chain for draft in drafts})
    await conn.execute(
        MOVE_HEADS,
        moved,
        [heads[chain][0] for chain in moved],
        [heads[chain][1] for chain in moved],
    )


def _record(draft: Draft, position: int, salt: bytes, now: datetime, xid: int) -> Record:
    return Record(
        draft.chain,
        position,
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


RUNS_OF_ENDS = """
SELECT cause_id, max(run) AS run FROM audit
WHERE cause = 'end' AND cause_id = ANY($1::text[]) GROUP BY cause_id
"""


async def runs_of_ends(conn: Conn, cause_ids: Sequence[str]) -> dict[str, int]:
    """How often the trail tells of these turns already; one that it does not is missing."""
    rows = await conn.fetch(RUNS_OF_ENDS, list(cause_ids))
    return {row["cause_id"]: row["run"] for row in rows}


MOMENT = "SELECT now() AS now, pg_current_xact_id()::text::bigint AS xid"


async def moment(conn: Conn) -> tuple[datetime, int]:
    """This transaction's `now()` and number, as `append` wants them."""
    row = await conn.fetchrow(MOMENT)
    assert row is not None
    return row["now"], row["xid"]
