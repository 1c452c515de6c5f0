"""What a billing page shows agrees with what may be used, whatever a life was like."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from shared import db
from shared.billing import Billing, read_billing
from shared.domain.billing.statuses import gives_access
from shared.domain.keys import CustomerKey
from tests.support.draw import live, seed_of_run
from tests.support.model import CATALOG
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, event, subscription
from tests.support.telling import tell

DAY_S = 86_400


@asynccontextmanager
async def reading(stack: Stack) -> AsyncIterator[db.Conn]:
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        yield conn


async def billing(stack: Stack, tenant: str) -> Billing:
    async with reading(stack) as conn:
        found = await read_billing(conn, tenant)
    assert found is not None
    return found


async def granting(stack: Stack, tenant: str, now: datetime) -> dict[str, datetime | None]:
    """By object, the end of what it gives: read off the grants themselves."""
    rows = await stack.fetch(
        "SELECT o.kind || '/' || o.object_id AS name, bool_or(g.valid_until IS NULL) AS open,"
        " max(g.valid_until) AS until FROM grants g JOIN objects o ON o.id = g.object"
        " WHERE g.tenant = $1 AND (g.valid_from IS NULL OR g.valid_from <= $2)"
        " AND (g.valid_until IS NULL OR $2 < g.valid_until) GROUP BY 1",
        tenant, now,
    )  # fmt: skip
    return {row["name"]: None if row["open"] else row["until"] for row in rows}


async def next_turn(stack: Stack, tenant: str) -> datetime | None:
    """When what may be used next changes, as `/entitlements` says; of what is there now."""
    found = await stack.tenant(tenant)
    ends = [one["validUntil"] for one in (found or {"entitlements": []})["entitlements"]]
    return min((datetime.fromisoformat(end) for end in ends if end), default=None)


async def test_the_status_agrees_with_the_entitlements(stack: Stack) -> None:
    seed = seed_of_run()
    lives = [live(seed, f"t{number}")[0] for number in range(150)]
    await stack.configure(**CATALOG)
    await tell(stack, random.Random(seed), lives, slice_size=300)
    seen: dict[str, int] = {}
    now = datetime.now(UTC)
    async with reading(stack) as conn:
        for tenant in (tenant for life in lives for tenant in life.tenants):
            found = await read_billing(conn, tenant)
            features = await stack.features(tenant)
            if found is None:
                assert features == {}
                continue
            where = f"TEST_SEED={seed} {tenant} {msgspec.json.encode(found).decode()}"
            gives = await granting(stack, tenant, now)
            subscriptions = {one.object: one for one in found.subscriptions}
            shown = {one.object: one.grants_until for one in found.subscriptions if one.grants}
            shown |= {one.object: one.grants_until for one in found.purchases if one.grants}
            assert shown == gives, where
            # Something may be used exactly where something gives it.
            assert gives_access(found.status) == bool(gives) == bool(features), where
            for one in found.subscriptions:
                assert one.grants == (one.reason is None), where
                is_grace = one.standing == "past_due" and one.grants
                assert (one.status == "grace") == is_grace, where
                if is_grace:
                    assert one.past_due_since is not None, where
                    assert one.grace_until is not None, where
                    assert one.past_due_since <= now < one.grace_until, where
                if one.reason == "grace_over":
                    assert one.grace_until is not None, where
                    assert one.grace_until <= now, where
            if found.status == "grace":
                giving = [subscriptions[name].status for name in gives]
                assert set(giving) == {"grace"}, where
            told = await next_turn(stack, tenant)
            assert told is None or (found.next_change_at or told) <= told, where
            seen[found.status] = seen.get(found.status, 0) + 1
    assert {"active", "trialing", "grace", "past_due", "canceled", "none"} <= seen.keys(), seen


async def test_a_renewal_is_shown_and_changes_nothing(stack: Stack) -> None:
    def renewed(end_s: int, at: int, previous_s: int | None = None) -> bytes:
        content = subscription("sub_1", customer="cus_1", tenant="acme")
        content["items"]["data"][0]["current_period_end"] = end_s
        kind = "customer.subscription.created"
        if previous_s is None:
            return event(kind, content, created=at, event_id=f"evt_{at}")
        was = {**content["items"]["data"][0], "current_period_end": previous_s}
        previous = {"items": {**content["items"], "data": [was]}}
        kind = "customer.subscription.updated"
        return event(kind, content, created=at, event_id=f"evt_{at}", previous=previous)

    ends = [NOW_S + 30 * DAY_S, NOW_S + 400 * DAY_S, NOW_S + 430 * DAY_S]
    ids = await stack.apply(renewed(ends[0], NOW_S))
    before = await stack.value("SELECT count(*) FROM audit WHERE step > 0")
    grants = await stack.fetch("SELECT * FROM grants ORDER BY plan, feature")
    # The newer first: what comes late changes nothing.
    ids += await stack.apply(renewed(ends[2], NOW_S + 2, ends[1]))
    ids += await stack.apply(renewed(ends[1], NOW_S + 1, ends[0]))
    assert await stack.outcomes(ids) == ["applied", "unchanged", "superseded"]
    assert await stack.value("SELECT count(*) FROM audit WHERE step > 0") == before
    assert await stack.fetch("SELECT * FROM grants ORDER BY plan, feature") == grants
    found = await billing(stack, "acme")
    (one,) = found.subscriptions
    end = datetime.fromtimestamp(ends[2], UTC)
    assert (found.status, one.period_ends_at, one.renews_at) == ("active", end, end)
    assert found.next_change_at is None


async def test_a_merged_tenant_is_answered_with_what_the_other_has(stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", customer="c", tenant="acme"))
    )
    await stack.value(
        "INSERT INTO tenants (tenant, merged_into, merged_at) VALUES ('old', 'acme', now())"
    )
    own, old = await billing(stack, "acme"), await billing(stack, "old")
    assert (old.tenant, old.merged_into, own.merged_into) == ("old", "acme", None)
    assert old.merged_at is not None
    assert old.subscriptions == own.subscriptions != ()
    # What names the old one is the other's.
    told = subscription("sub_2", customer="c2", tenant="old")
    await stack.apply(event("customer.subscription.created", told, event_id="evt_2"))
    assert (await billing(stack, "acme")).subscriptions_total == 2


async def test_objects_of_nobody_and_of_pruned_sources(stack: Stack) -> None:
    waiting = subscription("sub_1", customer="cus_1", product="prod_unknown")
    await stack.apply(event("customer.subscription.created", waiting))
    await stack.link(CustomerKey(stack.sources["stripe"], "", True, "cus_1"), "acme")
    found = await billing(stack, "acme")
    (one,) = found.subscriptions
    assert (found.status, one.needs, one.reason) == ("withheld", "needs:mapping", "needs:mapping")
    assert one.items[0].product == "stripe:prod_unknown"
    told: dict[str, Any] = subscription("sub_2", customer="cus_1")
    await stack.apply(event("customer.subscription.created", told, event_id="evt_2"))
    assert (await billing(stack, "acme")).status == "active"
    await stack.value("UPDATE sources SET removed_at = now() WHERE name = 'stripe'")
    await stack.value("DELETE FROM grants")
    gone = await billing(stack, "acme")
    assert (gone.status, {two.reason for two in gone.subscriptions}) == ("none", {"source_removed"})
    assert gone.next_change_at is None
