"""
Receipt: what the gateway writes before it says 200.

Runs in the role `sluice_gateway`, outside any explicit transaction: every statement commits by
itself, and whoever gets its result knows that it is durable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Literal
from uuid import UUID

from shared.db import Conn
from shared.domain.events import Identity, received_at_of, unreadable_identity

#: How often a position that is neither new nor in the ledger is tried again (see `record`).
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    One verified request, ready to be stored.

    `tracking_id` becomes the event's if nobody was earlier; a repeated attempt must carry the
    same one. `headers` is a JSON array of pairs, `secret` a `Secret.label`, `trace_context` a
    W3C traceparent, `lane` a lane id. The body of an artifact is empty, and `body_sha` its digest.
    """

    tracking_id: UUID
    source_id: int
    lane: int
    identity: Identity
    unreadable: str | None
    secret: str
    headers: bytes
    body: bytes
    body_sha: bytes
    trace_context: str
    artifact_bytes: int | None = None  # its size, where the body is an artifact, and not here

    @property
    def received_at(self) -> datetime:
        """The millisecond inside the tracking id."""
        return received_at_of(self.tracking_id)

    def as_unreadable(self, reason: str) -> "Delivery":
        """The same evidence under its own digest, for what the database refuses to index."""
        return replace(self, identity=unreadable_identity(self.body), unreadable=reason)


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    What a delivery turned out to be; `tracking_id` is the event's. `is_other`: it was another body
    under the same id.
    """

    tracking_id: UUID
    status: Literal["new", "duplicate"]
    is_other: bool = False


class NotStored(Exception):
    """The ledger neither took a delivery nor holds its event. Trying again is right."""


async def record(conn: Conn, deliveries: Sequence[Delivery]) -> list[Receipt]:
    """
    Store a batch; one receipt per position, in its order.

    Safe to repeat with the same deliveries after any error, also after one that leaves open
    whether it was stored: an event that already carries this delivery's tracking id is new.

    Raises:
        NotStored: see there.
        Exception: whatever `shared.db` classifies. After a data error nothing of the failed
            statement was stored, but new events of the batch may already be.
    """
    receipts: list[Receipt | None] = [None] * len(deliveries)
    waiting = list(range(len(deliveries)))
    # A second round only where the ledger forgot an event between our two statements.
    for _ in range(_ROUNDS):
        seen = await insert_new(conn, [deliveries[position] for position in waiting])
        for position in waiting:
            if deliveries[position].tracking_id not in seen:
                receipts[position] = Receipt(deliveries[position].tracking_id, "new")
        waiting = [position for position in waiting if receipts[position] is None]
        if not waiting:
            break
        found = await insert_again(conn, [deliveries[position] for position in waiting])
        for position in waiting:
            receipts[position] = found.get(deliveries[position].tracking_id)
        waiting = [position for position in waiting if receipts[position] is None]
        if not waiting:
            break
    finished = [receipt for receipt in receipts if receipt is not None]
    if len(finished) < len(deliveries):
        raise NotStored("the ledger neither took the delivery nor holds its event")
    return finished


# The ledger's rows are inserted in key order, so that two gateways with crossed duplicates wait
# for each other instead of deadlocking; "C" because the order must be the same in both. A key
# that comes twice in one batch belongs to its first position. ON CONFLICT waits for a concurrent
# inserter of the same key: a row that we did not get is committed.
INSERT_NEW = """
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::smallint[], $4::text[], $5::boolean[], $6::text[],
        $7::text[], $8::timestamptz[], $9::text[], $10::integer[], $11::text[], $12::text[],
        $13::bytea[], $14::bytea[], $15::bytea[], $16::text[], $17::bigint[]
    ) WITH ORDINALITY AS t (
        tracking_id, received_at, source_id, account, livemode, event_id,
        event_type, occurred_at, subject, lane, unreadable, secret,
        headers, body, body_sha, trace_context, artifact_bytes, position
    )
), fresh AS (
    INSERT INTO ledger (source_id, account, livemode, event_id, tracking_id, body_sha, received_at)
    SELECT source_id, account, livemode, event_id, tracking_id, body_sha, received_at
    FROM batch
    ORDER BY source_id, account COLLATE "C", livemode, event_id COLLATE "C", position
    ON CONFLICT DO NOTHING
    RETURNING tracking_id
), kept AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                       occurred_at, subject, lane, unreadable, secret, headers, body, trace_context,
                       artifact, artifact_bytes)
    SELECT received_at, tracking_id, source_id, account, livemode, event_id, event_type,
           occurred_at, subject, lane, unreadable, secret, headers, body, trace_context,
           CASE WHEN artifact_bytes IS NOT NULL THEN body_sha END, artifact_bytes
    FROM batch JOIN fresh USING (tracking_id)
), queued AS (
    INSERT INTO work (tracking_id, received_at, lane)
    SELECT tracking_id, received_at, lane
    FROM batch JOIN fresh USING (tracking_id)
    ORDER BY position
)
SELECT array_agg(tracking_id)
FROM batch
WHERE NOT EXISTS (SELECT 1 FROM fresh WHERE fresh.tracking_id = batch.tracking_id)
"""


async def insert_new(conn: Conn, deliveries: Sequence[Delivery]) -> set[UUID]:
    """
    Insert the events that nobody has seen; returns the ids of the deliveries that were not new.

    One round trip, and a short answer: nearly always there are none.
    """
    seen = await conn.fetchval(
        INSERT_NEW,
        [d.tracking_id for d in deliveries],
        [received_at_of(d.tracking_id) for d in deliveries],
        [d.source_id for d in deliveries],
        [d.identity.account for d in deliveries],
        [d.identity.livemode for d in deliveries],
        [d.identity.event_id for d in deliveries],
        [d.identity.event_type for d in deliveries],
        [d.identity.occurred_at for d in deliveries],
        [d.identity.subject for d in deliveries],
        [d.lane for d in deliveries],
        [d.unreadable for d in deliveries],
        [d.secret for d in deliveries],
        [d.headers for d in deliveries],
        [d.body for d in deliveries],
        [d.body_sha for d in deliveries],
        [d.trace_context for d in deliveries],
        [d.artifact_bytes for d in deliveries],
    )
    return set(seen or ())


# A redelivery is judged by the worker that owns the event's lane, which is the inbox row's: a
# body that differs may name another subject. The scalar subquery reads one partition only, and
# LIMIT keeps the planner from joining the whole ledger, whatever it believes of its size. A body
# that is gone, by retention or because its tenant was erased, does not come back with a delivery.
#
# This writes even where nothing is left to write. Under synchronous replication a row is visible
# before the standby has it (its inserter may have died waiting), and only a commit of our own
# waits for everything before it: hence the message for events that are ours already.
INSERT_AGAIN = """
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::timestamptz[], $3::smallint[], $4::text[], $5::boolean[], $6::text[],
        $7::integer[], $8::text[], $9::bytea[], $10::bytea[], $11::text[]
    ) AS t (
        tracking_id, received_at, source_id, account, livemode, event_id,
        lane, secret, body, body_sha, trace_context
    )
), known AS MATERIALIZED (
    SELECT b.tracking_id, b.received_at, b.lane, b.secret, b.body, b.body_sha, b.trace_context,
           l.tracking_id AS event, l.received_at AS event_received_at, l.body_sha AS event_sha,
           (SELECT i.lane FROM inbox i
            WHERE i.received_at = l.received_at AND i.tracking_id = l.tracking_id) AS kept_in
    FROM batch b
    CROSS JOIN LATERAL (
        SELECT * FROM ledger l
        WHERE l.source_id = b.source_id AND l.account = b.account
          AND l.livemode = b.livemode AND l.event_id = b.event_id
        LIMIT 1
    ) l
), noted AS (
    INSERT INTO deliveries (tracking_id, received_at, body_sha, body, secret, trace_context)
    SELECT event, received_at, body_sha,
           CASE WHEN body_sha <> event_sha AND kept_in IS NOT NULL THEN body END, secret,
           trace_context
    FROM known
    WHERE event <> tracking_id
    RETURNING id, tracking_id
), queued AS (
    INSERT INTO work (kind, tracking_id, received_at, lane, delivery_id)
    SELECT 'redelivery', n.tracking_id, e.event_received_at, e.lane, n.id
    FROM noted n
    JOIN (
        SELECT DISTINCT ON (k.event) k.event, k.event_received_at,
               coalesce(k.kept_in, k.lane) AS lane
        FROM known k
        ORDER BY k.event
    ) e ON e.event = n.tracking_id
)
SELECT tracking_id, event, body_sha <> event_sha AS is_other,
       CASE WHEN event = tracking_id THEN pg_logical_emit_message(true, 'sluice.fence', '') END
FROM known
"""


async def insert_again(conn: Conn, deliveries: Sequence[Delivery]) -> dict[UUID, Receipt]:
    """
    Note deliveries whose events are in the ledger; by the delivery's own tracking id.

    What the ledger does not hold (any more) is missing from the answer. Repeated after an error
    that leaves its success open, it may note a delivery twice: a second look at a finished
    event, and harmless.
    """
    rows = await conn.fetch(
        INSERT_AGAIN,
        [d.tracking_id for d in deliveries],
        [received_at_of(d.tracking_id) for d in deliveries],
        [d.source_id for d in deliveries],
        [d.identity.account for d in deliveries],
        [d.identity.livemode for d in deliveries],
        [d.identity.event_id for d in deliveries],
        [d.lane for d in deliveries],
        [d.secret for d in deliveries],
        [d.body for d in deliveries],
        [d.body_sha for d in deliveries],
        [d.trace_context for d in deliveries],
    )
    return {
        row["tracking_id"]: Receipt(
            row["event"],
            "new" if row["event"] == row["tracking_id"] else "duplicate",
            row["is_other"],
        )
        for row in rows
    }


# Transactional, so that its commit waits for the disk and for a synchronous standby, as an
# event's does. It needs no right, leaves no row, and is refused where nothing can be written.
PROVE_WRITABLE = "SELECT pg_logical_emit_message(true, 'sluice.probe', '') IS NOT NULL"


async def prove_writable(conn: Conn) -> None:
    """Commit something, as an event would be; raises what the event's insert would raise."""
    await conn.execute(PROVE_WRITABLE)


# to_regclass asks for no right on the table.
READ_PARTITIONS = """
SELECT to_regclass('public.inbox_' || to_char(day, 'YYYYMMDD')) IS NOT NULL
FROM generate_series(0, $1::integer) WITH ORDINALITY AS t (ahead, position),
     LATERAL (SELECT (now() AT TIME ZONE 'UTC')::date + ahead AS day) d
ORDER BY position
"""


async def count_partitions(conn: Conn, days_ahead: int) -> int:
    """How many days in a row, today (UTC, the database's) included, have an inbox partition."""
    rows = await conn.fetch(READ_PARTITIONS, days_ahead)
    present = [row[0] for row in rows]
    return present.index(False) if False in present else len(present)


def sha_of(body: bytes) -> bytes:
    """What the ledger keeps of a body: its SHA-256, 32 bytes."""
    return sha256(body).digest()
