"""
Bearer tokens of the API. The token itself is shown once and never stored, only its SHA-256:
256 random bits need no salt and no slow hash.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from shared.db import Conn, Row

PREFIX = "slu_"


@dataclass(frozen=True, slots=True)
class Token:
    """
    What may be known of a token. `scope`: "operator", "service" or "tenant:ID". `last_used_at` is
    a few minutes behind at times, and None where nobody noted any use.
    """

    id: UUID
    name: str
    scope: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None


def new_token() -> str:
    """A token: `slu_` and 43 characters of base64url."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """What the database keeps of a token; any text has one."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


INSERT = """
INSERT INTO tokens (id, name, scope, digest, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
RETURNING id, name, scope, created_at, created_by, expires_at, revoked_at, last_used_at
"""


async def create(
    conn: Conn,
    token_id: UUID,
    name: str,
    scope: str,
    digest: bytes,
    created_by: str,
    lives_for: timedelta | None,
) -> Token:
    """Store a new token; without `lives_for` it ends only when it is revoked."""
    row = await conn.fetchrow(INSERT, token_id, name, scope, digest, created_by, lives_for)
    assert row is not None  # INSERT … RETURNING answers with its row
    return _token(row)


LIST_NEWEST = """
SELECT id, name, scope, created_at, created_by, expires_at, revoked_at, last_used_at
FROM tokens
WHERE ($1::timestamptz IS NULL OR (created_at, id) < ($1, $2::uuid))
  AND ($3::boolean OR (revoked_at IS NULL AND (expires_at IS NULL OR now() < expires_at)))
ORDER BY created_at DESC, id DESC
LIMIT $4
"""


async def list_tokens(
    conn: Conn, after: tuple[datetime, UUID] | None, *, ended: bool, limit: int
) -> list[Token]:
    """Newest first; with `ended`, the revoked and expired ones too."""
    created_at, token_id = after or (None, None)
    rows = await conn.fetch(LIST_NEWEST, created_at, token_id, ended, limit)
    return [_token(row) for row in rows]


FIND = """
SELECT id, name, scope, created_at, created_by, expires_at, revoked_at, last_used_at
FROM tokens
WHERE id = $1 OR name = $2
ORDER BY created_at, id
"""


async def find(conn: Conn, token_id: UUID | None, name: str) -> list[Token]:
    """The tokens with that id or that name; names need not be unique."""
    return [_token(row) for row in await conn.fetch(FIND, token_id, name)]


REVOKE = """
UPDATE tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id
"""


async def revoke(conn: Conn, token_id: UUID) -> bool:
    """End a token at once; False where it was revoked before."""
    return await conn.fetchval(REVOKE, token_id) is not None


FIND_BY_DIGEST = """
SELECT id, name, scope, created_at, created_by, expires_at, revoked_at, last_used_at
FROM tokens
WHERE digest = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR now() < expires_at)
"""


async def find_by_digest(conn: Conn, digest: bytes) -> Token | None:
    """The token that may be used now, by the database's clock, or None."""
    row = await conn.fetchrow(FIND_BY_DIGEST, digest)
    return None if row is None else _token(row)


STILL_VALID = """
SELECT id FROM tokens
WHERE id = ANY($1::uuid[]) AND revoked_at IS NULL AND (expires_at IS NULL OR now() < expires_at)
"""


async def still_valid(conn: Conn, token_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these tokens that may be used now, by the database's clock."""
    return {row["id"] for row in await conn.fetch(STILL_VALID, list(token_ids))}


NOTE_USE = """
UPDATE tokens SET last_used_at = least(to_timestamp($2::bigint), now())
WHERE id = $1
  AND (last_used_at IS NULL OR last_used_at < least(to_timestamp($2::bigint), now()))
"""


async def note_use(conn: Conn, token_id: UUID, at: int) -> None:
    """
    Write down that a token was used, at so many seconds since 1970: the last use stays, whatever
    the order in which they are told, and none lies in the future.
    """
    await conn.execute(NOTE_USE, token_id, at)


def _token(row: Row) -> Token:
    return Token(
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
