"""Access ends and begins by the clock, and the trail tells of it once, whoever comes first."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import uuid4

from shared.domain.commands import Observe
from shared.domain.keys import ObjectKey
from shared.domain.states import Item, ObjectState
from tests.support.stack import PLANS, Stack, drain, new_crew
from tests.support.stripe_events import event, subscription
from workers import trail
from workers.crew import Crew
from workers.entitle import observe
from workers.entries import Answer, Sighted
from workers.rounds import Rounds
from workers.sweep import Sweep, derive_again, turn_tenant

RECORDS = """
SELECT a.cause, a.cause_id, a.run, a.step, a.action, a.actor, a.feature, a.source, a.subject, a.at,
       a.position, convert_from(c.before, 'UTF8')::jsonb AS before,
       convert_from(c.after, 'UTF8')::jsonb AS after
FROM audit a LEFT JOIN audit_content c ON c.audit_id = a.id
WHERE a.chain = 'tenant:' || $1 ORDER BY a.position
"""


async def sweep(crew: Crew) -> None:
    """What a worker does once a second."""
    await Sweep(crew, Rounds(None, 1, dict)).turn()  # type: ignore[arg-type]


async def soon(stack: Stack, seconds: int = 3) -> int:
    """A whole second between `seconds - 1` and `seconds` ahead, as providers name their ends."""
    found: int = await stack.value("SELECT floor(extract(epoch FROM now()))::bigint + $1", seconds)
    return found


async def passed(stack: Stack, moment: int) -> None:
    """Wait for it, by the database's clock."""
    left_s = await stack.value(
        "SELECT $1::bigint - extract(epoch FROM clock_timestamp())::float8", moment
    )
    await asyncio.sleep(max(0.0, left_s) + 0.05)


async def ends(stack: Stack, tenant: str) -> list[tuple[str, Any, Any]]:
    """(feature, value before, value after) of what the clock did."""
    return [
        (row["feature"], _value(row["before"]), _value(row["after"]))
        for row in await stack.fetch(RECORDS, tenant)
        if row["cause"] == "end"
    ]


def _value(content: dict[str, Any] | None) -> Any:
    return None if content is None else content["value"]


async def assert_whole(stack: Stack) -> None:
    """The trail verifies, and each record of a feature begins where the one before it ended."""
    async with stack.owner.connection() as conn:
        assert [one async for one in trail.verify(conn, None, lambda _: None)] == []
    for row in await stack.fetch("SELECT tenant FROM tenants"):
        last: dict[str, Any] = {}
        for record in await stack.fetch(RECORDS, row["tenant"]):
            if record["feature"]:
                assert record["before"] == last.get(record["feature"]), (row["tenant"], record)
                last[record["feature"]] = record["after"]


async def test_a_scheduled_end_is_audited_once_when_it_passes(stack: Stack) -> None:
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end))
    )
    await sweep(stack.crew)
    assert await ends(stack, "a") == []
    await passed(stack, end)
    # Nobody has looked yet, and nothing may be used any more.
    found = await stack.tenant("a")
    assert found is not None
    assert found["entitlements"] == []
    await sweep(stack.crew)
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", 10, None), ("sso", True, None)]
    *_, seats, _ = await stack.fetch(RECORDS, "a")
    object_row = await stack.value("SELECT id FROM objects")
    at = datetime.fromisoformat(seats["before"]["validUntil"])
    assert at.timestamp() == end
    written = at.isoformat().replace("+00:00", "Z")
    assert seats["cause_id"] == f"{object_row}:pro:seats:until:{written}"
    assert (seats["action"], seats["actor"], seats["run"], seats["step"]) == (
        "entitlement.revoked", "system:clock", 1, 1,
    )  # fmt: skip
    assert (seats["source"], seats["subject"]) == ("stripe", "subscription/sub_1")
    assert seats["at"] >= at
    assert await stack.value("SELECT count(turns_at) FROM grants") == 0
    await assert_whole(stack)


async def test_the_end_of_grace_is_audited(stack: Stack) -> None:
    await stack.configure(plans={"pro": {**PLANS["pro"], "graceS": 60}})
    end = await soon(stack)
    late = subscription(status="past_due", tenant="a")
    await stack.apply(event("customer.subscription.updated", late, created=end - 60,
                            previous={"status": "active"}))  # fmt: skip
    assert await stack.features("a") == {"seats": 10, "sso": True}
    await passed(stack, end)
    assert await stack.features("a") == {}
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", 10, None), ("sso", True, None)]
    await assert_whole(stack)


async def test_what_begins_by_the_clock_is_audited(stack: Stack) -> None:
    """A pause of the collection that says when it is over."""
    async with stack.owner.connection() as conn:
        settings = {"voided_collection": "revoke"}
        await conn.execute("UPDATE sources SET settings = $1", settings)
    await stack.configure()
    begin = await soon(stack)
    state = ObjectState(
        "active", customer="cus_1", tenant="a", items=(Item(("prod_pro",)),),
        collection="void", resumes_at=begin,
    )  # fmt: skip
    await observed(stack, stack.crew, "sub_1", Observe("subscription", "sub_1", begin - 9,
                                                       "arrival", None, state))  # fmt: skip
    assert await stack.features("a") == {}
    await passed(stack, begin)
    assert await stack.features("a") == {"seats": 10, "sso": True}
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", None, 10), ("sso", None, True)]
    cause_ids = await stack.fetch("SELECT DISTINCT action, cause_id FROM audit ORDER BY cause_id")
    assert all(row["action"] == "entitlement.granted" for row in cause_ids)
    assert ":pro:seats:from:" in cause_ids[0]["cause_id"]


async def test_what_another_grant_gives_too_does_not_end(stack: Stack) -> None:
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end)),
        event(
            "customer.subscription.created",
            subscription("sub_2", tenant="a", product="prod_basic"),
        ),
        event("customer.subscription.created", subscription("sub_3", tenant="b", cancel_at=end)),
        event("customer.subscription.created", subscription("sub_4", tenant="b")),
    )
    await passed(stack, end)
    assert await stack.features("a") == {"seats": 1}
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", 10, 1), ("sso", True, None)]
    # Of the other tenant nothing changed: nothing is told, and nothing is left to look at.
    assert await ends(stack, "b") == []
    assert await stack.features("b") == {"seats": 10, "sso": True}
    assert await stack.value("SELECT count(turns_at) FROM grants") == 0
    await assert_whole(stack)


async def test_several_moments_are_told_in_their_order(stack: Stack) -> None:
    """A worker that was away tells of each as if it had been there."""
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end)),
        event(
            "customer.subscription.created",
            subscription("sub_2", tenant="a", product="prod_basic", cancel_at=end + 1),
        ),
    )
    await passed(stack, end + 1)
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", 10, 1), ("sso", True, None), ("seats", 1, None)]
    await assert_whole(stack)


async def test_an_event_tells_of_the_end_before_what_it_changes(stack: Stack) -> None:
    end = await soon(stack)
    old = subscription(tenant="a", cancel_at=end)
    await stack.apply(event("customer.subscription.created", old, created=end - 9))
    await passed(stack, end)
    again = event(
        "customer.subscription.updated",
        subscription(tenant="a"),
        created=end - 1,
        previous={"cancel_at": end},
    )
    (tracking_id,) = await stack.apply(again)
    assert await ends(stack, "a") == [("seats", 10, None), ("sso", True, None)]
    told = [
        (row["cause"], row["action"], row["feature"])
        for row in await stack.fetch(RECORDS, "a")
        if row["cause"] == "end" or row["cause_id"] == str(tracking_id)
    ]
    assert told == [
        ("end", "entitlement.revoked", "seats"),
        ("end", "entitlement.revoked", "sso"),
        ("event", "event.applied", ""),
        ("event", "entitlement.granted", "seats"),
        ("event", "entitlement.granted", "sso"),
    ]
    await sweep(stack.crew)
    assert len(await ends(stack, "a")) == 2
    await assert_whole(stack)


async def test_a_transaction_that_began_before_the_end_does_not_tell_it_again(
    stack: Stack,
) -> None:
    """Its own `now()` is older than what another has audited meanwhile."""
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end),
              created=end - 9),
        event("customer.subscription.created",
              subscription("sub_2", customer="cus_2", tenant="b", cancel_at=end),
              created=end - 9),
    )  # fmt: skip
    gone = ObjectState("canceled", tenant="a", items=(Item(("prod_pro",)),))
    async with new_crew(stack.endpoints, "second") as second, stack.crew.db.transaction() as conn:
        began_at = await conn.fetchval("SELECT now()")
        assert began_at.timestamp() < end
        await passed(stack, end)
        await turn_tenant(second, "a")
        for tenant, number in (("a", "sub_1"), ("b", "sub_2")):
            state = ObjectState("canceled", f"cus_{number[-1]}", tenant, items=gone.items)
            command = Observe("subscription", number, end - 1, "arrival", None, state)
            (answer,) = await observe(
                conn, stack.crew.surroundings, began_at, [_sighted(stack, number, command)]
            )
            # The end took it, not the event.
            assert answer.changes == []
    await sweep(stack.crew)
    for tenant in ("a", "b"):
        assert await ends(stack, tenant) == [("seats", 10, None), ("sso", True, None)]
    await assert_whole(stack)


async def test_events_and_sweeps_of_two_workers_tell_each_end_once(stack: Stack) -> None:
    tenants = [f"t{number}" for number in range(40)]
    end = await soon(stack, 6)
    created = [
        event(
            "customer.subscription.created",
            subscription(f"sub_{one}", customer=f"cus_{one}", tenant=one, cancel_at=end),
            created=end - 9,
        )
        for one in tenants
    ]
    await stack.apply(*created)
    cancelled = [
        event(
            "customer.subscription.deleted",
            subscription(f"sub_{one}", customer=f"cus_{one}", tenant=one, status="canceled"),
            created=end - 1,
        )
        for one in tenants[::2]
    ]
    async with new_crew(stack.endpoints, "second") as second:
        await passed(stack, end)
        await stack.receive(*cancelled)
        await asyncio.gather(
            drain(stack.crew), sweep(second), drain(second), sweep(stack.crew), sweep(second)
        )
    for one in tenants:
        assert await ends(stack, one) == [("seats", 10, None), ("sso", True, None)], one
    assert await stack.value("SELECT count(*) FROM audit WHERE cause = 'end'") == 80
    assert await stack.value("SELECT count(turns_at) FROM grants") == 0
    await assert_whole(stack)


async def test_a_running_worker_does_it_by_itself(stack: Stack) -> None:
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end))
    )
    running = asyncio.create_task(Sweep(stack.crew, Rounds(None, 1, dict)).run())  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(30):
            while len(await ends(stack, "a")) < 2:
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
    late_s = await stack.value(
        "SELECT extract(epoch FROM max(at))::float8 - $1 FROM audit WHERE cause = 'end'", end
    )
    assert late_s >= 0


async def test_a_tenant_that_somebody_holds_keeps_no_other_waiting_for_long(stack: Stack) -> None:
    end = await soon(stack)
    for name in ("a", "b"):
        content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name, cancel_at=end)
        await stack.apply(event("customer.subscription.created", content))
    await passed(stack, end)
    async with stack.owner.transaction() as conn:
        await conn.execute("SELECT FROM tenants WHERE tenant = 'a' FOR UPDATE")
        await sweep(stack.crew)
        assert len(await ends(stack, "a")) == 0
        assert len(await ends(stack, "b")) == 2
    await sweep(stack.crew)
    assert len(await ends(stack, "a")) == 2


async def test_an_end_by_a_clock_that_was_set_back_comes_once_more(stack: Stack) -> None:
    """What was told stays told; a grant that is given again with the same end ends again."""
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end))
    )
    await passed(stack, end)
    await sweep(stack.crew)
    # As if it had been given anew while the clock was behind.
    await stack.fetch("UPDATE grants SET turns_at = valid_until")
    await sweep(stack.crew)
    runs = await stack.fetch("SELECT run FROM audit WHERE cause = 'end' ORDER BY id")
    assert [row["run"] for row in runs] == [1, 1, 2, 2]


async def test_what_an_older_version_wrote_is_found_and_nothing_is_told_twice(
    stack: Stack,
) -> None:
    end = await soon(stack)
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="a", cancel_at=end)),
        event("customer.subscription.created",
              subscription("sub_2", customer="cus_2", tenant="b", cancel_at=end - 99)),
    )  # fmt: skip
    # It does not name the column, so that this is what it leaves there.
    await stack.fetch("UPDATE grants SET turns_at = DEFAULT")
    await sweep(stack.crew)
    assert await stack.value("SELECT count(turns_at) FROM grants WHERE tenant = 'b'") == 0
    assert await stack.value("SELECT count(*) FROM audit WHERE cause = 'end'") == 0
    await passed(stack, end)
    await sweep(stack.crew)
    assert await ends(stack, "a") == [("seats", 10, None), ("sso", True, None)]


async def test_an_end_that_a_new_catalog_moves_is_not_told(stack: Stack) -> None:
    end = await soon(stack)
    await stack.configure(plans={"pro": {**PLANS["pro"], "graceS": 60}})
    late = subscription(status="past_due", tenant="a")
    await stack.apply(event("customer.subscription.updated", late, created=end - 60,
                            previous={"status": "active"}))  # fmt: skip
    await stack.configure()
    await derive_again(stack.crew, "a")
    await passed(stack, end)
    await sweep(stack.crew)
    assert await ends(stack, "a") == []
    assert await stack.features("a") == {"seats": 10, "sso": True}
    await assert_whole(stack)


async def observed(stack: Stack, crew: Crew, number: str, command: Observe) -> Answer:
    """Apply one observation as a worker does, without its event."""
    async with crew.db.transaction() as conn:
        now = await conn.fetchval("SELECT now()")
        sighted = [_sighted(stack, number, command)]
        (answer,) = await observe(conn, crew.surroundings, now, sighted)
    return answer


def _sighted(stack: Stack, number: str, command: Observe) -> Sighted:
    key = ObjectKey(stack.sources["stripe"], "", True, "subscription", number)
    return Sighted(key, uuid4(), f"evt_{uuid4().hex}", command, replayed=False)
