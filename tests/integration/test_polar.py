"""Polar through inbox, lanes and workers: lives in any order, replays, and a sandbox beside it."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.store import work
from tests.support.draw import seed_of_run
from tests.support.polar_lives import CATALOG, Features, Shop, Told
from tests.support.polar_payloads import (
    DAY_US,
    US,
    customer,
    event,
    headers_of,
    order,
    refund,
    subscription,
    uuid_of,
)
from tests.support.stack import Stack, drain, new_crew

LIVES = 50
OBJECTS = "SELECT kind, object_id, tenant, parked, register::text FROM objects ORDER BY 1, 2"


def now_us() -> int:
    return int(datetime.now(UTC).timestamp()) * US


async def open_shop(stack: Stack, **settings: str) -> None:
    await stack.add_source("polar", "polar", True, **settings)
    await stack.configure(**CATALOG)


def drawn(seed: int, family: str) -> list[Shop]:
    """Lives whose truth stays as it is while the test runs."""
    shops: list[Shop] = []
    at = now_us()
    for number in range(10 * LIVES):
        shop = Shop(f"{seed}/{number}", f"t{number}", at).live()
        ends: Features = shop.features(family, "whole")  # type: ignore[assignment]
        shop.now_us += DAY_US // 24
        if shop.features(family, "whole") == ends:
            shops.append(shop)
        if len(shops) == LIVES:
            break
    return shops


async def tell(stack: Stack, told: list[Told], *, source: str = "polar") -> None:
    await stack.receive(
        *(body for _, body in told), source=source, headers=[headers for headers, _ in told]
    )


@pytest.mark.parametrize("family", ["subscriptions", "benefits", "state"])
async def test_lives_told_to_two_workers_at_once(stack: Stack, family: str) -> None:
    seed = seed_of_run()
    rng = random.Random(seed)
    await open_shop(stack, grants_from=family)
    shops = drawn(seed, family)
    told = [one for shop in shops for one in shop.told]
    deliveries = told + rng.sample(told, len(told) // 3)
    rng.shuffle(deliveries)
    async with new_crew(stack.endpoints, "second") as second:
        for first in range(0, len(deliveries), 200):
            await tell(stack, deliveries[first : first + 200])
            await asyncio.gather(drain(stack.crew), drain(second))
    for shop in shops:
        for tenant, features in shop.features(family, "whole").items():
            assert await stack.features(tenant) == features, f"TEST_SEED={seed}: {tenant}"
    assert await stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0
    assert await stack.value("SELECT count(*) FROM settlements") == len(told)
    assert await stack.value("SELECT count(*) FROM objects WHERE ambiguous") == 0
