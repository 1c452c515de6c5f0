"""
Fetches: which objects want one, who makes it, and what comes back.

A claim takes a number before the provider is asked; among the fetches of an object the larger
number is the later one. Budgets are shared by all workers, by the database's clock. The answer is
inserted as an event: into ledger, inbox and work, in one transaction with the claim's end.

Lock order: a source's budget, then its fetches. A claim waits for neither.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Row, columns_of
from shared.domain.events import Identity, received_at_of


@dataclass(frozen=True, slots=True)
class Budget:
    """
    How a source's provider may be asked: a token bucket and a circuit breaker.

    `refilled_at` is None while the bucket is full. The breaker is open until `open_until`; after
    that one fetch may try, whose number is `probe`. `key_version` is that of the API key in use.
    """

    key_version: int = 0
    tokens: float = 0.0
    refilled_at: datetime | None = None
    failures: int = 0
    open_until: datetime | None = None
    probe: int | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The right to fetch one object, under a number. It lasts as long as it was claimed for.

    `attempts` have failed in a row, `answers` have come since the object wants to be fetched.
    """

    object: int
    number: int
    attempts: int
    answers: int
    account: str
    livemode: bool
    kind: str
    object_id: str
    customer: str | None = None  # whose it is, as far as that is known


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """An answer, ready to be stored. See `shared.store.intake.Delivery` for what is alike."""

    tracking_id: UUID
    source_id: int
    lane: int
    identity: Identity
    headers: bytes
    body: bytes
    body_sha: bytes
    trace_context: str


NOTE_WANTING = """
INSERT INTO fetches (object, source_id, due_at)
SELECT o.id, o.source_id, now() + make_interval(secs => $3)
FROM objects o
JOIN unnest($1::smallint[], $2::text[]) AS asked (source_id, kind)
  ON asked.source_id = o.source_id AND asked.kind = o.kind
WHERE o.wants IS NOT NULL
  AND NOT EXISTS (SELECT FROM fetches f WHERE f.object = o.id)
ORDER BY o.id
LIMIT $4
ON CONFLICT (object) DO NOTHING
"""


async def note_wanting(
    conn: Conn, kinds: Mapping[int, Iterable[str]], delay_s: float, limit: int
) -> None:
    """
    A row for each object that wants to be fetched and has none yet, of the kinds that each of
    these sources can be asked for.
    """
    asked = [(source_id, kind) for source_id, of in kinds.items() for kind in sorted(of)]
    await conn.execute(NOTE_WANTING, *columns_of(asked, 2), delay_s, limit)


# Not what is on its way: a second fetch of the object could begin beside it.
FORGET_SATISFIED = """
DELETE FROM fetches WHERE object IN (
    SELECT f.object FROM fetches f LEFT JOIN objects o ON o.id = f.object
    WHERE (f.claimed_until IS NULL OR f.claimed_until <= now())
      AND (o.wants IS NULL
           OR NOT EXISTS (SELECT FROM source_keys k WHERE k.source_id = f.source_id))
    LIMIT $1
    FOR UPDATE OF f SKIP LOCKED
)
"""


async def forget_satisfied(conn: Conn, limit: int) -> None:
    """Delete the rows of objects that want nothing any more, or whose source has no key."""
    await conn.execute(FORGET_SATISFIED, limit)


ADD_BUDGETS = """
INSERT INTO fetch_budgets (source_id) SELECT unnest($1::smallint[]) ORDER BY 1
ON CONFLICT (source_id) DO NOTHING
"""


async def add_budgets(conn: Conn, source_ids: Sequence[int]) -> None:
    """Make sure that these sources have a budget; a new one is full."""
    await conn.execute(ADD_BUDGETS, list(source_ids))


# An object whose last answer has not been applied yet does not know what it wants.
SOURCES_WITH_DUE = """
SELECT asked.source_id
FROM unnest($1::smallint[], $2::integer[]) AS asked (source_id, key_version)
JOIN fetch_budgets b ON b.source_id = asked.source_id
WHERE b.key_version < asked.key_version
   OR ((b.open_until IS NULL OR b.open_until <= now()) AND EXISTS (
        SELECT FROM fetches f
        WHERE f.source_id = asked.source_id AND f.due_at <= now()
          AND (f.claimed_until IS NULL OR f.claimed_until <= now())
          AND NOT EXISTS (SELECT FROM work w WHERE w.tracking_id = f.answer AND w.kind = 'event')))
"""


async def sources_with_due(
    conn: Conn, source_ids: Sequence[int], key_versions: Sequence[int]
) -> list[int]:
    """Where something is due and the breaker lets it through, or where a key is used newly."""
    rows = await conn.fetch(SOURCES_WITH_DUE, list(source_ids), list(key_versions))
    return [row["source_id"] for row in rows]


TAKE_BUDGET = """
SELECT key_version, tokens, refilled_at, failures, open_until, probe, last_error, now() AS now
FROM fetch_budgets WHERE source_id = $1 FOR NO KEY UPDATE SKIP LOCKED
"""


async def take_budget(conn: Conn, source_id: int) -> tuple[Budget, datetime] | None:
    """Lock a budget, with the moment of it; None where somebody else is at it."""
    row = await conn.fetchrow(TAKE_BUDGET, source_id)
    return _budget(row) if row is not None else None


AWAIT_BUDGET = """
SELECT key_version, tokens, refilled_at, failures, open_until, probe, last_error, now() AS now
FROM fetch_budgets WHERE source_id = $1 FOR NO KEY UPDATE
"""


async def await_budget(conn: Conn, source_id: int) -> tuple[Budget, datetime]:
    """The same, but wait for it."""
    row = await conn.fetchrow(AWAIT_BUDGET, source_id)
    assert row is not None  # made before the first claim, and never deleted
    return _budget(row)


SAVE_BUDGET = """
UPDATE fetch_budgets
SET key_version = $2, tokens = $3, refilled_at = $4, failures = $5, open_until = $6, probe = $7,
    last_error = $8
WHERE source_id = $1
"""


async def save_budget(conn: Conn, source_id: int, budget: Budget) -> None:
    """Write a budget that the caller has locked."""
    await conn.execute(
        SAVE_BUDGET,
        source_id,
        budget.key_version,
        budget.tokens,
        budget.refilled_at,
        budget.failures,
        budget.open_until,
        budget.probe,
        budget.last_error,
    )


CLAIM = """
WITH due AS (
    SELECT f.object FROM fetches f JOIN objects o ON o.id = f.object
    WHERE f.source_id = $1 AND f.due_at <= now() AND o.wants IS NOT NULL
      AND (f.claimed_until IS NULL OR f.claimed_until <= now())
      AND NOT EXISTS (SELECT FROM work w WHERE w.tracking_id = f.answer AND w.kind = 'event')
    ORDER BY f.due_at
    LIMIT $2
    FOR NO KEY UPDATE OF f SKIP LOCKED
), claimed AS (
    UPDATE fetches f
    SET number = nextval('fetch_numbers'), claimed_until = now() + make_interval(secs => $3)
    FROM due WHERE f.object = due.object
    RETURNING f.object, f.number, f.attempts, f.answers
)
SELECT c.object, c.number, c.attempts, c.answers, o.account, o.livemode, o.kind, o.object_id,
       o.customer
FROM claimed c JOIN objects o ON o.id = c.object
ORDER BY c.number
"""


async def claim(conn: Conn, source_id: int, limit: int, for_s: float) -> list[Claim]:
    """
    Take up to `limit` due fetches of a source, the longest due first, each with a new number.

    Whoever dies with a claim loses it after `for_s`, and somebody else gets another number.
    """
    rows = await conn.fetch(CLAIM, source_id, limit, for_s)
    return [Claim(*row.values()) for row in rows]


START_AFRESH = """
UPDATE fetches SET due_at = now() WHERE source_id = $1 AND attempts > 0 AND due_at > now()
"""


async def start_afresh(conn: Conn, source_id: int) -> None:
    """What failed with the key of before is due at once."""
    await conn.execute(START_AFRESH, source_id)


# Everything hangs on the ledger's key: an answer that is inserted again is not inserted twice.
INSERT_ANSWER = """
WITH fresh AS (
    INSERT INTO ledger (source_id, account, livemode, event_id, tracking_id, body_sha, received_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING
    RETURNING tracking_id
), kept AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                       occurred_at, subject, lane, secret, headers, body, trace_context)
    SELECT $7, tracking_id, $1, $2, $3, $4, $8, $9, $10, $11, 'fetch', $12, $13, $14
    FROM fresh
)
INSERT INTO work (tracking_id, received_at, lane, actor)
SELECT tracking_id, $7, $11, $15 FROM fresh
"""


async def insert_answer(conn: Conn, answer: AnswerEvent, actor: str) -> None:
    """Store an answer as an event of its source, by an actor like `system:fetch`."""
    await conn.execute(INSERT_ANSWER, *_columns(answer, actor))


async def insert_answers(conn: Conn, answers: Sequence[AnswerEvent], actor: str) -> None:
    """The same for a page of them, in one round trip."""
    await conn.executemany(INSERT_ANSWER, [_columns(answer, actor) for answer in answers])


def _columns(answer: AnswerEvent, actor: str) -> tuple[object, ...]:
    identity = answer.identity
    return (
        answer.source_id,
        identity.account,
        identity.livemode,
        identity.event_id,
        answer.tracking_id,
        answer.body_sha,
        received_at_of(answer.tracking_id),
        identity.event_type,
        identity.occurred_at,
        identity.subject,
        answer.lane,
        answer.headers,
        answer.body,
        answer.trace_context,
        actor,
    )


# A claim that was taken over has another number by now, and its row is somebody else's.
MARK_ANSWERED = """
UPDATE fetches
SET claimed_until = NULL, attempts = 0, answers = answers + 1, answer = $3,
    due_at = now() + make_interval(secs => $4), last_code = 'answered', last_error = NULL
WHERE object = $1 AND number = $2
"""


async def mark_answered(conn: Conn, claim: Claim, answer: UUID, delay_s: float) -> None:
    """The claim's end; the object is fetched again after the delay if it still wants to be."""
    await conn.execute(MARK_ANSWERED, claim.object, claim.number, answer, delay_s)


MARK_FAILED = """
UPDATE fetches
SET claimed_until = NULL, attempts = $3, due_at = now() + make_interval(secs => $4),
    last_code = $5, last_error = $6
WHERE object = $1 AND number = $2
"""


async def mark_failed(
    conn: Conn, claim: Claim, *, attempts: int, delay_s: float, code: str, error: str
) -> None:
    """The claim's end without an answer; `attempts` is what the row is to say from now on."""
    await conn.execute(MARK_FAILED, claim.object, claim.number, attempts, delay_s, code, error)


GIVE_BACK = """
UPDATE fetches f SET claimed_until = NULL
FROM unnest($1::bigint[], $2::bigint[]) AS claimed (object, number)
WHERE f.object = claimed.object AND f.number = claimed.number
"""


async def give_back(conn: Conn, claims: Sequence[Claim]) -> None:
    """Let others have what is not going to be fetched here; the numbers are used up."""
    await conn.execute(
        GIVE_BACK, [claim.object for claim in claims], [claim.number for claim in claims]
    )


# Not whom only an answer told of: the key that it came with may be the wrong one.
WITNESSES = """
SELECT customer FROM (
    SELECT o.customer, o.id FROM objects o
    WHERE o.source_id = $1 AND o.account = '' AND o.livemode = $2 AND o.customer IS NOT NULL
      AND EXISTS (SELECT FROM observations v
                  WHERE v.object = o.id AND v.observation !~ '^(sluice[.])?fetch/'
                    AND NOT EXISTS (SELECT FROM missed_events m
                                    WHERE m.tracking_id = v.tracking_id))
    ORDER BY o.id DESC
    LIMIT 10 * $3::int
) AS latest
GROUP BY customer
ORDER BY max(id) DESC
LIMIT $3
"""


async def witnesses(conn: Conn, source_id: int, livemode: bool, limit: int) -> list[str]:
    """The latest customers of whom the provider itself has sent an event."""
    rows = await conn.fetch(WITNESSES, source_id, livemode, limit)
    return [row["customer"] for row in rows]


COUNT_WANTING = """
SELECT source_id, count(*) AS objects FROM objects WHERE wants IS NOT NULL GROUP BY source_id
"""


async def count_wanting(conn: Conn) -> dict[int, int]:
    """By source: how many objects want to be fetched, whether they can be or not."""
    return {row["source_id"]: row["objects"] for row in await conn.fetch(COUNT_WANTING)}


def _budget(row: Row) -> tuple[Budget, datetime]:
    *fields, now = row.values()
    return Budget(*fields), now
