"""No silent answer: every event ends in a word that says why."""

import pytest

from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, customer, event, session, subscription
from workers import sweep as sweep_module
from workers.process import visit
from workers.rounds import Rounds
from workers.sweep import Sweep, derive_again


async def test_an_event_of_the_other_mode_is_ignored_by_name(stack: Stack) -> None:
    test = event("customer.subscription.created", subscription(tenant="a"), livemode=False)
    await stack.apply(test)
    assert await stack.features("a") == {}
    (row,) = await stack.fetch("SELECT status, code FROM settlements")
    assert (row["status"], row["code"]) == ("ignored", "mode_mismatch")


async def test_a_test_source_in_a_live_deployment_is_kept_and_grants_nothing(stack: Stack) -> None:
    await stack.configure({"sandbox": False})
    body = event("customer.subscription.created", subscription(tenant="a"), livemode=False)
    await stack.apply(body, source="sandbox")
    assert await stack.features("a") == {}
    assert await stack.value("SELECT parked FROM objects") == "other_mode"


async def test_what_cannot_be_read_is_dead_and_kept(stack: Stack) -> None:
    await stack.apply(b"no json at all", event("customer.subscription.created", {"id": "sub_1"}))
    rows = await stack.fetch("SELECT status, code FROM settlements")
    assert [(row["status"], row["code"]) for row in rows] == [("dead", "unreadable")] * 2
    assert await stack.value("SELECT count(*) FROM inbox") == 2
    assert await stack.value("SELECT count(*) FROM audit WHERE action = 'event.dead'") == 2


async def test_unknown_types_are_kept_and_settled(stack: Stack) -> None:
    await stack.apply(event("payout.paid", {"id": "po_1", "object": "payout"}))
    (row,) = await stack.fetch("SELECT status, code FROM settlements")
    assert (row["status"], row["code"]) == ("ignored", "unknown_type")


async def test_two_references_of_one_second_are_a_conflict(stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription()),
        event("checkout.session.completed", session("cs_1", reference="a")),
        event("checkout.session.completed", session("cs_2", reference="b")),
    )
    parked = await stack.value("SELECT parked FROM objects WHERE kind = 'subscription'")
    assert parked == "link_conflict"
    assert await stack.features("a") == {}
    await stack.apply(event("customer.updated", customer(tenant="b")))
    assert await stack.features("b") == {"seats": 10, "sso": True}


async def test_an_event_from_before_the_pruned_ledger_is_quarantined(stack: Stack) -> None:
    async with stack.owner.connection() as conn:
        await conn.execute("UPDATE ledger_horizon SET pruned_before = now() - interval '100 days'")
    old = event("customer.subscription.created", subscription(tenant="a"), created=NOW_S - 10**7)
    await stack.apply(old, event("customer.created", customer(tenant="a")))
    rows = await stack.fetch("SELECT status, code FROM settlements ORDER BY status")
    assert [(row["status"], row["code"]) for row in rows] == [
        ("dead", "older_than_ledger"),
        ("processed", None),
    ]


async def test_a_replay_replaces_what_an_earlier_run_misread(stack: Stack) -> None:
    body = event("customer.subscription.created", subscription(tenant="acme"))
    (tracking_id,) = await stack.apply(body)
    # As if the code of that day had read another status and another tenant.
    async with stack.owner.connection() as conn:
        await conn.execute(
            "UPDATE observations SET state ="
            " replace(replace(state::text, 'active', 'unpaid'), 'acme', 'wrong')::json"
        )
        await conn.execute("DELETE FROM grants")
        await conn.execute(
            "INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)"
            " SELECT tracking_id, received_at, lane, 2, 'operator:me', 'fixed' FROM inbox"
        )
    await stack.drain()
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    assert await stack.value("SELECT count(*) FROM observations") == 1
    actors = await stack.fetch("SELECT DISTINCT actor FROM audit WHERE run = 2")
    assert [row["actor"] for row in actors] == ["operator:me"]
    assert await stack.outcomes([tracking_id]) == ["applied"]


async def test_transfer_by_metadata_moves_access_between_tenants(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="a")))
    moved = event(
        "customer.subscription.updated",
        subscription(tenant="b"),
        created=NOW_S + 5,
        previous={"metadata": {"tenant_id": "a"}},
    )
    (tracking_id,) = await stack.apply(moved)
    assert await stack.features("a") == {}
    assert await stack.features("b") == {"seats": 10, "sso": True}
    rows = await stack.fetch(
        "SELECT tenant, action FROM audit WHERE cause_id = $1 AND step > 0 ORDER BY step",
        str(tracking_id),
    )
    assert [(row["tenant"], row["action"]) for row in rows] == [
        ("a", "entitlement.revoked"),
        ("a", "entitlement.revoked"),
        ("b", "entitlement.granted"),
        ("b", "entitlement.granted"),
    ]


async def test_access_ends_on_time_without_an_event(stack: Stack) -> None:
    soon = await stack.value("SELECT extract(epoch FROM now())::bigint + 2")
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=soon))
    )
    found = await stack.tenant("a")
    assert found is not None
    assert all(one["validUntil"] is not None for one in found["entitlements"])
    await stack.fetch("SELECT pg_sleep(2.5)")
    assert await stack.features("a") == {}


async def test_a_change_of_mode_reaches_what_was_granted_before(stack: Stack) -> None:
    await stack.configure({"sandbox": False})
    live = event("customer.subscription.created", subscription(tenant="live"))
    test = event(
        "customer.subscription.created",
        subscription("sub_2", customer="cus_2", tenant="test"),
        livemode=False,
    )
    await stack.apply(live)
    await stack.apply(test, source="sandbox")
    await stack.configure(mode="test")
    for tenant in ("live", "test"):
        await derive_again(stack.crew, tenant)
    assert await stack.features("live") == {}
    assert await stack.features("test") == {"seats": 10, "sso": True}


async def test_a_removed_source_grants_nothing(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="a")))
    async with stack.owner.connection() as conn:
        await conn.execute("UPDATE sources SET removed_at = now()")
    await stack.configure()
    await derive_again(stack.crew, "a")
    assert await stack.features("a") == {}
    assert await stack.value("SELECT parked FROM objects") == "source_removed"


async def test_true_and_one_are_two_values(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="a")))
    plan = {"products": ["stripe:prod_pro"], "features": {"sso": 1}}
    await stack.configure(plans={"pro": plan})
    await derive_again(stack.crew, "a")
    assert (await stack.features("a"))["sso"] is not True
    assert await stack.value(
        "SELECT count(*) FROM audit WHERE feature = 'sso' AND action = 'entitlement.changed'"
    )


async def test_a_replay_that_observes_nothing_takes_back_what_was_observed(stack: Stack) -> None:
    body = event("customer.subscription.created", subscription(tenant="acme"))
    (tracking_id,) = await stack.apply(body)
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    # As if today's code knew that this event should never have been applied.
    async with stack.owner.connection() as conn:
        await conn.execute("UPDATE inbox SET event_type = 'not.for.us'")
        await conn.execute(
            "INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)"
            " SELECT tracking_id, received_at, lane, 2, 'operator:me', 'fixed' FROM inbox"
        )
    await stack.drain()
    assert await stack.features("acme") == {}
    assert await stack.outcomes([tracking_id]) == ["ignored"]
    revoked = await stack.fetch(
        "SELECT feature FROM audit WHERE run = 2 AND step > 0 ORDER BY step"
    )
    assert [row["feature"] for row in revoked] == ["seats", "sso"]


async def test_what_only_an_operator_can_mend_is_said_aloud_once(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(lambda lane: visit(stack.crew, lane), 1, dict)
    sweep = Sweep(stack.crew, rounds)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", product="prod_unheard_of")),
        event("customer.subscription.created", subscription("sub_2", customer="cus_2")),
    )
    await sweep.count()
    await sweep.count()
    assert sweep.parked == {("stripe", "needs:mapping"): 1, ("stripe", "needs:link"): 1}
    said = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.__dict__["needs"] for record in said] == ["needs:mapping"]


async def test_a_tenant_that_cannot_be_derived_keeps_no_other_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "TENANTS_AT_ONCE", 1)
    sweep = Sweep(stack.crew, Rounds(lambda lane: visit(stack.crew, lane), 1, dict))
    await stack.apply(
        event("customer.subscription.created", subscription("sub_a", customer="cus_a", tenant="a")),
        event("customer.subscription.created", subscription("sub_b", customer="cus_b", tenant="b")),
    )
    await stack.configure(plans={"pro": {"products": ["stripe:prod_pro"], "features": {"x": 1}}})
    async with stack.owner.transaction() as conn:
        await conn.execute("SELECT 1 FROM customers WHERE customer = 'cus_a' FOR UPDATE")
        await sweep.derive()
        await sweep.derive()
    assert await stack.features("b") == {"x": 1}
    assert sweep.stuck.keys() == {"a"}
