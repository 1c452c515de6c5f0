"""
Thousands of generated lives end as the independent model says, whatever order they are told in.

A failure prints its seed: `TEST_SEED=N pytest tests/integration/test_lives.py` draws them again.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest

from shared.domain.payments import Circumstances, Policy, Seen, circumstances
from shared.domain.register import Observation, Register, fold
from tests.support.draw import live, seed_of_run
from tests.support.life import EVERYTHING, Life
from tests.support.model import CATALOG
from tests.support.stack import Stack
from tests.support.telling import differences, report, tell

LIVES = 2600  # some 3,000 tenants
FEWER = 300

CHANGES = "SELECT count(*) FROM audit WHERE step > 0"
RUNS = "SELECT count(*) FROM settlements"
STATES = "SELECT id, tenant, register::text, parked FROM objects ORDER BY id"
GRANTS = "SELECT * FROM grants ORDER BY object, plan, feature"


@pytest.fixture
def seed() -> int:
    return seed_of_run()


def drawn(seed: int, count: int, themes: Iterable[str] = EVERYTHING) -> list[Life]:
    """Lives, of which hardly any had to be drawn again."""
    lives, in_vain = [], 0
    for number in range(count):
        life, vain = live(seed, f"t{number}", themes)
        lives.append(life)
        in_vain += vain
    assert in_vain <= 3 + count * 0.05, f"seed {seed}: {in_vain} lives were drawn in vain"
    return lives


async def told(
    stack: Stack, seed: int, count: int, themes: Iterable[str] = EVERYTHING
) -> list[Life]:
    """Lives that were told to a stack with the model's catalog."""
    await stack.configure(**CATALOG)
    lives = drawn(seed, count, themes)
    await tell(stack, random.Random(seed), lives)
    return lives


@pytest.mark.timeout(600)  # half a minute on two idle cores
async def test_thousands_of_lives_end_as_the_model_says(stack: Stack, seed: int) -> None:
    lives = await told(stack, seed, LIVES)
    wrong = await differences(stack, lives)
    assert not wrong, report(seed, wrong)
    events = sum(len(life.told) for life in lives)
    assert await stack.value(RUNS) == events
    assert await stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0


async def test_a_second_delivery_of_everything_changes_nothing(stack: Stack, seed: int) -> None:
    lives = await told(stack, seed, FEWER)

    async def everything() -> list[Any]:
        counts = [await stack.value(CHANGES), await stack.value(RUNS)]
        rows = await stack.fetch(STATES) + await stack.fetch(GRANTS)
        return [*counts, *(tuple(row.values()) for row in rows)]

    before = await everything()
    bodies = [body for life in lives for body in life.told]
    random.Random(seed).shuffle(bodies)
    receipts = await stack.receive(*bodies)
    await stack.drain()
    assert {receipt.status for receipt in receipts} == {"duplicate"}
    assert await everything() == before, f"TEST_SEED={seed}"
    assert await stack.value("SELECT count(*) FROM conflicts") == 0


# Broken rules -------------------------------------------------------------------------------------
#
# Where the code under test is patched, and with what: wherever a worker looks up a pure rule.

Seens = Sequence[Seen]


def last_event_wins(provider: str, kind: str, observations: Iterable[Observation]) -> Register:
    """The largest `created`, then the largest id, whatever led where."""
    return fold(provider, kind, [max(observations, key=lambda seen: (seen.version, seen.id))])


def releases_are_ignored(provider: str, policy: Policy, objects: Seens) -> dict[str, Circumstances]:
    """A dispute that was won holds for ever."""
    changed = [_with(seen, {"won": "needs_response"}, "dispute") for seen in objects]
    return circumstances(provider, policy, changed)


def every_refund_is_full(provider: str, policy: Policy, objects: Seens) -> dict[str, Circumstances]:
    """Any refund takes a purchase away."""
    changed = [_with(seen, {}, "refund", amount=10**9) for seen in objects]
    return circumstances(provider, policy, changed)


def an_old_end_ends_the_new(
    provider: str, policy: Policy, objects: Seens
) -> dict[str, Circumstances]:
    """A customer with a subscription that was canceled has no other."""
    found = circumstances(provider, policy, objects)
    ended = tuple(
        seen.name
        for seen in objects
        if seen.kind == "subscription" and seen.register.newest.status == "canceled"
    )
    return {
        name: msgspec.structs.replace(around, reversals=(*around.reversals, *ended))
        if name.startswith("subscription/")
        else around
        for name, around in found.items()
    }


def _with(seen: Seen, statuses: dict[str, str], kind: str, **fields: Any) -> Seen:
    """An object of a kind as if its state were another."""
    if seen.kind != kind:
        return seen
    state = seen.register.newest
    state = msgspec.structs.replace(
        state, status=statuses.get(state.status, state.status), **fields
    )
    sighting = msgspec.structs.replace(seen.register.sightings[0], state=state)
    return seen._replace(register=msgspec.structs.replace(seen.register, sightings=(sighting,)))


#: Where, what, and the lives in which it matters.
BROKEN: list[tuple[str, Callable[..., Any], set[str]]] = [
    ("workers.books.fold", last_event_wins, {"subscriptions"}),
    ("workers.neighbours.circumstances", an_old_end_ends_the_new, {"subscriptions"}),
    ("workers.neighbours.circumstances", every_refund_is_full, {"purchases", "refunds"}),
    ("workers.neighbours.circumstances", releases_are_ignored, {"purchases", "disputes"}),
]


@pytest.mark.parametrize(
    ("place", "broken", "themes"), BROKEN, ids=[one[1].__name__ for one in BROKEN]
)
async def test_a_broken_rule_is_found(
    stack: Stack,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    broken: Callable[..., Any],
    themes: set[str],
) -> None:
    monkeypatch.setattr(place, broken)
    lives = await told(stack, seed, FEWER, themes)
    wrong = await differences(stack, lives)
    assert wrong, f"TEST_SEED={seed}: nobody noticed that {broken.__name__}"
