"""
Whether a handler is asked to send at all. Pure; of one process, in seconds of its own clock.

Several messages that failed, with none between them that was answered, say something of the
receiver: asking it again and again would use up the attempts of all that wait. Then one message is
tried, the probe, and then another one, less and less often, until one is answered. What was on its
way before says nothing of now.
"""

from dataclasses import dataclass, field, replace

#: Messages, not attempts: one that always fails must not stop its neighbours.
FAILURES_TO_OPEN = 5
OPEN_S = 5.0
LONGEST_OPEN_S = 60.0

_ANY_NUMBER = 1_000_000


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed while `open_until_s` is None. `failed` are messages, since the last answer."""

    failed: frozenset[int] = field(default_factory=frozenset)
    open_until_s: float | None = None
    openings: int = 0
    probe: int | None = None


CLOSED = Breaker()


def let_through(breaker: Breaker, now_s: float) -> int:
    """How many messages may be sent now: none, one, or any number."""
    if breaker.open_until_s is None:
        return _ANY_NUMBER
    return 1 if now_s >= breaker.open_until_s and breaker.probe is None else 0


def probing(breaker: Breaker, message: int) -> Breaker:
    """The breaker with this message on its way."""
    return breaker if breaker.open_until_s is None else replace(breaker, probe=message)


def failed(breaker: Breaker, message: int, now_s: float) -> Breaker:
    """The breaker after an attempt that failed."""
    if breaker.open_until_s is not None:
        return _opened(breaker, now_s) if message == breaker.probe else breaker
    breaker = replace(breaker, failed=breaker.failed | {message})
    return _opened(breaker, now_s) if len(breaker.failed) >= FAILURES_TO_OPEN else breaker


def _opened(breaker: Breaker, now_s: float) -> Breaker:
    open_s = min(OPEN_S * 2 ** min(breaker.openings, 20), LONGEST_OPEN_S)
    return Breaker(open_until_s=now_s + open_s, openings=breaker.openings + 1)
