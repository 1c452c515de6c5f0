"""The catalog changes under load: all tenants end with the new values, none is lost between."""

import asyncio
import copy
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared.store import grants
from tests.support.draw import live, seed_of_run
from tests.support.life import Life
from tests.support.model import CATALOG
from tests.support.stack import Stack, new_crew
from tests.support.stripe_events import event, subscription
from tests.support.telling import differences, operate, report
from workers import trail
from workers.fleet import work_until

RATE = 200
SECONDS = 6
SLICE = 20
STEADY = 60
BEHIND = "SELECT count(*) FROM tenants WHERE catalog_version < (SELECT max(version) FROM catalogs)"
CATALOG_GOES_BACK = """
SELECT count(*) FROM (
    SELECT catalog_version, lag(catalog_version) OVER (PARTITION BY chain ORDER BY position) AS last
    FROM audit WHERE tenant <> '' AND step > 0
) AS steps WHERE catalog_version < last
"""
LOST = """
SELECT tenant, feature, catalog_version FROM audit
WHERE action = 'entitlement.revoked' AND tenant LIKE 'steady-%'
"""


def version(number: int) -> dict[str, Any]:
    """A catalog in which every value is another; `sso` and `tier` come and go."""
    plans = copy.deepcopy(CATALOG["plans"])
    plans["pro"]["features"]["api_calls"] = 1000 + number
    plans["basic"]["features"] = {"api_calls": 100 + number, f"only_{number}": True}
    plans["team"]["features"]["api_calls"] = 50 * number
    if number % 2:
        del plans["pro"]["features"]["sso"]
        plans["pro"]["products"].remove("stripe:prod_bundle")
    return {**CATALOG, "plans": plans}


async def test_the_catalog_changes_under_load(stack: Stack) -> None:
    seed = seed_of_run()
    rng = random.Random(seed)
    await stack.configure(**version(0))
    steady = [
        event(
            "customer.subscription.created",
            subscription(f"sub_steady_{n}", customer=f"cus_steady_{n}", tenant=f"steady-{n}"),
        )
        for n in range(STEADY)
    ]
    await stack.apply(*steady)
    lives, bodies = _enough(seed)
    rng.shuffle(bodies)

    async with _fleet(stack, "one"), _fleet(stack, "two"):
        await asyncio.gather(
            _receive(stack, bodies),
            _change_catalog(stack),
            operate(stack, rng, lives),
            _watch(stack, rng),
        )
        begun = time.monotonic()
        while await stack.value("SELECT count(*) FROM work") or await stack.value(BEHIND):
            assert time.monotonic() - begun < 60, f"seed {seed}: not all tenants were derived again"
            await asyncio.sleep(0.1)

    wrong = await differences(stack, lives, version(3))
    assert not wrong, report(seed, wrong)
    for number in range(STEADY):
        assert (await stack.features(f"steady-{number}"))["api_calls"] == 1003
    async with stack.owner.connection() as conn:
        assert await grants.outdated_tenants(conn, 1) == []
        assert [found async for found in trail.verify(conn, None, lambda _: None)] == []
    settled = "SELECT count(*) FROM settlements WHERE status <> 'dead'"
    assert await stack.value(settled) == len(bodies) + STEADY
    assert await stack.value(CATALOG_GOES_BACK) == 0
    # What every version gives was never away: only what a version took went.
    gone = {(row["feature"], row["catalog_version"] % 2) for row in await stack.fetch(LOST)}
    assert {feature for feature, _ in gone} == {"sso"}


def _enough(seed: int) -> tuple[list[Life], list[bytes]]:
    """Lives for as many events as the load has."""
    lives: list[Life] = []
    bodies: list[bytes] = []
    while len(bodies) < RATE * SECONDS:
        lives.append(live(seed, f"t{len(lives)}")[0])
        bodies += lives[-1].told
    return lives, bodies


async def _receive(stack: Stack, bodies: list[bytes]) -> None:
    begun = time.monotonic()
    for first in range(0, len(bodies), SLICE):
        await asyncio.sleep(begun + first / RATE - time.monotonic())
        await stack.receive(*bodies[first : first + SLICE])


async def _change_catalog(stack: Stack) -> None:
    for number in (1, 2, 3):
        await asyncio.sleep(SECONDS / 4)
        await stack.configure(**version(number))


async def _watch(stack: Stack, rng: random.Random) -> None:
    """What every version gives is there whenever anybody looks, with some version's value."""
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS:
        found = await stack.features(f"steady-{rng.randrange(STEADY)}")
        assert found["api_calls"] in range(1000, 1004), found
        assert found["tier"] == "a-pro"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _fleet(stack: Stack, name: str) -> AsyncIterator[None]:
    """A worker as it runs, its sweep included; nobody rings for it."""
    stop = asyncio.Event()
    async with new_crew(stack.endpoints, name) as crew:
        async with crew.db.connection() as conn:
            await crew.surroundings.refresh(conn)
        working = asyncio.create_task(work_until(stop, crew, "", 4))
        try:
            yield
        finally:
            stop.set()
            await working
