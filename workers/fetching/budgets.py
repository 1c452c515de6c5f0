"""
A source's budget, in Postgres: taken before its provider is asked, and told what came of it.

Lock order: the budget comes before everything that is claimed with it.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from shared.db import Conn, Database
from shared.store import fetches, pulls, reconciliations
from shared.store.fetches import Budget
from workers.fetching import breaker, pacing
from workers.fetching.answers import FetchFailed
from workers.fetching.api import Listed
from workers.fetching.targets import Target

T = TypeVar("T")
Decide = Callable[[Budget, datetime], Budget]


async def take(conn: Conn, target: Target) -> tuple[Budget, datetime] | None:
    """
    Lock the budget and fill its bucket; with the moment of it.

    None where somebody else is at it, or asks with a newer key that is not known here yet.
    """
    taken = await fetches.take_budget(conn, target.source.id)
    if taken is None:
        return None
    budget, now = taken
    if target.key_version < budget.key_version:
        return None
    if target.key_version > budget.key_version:
        budget = breaker.with_key(budget, target.key_version)
        await fetches.start_afresh(conn, target.source.id)
        await reconciliations.start_round_afresh(conn, target.source.id)
        await pulls.start_pulls_afresh(conn, target.source.id)
    return pacing.refill(budget, now, target.pace), now


def allowed(budget: Budget, now: datetime, reserve: float = 0.0) -> int:
    """How many may ask now, if as many requests as `reserve` are to be left for others."""
    return max(min(breaker.let_through(budget, now), int(budget.tokens - reserve)), 0)


async def charge(
    conn: Conn, target: Target, budget: Budget, now: datetime, numbers: Sequence[int]
) -> None:
    """Write the budget without what the claims with these numbers are going to ask."""
    budget = pacing.spend(budget, len(numbers))
    if numbers and budget.open_until is not None:
        budget = breaker.probing(budget, numbers[0], now, target.pace.claim_s)
    await fetches.save_budget(conn, target.source.id, budget)


async def decide(conn: Conn, target: Target, what: Decide) -> tuple[Budget, Budget]:
    """The budget before and after a decision, which is written."""
    before, now = await fetches.await_budget(conn, target.source.id)
    after = what(before, now)
    if after != before:
        await fetches.save_budget(conn, target.source.id, after)
    return before, after


async def admitted(db: Database, target: Target, count: int) -> list[int] | None:
    """
    So many numbers for one request, if the budget has it and half of its burst besides: fetches go
    first. They are committed before it is made. None: not now.
    """
    async with db.transaction() as conn:
        taken = await take(conn, target)
        if taken is None:
            return None
        budget, now = taken
        is_free = allowed(budget, now, reserve=target.pace.burst / 2) > 0
        numbers = await pulls.next_numbers(conn, count) if is_free else []
        await charge(conn, target, budget, now, numbers[:1])
    return numbers or None


async def paid(db: Database, target: Target, number: int, asking: Awaitable[T]) -> T:
    """
    What the provider answers; the budget is told what came of it.

    Raises:
        FetchFailed: there is no answer.
    """
    outcome: FetchFailed | int = 1
    try:
        answer = await asking
        if isinstance(answer, Listed):
            outcome = answer.requests
        return answer
    except FetchFailed as failure:
        outcome = failure
        raise
    finally:
        async with db.transaction() as conn:
            await tell(conn, target, [(number, outcome)])


async def tell(
    conn: Conn, target: Target, outcomes: Sequence[tuple[int, FetchFailed | int]]
) -> None:
    """Tell the budget of each request by its number: how many requests it took, or the failure."""

    def decided(budget: Budget, now: datetime) -> Budget:
        for number, outcome in outcomes:
            if isinstance(outcome, FetchFailed):
                budget = breaker.failed(budget, number, target.key_version, outcome, now)
            else:
                budget = pacing.spend(budget, outcome - 1)
                budget = breaker.answered(budget, number, target.key_version)
        return budget

    await decide(conn, target, decided)
