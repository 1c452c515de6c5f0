"""
Shadows: a secret of a source, perhaps of another scheme, that is checked beside the real ones.

It never accepts anything. The gateway reads it and adds to its counts; an operator sets it, has it
rotated in, or drops it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from shared.db import Conn, Row
from shared.sealing import Sealed


class Tally(NamedTuple):
    """Requests, by what the real secrets said of them and what the shadow did."""

    both_accept: int = 0
    only_real: int = 0
    only_shadow: int = 0
    both_refuse: int = 0


@dataclass(frozen=True, slots=True)
class StoredShadow:
    """A shadow at rest. `provider` and `signature` are None where they are the source's own."""

    source_id: int
    version: int
    sealed: Sealed
    provider: str | None
    signature: Mapping[str, Any] | None
    added_at: datetime
    added_by: str
    tally: Tally
    last_accepted_at: datetime | None


READ_SHADOWS = """
SELECT source_id, version, key_id, nonce, ciphertext, provider, signature, added_at, added_by,
       both_accept, only_real, only_shadow, both_refuse, last_accepted_at
FROM source_shadows WHERE $1::smallint IS NULL OR source_id = $1
"""


async def read_shadows(conn: Conn, source_id: int | None = None) -> dict[int, StoredShadow]:
    """By the source's id; of one source, or of all."""
    rows = await conn.fetch(READ_SHADOWS, source_id)
    return {row["source_id"]: _shadow(row) for row in rows}


def _shadow(row: Row) -> StoredShadow:
    return StoredShadow(
        row["source_id"],
        row["version"],
        Sealed(row["key_id"], row["nonce"], row["ciphertext"]),
        row["provider"],
        row["signature"],
        row["added_at"],
        row["added_by"],
        Tally(*(row[name] for name in Tally._fields)),
        row["last_accepted_at"],
    )


COUNT_SHADOW = """
UPDATE source_shadows
SET both_accept = both_accept + $3, only_real = only_real + $4, only_shadow = only_shadow + $5,
    both_refuse = both_refuse + $6, last_accepted_at = coalesce($7, last_accepted_at)
WHERE source_id = $1 AND version = $2
"""


async def count_shadow(
    conn: Conn, source_id: int, version: int, tally: Tally, accepted_at: datetime | None
) -> None:
    """Add to the counts of this very shadow; of one that is gone, to nothing."""
    await conn.execute(COUNT_SHADOW, source_id, version, *tally, accepted_at)


PUT_SHADOW = """
INSERT INTO source_shadows (source_id, version, key_id, nonce, ciphertext, provider, signature,
                            added_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (source_id) DO UPDATE
SET version = excluded.version, key_id = excluded.key_id, nonce = excluded.nonce,
    ciphertext = excluded.ciphertext, provider = excluded.provider,
    signature = excluded.signature, added_by = excluded.added_by, added_at = now(),
    both_accept = 0, only_real = 0, only_shadow = 0, both_refuse = 0, last_accepted_at = NULL
"""


async def put_shadow(
    conn: Conn,
    source_id: int,
    version: int,
    sealed: Sealed,
    *,
    provider: str | None,
    signature: Mapping[str, Any] | None,
    actor: str,
) -> None:
    """Set a source's shadow; it counts from zero."""
    await conn.execute(
        PUT_SHADOW,
        source_id,
        version,
        sealed.key_id,
        sealed.nonce,
        sealed.ciphertext,
        provider,
        None if signature is None else dict(signature),
        actor,
    )


DROP_SHADOW = "DELETE FROM source_shadows WHERE source_id = $1"


async def drop_shadow(conn: Conn, source_id: int) -> bool:
    """Forget it; False where there is none."""
    return (await conn.execute(DROP_SHADOW, source_id)).endswith(" 1")
