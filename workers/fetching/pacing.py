"""
How fast a provider is asked, and when an object is asked about again. Pure.

Stripe allows 100 requests a second in live mode, 25 in a sandbox and 25 for each endpoint; Polar
500 a minute for an organization, in its sandbox 100. The application that pays has the same
account, and needs some of them: half of Polar's are left to it.
Source: docs.stripe.com/rate-limits; polarsource/polar docs/api-reference/2026-10/introduction.mdx
and server/polar/rate_limit.py (read 2026-11).
"""

from dataclasses import dataclass, replace
from datetime import datetime

from shared.domain.outcomes import RetryPolicy
from shared.store.fetches import Budget
from workers.fetching.answers import ABOUT_THE_OBJECT, RATE_LIMITED, UNAUTHORIZED

#: After what only a person can mend, or nobody: the first retries for what was created a moment
#: ago or is mended soon, the last for ever.
_PATIENCE_S = (5.0, 30.0, 300.0, 3600.0, 21_600.0)
#: After an answer that left the object wanting. Whatever changes that fast comes to rest.
_AGAIN_S = (5.0, 30.0, 300.0, 3600.0, 21_600.0)
_BACKOFF = RetryPolicy(base_s=4.0, cap_s=600.0)


@dataclass(frozen=True, slots=True)
class Pace:
    """
    The bounds of fetching.

    `settle_s` after an object is noticed it is fetched: a fetch's floor lies some seconds before
    it, and has to lie after the second of the snapshot that made the object want one. A claim
    lasts `claim_s`, of which `within_s` are for asking. `rate` (a second) and `burst` are in
    requests and shared by all workers, `at_once` is for one source in one process.
    """

    settle_s: float = 3.0
    claim_s: float = 60.0
    within_s: float = 20.0
    rate: float = 20.0
    burst: float = 20.0
    at_once: int = 8


_PACES = {("polar", True): Pace(rate=4.0, burst=10.0), ("polar", False): Pace(rate=0.8, burst=4.0)}


def pace_of(provider: str, livemode: bool) -> Pace:
    """How fast a provider is asked in a mode."""
    return _PACES.get((provider, livemode), Pace())


def refill(budget: Budget, now: datetime, pace: Pace) -> Budget:
    """The bucket at `now`, which is never before it was filled last."""
    if budget.refilled_at is None:
        return replace(budget, tokens=pace.burst, refilled_at=now)
    passed_s = max((now - budget.refilled_at).total_seconds(), 0.0)
    tokens = min(budget.tokens + passed_s * pace.rate, pace.burst)
    return replace(budget, tokens=tokens, refilled_at=max(now, budget.refilled_at))


def spend(budget: Budget, requests: int) -> Budget:
    """Take tokens, also those that are not there: pages are counted after they were asked for."""
    return replace(budget, tokens=budget.tokens - requests)


def again_after_s(answers: int) -> float:
    """How long an object that was answered `answers` times (>= 1) is left alone."""
    return _AGAIN_S[min(answers, len(_AGAIN_S)) - 1]


def retry_after_s(code: str, attempts: int, random: float) -> float:
    """How long after `attempts` failures in a row (>= 1); `random` is in [0, 1)."""
    if code in ABOUT_THE_OBJECT:
        return _PATIENCE_S[min(attempts, len(_PATIENCE_S)) - 1]
    return _BACKOFF.delay_s(attempts, random)


def is_charged(code: str) -> bool:
    """Whether a failure counts as one of the object."""
    return code not in (UNAUTHORIZED, RATE_LIMITED)
