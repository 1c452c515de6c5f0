"""The outbox as operators see it: what waits, what is dead, and what is to become of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Row

_WAITING, _RETRYING = "waiting", "retrying"
#: All that a message can be; the last three are ends.
STATES = (_WAITING, _RETRYING, "sent", "dead", "dropped")


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message and where it stands. `code` and `error` are of the attempt that failed last; `key` is
    unique within its handler; `due_at` is None once it has ended, `ended_at` until then.
    """

    id: int
    handler: str
    key: str
    tracking_id: UUID
    created_at: datetime
    state: str
    attempts: int
    due_at: datetime | None
    leased_until: datetime | None
    code: str | None
    error: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages to list; None: whichever."""

    handler: str | None = None
    state: str | None = None
    tracking_id: UUID | None = None


LIST_MESSAGES = """
SELECT m.id, m.handler, m.key, m.tracking_id, m.created_at,
       coalesce(e.outcome, CASE WHEN o.last_code IS NULL THEN 'waiting' ELSE 'retrying' END),
       coalesce(o.attempts, e.attempts), o.due_at, o.leased_until, coalesce(o.last_code, e.code),
       coalesce(o.last_error, e.error), e.ended_at
FROM messages m
LEFT JOIN outbox o ON o.message = m.id
LEFT JOIN sendings e ON e.message = m.id
WHERE ($1::bigint IS NULL OR m.id < $1) AND ($2::text IS NULL OR m.handler = $2)
  AND ($3::uuid IS NULL OR m.tracking_id = $3)
ORDER BY m.id DESC LIMIT $4
"""
# The outbox is small, however many messages there are.
LIST_UNSENT = """
SELECT m.id, m.handler, m.key, m.tracking_id, m.created_at,
       CASE WHEN o.last_code IS NULL THEN 'waiting' ELSE 'retrying' END,
       o.attempts, o.due_at, o.leased_until, o.last_code, o.last_error, NULL::timestamptz
FROM outbox o
JOIN messages m ON m.id = o.message
WHERE ($1::bigint IS NULL OR o.message < $1) AND ($2::text IS NULL OR o.handler = $2)
  AND ($3::uuid IS NULL OR m.tracking_id = $3) AND (o.last_code IS NULL) = $5
ORDER BY o.message DESC LIMIT $4
"""
LIST_ENDED = """
SELECT m.id, m.handler, m.key, m.tracking_id, m.created_at, e.outcome, e.attempts,
       NULL::timestamptz, NULL::timestamptz, e.code, e.error, e.ended_at
FROM sendings e
JOIN messages m ON m.id = e.message
WHERE ($1::bigint IS NULL OR e.message < $1) AND ($2::text IS NULL OR e.handler = $2)
  AND ($3::uuid IS NULL OR m.tracking_id = $3) AND e.outcome = $5
ORDER BY e.message DESC LIMIT $4
"""


async def list_messages(
    conn: Conn, before: int | None, wanted: Wanted, limit: int
) -> list[Message]:
    """The newest first, from below the message `before`."""
    given = (before, wanted.handler, wanted.tracking_id, limit)
    if wanted.state is None:
        rows = await conn.fetch(LIST_MESSAGES, *given)
    elif wanted.state in (_WAITING, _RETRYING):
        rows = await conn.fetch(LIST_UNSENT, *given, wanted.state == _WAITING)
    else:
        rows = await conn.fetch(LIST_ENDED, *given, wanted.state)
    return [Message(*row.values()) for row in rows]


READ_MESSAGE = """
SELECT m.id, m.handler, m.key, m.tracking_id, m.created_at,
       coalesce(e.outcome, CASE WHEN o.last_code IS NULL THEN 'waiting' ELSE 'retrying' END),
       coalesce(o.attempts, e.attempts), o.due_at, o.leased_until, coalesce(o.last_code, e.code),
       coalesce(o.last_error, e.error), e.ended_at, m.payload
FROM messages m
LEFT JOIN outbox o ON o.message = m.id
LEFT JOIN sendings e ON e.message = m.id
WHERE m.id = $1
"""


async def read_message(conn: Conn, message: int) -> tuple[Message, bytes] | None:
    """A message and its payload, JSON text; None where there is none of that number."""
    row = await conn.fetchrow(READ_MESSAGE, message)
    if row is None:
        return None
    *fields, payload = row.values()
    return Message(*fields), payload


@dataclass(frozen=True, slots=True)
class Ended:
    """What was said of a message before an operator said something else."""

    message: int
    handler: str
    outcome: str
    code: str
    attempts: int


REOPEN = """
WITH taken AS (
    DELETE FROM sendings WHERE message = ANY($1::bigint[]) AND outcome IN ('dead', 'dropped')
    RETURNING message, handler, outcome, code, attempts
), put AS (
    INSERT INTO outbox (message, handler) SELECT message, handler FROM taken
)
SELECT message, handler, outcome, code, attempts FROM taken ORDER BY message
"""


async def reopen(conn: Conn, messages: Sequence[int]) -> list[Ended]:
    """Those of them that are dead or dropped are due again, at once, with all their attempts."""
    return _ended(await conn.fetch(REOPEN, list(messages)))


HURRY = """
UPDATE outbox SET due_at = least(due_at, now())
WHERE message = ANY($1::bigint[]) AND last_code IS NOT NULL
RETURNING message
"""


async def hurry(conn: Conn, messages: Sequence[int]) -> list[int]:
    """Those of them that wait for their next attempt wait no longer."""
    return [row["message"] for row in await conn.fetch(HURRY, list(messages))]


DEAD_OF = """
SELECT message FROM sendings
WHERE outcome = 'dead' AND handler = $1 AND message > $2 ORDER BY message LIMIT $3
FOR UPDATE
"""


async def dead_of(conn: Conn, handler: str, after: int, limit: int) -> list[int]:
    """A handler's dead messages above the number `after`, locked, in the order of their numbers."""
    return [row["message"] for row in await conn.fetch(DEAD_OF, handler, after, limit)]


DROP_DEAD = """
UPDATE sendings SET outcome = 'dropped' WHERE message = $1 AND outcome = 'dead'
RETURNING message, handler, 'dead' AS outcome, code, attempts
"""


async def drop_dead(conn: Conn, message: int) -> Ended | None:
    """The message is done with, though it was not sent. None: it is not dead."""
    row = await conn.fetchrow(DROP_DEAD, message)
    return None if row is None else _ended([row])[0]


def _ended(rows: Sequence[Row]) -> list[Ended]:
    return [Ended(*row.values()) for row in rows]
