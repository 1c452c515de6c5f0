"""Whatever a life was like, its explanation comes to what the tenant may use, now and then."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared import db
from shared.explain import explain
from tests.support.draw import live, seed_of_run
from tests.support.life import Life
from tests.support.model import CATALOG
from tests.support.stack import Stack
from tests.support.telling import tell
from workers.link import link

FEATURES = sorted({name for plan in CATALOG["plans"].values() for name in plan["features"]})


def drawn(seed: int, count: int) -> list[Life]:
    return [live(seed, f"t{number}")[0] for number in range(count)]


@asynccontextmanager
async def reading(stack: Stack) -> AsyncIterator[db.Conn]:
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        yield conn


async def test_an_explanation_comes_to_what_is_granted(stack: Stack) -> None:
    """Its situations are the workers' own: deciding them comes to what is stored."""
    seed = seed_of_run()
    lives = drawn(seed, 120)
    await stack.configure(**CATALOG)
    await tell(stack, random.Random(seed), lives, slice_size=300)
    compared = 0
    async with reading(stack) as conn:
        for tenant in (tenant for life in lives for tenant in life.tenants):
            features = await stack.features(tenant)
            for feature in FEATURES:
                found = await explain(conn, tenant, feature)
                if found is None:
                    assert features == {}
                    continue
                where = f"TEST_SEED={seed} {tenant} {feature}\n{found['text']}"
                assert repr(found["value"]) == repr(features.get(feature)), where
                assert found["notes"] == [], where
                assert any(one["counts"] for one in found["because"]) is (feature in features), (
                    where
                )
                assert max(map(len, found["text"].splitlines())) <= 80, where
                compared += 1
    assert compared > 120


async def test_what_was_so_is_told_as_it_was(stack: Stack) -> None:
    """Events come in parts, operators link between them; each part is remembered."""
    seed = seed_of_run()
    rng = random.Random(seed)
    lives = drawn(seed, 60)
    await stack.configure(**CATALOG)
    tenants = [tenant for life in lives for tenant in life.tenants]
    remembered: list[tuple[str, dict[str, dict[str, Any]]]] = []
    bodies = [body for life in lives for body in life.told]
    links = [pair for life in lives for pair in life.operators.items()]
    rng.shuffle(bodies)
    rng.shuffle(links)
    parts = 5
    for part in range(parts):
        await stack.apply(*bodies[part::parts])
        for customer, tenant in links[part::parts]:
            await _link(stack, customer, tenant)
        at = await stack.value("SELECT clock_timestamp()")
        was = {tenant: await stack.features(tenant) for tenant in tenants}
        remembered.append((at.isoformat(), was))
    had = 0
    async with reading(stack) as conn:
        for at, was in remembered:
            for tenant in tenants:
                for feature in rng.sample(FEATURES, 2):
                    found = await explain(conn, tenant, feature, at)
                    if found is None:
                        assert was[tenant] == {}
                        continue
                    where = f"TEST_SEED={seed} {tenant} {feature} at {at}\n{found['text']}"
                    assert repr(found["value"]) == repr(was[tenant].get(feature)), where
                    assert set(found["notes"]) <= {"nothing_known"}, where
                    had += found["value"] is not None
    assert had > 60


async def _link(stack: Stack, customer: str, tenant: str) -> None:
    url = stack.endpoints.database["operator"]
    async with db.connect(url, "operator") as conn, conn.transaction():
        await link(conn, "stripe", "", customer, tenant, "operator:ada", None)
