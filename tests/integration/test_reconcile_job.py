"""
A provider that drops events is found out, and healed by exactly what it dropped.

Generated lives, an independent model of what their tenants may use, and a simulated provider whose
endpoint was away: some of its events are lost one by one, all of an hour's at once, others come
twice or in the same second.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator

import pytest

from shared.providers import providers
from tests.support.draw import live, seed_of_run
from tests.support.life import Life
from tests.support.model import CATALOG
from tests.support.pulling import ArchiveScene, begin, finish_jobs, turns, work_off
from tests.support.stack import Stack, new_crew
from tests.support.stripe_archive import stripe_archive
from tests.support.stripe_events import NOW_S, customer, event, subscription
from tests.support.stripe_objects import DAY_S, Generation
from tests.support.telling import differences, operate, report
from tests.support.world import Merchant

DECIDING = frozenset(providers()["stripe"].event_types({}))
SINCE = NOW_S - 20 * DAY_S
#: No multiple of a page. `TEST_SUBSCRIPTIONS` brings a larger business in.
SUBSCRIPTIONS = int(os.environ.get("TEST_SUBSCRIPTIONS", "4050"))
#: What every job tells besides the names of what it found.
NOTHING = {"missed": 0, "inserted": 0, "different": 0, "healed": 0, "missing": [], "drift": []}


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[ArchiveScene]:
    """The source `stripe` with an API key, the model's catalog, and an empty account."""
    await stack.configure(**CATALOG)
    async with stripe_archive() as api:
        made = ArchiveScene(stack, api)
        await made.set_key()
        yield made


def recent(seed: int, count: int) -> list[Life]:
    """Lives of the last days: of older ones the provider has forgotten the events."""
    lives: list[Life] = []
    number = 0
    while len(lives) < count:
        life, _ = live(seed, f"t{number}")
        number += 1
        if json.loads(life.told[0])["created"] > SINCE + DAY_S:
            lives.append(life)
    return lives


def populate(scene: ArchiveScene, lives: list[Life]) -> None:
    """What the provider has of these lives."""
    for life in lives:
        scene.api.made(*life.told)
        life.merchant.generation = Generation.BASIL
        scene.api.holds(life.merchant)


@pytest.mark.timeout(300)
async def test_what_was_dropped_is_found_healed_and_nothing_else(scene: ArchiveScene) -> None:
    seed = seed_of_run()
    rng = random.Random(seed)
    lives = recent(seed, 150)
    told = [body for life in lives for body in life.told]
    populate(scene, lives)
    hour = rng.choice(told)
    away_from = json.loads(hour)["created"] - 1800
    dropped, sent = set(), []
    for body in told:
        content = json.loads(body)
        is_away = away_from <= content["created"] < away_from + 3600
        if content["type"] in DECIDING and (is_away or rng.random() < 0.15):
            dropped.add(content["id"])
        else:
            sent += [body] * rng.choice([1, 1, 1, 2])
    rng.shuffle(sent)
    await scene.stack.apply(*sent)
    await operate(scene.stack, rng, lives)
    await scene.settle()
    assert await differences(scene.stack, lives), f"nothing was wrong: TEST_SEED={seed}"

    shown = await work_off(scene, since=SINCE, objects=False, dryRun=True)
    assert (shown["missed"], shown["inserted"]) == (len(dropped), 0)
    assert {one["eventId"] for one in shown["missing"]} <= dropped
    assert await scene.missed() == set()

    found = await work_off(scene, since=SINCE, objects=False)
    assert await scene.missed() == dropped, f"TEST_SEED={seed}"
    assert (found["missed"], found["inserted"]) == (len(dropped), len(dropped))
    wrong = await differences(scene.stack, lives)
    assert not wrong, report(seed, wrong)
    again = await work_off(scene, since=SINCE, objects=False)
    assert {name: again[name] for name in NOTHING} == NOTHING
    # What was late comes after all, as the endpoint has it: no event twice, and no conflict.
    await scene.stack.apply(*told)
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 0
    events = "SELECT count(*) FROM inbox WHERE event_type <> 'sluice.fetched'"
    assert await scene.stack.value(events) == len(told)
    assert await scene.stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0


@pytest.mark.parametrize("tells", ["events", "objects"])
async def test_the_lanes_of_what_is_stored_are_rung_for(scene: ArchiveScene, tells: str) -> None:
    merchant = Merchant(random.Random(1), "m", NOW_S - 1000)
    merchant.subscribe(merchant.customer(tenant="a"), [("prod_pro", 1)])
    merchant.generation = Generation.BASIL
    scene.api.holds(merchant)
    asked: dict[str, object] = {}
    if tells == "events":
        scene.api.made(*merchant.told)
        asked = {"since": SINCE, "objects": False}
    rung: set[int] = set()
    for is_dry in (True, False):
        assert rung == set()
        await begin(scene, "reconcile", dryRun=is_dry, **asked)
        await finish_jobs(scene, turns(scene, ring=rung.update))
    rows = await scene.stack.fetch("SELECT DISTINCT lane FROM inbox")
    assert rung == {row["lane"] for row in rows} != set()


async def test_objects_that_differ_are_found_although_their_events_are_forgotten(
    scene: ArchiveScene,
) -> None:
    merchant = Merchant(random.Random(1), "m", NOW_S - 1000)
    ours = [merchant.customer(tenant=f"t{number}") for number in range(7)]
    them = [merchant.subscribe(one, [("prod_pro", 1)]) for one in ours]
    await scene.stack.apply(*merchant.told)
    merchant.clock += 100
    merchant.end(them[0])
    merchant.change(them[1], status="unpaid")
    merchant.change(them[2], items=[merchant.item("prod_basic")])
    newcomer = merchant.customer(tenant="newcomer")
    merchant.subscribe(newcomer, [("prod_ent", 1)])
    scene.api.holds(merchant)
    del scene.api.objects["", "subscription", them[3].id]  # on no page, and not to be had
    shown = await work_off(scene, dryRun=True)
    # The fifth is the newcomer's customer, who says whose the subscription is.
    assert (shown["different"], shown["healed"]) == (5, 0)
    names = {f"subscription/{one.id}" for one in them[:3]}
    assert names < {one["object"] for one in shown["drift"]}
    assert (await scene.stack.features("t0"))["sso"] is True
    result = await work_off(scene)
    assert result["healed"] >= 4
    assert await scene.stack.features("t0") == {}
    assert await scene.stack.features("t1") == {}
    assert (await scene.stack.features("t2"))["tier"] == "basic"
    assert (await scene.stack.features("newcomer"))["tier"] == "ent"
    # Absence is no end, and neither is a 404.
    assert (await scene.stack.features("t3"))["tier"] == "a-pro"
    asked = [one.path for one in scene.api.asked]
    assert f"/v1/subscriptions/{them[3].id}" in asked
    again = await work_off(scene)
    assert {name: again[name] for name in ("different", "drift")} == {"different": 0, "drift": []}


async def test_the_nightly_one_does_the_same_and_counts(
    scene: ArchiveScene, caplog: pytest.LogCaptureFixture
) -> None:
    merchant = Merchant(random.Random(1), "m", NOW_S - 1000)
    them = [merchant.subscribe(merchant.customer(), [("prod_pro", 1)], tenant=f"t{number}")
            for number in range(5)]  # fmt: skip
    await scene.stack.apply(*merchant.told)
    merchant.end(them[4])
    scene.api.holds(merchant)
    await scene.since()
    await scene.pull("objects")
    row = await scene.at("objects")
    assert (row["place"], row["different"], row["failed"]) == (None, 1, 0)
    levels = [one.levelname for one in caplog.records if "objects were compared" in one.message]
    assert levels == ["ERROR"], "somebody has to look why"
    assert await scene.stack.features("t4") == {}
    await scene.pull("objects")
    row = await scene.at("objects")
    assert (row["number"], row["different"]) == (2, 0)


async def test_what_is_told_while_a_page_is_on_its_way_is_not_overwritten(
    scene: ArchiveScene,
) -> None:
    """The page was read before the change, and answers after it: its number and Date say so."""
    old = subscription("sub_1", tenant="t1", product="prod_basic")
    scene.api.put({**old, "items": {**old["items"]}})
    scene.api.put(customer("cus_1"))
    scene.api.fail(delay_s=2.5, path="/v1/subscriptions", times=1)
    await begin(scene, "backfill")
    working = turns(scene)
    finishing = asyncio.create_task(finish_jobs(scene, working))
    while not any(one.path == "/v1/subscriptions" for one in scene.api.asked):
        await asyncio.sleep(0.02)
    new = subscription("sub_1", tenant="t1", product="prod_pro")
    scene.api.put(new)
    changed = event("customer.subscription.updated", new, created=int(time.time()))
    await scene.stack.receive(changed)
    await finishing
    await scene.settle()
    assert (await scene.stack.features("t1"))["tier"] == "a-pro"


@pytest.mark.timeout(400)
async def test_a_business_of_thousands_is_brought_in_while_it_goes_on(
    scene: ArchiveScene,
) -> None:
    """Workers die on the way, and customers come, change and leave meanwhile."""
    seed = seed_of_run()
    rng = random.Random(seed)
    merchant = Merchant(rng, "m", NOW_S - 300 * DAY_S)
    statuses = ["active"] * 6 + ["trialing", "canceled", "unpaid", "incomplete"]
    for number in range(SUBSCRIPTIONS):
        by_customer = rng.random() < 0.3
        name = f"t{number}"
        one = merchant.customer(told=False, tenant=name if by_customer else None)
        product = rng.choice(["prod_basic", "prod_pro", "prod_team", "prod_ent"])
        merchant.subscribe(
            one, [(product, rng.randint(1, 3))], status=rng.choice(statuses),
            tenant=None if by_customer else name, period_end=NOW_S + 20 * DAY_S,
        )  # fmt: skip
        merchant.clock += rng.randrange(2 * 300 * DAY_S // SUBSCRIPTIONS)
    merchant.told.clear()
    merchant.clock = int(time.time())
    scene.api.holds(merchant)
    job = await begin(scene, "backfill")
    totals = set()
    state = "waiting"
    for turn in range(200):
        async with new_crew(scene.stack.endpoints, f"jobs-{turn}") as crew:
            working = turns(scene, crew)
            running = asyncio.create_task(working.run())
            await asyncio.sleep(rng.uniform(0.5, 4))
            before = len(merchant.told)
            merchant.clock = int(time.time())
            changing = rng.sample(merchant.has.subscriptions, 8)
            for one in changing:
                if rng.random() < 0.3:
                    merchant.end(one)
                else:
                    merchant.change(one, items=[merchant.item("prod_pro", rng.randint(1, 3))])
                scene.api.put(one.shape(merchant.generation))
            bodies = merchant.told[before:]
            rng.shuffle(bodies)
            if bodies:
                await scene.stack.receive(*bodies)
            running.cancel()  # as a process is killed: nothing is given back
            await asyncio.gather(running, return_exceptions=True)
        row = dict((await scene.stack.fetch("SELECT * FROM jobs WHERE id = $1", job))[0])
        totals.add(row["total"])
        state = row["state"]
        await scene.stack.drain()
        if state == "done":
            break
    assert (state, row["done"]) == ("done", SUBSCRIPTIONS), row
    estimates = [total for total in totals if total not in (None, SUBSCRIPTIONS)]
    assert estimates
    assert all(0.7 < total / SUBSCRIPTIONS < 1.4 for total in estimates), estimates
    await scene.settle(times=8)
    life = Life("m", rng, merchant, frozenset(), DAY_S)
    life.tenants = [f"t{number}" for number in range(SUBSCRIPTIONS)]
    wrong = await differences(scene.stack, [life])
    assert not wrong, report(seed, wrong)
    stored = await scene.stack.value("SELECT count(*) FROM inbox")
    again = await work_off(scene, "backfill")
    assert again["different"] == 0
    assert await scene.stack.value("SELECT count(*) FROM inbox") == stored


async def test_what_its_webhook_tells_a_moment_later_is_no_drift(scene: ArchiveScene) -> None:
    merchant = Merchant(random.Random(1), "m", NOW_S - 1000)
    one = merchant.subscribe(merchant.customer(), [("prod_pro", 1)], tenant="t1")
    await scene.stack.apply(*merchant.told)
    merchant.clock = int(time.time())
    merchant.end(one)
    scene.api.holds(merchant)
    await begin(scene, "reconcile")
    finishing = asyncio.create_task(finish_jobs(scene, turns(scene)))
    while not any(asked.path == "/v1/subscriptions" for asked in scene.api.asked):
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    await scene.stack.apply(merchant.told[-1])
    await finishing
    result = json.loads(await scene.stack.value("SELECT result FROM jobs"))
    assert (result["different"], result["drift"]) == (0, [])
    assert await scene.stack.features("t1") == {}


async def test_the_first_comparison_waits_until_everything_could_be_brought_in(
    scene: ArchiveScene,
) -> None:
    scene.api.put(subscription("sub_1", tenant="t1"))
    await scene.since(3600)
    assert not await scene.pulling(every_s={"objects": DAY_S}).turn()
    assert scene.api.asked == []
    await scene.since(DAY_S + 1)
    await scene.pull("objects")
    assert await scene.stack.features("t1") != {}
