"""
Events that a provider has and no webhook brought, stored as the gateway would have stored them.

The ledger's keys are contended for: the webhook may come at this moment. So a page is stored by one
statement that commits by itself; a worker that is stopped between two statements of a transaction
would keep the gateway waiting.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.events import Identity, received_at_of


@dataclass(frozen=True, slots=True)
class Found:
    """An event as the provider lists it. See `shared.store.intake.Delivery` for what is alike."""

    tracking_id: UUID
    lane: int
    identity: Identity
    headers: bytes
    body: bytes
    body_sha: bytes


KNOWN_EVENTS = """
SELECT l.event_id FROM ledger l
WHERE l.source_id = $1 AND l.account = $2 AND l.livemode = $3 AND l.event_id = ANY($4::text[])
"""


async def known_events(
    conn: Conn, source_id: int, account: str, livemode: bool, event_ids: Sequence[str]
) -> set[str]:
    """Which of these events the ledger has."""
    rows = await conn.fetch(KNOWN_EVENTS, source_id, account, livemode, list(event_ids))
    return {row["event_id"] for row in rows}


# No secret has proven it: that is what `reconciled` says in the place of one. The keys come in
# the order in which the gateway inserts them, so that neither can wait for the other in a ring.
INSERT_MISSED = """
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::uuid[], $3::timestamptz[], $4::text[], $5::boolean[], $6::text[], $7::text[],
        $8::timestamptz[], $9::text[], $10::integer[], $11::bytea[], $12::bytea[], $13::bytea[]
    ) WITH ORDINALITY AS t (
        tracking_id, received_at, account, livemode, event_id, event_type, occurred_at, subject,
        lane, headers, body, body_sha, position
    )
), fresh AS (
    INSERT INTO ledger (source_id, account, livemode, event_id, tracking_id, body_sha, received_at)
    SELECT $1, account, livemode, event_id, tracking_id, body_sha, received_at
    FROM batch
    ORDER BY account COLLATE "C", livemode, event_id COLLATE "C", position
    ON CONFLICT DO NOTHING
    RETURNING tracking_id
), kept AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                       occurred_at, subject, lane, secret, headers, body, trace_context)
    SELECT received_at, tracking_id, $1, account, livemode, event_id, event_type, occurred_at,
           subject, lane, 'reconciled', headers, body, $14
    FROM batch JOIN fresh USING (tracking_id)
), queued AS (
    INSERT INTO work (tracking_id, received_at, lane, actor)
    SELECT tracking_id, received_at, lane, $15
    FROM batch JOIN fresh USING (tracking_id)
    ORDER BY position
)
INSERT INTO missed_events (tracking_id, source_id, account, event_id, event_type, occurred_at, job)
SELECT tracking_id, $1, account, event_id, event_type, occurred_at, $16
FROM batch JOIN fresh USING (tracking_id)
RETURNING tracking_id
"""


async def insert_missed(
    conn: Conn,
    source_id: int,
    found: Sequence[Found],
    *,
    actor: str,
    trace_context: str,
    job: UUID | None = None,
) -> set[UUID]:
    """
    Store what the ledger lacks, outside of any transaction; the tracking ids of what it lacked.

    Safe to repeat: what is there by then is not stored again.
    """
    rows = await conn.fetch(
        INSERT_MISSED,
        source_id,
        [one.tracking_id for one in found],
        [received_at_of(one.tracking_id) for one in found],
        [one.identity.account for one in found],
        [one.identity.livemode for one in found],
        [one.identity.event_id for one in found],
        [one.identity.event_type for one in found],
        [one.identity.occurred_at for one in found],
        [one.identity.subject for one in found],
        [one.lane for one in found],
        [one.headers for one in found],
        [one.body for one in found],
        [one.body_sha for one in found],
        trace_context,
        actor,
        job,
    )
    return {row["tracking_id"] for row in rows}


# One probe of the key for each account, however many events there are.
ACCOUNTS_SEEN = """
WITH RECURSIVE seen AS (
    (SELECT account FROM ledger WHERE source_id = $1 ORDER BY account LIMIT 1)
    UNION ALL
    SELECT (SELECT l.account FROM ledger l
            WHERE l.source_id = $1 AND l.account > s.account ORDER BY l.account LIMIT 1)
    FROM seen s WHERE s.account IS NOT NULL
)
SELECT account FROM seen WHERE account IS NOT NULL
"""


async def accounts_seen(conn: Conn, source_id: int) -> list[str]:
    """The accounts that a source's events were of; "" is its own."""
    return [row["account"] for row in await conn.fetch(ACCOUNTS_SEEN, source_id)]


class Missed(NamedTuple):
    """One event that was found, as its job's report tells of it."""

    tracking_id: UUID
    account: str
    event_id: str
    event_type: str
    occurred_at: datetime | None
    found_at: datetime


MISSED_BY_JOB = """
SELECT tracking_id, account, event_id, event_type, occurred_at, found_at
FROM missed_events WHERE job = $1
ORDER BY occurred_at, tracking_id LIMIT $2
"""


async def missed_by_job(conn: Conn, job: UUID, limit: int) -> list[Missed]:
    """What a job found and stored, the oldest first."""
    return [Missed(*row.values()) for row in await conn.fetch(MISSED_BY_JOB, job, limit)]


COUNT_MISSED = "SELECT count(*) FROM missed_events WHERE job = $1"


async def count_missed(conn: Conn, job: UUID) -> int:
    """How many events a job found and stored, whoever died on the way."""
    return int(await conn.fetchval(COUNT_MISSED, job))
