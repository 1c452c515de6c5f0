"""
Generated lives of a Clerk instance end as they truly ended, in whatever order they are told, with
any of it repeated, and with any of it missing but what each object became.
"""

import os
import random
from collections import defaultdict
from typing import Any

import pytest

from shared.domain.catalog import Catalog, Origin
from shared.domain.commands import Observe
from shared.domain.entitlements import aggregate
from shared.domain.events import Arrival
from shared.domain.register import Observation, Register, fold
from shared.domain.states import digest_of
from shared.domain.verdicts import Links, decide, moment_of
from shared.providers import providers
from tests.support.clerk import NOW_MS, PLANS, Life, Sent, live, told

LIVES = 2500
CLERK = providers()["clerk"]
CATALOG = Catalog.read(1, {"plans": PLANS})
ORIGIN = Origin("clerk", "clerk")
#: kind, id → its observations by event id
Seen = dict[tuple[str, str], dict[str, Observation]]


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("TEST_SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def lives(seed: int) -> list[Life]:
    rng = random.Random(seed)
    return [live(rng, str(number)) for number in range(LIVES)]


def seen(events: list[Sent]) -> Seen:
    """What the worker would keep, in the order of arrival."""
    kept: Seen = defaultdict(dict)
    for sent in events:
        identity = CLERK.identify(sent.headers, sent.body)
        for command in CLERK.translate(Arrival(identity, sent.body)):
            assert isinstance(command, Observe)
            after = digest_of(command.after)
            kept[command.kind, command.object_id].setdefault(
                identity.event_id,
                Observation(identity.event_id, command.version, command.shape, None, after,
                            command.after),
            )  # fmt: skip
    return kept


def folded(events: list[Sent]) -> dict[tuple[str, str], Register]:
    return {
        (kind, object_id): fold("clerk", kind, observations.values())
        for (kind, object_id), observations in seen(events).items()
    }


def members(registers: dict[tuple[str, str], Register]) -> set[tuple[str, str]]:
    """As `shared.store.tenants.read_members` reads them."""
    gone = {
        object_id
        for (kind, object_id), register in registers.items()
        if kind in ("user", "organization") and register.newest.status == "deleted"
    }
    return {
        (str(state.member), str(state.role))
        for (kind, _), register in registers.items()
        if kind == "organization_membership"
        and (state := register.newest).status == "present"
        and not gone & {state.member, state.customer}
    }


def features(registers: dict[tuple[str, str], Register]) -> dict[str, Any]:
    grants = [
        grant
        for (kind, _), register in registers.items()
        for grant in decide(kind, register, Links(), ORIGIN, CATALOG)[1].grants
    ]
    now = moment_of(NOW_MS // 1000 + 60)
    return {name: one.value for name, one in sorted(aggregate(grants, now).items())}


def test_every_life_ends_as_it_ended(
    lives: list[Life], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed + 1)
    left, granted, closed = 0, 0, 0
    for number, life in enumerate(lives):
        registers = folded(told(rng, life))
        assert not any(register.ambiguous for register in registers.values()), f"seed {seed}"
        assert members(registers) == life.shown(f"org_{number}"), f"seed {seed}, life {number}"
        assert features(registers) == life.features(), f"seed {seed}, life {number}"
        left += bool(life.members) and not life.shown(f"org_{number}")
        granted += bool(life.features())
        closed += f"org_{number}" in life.gone
    with capsys.disabled():
        print(f"\n  {len(lives)} lives: {granted} with access, {closed} organizations deleted,"
              f" {left} whose members went with somebody else")  # fmt: skip
    assert granted > 500
    assert closed > 300
    assert left > 100


def test_the_order_of_arrival_does_not_matter(lives: list[Life], seed: int) -> None:
    rng = random.Random(seed + 2)
    for life in lives[:1000]:
        events = [one for sent in life.sent.values() for one in sent]
        orders = []
        for _ in range(3):
            rng.shuffle(events)
            orders.append(folded(events))
        assert orders[0] == orders[1] == orders[2], f"seed {seed}"


@pytest.mark.parametrize(
    "rule", ["last arrival wins", "largest updated_at wins", "nothing is terminal"]
)
def test_a_plainer_rule_fails(lives: list[Life], seed: int, rule: str) -> None:
    """Each of them is what such code has been seen to do; the lives tell it from the truth."""
    rng = random.Random(seed + 3)
    wrong = 0
    for number, life in enumerate(lives[:1000]):
        registers = {}
        for (kind, object_id), kept in seen(told(rng, life)).items():
            one = list(kept.values())
            if rule == "last arrival wins":
                one = one[-1:]
            elif rule == "largest updated_at wins":
                one = [max(one, key=lambda each: (each.version // 1000, each.id))]
            registers[kind, object_id] = fold(
                # A provider without words of its own is revived by whatever is newer.
                "plain" if rule == "nothing is terminal" and kind != "subscription_item"
                else "clerk", kind, one,
            )  # fmt: skip
        told_so = members(registers), features(registers)
        wrong += told_so != (life.shown(f"org_{number}"), life.features())
    assert wrong > 20, f"{wrong} of 1000"
