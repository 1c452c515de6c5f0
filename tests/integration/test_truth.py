"""
What no event can decide is asked of the provider, and settled by its answer.

A real server that behaves like the API, the real fetching, the real fold: from an undecided second,
a thin event, a list with more pages or a purchase without a key to what the tenant may use.
"""

from collections.abc import AsyncIterator

import pytest

from tests.support.fetching import Scene, look
from tests.support.stack import PLANS, Stack
from tests.support.stripe_api import stripe_api
from tests.support.stripe_events import (
    NOW_S,
    customer,
    entitlement,
    event,
    line_item,
    purchase,
    subscription,
    summary,
    thin_event,
)

PRO, BASIC = {"seats": 10, "sso": True}, {"seats": 1}
CATALOG = {
    **PLANS,
    "book": {"products": ["stripe:prod_book"], "features": {"book": True}},
    **{
        f"key{number}": {"products": [f"stripe:key{number}"], "features": {f"f{number}": True}}
        for number in range(12)
    },
}
T = NOW_S


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    """The source `stripe` with an API key, a catalog, and the API's clock at T + 100."""
    await stack.configure(plans=CATALOG)
    async with stripe_api() as api:
        made = Scene(stack, api)
        await made.set_key()
        api.clock = lambda: T + 100.0
        yield made


async def settled(scene: Scene, *, times: int = 1) -> None:
    """Fetch what is wanted and apply the answers, so many times."""
    fetching = scene.fetching()
    for _ in range(times):
        await scene.make_due()
        await look(fetching)
        await scene.stack.drain()


async def wants(scene: Scene) -> list[str]:
    rows = await scene.stack.fetch("SELECT wants FROM objects WHERE wants IS NOT NULL")
    return [row["wants"] for row in rows]


def undecided() -> list[bytes]:
    """Two updates of one second that tell nothing of what was before: their order is open."""
    return [
        event("customer.subscription.updated", subscription(tenant="a"), event_id="evt_1"),
        event("customer.subscription.updated", subscription(tenant="a", product="prod_basic"),
              event_id="evt_2"),
    ]  # fmt: skip


async def test_an_undecided_second_is_provisional_until_it_is_fetched(scene: Scene) -> None:
    await scene.stack.apply(*undecided())
    assert await wants(scene) == ["order"]
    assert await scene.stack.features("a") == BASIC  # by the larger event id, for now
    scene.api.put(subscription(tenant="a"))
    await settled(scene)
    assert await scene.stack.features("a") == PRO
    assert await wants(scene) == []
    await settled(scene)
    assert len(scene.api.asked) == 1
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 0
    actors = await scene.stack.fetch("SELECT actor FROM audit WHERE step = 0 ORDER BY id")
    assert [row["actor"] for row in actors] == ["provider:stripe"] * 2 + ["system:fetch"]


@pytest.mark.parametrize(("after_s", "gives", "left"), [
    (50, PRO, []),  # before the fetch: it contains the snapshot
    (98, PRO, []),  # in the last second that it contains
    (99, BASIC, ["order"]),  # between: the snapshot for now, and another fetch
    (100, BASIC, ["order"]),  # in the second of its answer
    (101, BASIC, []),  # after: the snapshot is newer
])  # fmt: skip
async def test_a_fetch_beside_a_snapshot(
    scene: Scene, after_s: int, gives: dict[str, object], left: list[str]
) -> None:
    await scene.stack.apply(*undecided())
    scene.api.put(subscription(tenant="a"))
    await settled(scene)
    late = subscription(tenant="a", product="prod_basic")
    await scene.stack.apply(event("customer.subscription.updated", late, created=T + after_s))
    assert await scene.stack.features("a") == gives
    assert await wants(scene) == left
    scene.api.clock = lambda: T + 200.0
    await settled(scene)
    assert await wants(scene) == []
    # What was asked again has the provider's word; what was not, stays as decided.
    assert await scene.stack.features("a") == (PRO if left else gives)


async def test_a_slow_fetch_contains_only_what_was_there_when_it_began(scene: Scene) -> None:
    """Answered after 2 s: what happened in these is not in it, or nobody knows."""
    await scene.stack.apply(*undecided())
    scene.api.put(subscription(tenant="a"))
    scene.api.fail(delay_s=1.5, times=1)
    await settled(scene)
    floor = await scene.stack.value("SELECT version FROM observations WHERE shape = 'fetch'")
    assert T + 100 - 4 <= floor <= T + 100 - 3
    late = subscription(tenant="a", product="prod_basic")
    await scene.stack.apply(event("customer.subscription.updated", late, created=T + 98))
    assert await wants(scene) == ["order"]


async def test_the_same_answer_twice_changes_nothing(scene: Scene) -> None:
    await scene.stack.apply(*undecided())
    scene.api.put(subscription(tenant="a"))
    await settled(scene)
    records = await scene.stack.value("SELECT count(*) FROM audit WHERE step > 0")
    await scene.stack.apply(
        event("customer.subscription.updated", subscription(tenant="a"), created=T - 50)
    )
    await scene.execute("UPDATE objects SET wants = 'order' WHERE wants IS NULL")
    await settled(scene)
    assert await scene.stack.value("SELECT count(*) FROM observations WHERE shape = 'fetch'") == 2
    assert await scene.stack.value("SELECT count(*) FROM audit WHERE step > 0") == records
    assert await wants(scene) == []


@pytest.mark.parametrize("status", [404, 500, 429, 401])
async def test_an_error_delays_the_correction_and_takes_nothing_away(
    scene: Scene, status: int
) -> None:
    await scene.stack.apply(*undecided())
    if status != 404:
        scene.api.put(subscription(tenant="a"))
        scene.api.fail(status=status, times=1)
    await settled(scene)
    assert await scene.stack.features("a") == BASIC
    assert await wants(scene) == ["order"]
    scene.api.put(subscription(tenant="a"))
    await scene.pass_wait()
    await settled(scene)
    assert await scene.stack.features("a") == PRO
    assert await wants(scene) == []


async def test_a_thin_event_is_a_hint_that_fetches(scene: Scene) -> None:
    thin = thin_event("v1.customer.subscription.updated", "subscription", "sub_1", created=T)
    await scene.stack.apply(thin)
    assert await wants(scene) == ["hint"]
    assert await scene.stack.value("SELECT parked FROM objects") == "needs:link"
    scene.api.put(subscription(tenant="a"))
    await settled(scene)
    assert await scene.stack.features("a") == PRO
    assert await wants(scene) == []
    ended = thin_event("v1.customer.subscription.deleted", "subscription", "sub_1", created=T + 150)
    await scene.stack.apply(ended)
    assert await scene.stack.features("a") == PRO
    scene.api.put(subscription(tenant="a", status="canceled"))
    scene.api.clock = lambda: T + 200.0
    await settled(scene)
    assert await scene.stack.features("a") == {}


async def test_a_purchase_without_a_key_is_asked_for_its_line_items(scene: Scene) -> None:
    bought = purchase(customer=None, reference="a")
    await scene.stack.apply(event("checkout.session.completed", bought))
    assert await scene.stack.value("SELECT parked FROM objects") == "needs:line_items"
    whole = purchase(customer=None, reference="a", items=[line_item("prod_book")])
    scene.api.put(whole)
    scene.api.lists["", "/v1/checkout/sessions/cs_1/line_items"] = whole["line_items"]["data"]
    await settled(scene)
    assert await scene.stack.features("a") == {"book": True}
    assert await scene.stack.value("SELECT parked FROM objects") is None
    assert await wants(scene) == []


async def test_a_summary_with_more_pages_is_read_whole(scene: Scene) -> None:
    await scene.stack.set(grants_from="summary")
    keys = [f"key{number}" for number in range(12)]
    scene.api.put(customer(tenant="a"))
    scene.api.lists["", "/v1/entitlements/active_entitlements"] = [
        {**entitlement(key), "customer": "cus_1"} for key in keys[:11]
    ]
    await scene.stack.apply(
        event("customer.created", customer(tenant="a")),
        event("entitlements.active_entitlement_summary.updated", summary("cus_1", keys[11:]),
              created=T - 50),
        event("entitlements.active_entitlement_summary.updated",
              summary("cus_1", keys[:10], has_more=True)),
    )  # fmt: skip
    assert await wants(scene) == ["list"]
    assert set(await scene.stack.features("a")) == {f"f{number}" for number in range(10)} | {"f11"}
    await settled(scene)
    assert set(await scene.stack.features("a")) == {f"f{number}" for number in range(11)}
    assert await wants(scene) == []


async def test_without_a_key_the_verdict_stands_and_says_what_it_is(scene: Scene) -> None:
    await scene.set_key(None)
    await scene.stack.apply(*undecided())
    await settled(scene)
    assert scene.api.asked == []
    assert await scene.stack.features("a") == BASIC
    assert await wants(scene) == ["order"]
