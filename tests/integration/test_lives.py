"""
Thousands of generated lives end as the independent model says, whatever order they are told in.

A failure prints its seed: `TEST_SEED=N pytest …` draws the same lives again.
"""

import os
import random

import pytest

from tests.support.draw import live
from tests.support.life import Life
from tests.support.model import CATALOG
from tests.support.stack import Stack
from tests.support.telling import differences, report, tell

LIVES = 3000


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("TEST_SEED", random.randrange(10**6)))


def drawn(seed: int, count: int) -> list[Life]:
    """Lives, of which hardly any had to be drawn twice."""
    lives, in_vain = [], 0
    for number in range(count):
        life, vain = live(seed, f"t{number}")
        lives.append(life)
        in_vain += vain
    assert in_vain <= count * 0.03, f"seed {seed}: {in_vain} lives were drawn in vain"
    return lives


async def configure(stack: Stack) -> None:
    await stack.configure(plans=CATALOG["plans"], features=CATALOG["features"])


async def test_thousands_of_lives_end_as_the_model_says(stack: Stack, seed: int) -> None:
    await configure(stack)
    lives = drawn(seed, LIVES)
    rng = random.Random(seed)
    await tell(stack, rng, lives)
    wrong = await differences(stack, lives)
    assert not wrong, report(seed, wrong)
