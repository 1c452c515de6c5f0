"""When a handler is not asked to send any more, and when it is again."""

from workers.sending.breaker import (
    CLOSED,
    FAILURES_TO_OPEN,
    LONGEST_OPEN_S,
    OPEN_S,
    Breaker,
    failed,
    let_through,
    probing,
)


def opened(at_s: float = 100.0) -> Breaker:
    breaker = CLOSED
    for message in range(FAILURES_TO_OPEN):
        assert let_through(breaker, at_s) > 100
        breaker = failed(breaker, message, at_s)
    return breaker


def test_message_after_message_has_to_fail() -> None:
    breaker = opened()
    assert let_through(breaker, 100.0) == 0
    assert let_through(breaker, 100.0 + OPEN_S) == 1


def test_one_message_that_always_fails_stops_nobody() -> None:
    breaker = CLOSED
    for attempt in range(100):
        breaker = failed(breaker, 1, float(attempt))
    assert let_through(breaker, 100.0) > 100


def test_only_the_probe_says_something_of_now() -> None:
    breaker = probing(opened(), 7)
    later = 100.0 + OPEN_S
    assert let_through(breaker, later) == 0  # one at a time
    assert failed(breaker, 3, later) == breaker  # was on its way before
    again = failed(breaker, 7, later)
    assert let_through(again, later + OPEN_S) == 0
    assert let_through(again, later + 2 * OPEN_S) == 1


def test_it_never_rests_for_longer_than_a_minute() -> None:
    breaker, now_s = opened(), 100.0
    for _ in range(100):
        now_s = breaker.open_until_s or 0.0
        breaker = failed(probing(breaker, 7), 7, now_s)
    assert breaker.open_until_s == now_s + LONGEST_OPEN_S


def test_closed_nothing_is_a_probe() -> None:
    assert probing(CLOSED, 7) == CLOSED
