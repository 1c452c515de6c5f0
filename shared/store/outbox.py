"""
The outbox: what handlers want to have done outside, once their transaction has committed.

A message is put in by the transaction that means it. Whoever is to send it takes a lease, which is
committed before anything is sent and ends what it allows only with its token: who lost the lease
settles nothing. A row of `outbox` exists as long as its message is neither sent nor dead.

Lock order: what a transaction puts in is inserted in key order, so that two with crossed keys wait
for each other. A claim waits for nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from shared.db import Conn

#: What receivers take as an idempotency key: Stripe's limit, read in 2026-11.
LARGEST_KEY_BYTES = 255


@dataclass(frozen=True, slots=True)
class NewMessage:
    """
    A message to be put in. Of one handler, messages with the same key are one message.

    `key` has at most 255 bytes, together with its handler's name and a colon; `payload` is JSON
    text; `tracking_id` is that of the event which means it.
    """

    key: str
    handler: str
    tracking_id: UUID
    payload: bytes


def sent_key(handler: str, key: str) -> str:
    """The key that the receiver gets: unique among all that is sent, not only by its handler."""
    return f"{handler}:{key}"


# Numbered as given, inserted by key. Of two with one key the first is kept.
ADD_MESSAGES = """
WITH given AS MATERIALIZED (
    SELECT nextval('message_numbers') AS id, g.handler, g.key, g.tracking_id, g.payload
    FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
         WITH ORDINALITY AS g (handler, key, tracking_id, payload, position)
    ORDER BY g.position
), added AS (
    INSERT INTO messages (id, handler, key, tracking_id, payload)
    SELECT id, handler, key, tracking_id, payload FROM given ORDER BY handler, key, id
    ON CONFLICT (handler, key) DO NOTHING
    RETURNING id, handler
)
INSERT INTO outbox (message, handler) SELECT id, handler FROM added
"""


async def add_messages(conn: Conn, messages: Sequence[NewMessage]) -> None:
    """
    Put messages in, in the caller's transaction. What the handler has under its key is not put in
    again, whatever has become of it; one that another transaction is just putting in is waited for.

    Raises:
        ValueError: a key that cannot be sent; nothing was put in.
    """
    for one in messages:
        size = len(sent_key(one.handler, one.key).encode())
        if not one.key or "\0" in one.key or size > LARGEST_KEY_BYTES:
            raise ValueError(
                f"{one.key[:80]!r} is no key of a message: with its handler's name and a colon it"
                f" has at most {LARGEST_KEY_BYTES} bytes, none of them NUL"
            )
    if messages:
        await conn.execute(
            ADD_MESSAGES,
            [one.handler for one in messages],
            [one.key for one in messages],
            [one.tracking_id for one in messages],
            [one.payload for one in messages],
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to send one message once, until it runs out. `attempt` is the number of this one.

    `taken_over`: somebody had a lease before, and let it run out without a word.
    """

    message: int
    handler: str
    token: UUID
    attempt: int
    taken_over: bool
    key: str  # as the receiver gets it
    tracking_id: UUID
    payload: bytes
    created_at: datetime


HANDLERS_WITH_DUE = """
SELECT asked.handler FROM unnest($1::text[]) AS asked (handler)
WHERE EXISTS (
    SELECT FROM outbox o WHERE o.handler = asked.handler AND o.due_at <= now()
      AND (o.leased_until IS NULL OR o.leased_until <= now()))
"""


async def handlers_with_due(conn: Conn, handlers: Sequence[str]) -> list[str]:
    """Those of the named handlers that have a message which could be sent now."""
    return [row["handler"] for row in await conn.fetch(HANDLERS_WITH_DUE, list(handlers))]


# The attempt is counted before it is made: a message that kills its process has been tried.
CLAIM = """
WITH due AS (
    SELECT o.message, o.lease_token IS NOT NULL AS taken_over FROM outbox o
    WHERE o.handler = $1 AND o.due_at <= now()
      AND (o.leased_until IS NULL OR o.leased_until <= now())
    ORDER BY o.due_at, o.message
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
), leased AS (
    UPDATE outbox o
    SET lease_token = $3, leased_until = now() + make_interval(secs => $4),
        attempts = o.attempts + 1
    FROM due WHERE o.message = due.message
    RETURNING o.message, o.attempts, due.taken_over
)
SELECT l.message, l.attempts, l.taken_over, m.key, m.tracking_id, m.payload, m.created_at
FROM leased l JOIN messages m ON m.id = l.message
ORDER BY l.message
"""


async def claim(conn: Conn, handler: str, limit: int, token: UUID, lease_s: float) -> list[Lease]:
    """
    Take up to `limit` due messages of a handler, the longest due first, under a fresh token.

    Only when this has been committed may anything be sent.
    """
    return [
        Lease(
            message=row["message"],
            handler=handler,
            token=token,
            attempt=row["attempts"],
            taken_over=row["taken_over"],
            key=sent_key(handler, row["key"]),
            tracking_id=row["tracking_id"],
            payload=row["payload"],
            created_at=row["created_at"],
        )
        for row in await conn.fetch(CLAIM, handler, limit, token, lease_s)
    ]


SETTLE = """
WITH done AS (
    DELETE FROM outbox WHERE message = $1 AND lease_token = $2 RETURNING message, handler
)
INSERT INTO sendings (message, handler, outcome, code, error, attempts)
SELECT message, handler, $3, $4, $5, $6 FROM done
"""


async def settle(
    conn: Conn,
    lease: Lease,
    outcome: Literal["sent", "dead"],
    *,
    attempts: int,
    code: str | None = None,
    error: str | None = None,
) -> bool:
    """The message's end. False: the lease was lost, and nothing is settled by it."""
    status = await conn.execute(SETTLE, lease.message, lease.token, outcome, code, error, attempts)
    return status == "INSERT 0 1"


PUT_OFF = """
UPDATE outbox
SET lease_token = NULL, leased_until = NULL, attempts = $3,
    due_at = now() + make_interval(secs => $4), last_code = $5, last_error = $6
WHERE message = $1 AND lease_token = $2
"""


async def put_off(
    conn: Conn, lease: Lease, *, attempts: int, delay_s: float, code: str, error: str
) -> bool:
    """The end of an attempt that failed; `attempts` have, by now. False: the lease was lost."""
    status = await conn.execute(PUT_OFF, lease.message, lease.token, attempts, delay_s, code, error)
    return status == "UPDATE 1"


GIVE_BACK = """
UPDATE outbox o SET lease_token = NULL, leased_until = NULL, attempts = o.attempts - 1
FROM unnest($1::bigint[], $2::uuid[]) AS held (message, token)
WHERE o.message = held.message AND o.lease_token = held.token
"""


async def give_back(conn: Conn, leases: Sequence[Lease]) -> None:
    """Let others have at once what is not going to be settled here; nobody is charged."""
    await conn.execute(
        GIVE_BACK, [lease.message for lease in leases], [lease.token for lease in leases]
    )


class Unsent(NamedTuple):
    """What one handler has in the outbox."""

    messages: int
    oldest_s: float


COUNT_UNSENT = """
SELECT handler, count(*) AS messages,
       extract(epoch FROM now() - min(entered_at))::float8 AS oldest_s
FROM outbox GROUP BY handler
"""
COUNT_DEAD = """
SELECT handler, count(*) AS messages FROM sendings WHERE outcome = 'dead' GROUP BY handler
"""


async def count_unsent(conn: Conn) -> dict[str, Unsent]:
    """By handler, installed here or not."""
    rows = await conn.fetch(COUNT_UNSENT)
    return {row["handler"]: Unsent(row["messages"], row["oldest_s"]) for row in rows}


async def count_dead(conn: Conn) -> dict[str, int]:
    """By handler: the dead letters that nobody has retried or dropped."""
    return {row["handler"]: row["messages"] for row in await conn.fetch(COUNT_DEAD)}
