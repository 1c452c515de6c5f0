"""A live and a test source side by side: no test event ever grants live access."""

import asyncio
import random
from collections import Counter

from tests.support.draw import live, seed_of_run
from tests.support.life import Life
from tests.support.model import CATALOG, Model
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S
from tests.support.telling import differences, report, tell
from workers.sweep import derive_again

SOURCES = {"stripe": True, "stripe-test": False}

OF_OTHER_MODE = """
SELECT count(*) FROM grants AS g JOIN objects AS o ON o.id = g.object
WHERE o.livemode <> $1
"""
FATES = """
SELECT s.name AS source, i.livemode, z.status, z.code, i.event_id
FROM inbox AS i JOIN settlements AS z USING (tracking_id) JOIN sources AS s ON s.id = i.source_id
"""
PARKED = """
SELECT o.object_id FROM objects AS o JOIN sources AS s ON s.id = o.source_id
WHERE s.name = $1 AND o.parked = 'other_mode'
"""


async def test_test_events_never_grant_live_access(stack: Stack) -> None:
    seed = seed_of_run()
    await stack.configure(SOURCES, **CATALOG)
    # The same tenants in both modes, with other lives; some tenants only in test mode.
    of_live = [live(seed, f"t{n}")[0] for n in range(120)]
    of_test = [live(seed + 1, f"t{n}", livemode=False)[0] for n in range(150)]
    told = asyncio.gather(
        tell(stack, random.Random(seed), of_live),
        tell(stack, random.Random(seed), of_test, source="stripe-test"),
        tell(stack, random.Random(seed), of_test[:40], source="stripe"),
        tell(stack, random.Random(seed), of_live[:40], source="stripe-test"),
    )
    while not told.done():
        assert await stack.value(OF_OTHER_MODE, True) == 0
        await asyncio.sleep(0.02)
    await told

    wrong = await differences(stack, of_live)
    assert not wrong, report(seed, wrong)
    for life in of_test[120:]:
        assert not any([await stack.features(tenant) for tenant in life.tenants])
    assert await stack.value(OF_OTHER_MODE, True) == 0
    by_test = "SELECT count(*) FROM audit WHERE source = 'stripe-test' AND step > 0"
    assert await stack.value(by_test) == 0, "and none ever did"

    await _each_is_visible(stack, of_live, of_test)

    # The same database in the other mode: what was kept back grants, the live ones no longer.
    await stack.configure(SOURCES, **CATALOG, mode="test")
    for row in await stack.fetch("SELECT tenant FROM tenants"):
        await derive_again(stack.crew, row["tenant"])
    wrong = await differences(stack, of_test)
    assert not wrong, report(seed, wrong)
    assert await stack.value(OF_OTHER_MODE, False) == 0


async def _each_is_visible(stack: Stack, of_live: list[Life], of_test: list[Life]) -> None:
    """A stray event is ignored with its reason; a test object waits, and is listed."""
    fates: Counter[tuple[str, bool]] = Counter()
    for row in await stack.fetch(FATES):
        is_stray = row["livemode"] != SOURCES[row["source"]]
        fates[row["source"], is_stray] += 1
        assert (row["code"] == "mode_mismatch") is is_stray, dict(row)
        assert row["status"] == "ignored" or not is_stray
    assert fates["stripe", True] == sum(len(life.told) for life in of_test[:40])
    assert fates["stripe-test", True] == sum(len(life.told) for life in of_live[:40])

    waiting = {row["object_id"] for row in await stack.fetch(PARKED, "stripe-test")}
    giving = {name for life in of_test for name in _giving(life)}
    assert len(giving) > 40
    assert giving <= waiting
    assert not await stack.fetch(PARKED, "stripe")


def _giving(life: Life) -> list[str]:
    """What would give something to somebody, were it real."""
    has = life.merchant.has
    model = Model(has, life.operators, CATALOG)
    return [
        one.id
        for one in has.subscriptions
        if model.tenant_of(one.tenant, one.customer) and list(model.of_subscription(one, NOW_S))
    ] + [
        one.id
        for one in has.sessions
        if model.tenant_of(one.tenant, one.customer) and list(model.of_purchase(one, NOW_S))
    ]
