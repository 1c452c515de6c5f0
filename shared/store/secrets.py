"""
Everything that is sealed: which key each is sealed with, and putting it under another one.

Read and written by operators. What is put under another key keeps its place, and so its label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.db import Conn
from shared.sealing import Sealed

Kind = Literal["secret", "api_key", "shadow", "audit_key"]


@dataclass(frozen=True, slots=True)
class SealedThing:
    """
    One sealed secret. `slot` is that of its place, as `shared.sealing` has it: -1 is an API key's,
    -2 a shadow's, -3 an audit key's. `address` is an API key's. `source` is what it was sealed for:
    of an audit key "audit key ID", which no source is called, and `source_id` is 0.
    """

    kind: Kind
    source_id: int
    source: str
    slot: int
    version: int
    sealed: Sealed
    address: str | None
    added_at: datetime
    added_by: str | None
    retires_at: datetime | None

    @property
    def label(self) -> str:
        """How events name it, where it can prove one: "slot.version"; an audit key's id."""
        if self.kind == "audit_key":
            return self.source.rpartition(" ")[2]
        return f"{self.slot}.{self.version}" if self.kind == "secret" else str(self.version)


READ_SEALED = """
WITH t AS (
    SELECT 'secret' AS kind, source_id, slot, version, key_id, nonce, ciphertext,
           NULL::text AS address, added_at, added_by, retires_at
    FROM source_secrets
    UNION ALL
    SELECT 'api_key', source_id, -1, version, key_id, nonce, ciphertext, api_base,
           added_at, NULL, NULL
    FROM source_keys
    UNION ALL
    SELECT 'shadow', source_id, -2, version, key_id, nonce, ciphertext, NULL,
           added_at, added_by, NULL
    FROM source_shadows
), named AS (
    SELECT s.name, t.* FROM t JOIN sources AS s ON s.id = t.source_id
    UNION ALL
    SELECT ('audit key ' || k.id) COLLATE "default", 'audit_key', 0, -3, 1, p.key_id, p.nonce,
           p.ciphertext, NULL, k.created_at, k.created_by, NULL
    FROM audit_key_secrets AS p JOIN audit_keys AS k ON k.id = p.id
)
SELECT kind, source_id, name, slot, version, key_id, nonce, ciphertext, address, added_at,
       added_by, retires_at
FROM named
WHERE ($1::text IS NULL OR key_id <> $1) AND ($2::text IS NULL OR name = $2)
  AND ($3::text IS NULL OR (name, slot) > ($3, $4::integer))
ORDER BY name, slot
LIMIT $5
"""


async def read_sealed(
    conn: Conn,
    *,
    but_by: str | None = None,
    source: str | None = None,
    after: tuple[str, int] | None = None,
    limit: int | None = None,
) -> list[SealedThing]:
    """By source and slot; without those sealed by the key `but_by`."""
    name, slot = after or (None, None)
    rows = await conn.fetch(READ_SEALED, but_by, source, name, slot, limit)
    return [
        SealedThing(
            row["kind"],
            row["source_id"],
            row["name"],
            row["slot"],
            row["version"],
            Sealed(row["key_id"], row["nonce"], row["ciphertext"]),
            row["address"],
            row["added_at"],
            row["added_by"],
            row["retires_at"],
        )
        for row in rows
    ]


# A worker that makes an audit key writes its seal; it has this lock (`shared.store.checkpoints`).
AWAIT_AUDIT_KEYS = "SELECT pg_advisory_xact_lock(hashtext('sluice.audit_checkpoints'))"


async def await_audit_keys(conn: Conn) -> None:
    """Let no audit key be made or replaced until this transaction ends."""
    await conn.execute(AWAIT_AUDIT_KEYS)


# The key that it was sealed with is named, too: what was written meanwhile is not written over.
RESEAL_SLOT = """
UPDATE source_secrets SET key_id = $5, nonce = $6, ciphertext = $7
WHERE source_id = $1 AND slot = $2 AND version = $3 AND key_id = $4
"""
RESEAL_KEY = """
UPDATE source_keys SET key_id = $4, nonce = $5, ciphertext = $6
WHERE source_id = $1 AND version = $2 AND key_id = $3
"""
RESEAL_SHADOW = """
UPDATE source_shadows SET key_id = $4, nonce = $5, ciphertext = $6
WHERE source_id = $1 AND version = $2 AND key_id = $3
"""
RESEAL_AUDIT_KEY = """
UPDATE audit_key_secrets SET key_id = $3, nonce = $4, ciphertext = $5
WHERE id = $1 AND key_id = $2
"""
ADD_SEAL = "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT (key_id) DO NOTHING"


async def reseal(conn: Conn, one: SealedThing, sealed: Sealed) -> None:
    """Put it under another key. From now on, a process without that key refuses to start."""
    source_id, old = one.source_id, one.sealed.key_id
    new = (sealed.key_id, sealed.nonce, sealed.ciphertext)
    if one.kind == "secret":
        await conn.execute(RESEAL_SLOT, source_id, one.slot, one.version, old, *new)
    elif one.kind == "api_key":
        await conn.execute(RESEAL_KEY, source_id, one.version, old, *new)
    elif one.kind == "audit_key":
        await conn.execute(RESEAL_AUDIT_KEY, one.label, old, *new)
    else:
        await conn.execute(RESEAL_SHADOW, source_id, one.version, old, *new)
    await conn.execute(ADD_SEAL, sealed.key_id)


# A rotation that waits to be carried out holds a secret that was sealed when it was asked for.
COUNT_WAITING = """
SELECT count(*) FROM work AS w JOIN inbox AS i USING (received_at, tracking_id)
WHERE w.kind = 'event' AND i.event_type = $1
"""


async def count_waiting(conn: Conn, event_type: str) -> int:
    """How many orders of this type are still to be carried out."""
    found: int = await conn.fetchval(COUNT_WAITING, event_type)
    return found


FORGET_SEALS = """
DELETE FROM seals AS k
WHERE k.key_id <> $1
  AND NOT EXISTS (SELECT FROM source_secrets AS s WHERE s.key_id = k.key_id)
  AND NOT EXISTS (SELECT FROM source_keys AS s WHERE s.key_id = k.key_id)
  AND NOT EXISTS (SELECT FROM source_shadows AS s WHERE s.key_id = k.key_id)
  AND NOT EXISTS (SELECT FROM audit_key_secrets AS s WHERE s.key_id = k.key_id)
RETURNING k.key_id
"""


async def forget_seals(conn: Conn, first: str) -> list[str]:
    """The keys that nothing is sealed with: from now on, nobody needs them to start."""
    return sorted(row["key_id"] for row in await conn.fetch(FORGET_SEALS, first))


READ_SEALS = "SELECT key_id, created_at FROM seals ORDER BY created_at, key_id"


async def read_seals(conn: Conn) -> Sequence[tuple[str, datetime]]:
    """The keys that a process must have to start, and since when."""
    return [(row["key_id"], row["created_at"]) for row in await conn.fetch(READ_SEALS)]


#: How many of the newest events are looked through: no index is paid for this alone.
LOOKED_THROUGH = 20_000
READ_USES = """
SELECT secret, max(received_at) AS used_at, count(*) AS events
FROM (SELECT source_id, secret, received_at FROM inbox
      ORDER BY received_at DESC, tracking_id DESC LIMIT $2) AS newest
WHERE source_id = $1
GROUP BY secret
"""


@dataclass(frozen=True, slots=True)
class Use:
    """When a secret last proved something among what was looked through, and how often it did."""

    used_at: datetime
    events: int


async def read_uses(conn: Conn, source_id: int) -> dict[str, Use]:
    """By the secret's label, among the newest events of all sources."""
    rows = await conn.fetch(READ_USES, source_id, LOOKED_THROUGH)
    return {row["secret"]: Use(row["used_at"], row["events"]) for row in rows}
