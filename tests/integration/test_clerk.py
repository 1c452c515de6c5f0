"""Clerk through the whole of it: tenants, members, what they pay for, and what a deletion takes."""

import asyncio
import json
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

from shared import db
from shared.domain.keys import CustomerKey
from shared.explain import explain
from shared.store.tenants import read_members
from tests.support.clerk import (
    DAY_MS,
    NOW_MS,
    PLANS,
    Sent,
    deleted,
    event,
    item,
    live,
    membership,
    organization,
    told,
    user,
)
from tests.support.stack import Stack, drain, new_crew
from workers.entries import NO_LOCKS, SetGrew
from workers.merge import merge
from workers.sweep import derive_again

FREE = {"plan": "cplan_free", "amount": 0, "period_end": None}


@pytest.fixture
async def clerk(stack: Stack) -> Stack:
    await stack.add_source("clerk", "clerk", True)
    await stack.configure(plans=PLANS)
    return stack


async def apply(stack: Stack, *sent: Sent, source: str = "clerk") -> list[str]:
    """Outcomes, in their order."""
    bodies, headers = [one.body for one in sent], [one.headers for one in sent]
    return await stack.outcomes(await stack.apply(*bodies, source=source, headers=headers))


async def members(stack: Stack, tenant: str) -> dict[str, str]:
    async with stack.owner.connection() as conn:
        page = await read_members(conn, tenant, 0, 500)
    return {one["member"]: one["role"] for one in page.items} if page is not None else {}


async def customers(stack: Stack, tenant: str) -> dict[str, bool]:
    """customer → whether its provider deleted it"""
    found = await stack.tenant(tenant)
    return {one["customer"]: one["isDeleted"] for one in found["customers"]} if found else {}


async def tenants(stack: Stack) -> list[str]:
    return [row["tenant"] for row in await stack.fetch("SELECT tenant FROM tenants ORDER BY 1")]


async def test_lives_told_to_three_workers_at_once(clerk: Stack) -> None:
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    lives = {f"org_{number}": live(rng, str(number)) for number in range(150)}
    events: list[Sent] = [one for life in lives.values() for one in told(rng, life)]
    rng.shuffle(events)
    async with (
        new_crew(clerk.endpoints, "second") as second,
        new_crew(clerk.endpoints, "third") as third,
    ):
        for first in range(0, len(events), 200):
            some = events[first : first + 200]
            await clerk.receive(
                *[one.body for one in some], source="clerk", headers=[one.headers for one in some]
            )
            await asyncio.gather(*(drain(crew) for crew in (clerk.crew, second, third)))
    for tenant, life in lives.items():
        assert await members(clerk, tenant) == dict(life.shown(tenant)), f"seed {seed}: {tenant}"
        assert await clerk.features(tenant) == life.features(), f"seed {seed}: {tenant}"
        assert await customers(clerk, tenant) == {tenant: tenant in life.gone}, f"seed {seed}"
    assert await clerk.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
    assert await clerk.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0
    told_once = {one.headers for one in events}
    assert await clerk.value("SELECT count(*) FROM audit WHERE step = 0") == len(told_once)


async def test_an_organization_is_a_tenant_and_a_user_is_one_who_pays(clerk: Stack) -> None:
    await apply(
        clerk,
        event("user.created", user("user_1"), NOW_MS),
        event("user.created", user("user_2"), NOW_MS),
        event("organization.created", organization("org_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("organizationMembership.created", membership("org_2", "user_1"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_2", "user_2"), NOW_MS),
    )
    assert await tenants(clerk) == ["org_1", "org_2", "user_2"]
    assert await clerk.features("user_2") == {"seats": 10, "sso": True}
    assert await members(clerk, "org_1") == {"user_1": "org:member"}
    assert await members(clerk, "user_2") == {}


async def test_a_deletion_is_for_good(clerk: Stack) -> None:
    """Late updates, whatever their version, bring nobody back."""
    outcomes = await apply(
        clerk,
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_2"), NOW_MS),
        event("user.deleted", deleted("user", "user_1"), NOW_MS + 10),
    )
    assert outcomes == ["applied"] * 3
    assert await members(clerk, "org_1") == {"user_2": "org:member"}
    outcomes = await apply(
        clerk,
        event("user.updated", user("user_1", NOW_MS + 5), NOW_MS + 5),
        event("user.updated", user("user_1", NOW_MS + 5000), NOW_MS + 5000),
    )
    assert outcomes == ["superseded", "unchanged"]
    assert await members(clerk, "org_1") == {"user_2": "org:member"}
    late = membership("org_1", "user_2", "org:admin", NOW_MS + 9000)
    gone = membership("org_1", "user_2")
    await apply(
        clerk,
        event("organizationMembership.deleted", gone, NOW_MS + 20),
        event("organizationMembership.updated", late, NOW_MS + 9000),
    )
    assert await members(clerk, "org_1") == {}
    # Who comes again has another membership.
    again = membership("org_1", "user_2", "org:admin", NOW_MS + 9000, "orgmem_again")
    await apply(clerk, event("organizationMembership.created", again, NOW_MS + 9000))
    assert await members(clerk, "org_1") == {"user_2": "org:admin"}


async def test_a_role_that_changes_is_seen_and_in_the_trail(clerk: Stack) -> None:
    admin = membership("org_1", "user_1", "org:admin", NOW_MS + 10)
    outcomes = await apply(
        clerk,
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("organizationMembership.updated", admin, NOW_MS + 10),
    )
    assert outcomes == ["applied", "applied"]
    assert await members(clerk, "org_1") == {"user_1": "org:admin"}
    # An older one, and one that says the same, change nothing and say so.
    outcomes = await apply(
        clerk,
        event("organizationMembership.updated", membership("org_1", "user_1"), NOW_MS + 3),
        event("organizationMembership.updated", {**admin, "updated_at": NOW_MS + 99}, NOW_MS + 99),
    )
    assert outcomes == ["superseded", "unchanged"]
    assert await members(clerk, "org_1") == {"user_1": "org:admin"}
    rows = await clerk.fetch(
        "SELECT a.action, a.tenant FROM audit a WHERE a.step = 0 ORDER BY a.id"
    )
    assert [row["tenant"] for row in rows] == ["org_1"] * 4


async def test_an_organization_that_is_gone_has_no_members_and_keeps_what_is_paid(
    clerk: Stack,
) -> None:
    await apply(
        clerk,
        event("organization.created", organization("org_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_1", "org_1"), NOW_MS),
        event("organization.deleted", deleted("organization", "org_1"), NOW_MS + 10),
    )
    assert await members(clerk, "org_1") == {}
    assert await customers(clerk, "org_1") == {"org_1": True}
    assert await clerk.features("org_1") == {"seats": 10, "sso": True}
    ended = item("csub_item_1", "org_1", "ended", NOW_MS + 20)
    await apply(clerk, event("subscriptionItem.ended", ended, NOW_MS + 20))
    assert await clerk.features("org_1") == {}


async def test_the_default_plan_waits_for_nothing(clerk: Stack) -> None:
    """Everybody has it. Mapped, it gives what it is mapped to, to whoever has it already."""
    active = item("csub_item_1", "org_1", **FREE)
    await apply(clerk, event("subscriptionItem.active", active, NOW_MS))
    assert await clerk.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0
    assert await clerk.features("org_1") == {}
    bought = item("csub_item_2", "org_1", plan="cplan_new")
    assert await apply(clerk, event("subscriptionItem.active", bought, NOW_MS)) == ["parked"]
    free = {"products": ["clerk:free"], "features": {"seats": 1}}
    await clerk.configure(plans={**PLANS, "free": free})
    await derive_again(clerk.crew, "org_1")
    assert await clerk.features("org_1") == {"seats": 1}


async def test_the_default_plans_item_ends_and_begins_under_one_id(clerk: Stack) -> None:
    free = {"free": {"products": ["clerk:cplan_free"], "features": {"seats": 1}}}
    await clerk.configure(plans={**PLANS, **free})
    walk = [("active", {"seats": 1}), ("ended", {}), ("upcoming", {}), ("active", {"seats": 1})]
    for turn, (status, expected) in enumerate(walk):
        at = NOW_MS + turn
        content = item("csub_item_1", "org_1", status, at, **FREE)
        await apply(clerk, event(f"subscriptionItem.{status}", content, at))
        assert await clerk.features("org_1") == expected


async def test_a_new_catalog_derives_what_is_paid_and_leaves_the_members(clerk: Stack) -> None:
    await apply(
        clerk,
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_1", "org_1"), NOW_MS),
    )
    await clerk.configure(plans={"pro": {**PLANS["pro"], "features": {"seats": 20}}})
    await derive_again(clerk.crew, "org_1")
    assert await clerk.features("org_1") == {"seats": 20}
    assert await members(clerk, "org_1") == {"user_1": "org:member"}
    # Who has members and nothing else has followed too.
    await apply(clerk, event("organizationMembership.created", membership("org_2", "u"), NOW_MS))
    await clerk.configure(plans=PLANS)
    await derive_again(clerk.crew, "org_1")
    await derive_again(clerk.crew, "org_2")
    assert await clerk.value(
        "SELECT bool_and(catalog_version = (SELECT max(version) FROM catalogs)) FROM tenants"
    )


async def test_an_operators_link_takes_an_organization_with_all_that_it_has(clerk: Stack) -> None:
    await apply(
        clerk,
        event("organization.created", organization("org_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_1", "org_1"), NOW_MS),
    )
    await clerk.link(CustomerKey(clerk.sources["clerk"], "", True, "org_1"), "acme")
    assert await members(clerk, "acme") == {"user_1": "org:member"}
    assert await clerk.features("acme") == {"seats": 10, "sso": True}
    assert (await members(clerk, "org_1"), await clerk.features("org_1")) == ({}, {})


async def test_a_merge_takes_the_members_along(clerk: Stack) -> None:
    await apply(
        clerk,
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("organizationMembership.created", membership("org_2", "user_2"), NOW_MS),
    )
    more = NO_LOCKS
    async with db.connect(clerk.endpoints.database["operator"], "operator") as conn:
        while True:
            try:
                async with conn.transaction():
                    await merge(conn, "org_1", "org_2", "operator:test", "one company", more)
                break
            except SetGrew as grew:
                more = grew.locks
    both = {"user_1": "org:member", "user_2": "org:member"}
    assert await members(clerk, "org_2") == both
    assert await members(clerk, "org_1") == both
    await apply(clerk, event("organizationMembership.created", membership("org_1", "u"), NOW_MS))
    assert await members(clerk, "org_2") == {**both, "u": "org:member"}


async def test_what_clerk_gives_can_be_explained(clerk: Stack) -> None:
    canceled = item("csub_item_1", "org_1", "canceled", period_end=NOW_MS + 3650 * DAY_MS)
    await apply(
        clerk,
        event("organization.created", organization("org_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("subscriptionItem.canceled", canceled, NOW_MS),
        event("subscriptionItem.active", item("csub_item_2", "org_1", **FREE), NOW_MS),
    )
    async with clerk.owner.connection() as conn:
        found = await explain(conn, "org_1", "seats", None)
        unknown = await explain(conn, "org_1", "chat", None)
    assert found is not None
    assert unknown is not None
    assert found["value"] == 10
    assert "subscription item csub_item_1" in found["text"]
    assert "csub_item_2" not in found["text"] + unknown["text"]
    assert "membership" not in found["text"]


async def test_a_development_instance_lets_nobody_in(clerk: Stack) -> None:
    """Its events are kept and shown; its members and items count for nothing."""
    await clerk.add_source("clerk-dev", "clerk", False)
    sent: Sequence[Sent] = (
        event("organizationMembership.created", membership("org_1", "user_dev"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_1", "org_1"), NOW_MS),
    )
    assert await apply(clerk, *sent, source="clerk-dev") == ["applied", "parked"]
    assert await members(clerk, "org_1") == {}
    assert await clerk.features("org_1") == {}
    modes = await clerk.fetch("SELECT DISTINCT livemode FROM objects")
    assert [row["livemode"] for row in modes] == [False]
    # The same from the production instance is another object.
    assert await apply(clerk, *sent) == ["applied", "applied"]
    assert await members(clerk, "org_1") == {"user_dev": "org:member"}


async def test_a_pruned_sources_members_are_none(clerk: Stack) -> None:
    await apply(clerk, event("organizationMembership.created", membership("org_1", "u"), NOW_MS))
    assert await members(clerk, "org_1") == {"u": "org:member"}
    await clerk.fetch("UPDATE sources SET removed_at = now() WHERE name = 'clerk' RETURNING 1")
    assert await members(clerk, "org_1") == {}


async def test_a_redelivery_is_one_by_its_svix_id(clerk: Stack) -> None:
    sent = event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS)
    await apply(clerk, sent)
    again = await clerk.receive(sent.body, source="clerk", headers=[sent.headers])
    assert [receipt.status for receipt in again] == ["duplicate"]
    await clerk.drain()
    assert await members(clerk, "org_1") == {"user_1": "org:member"}


async def test_no_name_or_address_is_kept_beside_the_evidence(clerk: Stack) -> None:
    await apply(
        clerk,
        event("user.created", user("user_1"), NOW_MS),
        event("organization.created", organization("org_1"), NOW_MS),
        event("organizationMembership.created", membership("org_1", "user_1"), NOW_MS),
        event("subscriptionItem.active", item("csub_item_1", "user_1"), NOW_MS),
    )
    kept: list[Any] = []
    for table in ("objects", "observations", "tenants", "customers", "audit_content", "grants"):
        kept += [dict(row) for row in await clerk.fetch(f"SELECT * FROM {table}")]
    text = json.dumps(kept, default=str)
    assert "user_1" in text
    for private in ("Jane", "example.org", "Acme", "acme-corp"):
        assert private not in text
