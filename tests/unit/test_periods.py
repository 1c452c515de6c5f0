"""A period's end is shown and decides nothing: the fold is the same with it and without it."""

import os
import random
from typing import Any

import msgspec
import pytest

from shared.domain.register import Observation, Register, fold
from shared.domain.states import Item, ObjectState, digest_of
from shared.providers.clerk.objects import SubscriptionItem
from shared.providers.polar.objects import Subscription as PolarSubscription
from tests.support.lives import Life, live, shuffled
from tests.support.reading import asked_of
from tests.support.stripe_events import NOW_S, event, subscription
from tests.unit.test_same_second import observations, truth

DAY_S = 86_400
END_S = NOW_S + 30 * DAY_S
RESUMED = "customer.subscription.resumed"


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("TEST_SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def lives(seed: int) -> list[Life]:
    """Within one second they change and are renewed, in one edge or in two."""
    rng = random.Random(seed)
    return [live(rng, f"sub_{number}", renews=True) for number in range(5000)]


def silent(state: ObjectState) -> ObjectState:
    return msgspec.structs.replace(state, period_ends_at=None)


def before_that(seen: Observation) -> Observation:
    """As an older version kept it."""
    return msgspec.structs.replace(seen, state=silent(seen.state))


def without_periods(register: Register) -> Register:
    return msgspec.structs.replace(
        register,
        sightings=tuple(
            msgspec.structs.replace(one, state=silent(one.state)) for one in register.sightings
        ),
        unknown=None if register.unknown is None else silent(register.unknown),
    )


def test_digests_are_those_of_stored_observations() -> None:
    """Computed before there were periods; an edge of then meets one of now."""
    state = ObjectState(
        "active", customer="cus_1", items=(Item(("price_1", "prod_1"), 2),), ends_at=1_800_000_000
    )
    assert digest_of(state) == 7360533445788196207
    shown = msgspec.structs.replace(state, period_ends_at=END_S, pauses=True)
    assert digest_of(shown) == 7360533445788196207
    assert digest_of(msgspec.structs.replace(state, ends_at=END_S)) != digest_of(state)


def test_what_was_kept_before_and_what_is_kept_now_fold_alike(lives: list[Life], seed: int) -> None:
    rng = random.Random(seed)
    for life in lives:
        seen = observations(shuffled(rng, life.events))
        whole = fold("stripe", "subscription", seen)
        mixed = [before_that(one) if rng.random() < 0.5 else one for one in seen]
        old = fold("stripe", "subscription", [before_that(one) for one in seen])
        assert without_periods(whole) == old, f"seed {seed}"
        assert without_periods(fold("stripe", "subscription", mixed)) == old, f"seed {seed}"


def test_a_life_ends_in_its_last_period(lives: list[Life], seed: int) -> None:
    rng = random.Random(seed)
    renewed = 0
    for life in lives:
        register = fold("stripe", "subscription", observations(shuffled(rng, life.events)))
        if register.ambiguous:
            assert life.starts_unseen
            continue
        assert register.newest == truth(life), f"seed {seed}: {life.events}"
        renewed += (truth(life).period_ends_at or 0) > END_S
    assert renewed > 1000


def test_a_renewal_alone_is_a_walk_that_stays() -> None:
    after = subscription("sub_1", customer="cus_1")
    items = after["items"]["data"]
    was = [{**items[0], "current_period_end": NOW_S}]
    previous = {"items": {**after["items"], "data": was}, "latest_invoice": "in_0"}
    told = event("customer.subscription.updated", after, previous=previous)
    (command,) = asked_of("customer.subscription.updated", told)
    assert command.shape == "edge"
    assert command.before.period_ends_at == NOW_S
    assert command.after.period_ends_at == END_S
    assert digest_of(command.before) == digest_of(command.after)


def resumed(content: Any) -> Any:
    (command,) = asked_of(RESUMED, event(RESUMED, content))
    return command


@pytest.mark.parametrize("generation", ["items", "top"])
def test_stripe_says_it_in_two_places(generation: str) -> None:
    content = subscription("sub_1", customer="cus_1")
    if generation == "top":
        del content["items"]["data"][0]["current_period_end"]
        content["current_period_end"] = END_S + 5
    command = resumed(content)
    assert command.after.period_ends_at == END_S + 5 * (generation == "top")
    # Of several intervals the first that renews; one that was never told is none.
    if generation == "items":
        line = content["items"]["data"][0]
        content["items"]["data"] += [
            {**line, "id": "si_2", "current_period_end": END_S - DAY_S},
            {**line, "id": "si_3", "current_period_end": None},
        ]
        command = resumed(content)
        assert command.after.period_ends_at == END_S - DAY_S


def test_polar_says_whether_it_is_a_pause_that_comes() -> None:
    content = {
        "id": "s", "created_at": "2026-11-01T00:00:00Z", "status": "active", "customer_id": "c",
        "product_id": "p", "current_period_end": "2026-12-01T00:00:00.5Z",
        "pause_at_period_end": True,
    }  # fmt: skip
    state = msgspec.convert(content, PolarSubscription).state()
    assert (state.period_ends_at, state.ends_at, state.pauses) == (1796083200, 1796083200, True)
    content["pause_at_period_end"] = False
    state = msgspec.convert(content, PolarSubscription).state()
    assert (state.period_ends_at, state.ends_at, state.pauses) == (1796083200, None, False)


@pytest.mark.parametrize(("told", "ends_at"), [(1_796_083_200_001, 1_796_083_201), (-1, None)])
def test_clerk_says_it_in_milliseconds(told: int, ends_at: int | None) -> None:
    item = SubscriptionItem("item", "active", period_end=told)
    assert (item.state().period_ends_at, item.state().ends_at) == (ends_at, None)
    item.status = "canceled"
    assert (item.state().period_ends_at, item.state().ends_at) == (ends_at, ends_at)
