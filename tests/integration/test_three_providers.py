"""
A tenant that pays at Stripe, at Polar and at Clerk at once, and whose people are Clerk's: whatever
ends, and in whatever order it is heard of, what is left is exactly what the others give.

Seats are added up, and each object gives another power of two of them: their sum says which of
the objects count.
"""

import itertools
import os
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from shared.domain.events import Headers
from shared.store.tenants import read_members
from tests.support import clerk, polar_payloads, stripe_events
from tests.support.polar_payloads import NOW_US, headers_of, uuid_of
from tests.support.stack import Stack

SEATS = {"stripe": 1, "polar subscription": 2, "polar order": 4, "clerk": 8}
PLANS: dict[str, Any] = {
    "stripe": {"products": ["stripe:prod_pro"], "features": {"seats": 1, "by_stripe": True}},
    "polar-sub": {"products": [f"polar:{uuid_of('pro')}"],
                  "features": {"seats": 2, "by_polar": True}},
    "polar-order": {"products": [f"polar:{uuid_of('book')}"],
                    "features": {"seats": 4, "book": True}},
    "clerk": {"products": ["clerk:cplan_pro"], "features": {"seats": 8, "by_clerk": True}},
}  # fmt: skip
ONLY = {
    "stripe": "by_stripe", "polar subscription": "by_polar", "polar order": "book",
    "clerk": "by_clerk",
}  # fmt: skip
#: What may end. The first four pay; the others are who signs in.
ENDINGS = (*SEATS, "organization", "membership", "user")
ORDERS_OF_LARGE_SETS = 4


class Sent(NamedTuple):
    """One delivery: its source, its body, and the headers that its provider reads."""

    source: str
    body: bytes
    headers: Headers = ()


class Story(NamedTuple):
    """A tenant of its own: what ended, and all that was sent, in the order of its arrival."""

    tenant: str
    ended: frozenset[str]
    sent: list[Sent]

    @property
    def features(self) -> dict[str, Any]:
        left = [payer for payer in SEATS if payer not in self.ended]
        given: dict[str, Any] = {ONLY[payer]: True for payer in left}
        if left:
            given["seats"] = sum(SEATS[payer] for payer in left)
        return dict(sorted(given.items()))

    @property
    def members(self) -> dict[str, str]:
        if "organization" in self.ended:
            return {}
        people = {f"user_{self.tenant}_1": "org:admin", f"user_{self.tenant}_2": "org:member"}
        if "membership" in self.ended:
            del people[f"user_{self.tenant}_1"]
        if "user" in self.ended:
            del people[f"user_{self.tenant}_2"]
        return people


def at_stripe(kind: str, content: dict[str, Any], created: int) -> Sent:
    number = random.Random(f"{kind}{content['id']}").randrange(10**15)
    body = stripe_events.event(kind, content, created=created, event_id=f"evt_{number}")
    return Sent("stripe", body)


def at_polar(kind: str, content: dict[str, Any], at_us: int) -> Sent:
    return Sent("polar", polar_payloads.event(kind, content, at_us), headers_of(f"{kind}{content}"))


def at_clerk(kind: str, data: dict[str, Any], at_ms: int) -> Sent:
    sent = clerk.event(kind, data, at_ms)
    return Sent("clerk", sent.body, sent.headers)


def of_tenant(name: str) -> dict[str, tuple[list[Sent], list[Sent]]]:
    """By what may end: how it began, and how it ends."""
    now_ms, later_ms = clerk.NOW_MS, clerk.NOW_MS + 60_000
    organization, people = f"org_{name}", [f"user_org_{name}_{number}" for number in (1, 2)]
    bought = stripe_events.subscription(f"sub_{name}", customer=f"cus_{name}", tenant=organization)
    now_s = stripe_events.NOW_S
    buyer = polar_payloads.customer(name, external_id=organization)
    subscribed = polar_payloads.subscription(f"{name}'s sub", of=buyer)
    revoked = polar_payloads.subscription(
        f"{name}'s sub", of=buyer, status="canceled", modified_us=NOW_US,
        ended_at=polar_payloads.iso(NOW_US),
    )  # fmt: skip
    ordered = polar_payloads.order(f"{name}'s order", of=buyer)
    returned = polar_payloads.order(
        f"{name}'s order", of=buyer, status="refunded", refunded=5000, modified_us=NOW_US
    )
    refund = polar_payloads.refund(f"{name}'s refund", of=buyer, order_name=f"{name}'s order")
    item = clerk.item(f"csub_item_{name}", organization)
    ended = clerk.item(f"csub_item_{name}", organization, "ended", later_ms)
    memberships = [
        clerk.membership(organization, people[0], "org:admin"),
        clerk.membership(organization, people[1]),
    ]
    return {
        "stripe": (
            [at_stripe("customer.subscription.created", bought, now_s)],
            [at_stripe("customer.subscription.deleted", {**bought, "status": "canceled"},
                       now_s + 60)],
        ),
        "polar subscription": (
            [at_polar("subscription.active", subscribed, NOW_US - 5)],
            [at_polar("subscription.revoked", revoked, NOW_US + 5)],
        ),
        "polar order": (
            [at_polar("order.paid", ordered, NOW_US - 5)],
            [at_polar("refund.created", refund, NOW_US + 3),
             at_polar("order.refunded", returned, NOW_US + 5)],
        ),
        "clerk": (
            [at_clerk("subscriptionItem.active", item, now_ms)],
            [at_clerk("subscriptionItem.ended", ended, later_ms)],
        ),
        "organization": (
            [at_clerk("organization.created", clerk.organization(organization), now_ms)],
            [at_clerk("organization.deleted", clerk.deleted("organization", organization),
                      later_ms)],
        ),
        "membership": (
            [at_clerk("organizationMembership.created", memberships[0], now_ms)],
            [at_clerk("organizationMembership.deleted", memberships[0], later_ms)],
        ),
        "user": (
            [at_clerk("user.created", clerk.user(people[1]), now_ms),
             at_clerk("organizationMembership.created", memberships[1], now_ms)],
            [at_clerk("user.deleted", clerk.deleted("user", people[1]), later_ms)],
        ),
    }  # fmt: skip


def stories(rng: random.Random) -> Iterable[Story]:
    """
    Every set of endings. Of one or two, every order in which what ends is heard of, the rest
    anywhere between; of more, any order of everything.
    """
    numbers = itertools.count()
    for size in range(len(ENDINGS) + 1):
        for ended in itertools.combinations(ENDINGS, size):
            first = of_tenant("0")
            moving = [one for name in ended for side in first[name] for one in side]
            orders: Iterable[tuple[int, ...] | None] = [None] * ORDERS_OF_LARGE_SETS
            if 0 < size <= 2:
                every = list(itertools.permutations(range(len(moving))))
                orders = every if len(every) <= 24 else rng.sample(every, 24)
            for order in orders:
                name = str(next(numbers))
                of = of_tenant(name)
                rest = [one for other in ENDINGS if other not in ended for one in of[other][0]]
                moving = [one for other in ended for side in of[other] for one in side]
                if order is None:
                    sent = [*rest, *moving]
                    rng.shuffle(sent)
                else:
                    sent = [moving[index] for index in order]
                    for one in rest:
                        sent.insert(rng.randint(0, len(sent)), one)
                yield Story(f"org_{name}", frozenset(ended), sent)


@pytest.fixture
async def shop(stack: Stack) -> Stack:
    await stack.add_source("polar", "polar", True)
    await stack.add_source("clerk", "clerk", True)
    await stack.configure(plans=PLANS, features={"seats": {"combine": "sum"}})
    return stack


async def tell(shop: Stack, sent: Iterable[Sent]) -> None:
    """Receive what has one source together, and apply it all."""
    by_source: dict[str, list[Sent]] = {}
    for one in sent:
        by_source.setdefault(one.source, []).append(one)
    for source, some in by_source.items():
        headers = [one.headers for one in some]
        await shop.receive(*[one.body for one in some], source=source, headers=headers)
    await shop.drain()


async def members(shop: Stack, tenant: str) -> dict[str, str]:
    async with shop.owner.connection() as conn:
        page = await read_members(conn, tenant, 0, 500)
    return {one["member"]: one["role"] for one in page.items} if page is not None else {}


async def test_whatever_ends_leaves_what_the_others_give(
    shop: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    told = list(stories(rng))
    # One event of each tenant at a time: what a tenant hears, it hears in its own order.
    for turn in range(max(len(story.sent) for story in told)):
        await tell(shop, [story.sent[turn] for story in told if turn < len(story.sent)])
    for story in told:
        what = f"seed {seed}: {sorted(story.ended)}, {[one.body[-40:] for one in story.sent]}"
        assert await shop.features(story.tenant) == story.features, what
        assert await members(shop, story.tenant) == story.members, what
        found = await shop.tenant(story.tenant)
        assert found is not None
        is_gone = {one["customer"]: one["isDeleted"] for one in found["customers"]}
        assert is_gone[story.tenant] == ("organization" in story.ended), what
    assert await shop.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
    assert await shop.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0
    sets = {story.ended for story in told}
    with capsys.disabled():
        print(f"\n  {len(told)} tenants, {sum(len(one.sent) for one in told)} events,"
              f" {len(sets)} sets of endings")  # fmt: skip
    assert len(sets) == 2 ** len(ENDINGS)


async def test_each_ending_takes_its_own_and_no_more(shop: Stack) -> None:
    """One after the other, with what is left looked at each time, and in the trail."""
    of = of_tenant("1")
    await tell(shop, [one for begun, _ in of.values() for one in begun])
    story = Story("org_1", frozenset(), [])
    assert await shop.features("org_1") == story.features
    for name in ("organization", "user", "stripe", "membership", "polar order", "clerk",
                 "polar subscription"):  # fmt: skip
        story = story._replace(ended=story.ended | {name})
        await tell(shop, of[name][1])
        assert await shop.features("org_1") == story.features, name
        assert await members(shop, "org_1") == story.members, name
    assert story.features == {}
    revoked = await shop.fetch(
        "SELECT actor FROM audit WHERE tenant = 'org_1' AND action = 'entitlement.revoked'"
        " ORDER BY id"
    )
    assert [row["actor"] for row in revoked] == [
        "provider:stripe", "provider:polar", "provider:clerk", "provider:polar", "provider:polar",
    ]  # fmt: skip
