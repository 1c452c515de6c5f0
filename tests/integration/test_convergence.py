"""Any order, any multiplicity, any number of workers: the same entitlements, and the right ones."""

import asyncio
import os
import random
from typing import Any

from shared.domain.keys import CustomerKey
from tests.support.lives import Life, live, shuffled
from tests.support.stack import PLANS, Stack, drain, new_crew
from tests.support.stripe_events import NOW_S, customer, event, session, subscription


def expected(life: Life) -> dict[str, Any]:
    """An independent reading of the status table for one subscription, long before any end."""
    item = life.end["items"]["data"][0]
    plan = next(
        plan for plan in PLANS.values() if f"stripe:{item['price']['product']}" in plan["products"]
    )
    if life.is_deleted or life.end["status"] in ("unpaid", "incomplete", "canceled"):
        return {}
    if life.end["status"] == "past_due" and plan["graceS"] == 0:
        return {}
    return dict(plan["features"])


async def test_lives_told_to_two_workers_at_once(stack: Stack) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    lives = {}
    while len(lives) < 300:
        number = f"sub_{len(lives)}"
        life = live(rng, number, tenant=f"tenant-{len(lives)}")
        # The tenant is what the object names last; here every life keeps its own.
        if life.end["metadata"] == {"tenant_id": f"tenant-{len(lives)}"} and not life.starts_unseen:
            lives[f"tenant-{len(lives)}"] = life
    bodies = shuffled(rng, [body for life in lives.values() for body in life.events])
    async with new_crew(stack.endpoints, "second") as second:
        for first in range(0, len(bodies), 150):
            await stack.receive(*bodies[first : first + 150])
            await asyncio.gather(drain(stack.crew), drain(second))
    for tenant, life in lives.items():
        assert await stack.features(tenant) == expected(life), f"seed {seed}: {tenant}"
    settled = await stack.value("SELECT count(*) FROM settlements WHERE status = 'processed'")
    events = set(bodies)
    assert settled == len(events)
    assert await stack.value("SELECT count(*) FROM audit WHERE step = 0") == len(events)


async def test_an_object_and_its_link_never_pass_each_other(stack: Stack) -> None:
    """1,000 pairs at once, from two workers and from an operator: none stays parked."""
    pairs = 1000
    rng = random.Random(3)
    bodies = []
    by_operator = []
    for number in range(pairs):
        who = f"cus_{number}"
        bodies.append(
            event("customer.subscription.created", subscription(f"sub_{number}", customer=who))
        )
        way = number % 4
        if way == 0:
            bodies.append(event("customer.created", customer(who, tenant=f"t{number}")))
        elif way == 1:
            reference = session(f"cs_{number}", customer=who, reference=f"t{number}")
            bodies.append(event("checkout.session.completed", reference))
        else:
            by_operator.append((who, f"t{number}"))
    rng.shuffle(bodies)
    rng.shuffle(by_operator)

    async def operate() -> None:
        for who, tenant in by_operator:
            key = CustomerKey(stack.sources["stripe"], "", True, who)
            await stack.link(key, tenant)

    async def receive() -> None:
        for first in range(0, len(bodies), 100):
            await stack.receive(*bodies[first : first + 100])

    async with new_crew(stack.endpoints, "second") as second:
        await asyncio.gather(receive(), operate(), _keep(stack, stack.crew), _keep(stack, second))
    assert await stack.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
    granted = await stack.fetch("SELECT tenant, count(*) AS n FROM grants GROUP BY tenant")
    assert {row["tenant"]: row["n"] for row in granted} == {f"t{n}": 2 for n in range(pairs)}


async def _keep(stack: Stack, crew: Any) -> None:
    """Drain again and again while the others are at it."""
    for _ in range(12):
        await drain(crew)
        await asyncio.sleep(0.05)
    while await stack.value("SELECT count(*) FROM work"):
        await drain(crew)


async def test_a_late_older_event_does_not_regress(stack: Stack) -> None:
    old = subscription(status="active", tenant="acme")
    new = subscription(status="canceled", tenant="acme")
    await stack.apply(event("customer.subscription.deleted", new, created=NOW_S + 10))
    (late,) = await stack.apply(event("customer.subscription.created", old, created=NOW_S))
    assert await stack.features("acme") == {}
    assert await stack.outcomes([late]) == ["superseded"]


async def test_an_unknown_status_neither_grants_nor_revokes(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    odd = subscription(status="hibernating", tenant="acme")
    (seen,) = await stack.apply(
        event(
            "customer.subscription.updated",
            odd,
            created=NOW_S + 5,
            previous={"status": "active"},
        )
    )
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    assert await stack.outcomes([seen]) == ["parked"]
    assert await stack.value("SELECT parked FROM objects") == "unknown_status"


async def test_an_unmapped_product_waits_for_its_mapping(stack: Stack) -> None:
    from workers.sweep import derive_again

    new = subscription(product="prod_new", tenant="acme")
    await stack.apply(event("customer.subscription.created", new))
    assert await stack.features("acme") == {}
    assert await stack.value("SELECT parked FROM objects") == "needs:mapping"
    await stack.configure(plans={"n": {"products": ["stripe:prod_new"], "features": {"x": 1}}})
    assert await stack.fetch(
        "SELECT 1 FROM tenants WHERE catalog_version < (SELECT max(version) FROM catalogs)"
    )
    await derive_again(stack.crew, "acme")
    assert await stack.features("acme") == {"x": 1}
    assert (
        await stack.value("SELECT action FROM audit WHERE cause = 'catalog'")
        == "entitlement.granted"
    )


async def test_grace_counts_from_the_first_failure_of_the_unbroken_run(stack: Stack) -> None:
    now = await stack.value("SELECT extract(epoch FROM now())::bigint")
    sub = subscription(tenant="acme")
    late = subscription(status="past_due", tenant="acme")
    again = subscription(status="past_due", tenant="acme", latest_invoice="in_2")
    bodies = [
        event("customer.subscription.created", sub, created=now - 9 * 86400),
        event("customer.subscription.updated", late, created=now - 8 * 86400,
              previous={"status": "active"}),
        event("customer.subscription.updated", again, created=now - 86400,
              previous={"latest_invoice": "in_1"}),
    ]  # fmt: skip
    await stack.apply(bodies[0], bodies[2])
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    await stack.apply(bodies[1])
    assert await stack.features("acme") == {}
