"""Checkpoints of the audit trail, and the keys that they are signed with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from shared.db import Conn, Row
from shared.sealing import Sealed


@dataclass(frozen=True, slots=True)
class AuditKey:
    """A public key. It is the one in use until `ended_at`, when the next one was made."""

    id: str
    public: bytes
    created_at: datetime
    created_by: str
    ended_at: datetime | None
    endorsed_by: str | None
    endorsement: bytes | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """As it is stored: `statement` is what `signature` is of; `blocks` are roots, end to end."""

    number: int
    key: str
    from_xid: int
    to_xid: int
    statement: str
    signature: bytes
    blocks: bytes


class Leaf(NamedTuple):
    """A record, as a checkpoint covers it."""

    id: int
    chain: str
    position: int
    hash: bytes


# Only one writes at a time; who is not the one has nothing to do.
TAKE_TURN = "SELECT pg_try_advisory_xact_lock(hashtext('sluice.audit_checkpoints'))"


async def take_turn(conn: Conn) -> bool:
    """Whether this transaction is the one that may write checkpoints and keys."""
    found: bool = await conn.fetchval(TAKE_TURN)
    return found


# A key's term ends where the next one's begins.
READ_KEYS = """
SELECT id, public_key, created_at, created_by, endorsed_by, endorsement,
       lead(created_at) OVER (ORDER BY number) AS ended_at
FROM audit_keys ORDER BY number
"""


async def read_keys(conn: Conn) -> list[AuditKey]:
    """All there ever were, the oldest first; the last one signs."""
    return [
        AuditKey(
            row["id"],
            row["public_key"],
            row["created_at"],
            row["created_by"],
            row["ended_at"],
            row["endorsed_by"],
            row["endorsement"],
        )
        for row in await conn.fetch(READ_KEYS)
    ]


READ_PRIVATE = "SELECT key_id, nonce, ciphertext FROM audit_key_secrets WHERE id = $1"


async def read_secret(conn: Conn, key: str) -> Sealed | None:
    """The private half of a key, sealed."""
    row = await conn.fetchrow(READ_PRIVATE, key)
    return None if row is None else Sealed(row["key_id"], row["nonce"], row["ciphertext"])


INSERT_KEY = """
INSERT INTO audit_keys (id, public_key, created_by, endorsed_by, endorsement)
VALUES ($1, $2, $3, $4, $5)
"""
INSERT_PRIVATE = """
INSERT INTO audit_key_secrets (id, key_id, nonce, ciphertext) VALUES ($1, $2, $3, $4)
"""
# From now on, a process without this sealing key refuses to start.
INSERT_SEAL = "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT (key_id) DO NOTHING"


async def insert_key(
    conn: Conn, key: str, public: bytes, sealed: Sealed, actor: str, endorsed: tuple[str, bytes]
) -> None:
    """Write a new key; `endorsed` is by whom, and the signature, both empty where by nobody."""
    by, endorsement = endorsed
    await conn.execute(INSERT_KEY, key, public, actor, by or None, endorsement or None)
    await conn.execute(INSERT_PRIVATE, key, sealed.key_id, sealed.nonce, sealed.ciphertext)
    await conn.execute(INSERT_SEAL, sealed.key_id)


FORGET_PRIVATES = """
DELETE FROM audit_key_secrets WHERE key_id <> ALL($1::text[]) RETURNING key_id
"""
FORGET_SEALS = """
DELETE FROM seals AS k WHERE k.key_id = ANY($1::text[])
  AND NOT EXISTS (SELECT FROM source_secrets AS s WHERE s.key_id = k.key_id)
  AND NOT EXISTS (SELECT FROM source_keys AS s WHERE s.key_id = k.key_id)
  AND NOT EXISTS (SELECT FROM source_shadows AS s WHERE s.key_id = k.key_id)
"""


async def forget_lost(conn: Conn, held: Sequence[str]) -> None:
    """
    Delete the private halves that none of these sealing keys opens, and let nobody have to have the
    sealing keys that nothing else is sealed with. The caller has `take_turn`.
    """
    lost = {row["key_id"] for row in await conn.fetch(FORGET_PRIVATES, list(held))}
    await conn.execute(FORGET_SEALS, list(lost))


READ_NEWEST = """
SELECT number, key, from_xid::text::bigint AS from_xid, to_xid::text::bigint AS to_xid, statement,
       signature, blocks
FROM audit_checkpoints ORDER BY number DESC LIMIT 1
"""


async def read_newest(conn: Conn) -> Checkpoint | None:
    """The last one written."""
    row = await conn.fetchrow(READ_NEWEST)
    return None if row is None else _checkpoint(row)


READ_AFTER = """
SELECT number, key, from_xid::text::bigint AS from_xid, to_xid::text::bigint AS to_xid, statement,
       signature, blocks
FROM audit_checkpoints WHERE number > $1 ORDER BY number LIMIT $2
"""


async def read_after(conn: Conn, number: int, limit: int) -> list[Checkpoint]:
    """The next ones in order; 0 begins."""
    return [_checkpoint(row) for row in await conn.fetch(READ_AFTER, number, limit)]


# Below the oldest transaction that is still open nothing can commit any more.
SPAN = """
SELECT now() AS now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,
       EXISTS (
           SELECT 1 FROM audit AS a WHERE a.xid >= $1::bigint::text::xid8
              AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
       ) AS has_records,
       (SELECT a.xid::text::bigint FROM audit AS a
        WHERE a.xid >= $1::bigint::text::xid8 AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY a.xid, a.id OFFSET $2 LIMIT 1) AS last
"""


async def next_span(conn: Conn, from_xid: int, most: int) -> tuple[datetime, int] | None:
    """
    Now, and up to which transaction (without it) the next `most` records reach, or a few more:
    those of one transaction stay together. None where nothing has ended since.
    """
    row = await conn.fetchrow(SPAN, from_xid, most)
    assert row is not None
    if not row["has_records"]:
        return None
    return row["now"], row["horizon"] if row["last"] is None else row["last"] + 1


READ_LEAVES = """
SELECT id, chain, position, hash FROM audit
WHERE xid >= $1::bigint::text::xid8 AND xid < $2::bigint::text::xid8
ORDER BY xid, id
"""


async def read_leaves(conn: Conn, from_xid: int, to_xid: int) -> list[Leaf]:
    """The records of a span, in its order."""
    return [Leaf(*row.values()) for row in await conn.fetch(READ_LEAVES, from_xid, to_xid)]


INSERT_CHECKPOINT = """
INSERT INTO audit_checkpoints (number, key, from_xid, to_xid, statement, signature, blocks)
VALUES ($1, $2, $3::bigint::text::xid8, $4::bigint::text::xid8, $5, $6, $7)
"""


async def insert_checkpoint(conn: Conn, made: Checkpoint) -> None:
    """Write the next one."""
    await conn.execute(
        INSERT_CHECKPOINT,
        made.number,
        made.key,
        made.from_xid,
        made.to_xid,
        made.statement,
        made.signature,
        made.blocks,
    )


COVERING = """
SELECT x.xid, c.number, c.key, c.from_xid::text::bigint AS from_xid,
       c.to_xid::text::bigint AS to_xid, c.statement, c.signature, c.blocks
FROM unnest($1::bigint[]) AS x (xid)
JOIN LATERAL (
    SELECT number, key, from_xid, to_xid, statement, signature, blocks FROM audit_checkpoints
    WHERE from_xid <= x.xid::text::xid8 ORDER BY from_xid DESC LIMIT 1
) AS c ON c.to_xid > x.xid::text::xid8
"""


async def covering(conn: Conn, xids: Sequence[int]) -> dict[int, Checkpoint]:
    """By transaction, the checkpoint that covers it; missing where none does yet."""
    return {row["xid"]: _checkpoint(row) for row in await conn.fetch(COVERING, list(set(xids)))}


UNCOVERED = """
SELECT count(*) FROM audit WHERE xid >= $1::bigint::text::xid8
"""


async def count_uncovered(conn: Conn, to_xid: int) -> int:
    """How many records no checkpoint covers yet."""
    found: int = await conn.fetchval(UNCOVERED, to_xid)
    return found


UNSIGNED_S = """
SELECT extract(epoch FROM now() - a.at)::float8 FROM audit AS a
WHERE a.xid >= coalesce(
    (SELECT to_xid FROM audit_checkpoints ORDER BY number DESC LIMIT 1), '0'::xid8)
ORDER BY a.xid, a.id LIMIT 1
"""


async def unsigned_s(conn: Conn) -> float:
    """How old the first record is that no checkpoint covers, in seconds; 0: all are covered."""
    return float(await conn.fetchval(UNSIGNED_S) or 0)


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(
        row["number"],
        row["key"],
        row["from_xid"],
        row["to_xid"],
        row["statement"],
        row["signature"],
        row["blocks"],
    )
