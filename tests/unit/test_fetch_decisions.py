"""How fast a provider is asked, whether at all, and what an answer becomes: without any I/O."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.events import lane_number
from shared.store.fetches import Budget, Claim
from workers.fetching import answers, breaker
from workers.fetching.answers import Answer, FetchFailed, event_of
from workers.fetching.breaker import FAILURES_TO_OPEN, answered, failed, let_through, probing
from workers.fetching.pacing import Pace, again_after_s, is_charged, refill, retry_after_s, spend

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SLOW = FetchFailed(answers.SERVER_ERROR, "Something went wrong.")
MANY = 1000


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def opened() -> Budget:
    """A breaker that five failures in a row have opened, for 30 s."""
    budget = Budget()
    for number in range(FAILURES_TO_OPEN):
        assert let_through(budget, NOW) > MANY
        budget = failed(budget, number, 0, SLOW, NOW)
    return budget


# The bucket -------------------------------------------------------------------------------------


def test_a_new_bucket_is_full_and_fills_at_its_rate() -> None:
    pace = Pace(rate=20, burst=20)
    empty = spend(refill(Budget(), NOW, pace), 20)
    assert refill(empty, NOW, pace).tokens == 0
    assert refill(empty, later(0.5), pace).tokens == 10
    assert refill(empty, later(3600), pace).tokens == 20


def test_pages_that_were_asked_for_are_paid_for_later() -> None:
    pace = Pace(rate=20, burst=20)
    owing = spend(refill(Budget(), NOW, pace), 60)
    assert refill(owing, later(1), pace).tokens == -20
    assert refill(owing, later(3), pace).tokens == 20


@given(
    gaps=st.lists(st.floats(-1, 10), max_size=40),
    wanted=st.lists(st.integers(0, 30), min_size=40, max_size=40),
)
def test_no_clock_and_no_haste_gives_more_than_the_rate(
    gaps: list[float], wanted: list[int]
) -> None:
    """Also where a database's clock goes back: never more than the burst and the time that was."""
    pace, budget, now, spent = Pace(rate=20, burst=20), Budget(), NOW, 0
    latest = NOW
    for gap, want in zip(gaps, wanted, strict=False):
        now += timedelta(seconds=gap)
        latest = max(latest, now)
        budget = refill(budget, now, pace)
        taken = min(want, int(budget.tokens))
        budget = spend(budget, taken)
        spent += taken
    passed_s = (latest - NOW).total_seconds() + 1  # the first moment may be before NOW
    assert spent <= 20 + 20 * passed_s


# When again -------------------------------------------------------------------------------------


def test_what_only_a_person_can_mend_is_tried_for_ever_and_ever_less() -> None:
    for code in answers.ABOUT_THE_OBJECT:
        delays = [retry_after_s(code, attempts, 0.5) for attempts in range(1, 8)]
        assert delays == [5, 30, 300, 3600, 21_600, 21_600, 21_600]


def test_a_providers_failure_backs_off_with_jitter() -> None:
    for attempts, full in ((1, 4.0), (2, 8.0), (4, 32.0), (30, 600.0)):
        delays = [retry_after_s(answers.TIMEOUT, attempts, chance) for chance in (0, 0.999)]
        assert delays[0] == full / 2 < delays[1] <= full


def test_an_object_that_still_wants_after_its_answer_is_left_alone_for_minutes_at_most() -> None:
    assert [again_after_s(count) for count in (1, 2, 3, 4, 50)] == [5, 30, 300, 3600, 21600]


def test_neither_the_key_nor_the_rate_is_the_objects_fault() -> None:
    codes = {answers.UNAUTHORIZED, answers.RATE_LIMITED}
    assert not any(is_charged(code) for code in codes)
    assert all(is_charged(code) for code in (*answers.ABOUT_THE_OBJECT, answers.TIMEOUT))


# The breaker ------------------------------------------------------------------------------------


def test_five_failures_in_a_row_open_it() -> None:
    budget = opened()
    assert budget.open_until == later(30)
    assert budget.last_error == "server_error: Something went wrong."
    assert let_through(budget, later(29.9)) == 0
    assert let_through(budget, later(30)) == 1


def test_failures_with_an_answer_between_them_do_not() -> None:
    budget = Budget()
    for number in range(20):
        budget = failed(budget, number, 0, SLOW, NOW)
        if number % 4 == 3:
            budget = answered(budget, number, 0)
    assert budget.open_until is None


@pytest.mark.parametrize("code", sorted(answers.ABOUT_THE_OBJECT))
def test_that_an_object_cannot_be_had_is_an_answer_of_the_provider(code: str) -> None:
    budget = replace(Budget(), failures=4)
    assert failed(budget, 1, 0, FetchFailed(code, "no"), NOW).failures == 0
    probed = probing(opened(), 9, later(30), 60)
    assert failed(probed, 9, 0, FetchFailed(code, "no"), later(31)).open_until is None


def test_only_one_may_try_and_it_decides() -> None:
    probed = probing(opened(), 9, later(30), 60)
    assert let_through(probed, later(31)) == 0
    # What was on its way when it opened says nothing of now.
    assert answered(probed, 4, 0) == probed
    assert failed(probed, 4, 0, SLOW, later(31)) == probed
    closed = answered(probed, 9, 0)
    assert let_through(closed, later(31)) > MANY
    assert (closed.failures, closed.probe, closed.last_error) == (0, None, None)
    again = failed(probed, 9, 0, SLOW, later(31))
    assert again.open_until == later(31 + 60)
    assert let_through(again, later(90)) == 0


def test_each_probe_that_fails_doubles_the_wait_up_to_ten_minutes() -> None:
    budget, now, waits = opened(), NOW, []
    for number in range(10, 18):
        assert budget.open_until is not None
        now = budget.open_until
        budget = failed(probing(budget, number, now, 60), number, 0, SLOW, now)
        assert budget.open_until is not None
        waits.append((budget.open_until - now).total_seconds())
    assert waits == [60, 120, 240, 480, 600, 600, 600, 600]


def test_a_probe_whose_process_died_is_followed_by_another() -> None:
    probed = probing(opened(), 9, later(30), 60)
    assert let_through(probed, later(89)) == 0
    assert let_through(probed, later(90)) == 1
    second = probing(probed, 12, later(90), 60)
    assert answered(second, 9, 0) == second
    assert answered(second, 12, 0).open_until is None


def test_a_refused_key_stops_everything_for_five_minutes() -> None:
    budget = failed(Budget(), 1, 0, FetchFailed(answers.UNAUTHORIZED, "Invalid"), NOW)
    assert let_through(budget, later(299)) == 0
    assert let_through(budget, later(300)) == 1
    assert budget.last_error == "unauthorized: Invalid"


def test_a_newer_key_begins_afresh_and_hears_nothing_of_the_old_one() -> None:
    refused = failed(Budget(), 1, 0, FetchFailed(answers.UNAUTHORIZED, "Invalid"), NOW)
    fresh = breaker.with_key(refused, 7)
    assert let_through(fresh, NOW) > MANY
    late = FetchFailed(answers.UNAUTHORIZED, "Invalid")
    assert failed(fresh, 2, 0, late, NOW) == fresh
    assert failed(fresh, 2, 7, late, NOW).open_until == later(300)


@pytest.mark.parametrize(("said_s", "waited_s"), [(None, 2), (7.0, 7), (0.0, 0), (86_400.0, 600)])
def test_who_asks_for_less_is_asked_for_nothing_for_so_long(
    said_s: float | None, waited_s: float
) -> None:
    budget = replace(Budget(), tokens=17.0, failures=3)
    failure = FetchFailed(answers.RATE_LIMITED, "Too many", said_s)
    limited = failed(budget, 1, 0, failure, NOW)
    assert (limited.open_until, limited.tokens, limited.failures) == (later(waited_s), 0, 3)
    # Those that were asked for at the same time are answered alike, and do not shorten it.
    sooner = failed(limited, 2, 0, FetchFailed(answers.RATE_LIMITED, "Too many", 0.0), NOW)
    assert sooner.open_until == limited.open_until


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["answer", "fail", "limit", "refuse", "missing", "wait", "probe"]),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_whatever_happens_it_comes_to_an_end(steps: list[tuple[str, int]]) -> None:
    """It is never open for longer than ten minutes, and an answer closes it."""
    budget, now = Budget(), NOW
    codes = {
        "fail": answers.TIMEOUT, "limit": answers.RATE_LIMITED, "refuse": answers.UNAUTHORIZED,
        "missing": answers.NOT_FOUND,
    }  # fmt: skip
    for step, number in steps:
        if step == "wait":
            now += timedelta(seconds=40 * number)
        elif step == "probe":
            if budget.open_until is not None and let_through(budget, now) == 1:
                budget = probing(budget, number, now, 60)
        elif step == "answer":
            budget = answered(budget, number, 0)
        else:
            budget = failed(budget, number, 0, FetchFailed(codes[step], "x"), now)
        if budget.open_until is not None:
            assert budget.open_until <= now + timedelta(seconds=600)
    now += timedelta(seconds=600)
    assert let_through(budget, now) >= 1
    if budget.open_until is not None:
        budget = answered(probing(budget, 99, now, 60), 99, 0)
    assert let_through(budget, now) > MANY


# The event --------------------------------------------------------------------------------------

CLAIM = Claim(5, 17, 0, 0, "acct_1", True, "subscription", "sub_1")


def made(result: dict[str, Any], claim: Claim = CLAIM) -> answers.AnswerEvent:
    return event_of(
        Answer(result, 1_763_700_000, 1_763_700_002, 1, [("date", "x")]),
        claim,
        source_id=3,
        lanes=tuple(range(100, 116)),
        tracking_id=UUID(int=1),
        trace_context="00-0-0-00",
    )


def test_an_answer_becomes_an_event_in_the_objects_own_lane() -> None:
    event = made({"id": "sub_1", "name": "Zoë"})
    assert json.loads(event.body) == {
        "object": "sluice.fetched",
        "kind": "subscription",
        "id": "sub_1",
        "number": 17,
        "floor": 1_763_700_000,
        "ceiling": 1_763_700_002,
        "result": {"id": "sub_1", "name": "Zoë"},
    }
    assert event.lane == 100 + lane_number("subscription/sub_1")
    identity = event.identity
    assert (identity.event_id, identity.event_type) == ("sluice.fetch/17", "sluice.fetched")
    assert (identity.subject, identity.account) == ("subscription/sub_1", "acct_1")
    assert identity.livemode
    assert identity.occurred_at == datetime.fromtimestamp(1_763_700_002, UTC)


def test_a_subject_that_fits_no_index_is_the_events_own() -> None:
    long = replace(CLAIM, object_id="s" * 250)
    assert made({}, long).identity.subject == "sluice.fetch/17"


@pytest.mark.parametrize("result", [{"a": float("nan")}, {"a": "\ud800"}])
def test_an_answer_that_cannot_be_kept_is_none(result: dict[str, Any]) -> None:
    with pytest.raises(FetchFailed) as refused:
        made(result)
    assert refused.value.code == "unreadable"


def test_what_a_failure_says_is_fit_to_be_stored() -> None:
    failure = FetchFailed("refused", "\0" + "x" * 5000)
    assert len(str(failure)) == 300
    assert "\0" not in str(failure)
