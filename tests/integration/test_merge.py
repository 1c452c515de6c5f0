"""Merging under traffic: nothing is lost, and nothing is written under the old name afterwards."""

import asyncio
import random
from typing import Any

import pytest

from shared import db
from shared.domain.commands import Observe
from shared.domain.keys import ObjectKey
from shared.domain.states import Item, ObjectState
from shared.store import grants
from tests.support.stack import Stack, drain, new_crew
from tests.support.stripe_events import NOW_S, customer, event, session, subscription
from workers import trail
from workers.entitle import observe
from workers.entries import NO_LOCKS, SetGrew, Sighted
from workers.merge import Merged, Unmergeable, merge

PRO = {"seats": 10, "sso": True}
#: Somebody waits for a row that another transaction has locked.
WAITERS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
LAST_RECORD = """
SELECT action FROM audit WHERE chain = 'tenant:' || $1 ORDER BY position DESC LIMIT 1
"""


async def merge_now(stack: Stack, tenant: str, into: str) -> Merged:
    """As the command line does it, in the operator's role."""
    more = NO_LOCKS
    async with db.connect(stack.endpoints.database["operator"], "operator") as conn:
        while True:
            try:
                async with conn.transaction():
                    return await merge(conn, tenant, into, "operator:test", "test", more)
            except SetGrew as grew:
                more = grew.locks
            except Exception as error:
                if not db.is_platform_fault(error):
                    raise
                await asyncio.sleep(random.random() / 10)


def created(name: str, tenant: str, product: str = "prod_pro", **more: Any) -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant, product=product)
    return event("customer.subscription.created", content, **more)


async def assert_merged(stack: Stack, tenant: str, into: str) -> None:
    for table in ("objects", "grants", "manual_grants"):
        assert await stack.value(f"SELECT count(*) FROM {table} WHERE tenant = $1", tenant) == 0
    assert await stack.value(LAST_RECORD, tenant) == "tenant.merged"
    async with stack.owner.connection() as conn:
        assert [one async for one in trail.verify(conn, None, lambda _: None)] == []
    assert await stack.features(into) == await stack.features(tenant)


async def test_events_of_two_workers_while_tenants_are_merged(stack: Stack) -> None:
    """One tenant of many customers, merged while half of its events are still to come."""
    customers = [str(number) for number in range(150)]
    first = [created(name, "from") for name in customers[:60]]
    await stack.apply(created("into", "into", "prod_basic"), *first)
    later = [created(name, "from") for name in customers[60:]]
    for name in customers[:60]:
        changed = subscription(f"sub_{name}", customer=f"cus_{name}", tenant="from", quantity=2)
        later.append(
            event("customer.subscription.updated", changed, created=NOW_S + 9,
                  previous={"items": subscription(f"sub_{name}")["items"]})
        )  # fmt: skip
        later.append(event("customer.created", customer(f"cus_{name}", tenant="from")))
    random.Random(5).shuffle(later)

    async def receive() -> None:
        for start in range(0, len(later), 20):
            await stack.receive(*later[start : start + 20])

    async def keep(crew: Any) -> None:
        for _ in range(10):
            await drain(crew)
            await asyncio.sleep(0.02)
        while await stack.value("SELECT count(*) FROM work"):
            await drain(crew)

    async def operate() -> Merged:
        await asyncio.sleep(0.15)
        return await merge_now(stack, "from", "into")

    async with new_crew(stack.endpoints, "second") as second:
        _, _, _, merged = await asyncio.gather(receive(), keep(stack.crew), keep(second), operate())
    assert merged.objects >= 60
    failed = await stack.value("SELECT count(*) FROM settlements WHERE status <> 'processed'")
    assert failed == 0
    assert (
        await stack.value(
            "SELECT count(*) FROM objects WHERE tenant = 'into' AND kind = 'subscription'"
        )
        == len(customers) + 1
    )
    given = await stack.value("SELECT count(*) FROM grants WHERE tenant = 'into' AND plan = 'pro'")
    assert given == 2 * len(customers)
    await assert_merged(stack, "from", "into")


async def test_an_event_that_waits_for_the_old_name_goes_to_the_other(stack: Stack) -> None:
    """It has found out whose it is before the merge, and gets the lock after it."""
    await stack.apply(created("1", "from"), created("2", "into", "prod_basic"))
    late = created("3", "from")
    await stack.receive(late)
    async with (
        new_crew(stack.endpoints, "second") as second,
        db.connect(stack.endpoints.database["operator"], "operator") as conn,
    ):
        async with conn.transaction():
            await grants.lock_tenants(conn, ["from"])
            waiting = asyncio.create_task(drain(second))
            while not await stack.value(WAITERS):
                await asyncio.sleep(0.01)
            await merge(conn, "from", "into", "operator:test", "test")
        await waiting
    assert await stack.value("SELECT tenant FROM objects WHERE object_id = 'sub_3'") == "into"
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    await assert_merged(stack, "from", "into")


async def test_a_merge_sees_what_came_while_it_waited(stack: Stack) -> None:
    """An object that was written under the old name before the merge had its lock."""
    await stack.apply(created("1", "from"), created("2", "into", "prod_basic"))
    state = ObjectState("active", "cus_3", "from", items=(Item(("prod_pro",)),))
    command = Observe("subscription", "sub_3", NOW_S, "arrival", None, state)
    key = ObjectKey(stack.sources["stripe"], "", True, "subscription", "sub_3")
    sighted = Sighted(key, (await stack.receive(created("4", "x")))[0].tracking_id, "evt_3",
                      command, replayed=False)  # fmt: skip
    async with stack.crew.db.transaction() as conn:
        now = await conn.fetchval("SELECT now()")
        (answer,) = await observe(conn, stack.crew.surroundings, now, [sighted])
        assert answer.tenant == "from"
        merging = asyncio.create_task(merge_now(stack, "from", "into"))
        while not await stack.value(WAITERS):
            await asyncio.sleep(0.01)
    merged = await merging
    assert merged.objects == 2
    assert await stack.value("SELECT tenant FROM objects WHERE object_id = 'sub_3'") == "into"
    await assert_merged(stack, "from", "into")


@pytest.mark.parametrize(("tenant", "into"), [("b", "a"), ("a", "c"), ("c", "a")])
async def test_a_merge_that_waited_for_another_looks_again(
    stack: Stack, tenant: str, into: str
) -> None:
    """Also where there is nothing to derive, which would find it out."""
    await stack.fetch("INSERT INTO tenants (tenant) VALUES ('a'), ('b'), ('c')")
    async with db.connect(stack.endpoints.database["operator"], "operator") as conn:
        async with conn.transaction():
            await grants.lock_tenants(conn, ["a", "b"])
            crossed = asyncio.create_task(merge_now(stack, tenant, into))
            while not await stack.value(WAITERS):
                await asyncio.sleep(0.01)
            await merge(conn, "a", "b", "operator:test", "test")
        with pytest.raises(Unmergeable, match="'a' was merged into 'b'"):
            await crossed
    assert await stack.value("SELECT count(merged_into) FROM tenants") == 1


async def test_crossed_merges_make_no_circle(stack: Stack) -> None:
    """Two operators, each the other way round: one of them is refused."""
    await stack.apply(created("1", "a"), created("2", "b", "prod_basic"))
    done = await asyncio.gather(
        merge_now(stack, "a", "b"), merge_now(stack, "b", "a"), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in done) == ["Merged", "Unmergeable"]
    assert await stack.value("SELECT count(merged_into) FROM tenants") == 1
    assert await stack.features("a") == PRO
    assert await stack.features("b") == PRO


async def test_crossed_chains_end_at_one_tenant(stack: Stack) -> None:
    """a into b, while b goes into c: whoever comes second takes the names along, or is refused."""
    await stack.apply(created("1", "a"), created("2", "b"), created("3", "c"))
    done = await asyncio.gather(
        merge_now(stack, "a", "b"), merge_now(stack, "b", "c"), return_exceptions=True
    )
    kinds = [type(one).__name__ for one in done]
    assert kinds in (["Merged", "Merged"], ["Unmergeable", "Merged"])
    into = await stack.fetch(
        "SELECT tenant, merged_into FROM tenants WHERE merged_into IS NOT NULL"
    )
    assert {row["merged_into"] for row in into} == {"c"}
    assert len(into) == kinds.count("Merged")


@pytest.mark.parametrize("is_merged_first", [True, False])
async def test_a_merge_settles_what_both_claimed(stack: Stack, is_merged_first: bool) -> None:
    """Whether the sessions of one second come before it or after."""
    claims = [
        event("customer.subscription.created", subscription("sub_1", customer="cus_1")),
        event("checkout.session.completed", session("cs_1", customer="cus_1", reference="a")),
        event("checkout.session.completed", session("cs_2", customer="cus_1", reference="b")),
    ]
    await stack.apply(
        event("customer.created", customer("cus_a", tenant="a")),
        event("customer.created", customer("cus_b", tenant="b")),
        *(() if is_merged_first else claims),
    )
    merged = await merge_now(stack, "a", "b")
    assert is_merged_first or ("b", "seats") in [(c.tenant, c.feature) for c in merged.changes]
    await stack.apply(*(claims if is_merged_first else ()))
    assert await stack.features("b") == PRO
    assert await stack.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
