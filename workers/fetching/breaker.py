"""
Whether a source's provider is asked at all. Pure, like everything that is decided about it.

Closed, everybody may ask. Open, nobody, until a moment. After that it is half open: one fetch may
try, the probe, and only what becomes of that one closes the breaker or opens it again. What was
on its way before says nothing of now.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shared.store.fetches import Budget
from workers.fetching.answers import ABOUT_THE_OBJECT, RATE_LIMITED, UNAUTHORIZED, FetchFailed

FAILURES_TO_OPEN = 5
OPEN_S = 30.0
LONGEST_OPEN_S = 600.0
#: A key that is refused is not going to be accepted a moment later.
UNAUTHORIZED_S = 300.0
#: Where a provider that asks for less does not say for how long.
RATE_LIMITED_S = 2.0

_NOBODY = 1_000_000


def let_through(budget: Budget, now: datetime) -> int:
    """How many may ask now, if the bucket has them: none, one, or any number."""
    if budget.open_until is None:
        return _NOBODY
    return 1 if now >= budget.open_until else 0


def probing(budget: Budget, number: int, now: datetime, claim_s: float) -> Budget:
    """The one fetch that may try is on its way; the next after its claim is over."""
    return replace(budget, probe=number, open_until=now + timedelta(seconds=claim_s))


def with_key(budget: Budget, key_version: int) -> Budget:
    """A newer key knows nothing of what the one before met."""
    return Budget(key_version, budget.tokens, budget.refilled_at)


def answered(budget: Budget, number: int, key_version: int) -> Budget:
    """The provider answered this fetch, be it that there is no such object."""
    if budget.open_until is None:
        return replace(budget, failures=0, last_error=None)
    if number == budget.probe and key_version == budget.key_version:
        return replace(budget, failures=0, open_until=None, probe=None, last_error=None)
    return budget


def failed(
    budget: Budget, number: int, key_version: int, failure: FetchFailed, now: datetime
) -> Budget:
    """This fetch failed. A failure with a key that has been replaced says nothing."""
    if key_version != budget.key_version:
        return budget
    if failure.code in ABOUT_THE_OBJECT:
        return answered(budget, number, key_version)
    if failure.code == UNAUTHORIZED:
        return _open(budget, UNAUTHORIZED_S, failure, now)
    if failure.code == RATE_LIMITED:
        wait_s = RATE_LIMITED_S if failure.retry_after_s is None else failure.retry_after_s
        return replace(_open(budget, min(wait_s, LONGEST_OPEN_S), failure, now), tokens=0.0)
    is_probe = number == budget.probe
    if budget.open_until is not None and not is_probe:
        return budget
    return _failed_again(budget, failure, now, is_probe=is_probe)


def _failed_again(budget: Budget, failure: FetchFailed, now: datetime, *, is_probe: bool) -> Budget:
    """A few failures of the provider in a row open the breaker; each failed probe, for longer."""
    failures = budget.failures + 1
    if is_probe:
        failures = max(failures, FAILURES_TO_OPEN)
    budget = replace(budget, failures=failures)
    if failures < FAILURES_TO_OPEN:
        return budget
    open_s = min(OPEN_S * 2 ** min(failures - FAILURES_TO_OPEN, 20), LONGEST_OPEN_S)
    return _open(budget, open_s, failure, now)


def _open(budget: Budget, seconds: float, failure: FetchFailed, now: datetime) -> Budget:
    until = now + timedelta(seconds=seconds)
    if budget.open_until is not None and budget.probe is None:
        until = max(until, budget.open_until)
    return replace(budget, open_until=until, probe=None, last_error=f"{failure.code}: {failure}")
