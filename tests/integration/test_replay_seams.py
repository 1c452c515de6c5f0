"""Where plans of replays meet what others do meanwhile: links, catalogs, pauses."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from shared.domain.keys import CustomerKey
from shared.domain.outcomes import RetryPolicy
from tests.integration.test_rehearsal_limits import created, settled
from tests.integration.test_replaying import refusal, step
from tests.support.acme import add_acme, licence
from tests.support.replaying import BROKEN, finish, later_runs, mend, plan, run, state, turns
from tests.support.stack import Stack
from tests.support.stripe_events import customer, event
from workers import rehearsal
from workers.jobs.replaying import Replaying
from workers.steering import cancel_job, pause_job
from workers.watched import TENANT, Outgrown


async def nobodys(stack: Stack, *accounts: str) -> list[UUID]:
    """Licences that name no tenant, dead by a bug that is mended."""
    await add_acme(stack, BROKEN)
    patient, stack.crew.retry = stack.crew.retry, RetryPolicy(1, 0.01, 0.01)
    bodies = [licence(one, id=f"lic_{one}", account=one, tenant=None) for one in accounts]
    ids = await stack.apply(*bodies, source="acme")
    stack.crew.retry = patient
    assert set(await stack.outcomes(ids)) == {"dead"}
    await mend(stack)
    return ids


async def test_a_link_made_after_the_plan_overtakes_it(stack: Stack) -> None:
    """It said that they would be parked, and now they would be somebody's."""
    await nobodys(stack, "a_1", "a_2")
    made, told = await plan(stack, status="dead")
    assert told["effect"]["outcomes"] == {"parked": 2}
    await stack.link(CustomerKey(stack.sources["acme"], "", True, "a_9"), "t")
    assert await refusal(stack, made) is None, "that is nobody of the plan's"
    await stack.link(CustomerKey(stack.sources["acme"], "", True, "a_2"), "t")
    assert await refusal(stack, made) == "plan_overtaken"
    made, told = await plan(stack, status="dead")
    assert told["effect"]["outcomes"] == {"applied": 1, "parked": 1}
    done = await finish(stack, await run(stack, made))
    assert done["progress"]["counts"] == {"applied": 1, "parked": 1}


async def test_a_link_to_a_tenant_that_was_looked_at_overtakes_it_too(stack: Stack) -> None:
    await nobodys(stack, "a_1", "a_2")
    await stack.link(CustomerKey(stack.sources["acme"], "", True, "a_1"), "t")
    made, _ = await plan(stack, status="dead")
    await stack.link(CustomerKey(stack.sources["acme"], "", True, "a_2"), "t")
    assert await refusal(stack, made) == "plan_overtaken"


async def test_an_event_that_tells_whose_a_customer_is_overtakes_it(stack: Stack) -> None:
    await stack.apply(created("a"))
    made, _ = await plan(stack, source="stripe")
    await stack.apply(event("customer.created", customer("cus_z", tenant="z")))
    assert await refusal(stack, made) is None, "that is nobody of the plan's"
    await stack.apply(event("customer.created", customer("cus_a", tenant="t")))
    assert await refusal(stack, made) == "plan_overtaken"


async def test_what_its_own_runs_told_of_customers_is_no_news(stack: Stack) -> None:
    """What a cancelled run has left is run by the same plan."""
    await nobodys(stack, "a_1", "a_2", "a_3")
    for one in ("a_1", "a_2", "a_3"):
        await stack.link(CustomerKey(stack.sources["acme"], "", True, one), f"t{one}")
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made, rate=1), turns(stack)
    for _ in range(2):
        await step(stack, job, taking)
    async with stack.owner.transaction() as conn:
        await cancel_job(conn, job, "operator:ada", "enough")
    assert (await finish(stack, job))["state"] == "cancelled"
    await stack.drain()
    assert [1, 2] in (await later_runs(stack)).values()
    assert await refusal(stack, made) is None
    again = await finish(stack, await run(stack, made))
    assert again["progress"]["failed"] == 0
    assert set(map(tuple, (await later_runs(stack)).values())) == {(1, 2)}


async def test_a_tenant_behind_the_catalog_is_said_to_be(stack: Stack) -> None:
    """What it would come to depends on who derives it first, the sweep or the replay."""
    await stack.apply(created("a", "t"), created("b", "u"))
    _, told = await plan(stack, source="stripe")
    assert (told["effect"]["missed"], told["effect"]["missedBy"]) == (0, {})
    await stack.configure(plans={"pro": {"products": ["stripe:prod_pro"], "features": {"seats": 3},
                                         "graceS": 0}})  # fmt: skip
    await stack.fetch(
        "UPDATE tenants SET catalog_version = (SELECT max(version) FROM catalogs)"
        " WHERE tenant = 'u'"
    )
    _, told = await plan(stack, source="stripe")
    assert told["effect"]["missedBy"] == {"catalog_behind": 1}
    assert told["effect"]["missed"] == 1


async def test_once_it_is_paused_nothing_more_is_opened(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that was begun before the pause, and is not committed, is not taken after it."""
    await nobodys(stack, "a_1", "a_2")
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made), turns(stack)
    await step(stack, job, taking)

    async def paused_meanwhile(_: Replaying, __: object) -> None:
        async with stack.owner.transaction() as conn:
            await pause_job(conn, job, "operator:ada", "a busy hour")

    monkeypatch.setattr(Replaying, "prepare", paused_meanwhile)
    async with stack.crew.db.connection() as conn:
        assert not await taking._step(conn, job)
    assert await stack.value("SELECT count(*) FROM work") == 0
    assert await stack.value("SELECT mark FROM jobs WHERE id = $1", job) is None
    monkeypatch.undo()
    async with stack.owner.transaction() as conn:
        await cancel_job(conn, job, "operator:ada", "the wrong one")
    await asyncio.wait_for(finish(stack, job), 10)
    assert await state(stack, job) == "cancelled"


async def test_a_connection_that_is_lost_while_pieces_are_joined_loses_no_event(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await stack.apply(created("a", "t"))
    tried, asked = rehearsal.Rehearsal._try, rehearsal.owners_among
    grows = [Outgrown(frozenset({(TENANT, "u")})) for _ in range(2)]
    lost = [ConnectionResetError()]

    async def grow(self: rehearsal.Rehearsal, together: Any) -> Any:
        if grows:
            raise grows.pop()
        return await tried(self, together)

    async def loses_one(*args: Any) -> Any:
        if lost:
            raise lost.pop()
        return await asked(*args)

    monkeypatch.setattr(rehearsal.Rehearsal, "_try", grow)
    monkeypatch.setattr(rehearsal, "owners_among", loses_one)
    found = await rehearsal.rehearse(stack.crew, await settled(stack, ids))
    assert (lost, grows) == ([], [])
    assert found.outcomes == {ids[0]: ("unchanged", None)}
    assert found.tenants == {"t", "u"}


async def test_what_a_plan_knew_of_customers_goes_with_it(stack: Stack) -> None:
    await nobodys(stack, "a_1")
    made, _ = await plan(stack, status="dead")
    assert await stack.value("SELECT count(*) FROM replay_customers") == 1
    await stack.fetch("DELETE FROM replay_plans WHERE plan = $1", made)
    assert await stack.value("SELECT count(*) FROM replay_customers") == 0
