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
