"""
The API keys of sources, sealed: with them a worker asks the provider what an object is now.

The only secrets that a worker may read; what verifies a provider's signatures is not among them.
"""

from dataclasses import dataclass

from shared.db import Conn
from shared.sealing import Sealed


@dataclass(frozen=True, slots=True)
class SourceKey:
    """One source's key at rest. `api_base` is None where the provider's own address is meant."""

    version: int
    sealed: Sealed
    api_base: str | None


READ_KEYS = """
SELECT source_id, version, key_id, nonce, ciphertext, api_base FROM source_keys ORDER BY source_id
"""


async def read_keys(conn: Conn) -> dict[int, SourceKey]:
    """Every key, by the source's id. A pruned source has none."""
    return {
        row["source_id"]: SourceKey(
            row["version"],
            Sealed(row["key_id"], row["nonce"], row["ciphertext"]),
            row["api_base"],
        )
        for row in await conn.fetch(READ_KEYS)
    }


PUT_KEY = """
INSERT INTO source_keys (source_id, version, key_id, nonce, ciphertext, api_base)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (source_id) DO UPDATE
SET version = excluded.version, key_id = excluded.key_id, nonce = excluded.nonce,
    ciphertext = excluded.ciphertext, api_base = excluded.api_base, added_at = now()
"""


async def put_key(conn: Conn, source_id: int, key: SourceKey) -> None:
    """Write a source's key."""
    await conn.execute(
        PUT_KEY,
        source_id,
        key.version,
        key.sealed.key_id,
        key.sealed.nonce,
        key.sealed.ciphertext,
        key.api_base,
    )


DELETE_KEY = "DELETE FROM source_keys WHERE source_id = $1"


async def delete_key(conn: Conn, source_id: int) -> None:
    """Forget a source's key, if it has one."""
    await conn.execute(DELETE_KEY, source_id)
