"""
Reconciliations: how far the round of each source is, and who was looked at in it.

A row is claimed under its source's budget, which is locked first, and for a while: whoever dies
with a claim loses it when it runs out. `claim` fences the row: who lost it moves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.db import Conn

Phase = Literal["listed", "unlisted"]


@dataclass(frozen=True, slots=True)
class Round:
    """
    One source's round, as far as it is. `phase` is None between two rounds; `page` is the next
    one to be read, and `customers` are still to be looked at before that.
    """

    round: int
    phase: Phase | None
    page: int
    customers: tuple[str, ...]
    failures: int


ADD_RECONCILIATIONS = """
INSERT INTO reconciliations (source_id) SELECT unnest($1::smallint[]) ORDER BY 1
ON CONFLICT (source_id) DO NOTHING
"""


async def add_reconciliations(conn: Conn, source_ids: Sequence[int]) -> None:
    """Make sure that these sources have a row; a new one is due."""
    await conn.execute(ADD_RECONCILIATIONS, list(source_ids))


DUE_RECONCILIATIONS = """
SELECT source_id FROM reconciliations
WHERE source_id = ANY($1::smallint[]) AND due_at <= now()
  AND (claimed_until IS NULL OR claimed_until <= now())
  AND (phase IS NOT NULL OR finished_at IS NULL OR begun_at <= now() - make_interval(secs => $2))
"""


async def due_reconciliations(conn: Conn, source_ids: Sequence[int], every_s: float) -> list[int]:
    """Which of these sources have a round to go on with, or to begin."""
    rows = await conn.fetch(DUE_RECONCILIATIONS, list(source_ids), every_s)
    return [row["source_id"] for row in rows]


TAKE_ROUND = """
SELECT round, phase, page, customers, failures FROM reconciliations
WHERE source_id = $1 AND due_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
  AND (phase IS NOT NULL OR finished_at IS NULL OR begun_at <= now() - make_interval(secs => $2))
FOR NO KEY UPDATE SKIP LOCKED
"""


async def take_round(conn: Conn, source_id: int, every_s: float) -> Round | None:
    """Lock a source's row; None where it is not due any more, or somebody else is at it."""
    row = await conn.fetchrow(TAKE_ROUND, source_id, every_s)
    if row is None:
        return None
    return Round(row["round"], row["phase"], row["page"], tuple(row["customers"]), row["failures"])


BEGIN_ROUND = """
UPDATE reconciliations
SET round = round + 1, phase = 'listed', page = 1, customers = '{}', begun_at = now(),
    looked_at = 0, different = 0, failed = 0
WHERE source_id = $1
"""


async def begin_round(conn: Conn, source_id: int) -> None:
    """Begin a round in a row that the caller has locked."""
    await conn.execute(BEGIN_ROUND, source_id)


SET_CUSTOMERS = """
UPDATE reconciliations SET customers = $2::text[] WHERE source_id = $1
"""


async def set_customers(conn: Conn, source_id: int, customers: Sequence[str]) -> None:
    """Who comes next, in a row that the caller has locked."""
    await conn.execute(SET_CUSTOMERS, source_id, list(customers))


START_ROUND_AFRESH = """
UPDATE reconciliations SET due_at = least(due_at, now()), last_error = NULL
WHERE source_id = $1 AND (due_at > now() OR last_error IS NOT NULL)
"""


async def start_round_afresh(conn: Conn, source_id: int) -> None:
    """What failed before is due at once, and says no more why: the key is new, or its rights."""
    await conn.execute(START_ROUND_AFRESH, source_id)


CLAIM_ROUND = """
WITH taken AS (SELECT nextval('fetch_numbers') AS number FROM generate_series(1, $2::int)),
     claimed AS (
    UPDATE reconciliations
    SET claim = (SELECT min(number) FROM taken), claimed_until = now() + make_interval(secs => $3)
    WHERE source_id = $1
)
SELECT number FROM taken ORDER BY number
"""


async def claim_round(conn: Conn, source_id: int, requests: int, for_s: float) -> list[int]:
    """
    Claim a row that the caller has locked: the numbers of so many (>= 1) requests.

    The first of them is the claim's.
    """
    return [row["number"] for row in await conn.fetch(CLAIM_ROUND, source_id, requests, for_s)]


TURN_PAGE = """
UPDATE reconciliations
SET phase = $3, page = $4, customers = $5::text[], claimed_until = NULL, failures = 0,
    last_error = NULL
WHERE source_id = $1 AND claim = $2
"""


async def turn_page(
    conn: Conn, source_id: int, claim: int, phase: Phase, page: int, customers: Sequence[str]
) -> None:
    """The claim's end: these customers come next, and after them the page."""
    await conn.execute(TURN_PAGE, source_id, claim, phase, page, list(customers))


# What others took over has another claim by now, and looks at the same customers again.
MOVE_ON = """
UPDATE reconciliations
SET customers = ARRAY(SELECT one FROM unnest(customers) WITH ORDINALITY AS left_over (one, place)
                      WHERE one <> ALL($3::text[]) ORDER BY place),
    looked_at = looked_at + cardinality($3::text[]), different = different + $4,
    failed = failed + $5, claimed_until = NULL, failures = $6, last_error = $7,
    due_at = now() + make_interval(secs => $8)
WHERE source_id = $1 AND claim = $2
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a claim came to: who was looked at, how many of them were news, or failed, and why."""

    customers: Sequence[str] = ()
    different: int = 0
    failed: int = 0
    failures: int = 0  # of the provider, in a row
    error: str | None = None
    delay_s: float = 0.0


async def move_on(conn: Conn, source_id: int, claim: int, progress: Progress) -> None:
    """The claim's end: these customers are done with."""
    await conn.execute(
        MOVE_ON,
        source_id,
        claim,
        list(progress.customers),
        progress.different,
        progress.failed,
        progress.failures,
        progress.error,
        progress.delay_s,
    )


NOTE_LOOKED_AT = """
INSERT INTO reconciled_customers (source_id, customer, round)
SELECT $1, customer, $3 FROM unnest($2::text[]) AS looked (customer) ORDER BY customer
ON CONFLICT (source_id, customer) DO UPDATE SET round = excluded.round
WHERE reconciled_customers.round < excluded.round
"""


async def note_looked_at(
    conn: Conn, source_id: int, customers: Sequence[str], round_number: int
) -> None:
    """These customers were looked at in this round."""
    await conn.execute(NOTE_LOOKED_AT, source_id, list(customers), round_number)


# A customer who has nothing here has nothing to lose.
UNLISTED = """
SELECT DISTINCT o.customer
FROM objects o
WHERE o.source_id = $1 AND o.account = '' AND o.customer IS NOT NULL
  AND EXISTS (SELECT FROM grants g WHERE g.object = o.id)
  AND NOT EXISTS (SELECT FROM reconciled_customers r
                  WHERE r.source_id = o.source_id AND r.customer = o.customer AND r.round >= $2)
ORDER BY o.customer
LIMIT $3
"""


async def unlisted(conn: Conn, source_id: int, round_number: int, limit: int) -> list[str]:
    """Customers who have something here and were not looked at in this round."""
    rows = await conn.fetch(UNLISTED, source_id, round_number, limit)
    return [row["customer"] for row in rows]


FINISH_ROUND = """
UPDATE reconciliations
SET phase = NULL, page = 1, customers = '{}', finished_at = now(), claimed_until = NULL,
    failures = 0, last_error = NULL
WHERE source_id = $1
RETURNING round, looked_at, different, failed, begun_at, finished_at
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a round came to."""

    round: int
    looked_at: int
    different: int
    failed: int
    begun_at: datetime
    finished_at: datetime


async def finish_round(conn: Conn, source_id: int) -> Finished:
    """The end of a round, in a row that the caller has locked."""
    row = await conn.fetchrow(FINISH_ROUND, source_id)
    assert row is not None  # locked by the caller, and never deleted
    return Finished(**dict(row))


ASK_FOR_ROUND = """
UPDATE reconciliations SET begun_at = '-infinity', due_at = now()
WHERE source_id = $1 AND phase IS NULL
"""


async def ask_for_round(conn: Conn, source_id: int) -> None:
    """Have a round begin now, unless one is under way."""
    await conn.execute(ASK_FOR_ROUND, source_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source's round is, or the last one was."""

    round: int
    phase: Phase | None
    looked_at: int
    different: int
    failed: int
    last_error: str | None


STANDING_OF_ROUND = """
SELECT round, phase, looked_at, different, failed, last_error
FROM reconciliations WHERE source_id = $1
"""


async def standing_of_round(conn: Conn, source_id: int) -> Standing | None:
    """None where the source has never had one."""
    row = await conn.fetchrow(STANDING_OF_ROUND, source_id)
    return None if row is None else Standing(*row.values())


AGES_OF_RECONCILIATIONS = """
SELECT source_id, extract(epoch FROM now() - coalesce(finished_at, added_at))::float8 AS age_s
FROM reconciliations WHERE source_id = ANY($1::smallint[])
"""


async def ages_of_reconciliations(conn: Conn, source_ids: Sequence[int]) -> dict[int, float]:
    """By source: how long ago its last round came to its end, or when it was to have one first."""
    rows = await conn.fetch(AGES_OF_RECONCILIATIONS, list(source_ids))
    return {row["source_id"]: row["age_s"] for row in rows}
