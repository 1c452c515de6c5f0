"""What a summary of a customer says of the customer's other objects, and whether it is news."""

import msgspec
import pytest

from shared.domain.commands import Command, Ignore, Observe, Shape
from shared.domain.payments import DEFAULT_POLICY, Policy, circumstances
from shared.domain.register import Observation, Register, Seen, fold
from shared.domain.states import ObjectState, digest_of
from shared.domain.summaries import missing, tells_news

GRANTING = frozenset({"subscription"})
US = 1_000_000


def observation(
    status: str, version: int, shape: Shape = "point", *, floor: int | None = None, number: int = 1
) -> Observation:
    state = ObjectState(status, customer="cus_1")
    is_fetch = shape == "fetch"
    return Observation(
        f"{shape}/{version}/{number}", version, shape, None, digest_of(state), state,
        version if is_fetch else None, number if is_fetch else None, floor,
    )  # fmt: skip


def subscription(*seen: Observation, number: str = "sub_1", kind: str = "subscription") -> Seen:
    return Seen(kind, number, fold("polar", kind, seen))


def summary(version: int, *names: str) -> Seen:
    state = ObjectState("current", customer="cus_1", refs=names)
    register = fold("polar", "customer_state", [
        Observation("evt", version, "point", None, digest_of(state), state)
    ])  # fmt: skip
    return Seen("customer_state", "cus_1", register)


def unlisted(*objects: Seen) -> set[str]:
    return set(missing("polar", GRANTING, objects))


@pytest.mark.parametrize("status", ["active", "trialing", "past_due"])
def test_what_gives_access_and_is_not_in_a_newer_summary_is_missing(status: str) -> None:
    known = subscription(observation(status, 10))
    assert unlisted(known, summary(11)) == {"subscription/sub_1"}
    assert unlisted(known, summary(11, "subscription/sub_1")) == set()
    assert unlisted(known, summary(11, "subscription/sub_2")) == {"subscription/sub_1"}


@pytest.mark.parametrize("version", [9, 10])
def test_an_older_summary_says_nothing(version: int) -> None:
    assert unlisted(subscription(observation("active", 10)), summary(version)) == set()


@pytest.mark.parametrize("status", ["canceled", "unpaid", "paused", "incomplete", "new_word"])
def test_what_gives_nothing_is_not_missed(status: str) -> None:
    assert unlisted(subscription(observation(status, 10)), summary(11)) == set()


def test_what_only_was_hinted_at_is_not_missed() -> None:
    assert unlisted(subscription(observation("unobserved", 10, "hint")), summary(11)) == set()


def test_without_a_summary_nothing_is_missing() -> None:
    unobserved = Seen("customer_state", "cus_1", fold(
        "polar", "customer_state", [observation("unobserved", 99, "hint")]
    ))  # fmt: skip
    assert unlisted(subscription(observation("active", 10))) == set()
    assert unlisted(subscription(observation("active", 10)), unobserved) == set()


def test_a_customer_who_is_gone_lists_nothing() -> None:
    state = ObjectState("deleted", customer="cus_1")
    gone = Observation("fetch/2", 11, "fetch", None, 0, state, 12, 2, 11)
    summed_up = Seen("customer_state", "cus_1", fold("polar", "customer_state", [gone]))
    assert unlisted(subscription(observation("active", 10)), summed_up) == {"subscription/sub_1"}


def test_who_was_asked_after_the_summary_is_not_missing_however_old_it_is() -> None:
    """It changed at 10 last, and that was still so at 12."""
    snapshot = observation("active", 10)
    asked = observation("active", 10, "fetch", floor=12)
    assert unlisted(subscription(snapshot, asked), summary(11)) == set()
    assert unlisted(subscription(snapshot, asked), summary(13)) == {"subscription/sub_1"}
    # A snapshot that is newer than the answer does not make the answer forgotten.
    changed = observation("past_due", 11)
    assert unlisted(subscription(changed, asked), summary(12)) == set()


def test_only_what_grants_is_missed() -> None:
    grant = subscription(observation("granted", 10), number="grant_1", kind="benefit_grant")
    assert missing("polar", GRANTING, [grant, summary(11)]) == set()
    assert missing("polar", {"benefit_grant"}, [grant, summary(11)]) == {"benefit_grant/grant_1"}


@pytest.mark.parametrize(
    ("grants_from", "expected"),
    [("subscriptions", True), ("benefits", False), ("state", False)],
)
def test_it_is_a_circumstance_of_what_the_source_grants_from(
    grants_from: str, expected: bool
) -> None:
    policy = msgspec.structs.replace(DEFAULT_POLICY, grants_from=grants_from)
    assert isinstance(policy, Policy)
    objects = [subscription(observation("active", 10)), summary(11)]
    around = circumstances("polar", policy, objects)
    assert around["subscription/sub_1"].is_missing is expected
    assert not around["customer_state/cus_1"].is_missing


# News -------------------------------------------------------------------------------------------


def told(kind: str, version: int, shape: Shape = "point", *refs: str) -> Observe:
    number = "cus_1" if kind.startswith("customer") else "sub_1"
    return Observe(kind, number, version, shape, None, ObjectState("current", refs=refs))


def is_news(
    *commands: Command, held: tuple[Seen, ...] = (), granting: str = "subscription"
) -> bool:
    names = {seen.name: seen for seen in held}
    return tells_news("polar", {granting}, commands, names)


HELD = subscription(observation("active", 10))
STATE = told("customer_state", 20, "fetch", "subscription/sub_1")


def test_what_is_held_already_is_no_news() -> None:
    listed = told("subscription", 10, "hint")
    assert not is_news(STATE, listed, held=(HELD,))
    assert not is_news(STATE, listed, Ignore("nothing"), held=(HELD,))
    assert not is_news(STATE, told("subscription", 9, "hint"), held=(HELD,))


def test_a_newer_version_is_news_and_so_is_one_that_is_not_held() -> None:
    assert is_news(STATE, told("subscription", 11, "hint"), held=(HELD,))
    assert is_news(STATE, told("subscription", 10, "hint"))
    assert is_news(STATE, told("customer", 1), held=(HELD,))


def test_what_waits_for_its_answer_is_not_told_again() -> None:
    """A key that may read states and no subscriptions would fill the inbox."""
    waiting = subscription(observation("active", 10), observation("unobserved", 12, "hint"))
    assert waiting.register.wants == "hint"
    assert not is_news(STATE, told("subscription", 13, "hint"), held=(waiting,))
    assert is_news(STATE, told("subscription", 13), held=(waiting,))


def test_what_is_missing_is_news() -> None:
    assert is_news(told("customer_state", 20, "fetch"), held=(HELD,))
    assert not is_news(told("customer_state", 10, "fetch"), held=(HELD,))
    ended = subscription(observation("canceled", 10))
    assert not is_news(told("customer_state", 20, "fetch"), held=(ended,))


def test_where_the_summary_grants_whatever_changed_in_it_is_news() -> None:
    before = Seen("customer_state", "cus_1", Register(5, fold(
        "polar", "customer_state",
        [Observation("e", 5, "point", None, 0, STATE.after)],
    ).sightings))  # fmt: skip
    changed = told("customer_state", 20, "fetch")
    assert not is_news(STATE, held=(before,), granting="customer_state")
    assert is_news(changed, held=(before,), granting="customer_state")
    assert is_news(STATE, granting="customer_state")
    assert not is_news(STATE, granting="subscription")


# Hints of what has versions -----------------------------------------------------------------------


def test_a_hint_at_the_version_that_is_held_wants_nothing() -> None:
    held, hint = observation("active", 10 * US), observation("unobserved", 10 * US, "hint")
    assert subscription(held, hint).register.wants is None
    newer = replace_version(hint, 10 * US + 1)
    assert subscription(held, newer).register.wants == "hint"
    assert subscription(held, newer, observation("active", 10 * US + 1)).register.wants is None


def test_within_a_second_of_events_a_hint_may_come_after_what_is_held() -> None:
    held, hint = observation("active", 10), observation("unobserved", 10, "hint")
    assert fold("stripe", "subscription", [held, hint]).wants == "hint"


def test_whose_it_is_that_was_hinted_at_is_known() -> None:
    """Its lock is the customer's, as that of what comes of it in another lane."""
    register = fold("polar", "subscription", [observation("unobserved", 10, "hint")])
    assert register.newest.customer == "cus_1"


def replace_version(seen: Observation, version: int) -> Observation:
    return msgspec.structs.replace(seen, id=f"{seen.id}/{version}", version=version)
