"""Polar through inbox, lanes and workers: lives in any order, replays, and a sandbox beside it."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from shared.explain import explain
from tests.support.draw import seed_of_run
from tests.support.polar_lives import CATALOG, Shop, Told
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
STANDING = """
SELECT o.kind, o.object_id, o.tenant, o.parked, o.register::text AS register, g.feature
FROM objects o LEFT JOIN grants g ON g.object = o.id ORDER BY 1, 2, 6
"""


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
        ends = shop.features(family, "whole")
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


async def standing(stack: Stack) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in await stack.fetch(STANDING)]


async def test_a_replay_of_an_event_with_two_commands_keeps_both(stack: Stack) -> None:
    """The command for the customer must not forget what the one for the subscription observed."""
    await open_shop(stack)
    mine = event("subscription.active", subscription(of=customer(), modified_us=now_us()))
    older = event("subscription.created", subscription(of=customer(), status="incomplete"))
    await tell(stack, [(headers_of("one"), mine), (headers_of("two"), older)])
    await stack.drain()
    assert await stack.features("acme") == {"api_calls": 1000, "sso": True}
    before = await standing(stack)
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)"
            " SELECT tracking_id, received_at, lane, 2, 'operator:me', 'again' FROM inbox"
        )
    await stack.drain()
    assert await standing(stack) == before
    assert await stack.value("SELECT count(*) FROM observations") == 4
    assert await stack.features("acme") == {"api_calls": 1000, "sso": True}


async def test_what_came_before_its_customers_link_is_freed(stack: Stack) -> None:
    await open_shop(stack)
    nobody = customer(external_id=None)
    told = event("subscription.active", subscription(of=nobody, modified_us=now_us()))
    bought = event("order.paid", order(of=nobody))
    await tell(stack, [(headers_of("sub"), told), (headers_of("order"), bought)])
    await stack.drain()
    parked = "SELECT count(*) FROM objects WHERE parked = 'needs:link'"
    assert await stack.value(parked) == 2
    linked = event("customer.updated", customer(modified_us=now_us()))
    await stack.apply(linked, source="polar", headers=[headers_of("link")])
    assert await stack.value(parked) == 0
    assert await stack.features("acme") == {"api_calls": 1000, "sso": True, "book": True}
    # What comes late from before it unlinks nobody.
    created = event("customer.created", nobody)
    await stack.apply(created, source="polar", headers=[headers_of("created")])
    assert await stack.features("acme") == {"api_calls": 1000, "sso": True, "book": True}


@pytest.mark.parametrize("refunds", ["whole", "flagged"])
async def test_refunds_and_their_order_in_any_order(stack: Stack, refunds: str) -> None:
    await open_shop(stack, refunds=refunds)
    at = now_us()
    whole = [
        (headers_of("paid"), event("order.paid", order(modified_us=at - 9))),
        (headers_of("refund"), event("refund.created", refund(created_us=at - 5))),
        (headers_of("refunded"), event("order.refunded", order(
            status="refunded", refunded=5000, modified_us=at - 4))),
    ]  # fmt: skip
    flagged = [
        (headers_of("other"), event("order.paid", order("other", to="course"))),
        (headers_of("flag"), event("refund.created", refund(
            "flag", order_name="other", amount=1, revokes=True))),
    ]  # fmt: skip
    told = [*whole, *flagged]
    random.Random(refunds).shuffle(told)
    for one in told:  # each in a transaction of its own
        await tell(stack, [one])
        await stack.drain()
    assert await stack.features("acme") == ({} if refunds == "whole" else {"book": True})
    assert await stack.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
    failed = event("refund.updated", refund("flag", order_name="other", amount=1, revokes=True,
                                            status="failed", modified_us=at))  # fmt: skip
    await stack.apply(failed, source="polar", headers=[headers_of("failed")])
    assert (await stack.features("acme")).get("course") is True


async def test_a_sandbox_beside_the_live_shop_gives_nothing(stack: Stack) -> None:
    await open_shop(stack)
    await stack.add_source("polar-sandbox", "polar", False)
    body = event("subscription.active", subscription(modified_us=now_us()))
    await stack.apply(body, source="polar-sandbox", headers=[headers_of("one")])
    assert await stack.features("acme") == {}
    rows = await stack.fetch("SELECT DISTINCT livemode FROM objects")
    assert [row["livemode"] for row in rows] == [False]
    await stack.apply(body, source="polar", headers=[headers_of("one")])
    assert await stack.features("acme") == {"api_calls": 1000, "sso": True}
    assert (
        await stack.value("SELECT count(*) FROM objects WHERE object_id = $1", uuid_of("sub")) == 2
    )


async def test_why_a_refunded_order_gives_nothing(stack: Stack) -> None:
    await open_shop(stack)
    refunded = order(status="refunded", refunded=5000, modified_us=now_us() - 5)
    await tell(stack, [(headers_of("refunded"), event("order.refunded", refunded))])
    await stack.drain()
    names = {f"order/{uuid_of('order')}"}
    assert await taken_back_by(stack) == names  # the order says it itself
    made = event("refund.created", refund(created_us=now_us() - 6))
    await stack.apply(made, source="polar", headers=[headers_of("refund")])
    assert await taken_back_by(stack) == {f"refund/{uuid_of('refund')}"}


async def taken_back_by(stack: Stack) -> set[str]:
    """What an explanation says has taken the order's payment back."""
    async with stack.owner.connection() as conn:
        found = await explain(conn, "acme", "book", None)
    assert found is not None
    (missing,) = found["notGiving"]
    assert missing["reason"] == "reversed"
    return {one["object"] for one in missing["by"]}
