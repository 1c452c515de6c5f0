"""How a fetch, a hint and a list that is not whole bear on the register."""

import itertools
import random

import msgspec
import pytest

from shared.domain.register import Observation, Register, fold
from shared.domain.states import UNOBSERVED, Item, ObjectState, digest_of

T = 1_700_000_000
ACTIVE = ObjectState("active", items=(Item(("a",)),))
CHANGED = ObjectState("active", items=(Item(("b",)),))
PAST_DUE = ObjectState("past_due", items=(Item(("a",)),))
CANCELED = ObjectState("canceled", items=(Item(("a",)),))


def digest(state: ObjectState | None) -> int | None:
    return None if state is None else digest_of(state)


def edge(before: ObjectState, after: ObjectState, at: int, name: str = "evt_e") -> Observation:
    return Observation(name, at, "edge", digest(before), digest(after) or 0, after)


def point(state: ObjectState, at: int, name: str = "evt_p") -> Observation:
    return Observation(name, at, "point", None, digest(state) or 0, state)


def fetch(state: ObjectState, floor: int, ceiling: int, number: int = 1) -> Observation:
    return Observation(
        f"fetch/{number}", floor, "fetch", None, digest(state) or 0, state, ceiling, number
    )


def hint(at: int, name: str = "evt_h") -> Observation:
    return Observation(name, at, "hint", None, 0, ObjectState(UNOBSERVED))


def folded(*observations: Observation) -> Register:
    """The fold, the same in whatever order they come."""
    results = {repr(fold("stripe", "subscription", some))
               for some in itertools.islice(itertools.permutations(observations), 24)}  # fmt: skip
    assert len(results) == 1
    return fold("stripe", "subscription", observations)


@pytest.mark.parametrize(("at", "newest", "wants"), [
    (T - 5, ACTIVE, None),  # before: contained
    (T, ACTIVE, None),  # at the floor: contained
    (T + 1, CHANGED, "order"),  # between: the snapshot for now, and another fetch
    (T + 2, CHANGED, "order"),  # at the ceiling: still between
    (T + 3, CHANGED, None),  # after: newer
])  # fmt: skip
def test_a_fetch_and_a_snapshot(at: int, newest: ObjectState, wants: str | None) -> None:
    register = folded(fetch(ACTIVE, T, T + 2), point(CHANGED, at))
    assert register.newest == newest
    assert register.wants == wants
    assert register.ambiguous == (wants == "order")


def test_between_with_the_same_state_there_is_nothing_to_ask() -> None:
    assert folded(fetch(ACTIVE, T, T + 2), point(ACTIVE, T + 1)).wants is None


def test_a_fetch_settles_what_a_second_left_undecided() -> None:
    undecided = [point(ACTIVE, T, "evt_1"), point(CHANGED, T, "evt_2")]
    assert folded(*undecided).wants == "order"
    settled = folded(*undecided, fetch(ACTIVE, T + 2, T + 4))
    assert settled.newest == ACTIVE
    assert settled.wants is None


def test_a_new_fetch_settles_what_lay_between() -> None:
    between = [fetch(ACTIVE, T, T + 2, 1), point(CHANGED, T + 1)]
    assert folded(*between).wants == "order"
    again = folded(*between, fetch(CHANGED, T + 5, T + 6, 2))
    assert (again.newest, again.wants) == (CHANGED, None)


def test_concurrent_refetch_inversion() -> None:
    """The fetch that began later wins, whichever answers last and whatever its clock says."""
    slow = fetch(ACTIVE, T, T + 30, number=1)
    quick = fetch(CHANGED, T + 1, T + 2, number=2)
    assert folded(slow, quick).newest == CHANGED
    odd = fetch(ACTIVE, T + 9, T + 9, number=1)
    assert folded(odd, quick).newest == CHANGED
    assert folded(odd, quick, point(ACTIVE, T + 3)).newest == ACTIVE


def test_the_same_answer_twice_is_one() -> None:
    once = folded(fetch(ACTIVE, T, T + 1), point(CHANGED, T - 9))
    assert folded(*[fetch(ACTIVE, T, T + 1)] * 2, point(CHANGED, T - 9)) == once


def test_a_terminal_snapshot_wins_over_a_fetch() -> None:
    """A read that lags must not bring back what has ended."""
    register = folded(point(CANCELED, T), fetch(ACTIVE, T + 1, T + 2))
    assert register.terminal
    assert register.newest == CANCELED


def test_grace_counts_from_before_the_fetch() -> None:
    register = folded(
        point(ACTIVE, T - 90), point(PAST_DUE, T - 50), fetch(PAST_DUE, T, T + 1),
        point(PAST_DUE, T + 40),
    )  # fmt: skip
    assert register.sightings[0].since == T - 50
    recovered = folded(point(PAST_DUE, T - 50), fetch(ACTIVE, T, T + 1), point(PAST_DUE, T + 40))
    assert recovered.sightings[0].since == T + 40


def test_a_hint_alone_waits_for_a_fetch() -> None:
    register = folded(hint(T))
    assert register.wants == "hint"
    assert register.newest.status == UNOBSERVED


@pytest.mark.parametrize(("answer", "wants"), [
    (point(ACTIVE, T - 1), "hint"),
    (point(ACTIVE, T), "hint"),  # of the same second: whether it was before or after, nobody says
    (point(ACTIVE, T + 1), None),
    (fetch(ACTIVE, T - 1, T + 1), "hint"),
    (fetch(ACTIVE, T, T + 2), None),
])  # fmt: skip
def test_what_answers_a_hint(answer: Observation, wants: str | None) -> None:
    register = folded(hint(T), answer)
    assert register.wants == wants
    assert register.newest == ACTIVE


def test_a_list_that_is_not_whole_takes_nothing_away() -> None:
    whole = ObjectState("active", items=(Item(("a",)), Item(("b",))))
    part = ObjectState("active", items=(Item(("c",)), Item(("b",), 3)), is_partial=True)
    register = folded(point(whole, T), point(part, T + 10))
    assert {item.refs: item.quantity for item in register.newest.items} == {
        ("a",): 1, ("b",): 3, ("c",): 1,
    }  # fmt: skip
    assert register.wants == "list"
    fetched = folded(point(whole, T), point(part, T + 10), fetch(CHANGED, T + 12, T + 13))
    assert fetched.newest == CHANGED
    assert fetched.wants is None


def test_any_mixture_folds_alike_in_any_order() -> None:
    rng = random.Random(7)
    states = [ACTIVE, CHANGED, PAST_DUE, CANCELED, ObjectState("huh")]
    for _ in range(400):
        mixture: list[Observation] = []
        for number in range(rng.randint(1, 7)):
            at, state = T + rng.randrange(4), rng.choice(states)
            kind = rng.randrange(4)
            if kind == 0:
                mixture.append(fetch(state, at, at + rng.randrange(3), number))
            elif kind == 1:
                mixture.append(hint(at, f"evt_{number}"))
            elif kind == 2:
                mixture.append(edge(rng.choice(states), state, at, f"evt_{number}"))
            else:
                mixture.append(point(state, at, f"evt_{number}"))
        results = set()
        for _ in range(6):
            rng.shuffle(mixture)
            results.add(repr(fold("stripe", "subscription", mixture)))
        assert len(results) == 1


def test_a_customer_that_was_fetched_deleted_keeps_its_tenant() -> None:
    """What comes back of it is that it is deleted, and nothing else."""
    known = point(ObjectState("present", customer="cus_1", tenant="acme"), T)
    gone = fetch(ObjectState("deleted", customer="cus_1"), T + 5, T + 6)
    assert fold("stripe", "customer", [known, gone]).newest.tenant == "acme"
    assert fold("stripe", "customer", [gone]).newest.tenant is None


def test_registers_of_older_versions_are_read() -> None:
    """And written so that these read them: they run on while a new version comes."""
    stored = b'{"version": 1, "sightings": [{"version": 1, "state": {"status": "past_due"},'
    stored += b' "past_due_since": 1}]}'
    register = msgspec.json.decode(stored, type=Register)
    assert register.sightings[0].since == 1
    assert b'"past_due_since":1' in msgspec.json.encode(register)
