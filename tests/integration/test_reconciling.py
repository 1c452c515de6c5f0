"""Whatever Polar did not tell is found by asking for each customer's state."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.support.draw import seed_of_run
from tests.support.polar_api import polar_api
from tests.support.reconciling import PolarScene, finish
from tests.support.stack import Stack


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[PolarScene]:
    """The source `polar` with an API key, and an organization without customers."""
    async with polar_api() as api:
        made = PolarScene(stack, api)
        await made.open()
        yield made


async def populate(scene: PolarScene, count: int) -> list[str]:
    """So many customers with a subscription each, of whom every event arrived; their tenants."""
    sent = []
    for number in range(count):
        sent += scene.api.sign_up(f"cus_{number}", f"t{number}")
        sent += scene.api.subscribe(f"cus_{number}", f"sub_{number}")
    await scene.deliver(*sent)
    return [f"t{number}" for number in range(count)]


async def test_what_was_dropped_is_found_and_healed_by_one_round(scene: PolarScene) -> None:
    tenants = await populate(scene, 6)
    await scene.deliver(*scene.api.cancel("sub_5"))
    # From here on the endpoint is switched off.
    scene.api.revoke("sub_0")
    scene.api.sign_up("cus_new", "newcomer")
    scene.api.subscribe("cus_new", "sub_new")
    scene.api.sign_up("cus_second", "second")
    scene.api.subscribe("cus_1", "sub_more")
    scene.api.revoke("sub_1")
    scene.api.delete("cus_2")
    scene.api.uncancel("sub_5")
    assert await scene.with_access(tenants) == set(tenants)
    await scene.reconcile()
    everybody = [*tenants, "newcomer", "second"]
    assert await scene.with_access(everybody) == {"t1", "t3", "t4", "t5", "newcomer"}
    given = await scene.stack.tenant("t5")
    assert given is not None
    assert {one["validUntil"] for one in given["entitlements"]} == {None}
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE wants IS NOT NULL") == 0


async def test_a_second_round_changes_nothing_and_stores_nothing(scene: PolarScene) -> None:
    await populate(scene, 3)
    scene.api.revoke("sub_0")
    scene.api.subscribe("cus_1", "sub_more")
    await scene.reconcile()
    stored, asked = await scene.states(), len(scene.api.asked)
    before = await scene.stack.fetch("SELECT id, register, wants, updated_at FROM objects")
    await scene.reconcile()
    assert await scene.states() == stored
    assert await scene.stack.fetch("SELECT id, register, wants, updated_at FROM objects") == before
    assert len(scene.api.asked) == asked + 1 + 1 + 3  # the proof, the page, each one's state
    row = await scene.round()
    assert (row["round"], row["looked_at"], row["different"], row["failed"]) == (2, 3, 0, 0)


async def test_what_a_round_finds_is_an_event_by_its_own_actor(scene: PolarScene) -> None:
    await populate(scene, 1)
    scene.api.subscribe("cus_0", "sub_more")
    await scene.reconcile()
    found = await scene.stack.fetch(
        "SELECT split_part(i.subject, '/', 1) AS kind, a.actor FROM inbox i"
        " JOIN audit a ON a.cause_id = i.tracking_id::text AND a.step = 0"
        " WHERE i.event_type = 'sluice.fetched' ORDER BY i.received_at"
    )
    assert [tuple(row) for row in found] == [
        ("customer_state", "system:reconcile"), ("subscription", "system:fetch"),
    ]  # fmt: skip
    assert await scene.stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0


async def test_an_answer_that_says_what_is_held_is_not_stored(scene: PolarScene) -> None:
    await populate(scene, 4)
    await scene.reconcile()
    assert await scene.states() == 0
    assert (await scene.round())["looked_at"] == 4


async def test_a_subscription_that_came_and_went_between_two_rounds_is_found(
    scene: PolarScene,
) -> None:
    """Both rounds get the same state: what was stored last tells nothing of what is held now."""
    scene.api.sign_up("cus_0", "t0")
    await scene.reconcile()
    await scene.deliver(*scene.api.subscribe("cus_0", "sub_0")[:1])
    assert await scene.with_access(["t0"]) == {"t0"}
    scene.api.revoke("sub_0")
    await scene.reconcile()
    assert await scene.with_access(["t0"]) == set()


async def test_all_pages_are_read_the_oldest_first(scene: PolarScene) -> None:
    for number in range(230):
        scene.api.sign_up(f"cus_{number}", f"t{number}")
    await scene.reconcile()
    pages = [asked.query for asked in scene.api.asked if asked.path == "/v1/customers/"]
    assert pages == [
        {"page": str(number), "limit": "100", "sorting": "created_at"} for number in (1, 2, 3)
    ]
    row = await scene.round()
    assert (row["looked_at"], row["different"]) == (230, 230)
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE kind = 'customer'") == 230


async def test_whatever_is_dropped_of_many_lives_one_round_heals(scene: PolarScene) -> None:
    seed = seed_of_run()
    rng = random.Random(seed)
    api, told = scene.api, []
    for number in range(60):
        customer, subscription = f"cus_{number}", f"sub_{number}"
        acts = [api.sign_up(customer, f"t{number}")]
        for name in (subscription, f"{subscription}_more")[: rng.randrange(3)]:
            acts.append(api.subscribe(customer, name))
            acts += [
                act(name)
                for act in rng.sample([api.cancel, api.uncancel, api.fail_payment, api.revoke], 2)
                if rng.random() < 0.5 and api.subscriptions[name]["status"] != "canceled"
            ]
        if rng.random() < 0.1:
            acts.append(api.delete(customer))
        told += [one for sent in acts for one in sent if rng.random() < 0.5]
    rng.shuffle(told)
    await scene.deliver(*told)
    await scene.make_due()
    await scene.reconcile()
    await scene.settle(times=15)
    pays = {
        f"t{one['customer_id'].removeprefix('cus_')}"
        for one in api.subscriptions.values()
        if one["status"] in ("active", "past_due")
    }
    tenants = [f"t{number}" for number in range(60)]
    # Past due ones that nobody told of are in no state: of these nothing is promised.
    silent = {
        f"t{one['customer_id'].removeprefix('cus_')}"
        for one in api.subscriptions.values()
        if one["status"] == "past_due"
    }
    found = await scene.with_access(tenants)
    assert found - silent == pays - silent, f"TEST_SEED={seed}"
    assert await scene.stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0
    stored = await scene.states()
    await scene.reconcile()
    await scene.settle(times=5)
    assert await scene.states() - stored <= len(silent), f"TEST_SEED={seed}"


# When -------------------------------------------------------------------------------------------


async def test_a_source_that_had_no_round_has_one_at_once_and_the_next_in_time(
    scene: PolarScene,
) -> None:
    scene.api.sign_up("cus_0", "t0")
    process = scene.reconciling(every_s=3600)
    await finish(process)
    asked = len(scene.api.asked)
    assert not await process.turn()
    await scene.execute("UPDATE reconciliations SET begun_at = begun_at - interval '3599 s'")
    assert not await process.turn()
    assert len(scene.api.asked) == asked
    await scene.execute("UPDATE reconciliations SET begun_at = begun_at - interval '2 s'")
    await finish(process)
    assert (await scene.round())["round"] == 2


async def test_with_0_there_is_none(scene: PolarScene) -> None:
    scene.api.sign_up("cus_0", "t0")
    assert not await scene.reconciling(every_s=0).turn()
    assert scene.api.asked == []
    assert await scene.stack.value("SELECT count(*) FROM reconciliations") == 0


async def test_without_a_key_there_is_none(scene: PolarScene) -> None:
    await scene.set_key(None, source="polar")
    assert not await scene.reconciling().turn()
    assert scene.api.asked == []


# Absence ----------------------------------------------------------------------------------------


async def test_what_is_not_listed_is_asked_for_and_keeps_what_it_gives_until_then(
    scene: PolarScene,
) -> None:
    (tenant,) = await populate(scene, 1)
    scene.api.revoke("sub_0")
    await finish(scene.reconciling())
    await scene.stack.drain()
    wants = "SELECT wants FROM objects WHERE object_id = 'sub_0'"
    assert await scene.stack.value(wants) == "missing"
    assert await scene.with_access([tenant]) == {tenant}
    await scene.settle()
    assert await scene.stack.value(wants) is None
    assert await scene.with_access([tenant]) == set()


async def test_absence_is_no_end(scene: PolarScene) -> None:
    """Polar gives states out of a cache: what is not in it may be there all the same."""
    scene.api.sign_up("cus_0", "t0")
    scene.api.cache_state("cus_0")
    await scene.deliver(*scene.api.subscribe("cus_0", "sub_0")[:1])
    await scene.reconcile()
    assert "/v1/subscriptions/sub_0" in [asked.path for asked in scene.api.asked]
    assert await scene.with_access(["t0"]) == {"t0"}
    # Asked for itself, later than the summary: it has its answer.
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE wants IS NOT NULL") == 0
    assert await scene.stack.value("SELECT count(*) FROM work") == 0


async def test_a_state_that_was_sent_has_the_same_effect(scene: PolarScene) -> None:
    (tenant,) = await populate(scene, 1)
    *_, state_changed = scene.api.revoke("sub_0")
    await scene.deliver(state_changed)
    assert await scene.with_access([tenant]) == {tenant}
    await scene.settle()
    assert await scene.with_access([tenant]) == set()


async def test_an_old_state_says_nothing_of_what_came_after_it(scene: PolarScene) -> None:
    scene.api.sign_up("cus_0", "t0")
    late = scene.api.event("customer.state_changed", scene.api.state("cus_0"))
    await scene.deliver(*scene.api.subscribe("cus_0", "sub_0")[:1], late)
    assert await scene.with_access(["t0"]) == {"t0"}
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE wants IS NOT NULL") == 0


async def test_what_no_state_lists_is_asked_for_itself(scene: PolarScene) -> None:
    """A past due subscription gives access in its grace, and no state lists it."""
    scene.api.tell_own_time()
    (tenant,) = await populate(scene, 1)
    await scene.deliver(*scene.api.fail_payment("sub_0"))
    scene.api.now += timedelta(minutes=1)
    await scene.reconcile()
    assert await scene.with_access([tenant]) == {tenant}
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE wants IS NOT NULL") == 0
    scene.api.revoke("sub_0")
    scene.api.now += timedelta(minutes=1)
    await scene.reconcile()
    assert await scene.with_access([tenant]) == set()


async def test_where_the_state_grants_it_decides_by_itself(scene: PolarScene) -> None:
    await scene.stack.set("polar", grants_from="state")
    (tenant,) = await populate(scene, 1)
    assert await scene.with_access([tenant]) == {tenant}
    scene.api.revoke("sub_0")
    await finish(scene.reconciling())
    await scene.stack.drain()
    assert await scene.with_access([tenant]) == set()
    assert await scene.stack.value("SELECT count(*) FROM objects WHERE wants IS NOT NULL") == 0
    scene.api.subscribe("cus_0", "sub_1")
    await scene.reconcile()
    assert await scene.with_access([tenant]) == {tenant}
    stored = await scene.states()
    await scene.reconcile()
    assert await scene.states() == stored


async def test_where_benefits_grant_a_grant_that_is_not_listed_is_asked_for(
    scene: PolarScene,
) -> None:
    await scene.stack.set("polar", grants_from="benefits")
    (tenant,) = await populate(scene, 1)
    assert await scene.with_access([tenant]) == {tenant}
    scene.api.revoke("sub_0")
    await scene.reconcile()
    assert await scene.with_access([tenant]) == set()
    assert "/v1/benefit-grants/" in [asked.path for asked in scene.api.asked]


# Together with what is sent -----------------------------------------------------------------------


async def test_what_is_sent_meanwhile_does_not_lose_to_an_older_page(scene: PolarScene) -> None:
    """The answers are read, then everything happens and is delivered, then they come."""
    tenants = await populate(scene, 3)
    scene.api.subscribe("cus_0", "sub_dropped")  # so that there is something to be stored
    scene.api.subscribe("cus_1", "sub_also_dropped")
    scene.api.tell_own_time()
    process = scene.reconciling()
    await process.turn()  # the page
    scene.api.now += timedelta(minutes=1)
    for number in range(3):
        scene.api.fail(delay_s=0.5, path=f"/v1/customers/cus_{number}/state", times=1)
    asked = asyncio.create_task(process.turn())
    await until_asked(scene, 4)
    scene.api.now += timedelta(minutes=1)
    await scene.deliver(
        *scene.api.revoke("sub_0"),
        *scene.api.revoke("sub_dropped"),
        *scene.api.subscribe("cus_2", "sub_2_more"),
        *scene.api.revoke("sub_2"),
    )
    await asked
    await finish(process)
    await scene.settle()
    assert await scene.with_access(tenants) == {"t1", "t2"}
    given = "SELECT count(DISTINCT o.object_id) FROM grants g JOIN objects o ON o.id = g.object"
    assert await scene.stack.value(given) == 3  # sub_1, sub_also_dropped, sub_2_more


async def until_asked(scene: PolarScene, requests: int) -> None:
    async with asyncio.timeout(5):
        while len(scene.api.asked) < requests:
            await asyncio.sleep(0.01)


# Faults -----------------------------------------------------------------------------------------


async def test_another_worker_goes_on_where_one_was_killed(scene: PolarScene) -> None:
    await populate(scene, 20)
    for number in range(20):
        scene.api.subscribe(f"cus_{number}", f"more_{number}")
    first, second = scene.reconciling(at_once=4), scene.reconciling(at_once=4)
    await first.turn()  # the page
    await first.turn()  # four of them
    hanging = scene.api.fail(hang=True, path="/v1/customers/cus_5/state", times=1)
    killed = asyncio.create_task(first.turn())
    await until_asked(scene, 1 + 4 + 4)
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    assert hanging.times == 0
    assert not await second.turn()  # it may still be at it
    await scene.pass_round_claims()
    await finish(second)
    row = await scene.round()
    assert (row["phase"], row["looked_at"], row["different"]) == (None, 20, 20)
    states = [asked.path for asked in scene.api.asked if asked.path.endswith("/state")]
    assert len(states) == 20 + 4
    await scene.settle(times=5)
    assert await scene.stack.value("SELECT count(*) FROM grants") == 40 * 2


async def test_who_lost_its_claim_moves_nothing(scene: PolarScene) -> None:
    await populate(scene, 8)
    for number in range(8):
        scene.api.subscribe(f"cus_{number}", f"more_{number}")
    slow, other = scene.reconciling(at_once=4), scene.reconciling(at_once=4)
    await slow.turn()
    scene.api.fail(delay_s=0.6, path="/v1/customers/", times=4)
    late = asyncio.create_task(slow.turn())
    await until_asked(scene, 1 + 4)
    await scene.pass_round_claims()
    await finish(other)
    row = await scene.round()
    await late
    assert await scene.round() == row
    assert (row["looked_at"], row["phase"]) == (8, None)
    await scene.settle()
    assert await scene.stack.value("SELECT count(*) FROM grants") == 16 * 2


async def test_two_workers_at_once_ask_for_each_once(scene: PolarScene) -> None:
    await populate(scene, 30)
    processes = [scene.reconciling(at_once=4) for _ in range(3)]
    for _ in range(60):
        await asyncio.gather(*(process.turn() for process in processes))
    row = await scene.round()
    assert (row["phase"], row["looked_at"]) == (None, 30)
    states = [asked.path for asked in scene.api.asked if asked.path.endswith("/state")]
    assert len(states) == len(set(states)) == 30


@pytest.mark.parametrize("path", ["/v1/customers/", "/v1/customers/cus_1/state"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}}, "rate_limited"),
        ({"status": 503}, "server_error"),
        ({"status": 401}, "unauthorized"),
        ({"hang": True}, "timeout"),
        ({"cut_after": 10}, "unreachable"),
        ({"body": b"<html>log in</html>"}, "unreadable"),
        ({"status": 307, "headers": {"Location": "http://127.0.0.1:9/"}}, "unreadable"),
    ],
)
async def test_a_fault_only_delays(
    scene: PolarScene, path: str, fault: dict[str, Any], code: str
) -> None:
    tenants = await populate(scene, 3)
    scene.api.revoke("sub_0")
    scene.api.fail(path=path, times=1, **fault)
    process = scene.reconciling(within_s=0.5)
    await process.turn()
    if path != "/v1/customers/":
        await process.turn()
    row = await scene.round()
    assert str(row["last_error"]).startswith(f"{code}: ")
    assert row["phase"] == "listed" or row["customers"] == ["cus_1"]
    if code == "rate_limited":
        assert 6 < (await scene.budget())["wait_s"] <= 7
        assert not any(asked.path == "x" for asked in scene.api.asked)
    asked = len(scene.api.asked)
    await process.turn()
    assert len(scene.api.asked) == asked  # not at once
    await scene.pass_wait()
    await scene.execute("UPDATE reconciliations SET due_at = now()")
    await scene.execute("UPDATE fetch_budgets SET tokens = 1000")
    await finish(process)
    await scene.settle()
    row = await scene.round()
    assert (row["looked_at"], row["failed"], row["last_error"]) == (3, 0, None)
    assert await scene.with_access(tenants) == {"t1", "t2"}


async def test_one_customer_who_cannot_be_had_does_not_stop_the_others(scene: PolarScene) -> None:
    tenants = await populate(scene, 3)
    scene.api.revoke("sub_0")
    scene.api.revoke("sub_2")
    scene.api.fail(path="/v1/customers/cus_0/state", status=403)
    await scene.reconcile()
    assert await scene.with_access(tenants) == {"t0", "t1"}
    row = await scene.round()
    assert (row["looked_at"], row["failed"]) == (3, 1)


async def test_the_key_of_another_organization_takes_nothing_away(scene: PolarScene) -> None:
    tenants = await populate(scene, 2)
    ours = scene.api.customers, scene.api.subscriptions
    scene.api.customers, scene.api.subscriptions = {}, {}
    scene.api.sign_up("somebody", "elsewhere")
    await scene.reconcile()
    row = await scene.round()
    assert (row["phase"], row["looked_at"]) == ("listed", 0)
    assert "another organization" in str(row["last_error"])
    assert await scene.stack.tenant("elsewhere") is None
    await scene.execute("UPDATE objects SET wants = 'order' WHERE object_id = 'sub_0'")
    await scene.settle()
    assert (await scene.row("sub_0"))["last_code"] == "not_found"
    assert await scene.with_access(tenants) == set(tenants)
    scene.api.customers, scene.api.subscriptions = ours
    await scene.set_key("polar_oat_1", source="polar")  # what failed is tried at once
    await scene.settle()
    await scene.reconcile()
    row = await scene.round()
    assert (row["phase"], row["looked_at"], row["failed"]) == (None, 2, 0)


async def test_strangers_are_no_witnesses(scene: PolarScene) -> None:
    """Nobody was told of when the first round took the customers of somebody else for ours."""
    scene.api.sign_up("somebody", "elsewhere")
    await scene.reconcile()
    scene.api.customers = {}
    tenants = await populate(scene, 1)
    scene.api.subscriptions, scene.api.customers = {}, {}
    scene.api.sign_up("somebody", "elsewhere")
    await scene.reconcile()
    assert await scene.with_access(tenants) == set(tenants)


async def test_what_is_gone_is_believed_by_whom_we_know(scene: PolarScene) -> None:
    tenants = await populate(scene, 2)
    del scene.api.subscriptions["sub_0"]
    await scene.reconcile()
    assert await scene.with_access(tenants) == {"t1"}
    assert (
        await scene.stack.value(
            "SELECT register->'sightings'->0->'state'->>'status' FROM objects"
            " WHERE object_id = 'sub_0'"
        )
        == "deleted"
    )


async def test_fetches_come_before_a_round(scene: PolarScene) -> None:
    """Half of the burst is theirs."""
    await populate(scene, 10)
    process = scene.reconciling(rate=0.001, burst=8)
    await process.turn()
    await process.turn()
    assert len(scene.api.asked) <= 2 + 4
    assert 3.9 < (await scene.budget())["tokens"] < 4.1
