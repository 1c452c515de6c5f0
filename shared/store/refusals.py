"""
Requests that were refused at the door, as the gateway keeps a few of them.

A place is one of 200 that each source has, so that whoever writes here can write only so much. What
the gateway may read of the table is which places are taken.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.sealing import KeyRing, Sealed, SealingError

PLACES = 200
#: How many of each source the sweep keeps, and for how long.
KEPT = 100
KEPT_DAYS = 7
#: What is kept of a body.
KEPT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Kept:
    """
    One refused request. `headers` is a JSON array of pairs, credentials as digests; `body` its
    beginning, None where it was not read, or not to the end. `code` is what the answer said,
    `cause` and `hint` what was found out afterwards.
    """

    id: UUID
    source_id: int
    refused_at: datetime
    kind: str
    address: str
    code: str
    cause: str
    hint: str
    signed_at: datetime | None
    headers: bytes
    body: bytes | None
    body_bytes: int | None
    body_sha: bytes | None
    trace_id: str


# A free place by chance: two gateways rarely take the same one, and who loses has lost a sample.
KEEP_REFUSAL = """
INSERT INTO refusals (source_id, place, id, refused_at, kind, address, code, cause, hint, signed_at,
                      headers, body, body_bytes, body_sha, trace_id)
SELECT $1::smallint, free.place, $2::uuid, $3::timestamptz, $4::text, $5::text, $6::text, $7::text,
       $8::text, $9::timestamptz, $10::bytea, $11::bytea, $12::bigint, $13::bytea, $14::text
FROM generate_series(0, 199) AS free (place)
WHERE NOT EXISTS (SELECT FROM refusals AS r WHERE r.source_id = $1 AND r.place = free.place)
ORDER BY random()
LIMIT 1
ON CONFLICT DO NOTHING
"""


async def keep_refusal(conn: Conn, one: Kept) -> bool:
    """Keep a sample; False where the source has no free place."""
    status = await conn.execute(
        KEEP_REFUSAL,
        one.source_id,
        one.id,
        one.refused_at,
        one.kind,
        one.address,
        one.code,
        one.cause,
        one.hint,
        one.signed_at,
        one.headers,
        one.body,
        one.body_bytes,
        one.body_sha,
        one.trace_id,
    )
    return status.endswith(" 1")


# The newest: a few are enough to try.
READ_RETIRED = """
SELECT s.name, x.slot, x.version, x.key_id, x.nonce, x.ciphertext
FROM source_secrets AS x JOIN sources AS s ON s.id = x.source_id
WHERE x.retires_at <= now() AND s.removed_at IS NULL
ORDER BY x.retires_at DESC
LIMIT 32
"""


async def read_retired(conn: Conn, keys: KeyRing) -> list[tuple[str, str, str]]:
    """
    (source, label, secret) of what was rotated out and is still kept. What does not open is left
    out: it proves nothing any more.
    """
    found = []
    for row in await conn.fetch(READ_RETIRED):
        sealed = Sealed(row["key_id"], row["nonce"], row["ciphertext"])
        slot, version = row["slot"], row["version"]
        with contextlib.suppress(SealingError):
            secret = keys.open(sealed, source=row["name"], slot=slot, version=version)
            found.append((row["name"], f"{slot}.{version}", secret))
    return found


PRUNE_REFUSALS = """
DELETE FROM refusals AS r
USING (
    SELECT source_id, place,
           row_number() OVER (PARTITION BY source_id ORDER BY refused_at DESC, id DESC) AS number
    FROM refusals
) AS n
WHERE n.source_id = r.source_id AND n.place = r.place
  AND (n.number > $1 OR r.refused_at < now() - make_interval(days => $2))
"""


async def prune_refusals(conn: Conn) -> int:
    """Forget all but the newest of each source, and what is old; how many that were."""
    status = await conn.execute(PRUNE_REFUSALS, KEPT, KEPT_DAYS)
    return int(status.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Listed:
    """A refused request as lists show it."""

    id: UUID
    source: str
    refused_at: datetime
    kind: str
    address: str
    code: str
    cause: str
    hint: str
    signed_at: datetime | None
    body_bytes: int | None
    trace_id: str


LIST_REFUSALS = """
SELECT r.id, s.name, r.refused_at, r.kind, r.address, r.code, r.cause, r.hint, r.signed_at,
       r.body_bytes, r.trace_id
FROM refusals AS r JOIN sources AS s ON s.id = r.source_id
WHERE ($1::timestamptz IS NULL OR (r.refused_at, r.id) < ($1, $2::uuid))
  AND ($3::text IS NULL OR s.name = $3)
  AND ($4::text IS NULL OR r.cause = $4)
  AND ($5::timestamptz IS NULL OR r.refused_at >= $5)
ORDER BY r.refused_at DESC, r.id DESC
LIMIT $6
"""


async def list_refusals(
    conn: Conn,
    after: tuple[datetime, UUID] | None,
    *,
    source: str | None = None,
    cause: str | None = None,
    since: datetime | None = None,
    limit: int,
) -> Sequence[Listed]:
    """Newest first; `after` is where the last page ended."""
    at, number = after or (None, None)
    rows = await conn.fetch(LIST_REFUSALS, at, number, source, cause, since, limit)
    return [Listed(*row.values()) for row in rows]


READ_REFUSAL = """
SELECT r.id, r.source_id, r.refused_at, r.kind, r.address, r.code, r.cause, r.hint, r.signed_at,
       r.headers, r.body, r.body_bytes, r.body_sha, r.trace_id, s.name AS source
FROM refusals AS r JOIN sources AS s ON s.id = r.source_id
WHERE r.id = $1
"""


async def read_refusal(conn: Conn, number: UUID) -> tuple[str, Kept] | None:
    """The source's name, and all that is kept; None where it is not (any more)."""
    row = await conn.fetchrow(READ_REFUSAL, number)
    if row is None:
        return None
    *values, source = row.values()
    return source, Kept(*values)
