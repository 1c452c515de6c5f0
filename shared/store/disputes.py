"""
What of the trail and of the evidence concerns one tenant, by all of its names.

Read page by page: one tenant may have more than memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from shared.db import Conn, Row
from shared.domain.audit import Record
from shared.domain.events import received_at_of


@dataclass(frozen=True, slots=True)
class Told:
    """A record with its hashes and what it tells; without a salt it tells nothing any more."""

    id: int
    record: Record
    previous_hash: bytes
    hash: bytes
    salt: bytes | None
    contents: tuple[bytes | None, bytes | None, bytes | None]

    @property
    def place(self) -> tuple[str, int]:
        """By which proofs name it."""
        return self.record.chain, self.record.position


_TOLD = """
SELECT a.id, a.chain, a.position, a.cause, a.cause_id, a.run, a.tenant, a.step, a.action, a.actor,
       a.source, a.subject, a.feature, a.catalog_version, a.xid::text::bigint AS xid, a.at,
       a.before_digest, a.after_digest, a.reason_digest, a.previous_hash, a.hash, c.salt,
       c.before, c.after, c.reason
FROM audit AS a LEFT JOIN audit_content AS c ON c.audit_id = a.id
"""
OF_TENANT = _TOLD + "WHERE a.tenant = $1 AND a.id > $2 ORDER BY a.id LIMIT $3"


async def read_of_tenant(conn: Conn, tenant: str, after: int, limit: int) -> list[Told]:
    """The next records that name the tenant, in the order in which each chain has them."""
    return [_told(row) for row in await conn.fetch(OF_TENANT, tenant, after, limit)]


# Those that name nobody: step 0 of an event that several share, or that waited for a link.
OF_EVENTS = (
    _TOLD
    + """
WHERE a.tenant = '' AND ((a.cause = 'event' AND a.cause_id = ANY($1::text[]))
                         OR (a.cause = 'operator' AND a.cause_id = ANY($2::text[])))
ORDER BY a.id
"""
)


async def read_of_events(conn: Conn, events: Sequence[UUID], replays: Sequence[UUID]) -> list[Told]:
    """What is told of these events, and of the actions that had them applied again, of nobody."""
    rows = await conn.fetch(OF_EVENTS, [str(one) for one in events], [str(one) for one in replays])
    return [_told(row) for row in rows]


CONCERNS_OTHERS = """
SELECT w.tracking_id
FROM unnest($1::uuid[]) AS w (tracking_id)
WHERE EXISTS (SELECT 1 FROM audit AS a WHERE a.cause = 'event' AND a.cause_id = w.tracking_id::text
                 AND a.tenant <> '' AND a.tenant <> ALL($2::text[]))
   OR EXISTS (SELECT 1 FROM settlements AS s
              WHERE s.tracking_id = w.tracking_id AND s.tenant <> ALL($2::text[]))
   OR EXISTS (SELECT 1 FROM record_versions AS v WHERE v.tracking_id = w.tracking_id
                 AND (v.tenant IS NULL OR v.tenant <> ALL($2::text[])))
   OR EXISTS (SELECT 1 FROM observations AS b JOIN objects AS o ON o.id = b.object
              WHERE b.tracking_id = w.tracking_id AND o.tenant <> ALL($2::text[]))
"""


async def concern_others(conn: Conn, events: Sequence[UUID], names: Sequence[str]) -> set[UUID]:
    """Which of the events say something of tenants that are not called by one of these names."""
    rows = await conn.fetch(CONCERNS_OTHERS, list(events), list(names))
    return {row["tracking_id"] for row in rows}


NUMBER_OF_RUNS = """
SELECT greatest(
    (SELECT max(run) FROM settlements WHERE tracking_id = $1),
    (SELECT max(run) FROM work WHERE tracking_id = $1 AND kind = 'event')) AS runs
"""


async def count_runs(conn: Conn, tracking_id: UUID) -> int:
    """How often the event was applied, or is to be."""
    found: int | None = await conn.fetchval(NUMBER_OF_RUNS, tracking_id)
    return found or 0


READ_HEADERS = "SELECT headers FROM inbox WHERE received_at = $1 AND tracking_id = $2"


async def read_headers(conn: Conn, tracking_id: UUID) -> bytes | None:
    """The headers as they are kept: JSON, credentials as digests."""
    found: bytes | None = await conn.fetchval(
        READ_HEADERS, received_at_of(tracking_id), tracking_id
    )
    return found


def _told(row: Row) -> Told:
    number, *chained = row.values()
    record, (previous_hash, hashed, salt, before, after, reason) = chained[:18], chained[18:]
    return Told(number, Record(*record), previous_hash, hashed, salt, (before, after, reason))
