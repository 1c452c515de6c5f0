"""What the clock did, told turn by turn, is what the entitlements were at each moment."""

import os
import random
from datetime import UTC, datetime, timedelta

from shared.domain.entitlements import Entitlement, Grant, aggregate
from shared.domain.turns import HeldGrant, Turn, turns_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def moment(rng: random.Random) -> datetime | None:
    return START + timedelta(hours=rng.randrange(-3, 12)) if rng.random() < 0.7 else None


def grants_of(rng: random.Random) -> list[Grant]:
    return [
        Grant("t", f"plan-{number}", rng.choice("ab"), rng.randrange(1, 5), 0, moment(rng),
              moment(rng), adds=rng.random() < 0.3)
        for number in range(rng.randint(1, 5))
    ]  # fmt: skip


def held(grants: list[Grant], told_until: datetime) -> list[HeldGrant]:
    return [HeldGrant(n, grant, grant.next_turn(told_until)) for n, grant in enumerate(grants)]


def apply(state: dict[str, Entitlement], turns: list[Turn]) -> dict[str, Entitlement]:
    """Each record begins where the one before it ended, and says something."""
    state = dict(state)
    for turn in turns:
        feature = turn.held.grant.feature
        assert state.get(feature) == turn.before != turn.after
        if turn.after is None:
            del state[feature]
        else:
            state[feature] = turn.after
    return state


def test_the_records_lead_from_what_was_to_what_is() -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    told = 0
    for _ in range(3000):
        grants = grants_of(rng)
        by = START + timedelta(hours=rng.randrange(0, 12), minutes=rng.choice((0, 30)))
        turns = turns_of(held(grants, START), by)
        assert apply(aggregate(grants, START), turns) == aggregate(grants, by), f"seed {seed}"
        assert [turn.at for turn in turns] == sorted(turn.at for turn in turns)
        assert len({turn.cause_id for turn in turns}) == len(turns), f"seed {seed}"
        # It does not matter how often somebody came by.
        between = START + (by - START) / 2
        again = turns_of(held(grants, START), between) + turns_of(held(grants, between), by)
        assert again == turns_with(turns, again), f"seed {seed}"
        told += len(turns)
    assert told > 1000


def turns_with(turns: list[Turn], like: list[Turn]) -> list[Turn]:
    """The same turns, told by the rows that were read then: only what is next differs."""
    assert len(turns) == len(like)
    return [
        Turn(other.held, turn.at, turn.action, turn.before, turn.after)
        for turn, other in zip(turns, like, strict=True)
        if turn.cause_id == other.cause_id
    ]
