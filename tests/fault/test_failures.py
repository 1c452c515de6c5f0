"""Failures inside a worker: who is charged, who is held up, and what is left behind."""

import asyncio
import contextlib
import time
from uuid import uuid4

from shared import db
from shared.domain.outcomes import RetryPolicy
from shared.store import work
from shared.store.work import Visit
from tests.support.stack import Stack, drain, new_crew
from tests.support.stripe_events import NOW_S, event, subscription
from workers.fleet import work_until
from workers.process import Progress, visit
from workers.solitary import Solitary

POISON = """
CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.object_id = 'sub_poison' THEN RAISE EXCEPTION 'poison'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER poison BEFORE INSERT ON objects FOR EACH ROW EXECUTE FUNCTION refuse_poison();
"""


def created(number: str, **more: str) -> bytes:
    content = subscription(number, customer=f"cus_{number}", tenant=f"tenant-{number}")
    return event("customer.subscription.created", content, **more)


async def test_a_poison_event_is_charged_alone_and_a_redelivery_of_the_dead_runs_again(
    stack: Stack,
) -> None:
    async with stack.owner.connection() as conn:
        await conn.execute(POISON)
    neighbours = [created(f"sub_{number}") for number in range(200)]
    poison = created("sub_poison", event_id="evt_poison")
    ids = await stack.apply(*neighbours[:100], poison, *neighbours[100:])
    assert await stack.outcomes(ids) == ["applied"] * 100 + ["dead"] + ["applied"] * 100
    (dead,) = await stack.fetch(
        "SELECT code, error, attempts FROM settlements WHERE status = 'dead'"
    )
    assert (dead["code"], dead["error"]) == ("attempts_exhausted", "poison")
    assert dead["attempts"] == stack.crew.retry.max_attempts
    charged = await stack.fetch("SELECT tracking_id, number, code FROM attempts ORDER BY number")
    assert [row["number"] for row in charged] == [1, 2, 3, 4]
    assert {row["tracking_id"] for row in charged} == {ids[100]}

    # Still poisoned: the redelivery opens a new run, the one after it waits for an hour.
    await stack.apply(poison)
    await stack.apply(poison)
    assert await stack.value("SELECT max(run) FROM settlements") == 2
    async with stack.owner.connection() as conn:
        await conn.execute("DROP TRIGGER poison ON objects")
        await conn.execute("UPDATE settlements SET settled_at = settled_at - interval '2 hours'")
    await stack.apply(poison)
    assert await stack.features("tenant-sub_poison") == {"seats": 10, "sso": True}
    assert await stack.value("SELECT max(run) FROM settlements") == 3
    # Of a finished one it changes nothing.
    await stack.apply(poison)
    assert await stack.value("SELECT max(run) FROM settlements") == 3
    assert await stack.value("SELECT count(*) FROM deliveries") == 4


async def test_a_redelivery_wakes_an_event_that_waits_for_its_retry(stack: Stack) -> None:
    async with stack.owner.connection() as conn:
        await conn.execute(POISON)
    poison = created("sub_poison")
    async with new_crew(stack.endpoints, "slow", retry=RetryPolicy(4, 3600, 3600)) as slow:
        await stack.receive(poison)
        await _visit_once(slow)
        assert await stack.value("SELECT due_at > now() + interval '10 minutes' FROM work")
        async with stack.owner.connection() as conn:
            await conn.execute("DROP TRIGGER poison ON objects")
        await stack.receive(poison)
        await _visit_once(slow)
        await _visit_once(slow)
    assert await stack.value("SELECT count(*) FROM work") == 0
    assert await stack.features("tenant-sub_poison") == {"seats": 10, "sso": True}


async def test_a_locked_customer_delays_only_its_own_event_and_charges_nobody(
    stack: Stack,
) -> None:
    await stack.apply(created("sub_held"))
    held = subscription(
        "sub_held", customer="cus_sub_held", tenant="tenant-sub_held", status="unpaid"
    )
    neighbours = [created(f"sub_{number}") for number in range(60)]
    async with db.connect(stack.endpoints.database["owner"], "owner") as holder:
        async with holder.transaction():
            await holder.execute("SELECT FROM customers WHERE customer = 'cus_sub_held' FOR UPDATE")
            late = event("customer.subscription.updated", held, created=NOW_S + 9,
                         previous={"status": "active"})  # fmt: skip
            await stack.receive(late, *neighbours)
            draining = asyncio.create_task(drain(stack.crew))
            begun = time.monotonic()
            while await stack.value("SELECT count(*) FROM work") > 1:
                await holder.execute("SELECT 1")
                assert time.monotonic() - begun < 20
                await asyncio.sleep(0.1)
            assert await stack.features("tenant-sub_held") == {"seats": 10, "sso": True}
        await draining
    assert await stack.features("tenant-sub_held") == {}
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await stack.value("SELECT count(*) FROM settlements WHERE status = 'processed'") == 62


async def test_lost_connections_charge_nobody(stack: Stack) -> None:
    bodies = [created(f"sub_{number}") for number in range(800)]
    for first in range(0, len(bodies), 200):
        await stack.receive(*bodies[first : first + 200])
    stop = asyncio.Event()
    working = asyncio.create_task(work_until(stop, stack.crew, "", slots=3))
    cut = 0
    while await stack.value("SELECT count(*) FROM work"):
        if cut < 200:
            cut += await stack.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE usename = 'sluice_worker' AND datname = current_database()"
            )
        await asyncio.sleep(0.05)
        # What died without clearing its mark is for the solitary; here, for us.
        await stack.fetch("DELETE FROM visits WHERE started_at < now() - interval '1 second'")
    stop.set()
    await working
    assert cut >= 10
    assert await stack.value("SELECT count(*) FROM settlements WHERE outcome = 'applied'") == 800
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await stack.value("SELECT count(*) FROM audit WHERE step = 0") == 800


async def test_without_redis_the_sweep_drains(stack: Stack) -> None:
    await stack.receive(*[created(f"sub_{number}") for number in range(50)])
    stop = asyncio.Event()
    working = asyncio.create_task(work_until(stop, stack.crew, "redis://127.0.0.1:1/0", slots=3))
    begun = time.monotonic()
    while await stack.value("SELECT count(*) FROM work"):
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.05)
    stop.set()
    await working


async def test_a_graceful_stop_leaves_no_mark_and_loses_nothing(stack: Stack) -> None:
    bodies = [created(f"sub_{number}") for number in range(1500)]
    for first in range(0, len(bodies), 300):
        await stack.receive(*bodies[first : first + 300])
    stop = asyncio.Event()
    working = asyncio.create_task(work_until(stop, stack.crew, "", slots=4))
    while not await stack.value("SELECT count(*) FROM settlements"):
        await asyncio.sleep(0.01)
    stop.set()
    await working
    left = await stack.value("SELECT count(*) FROM work")
    assert 0 < left < 1500
    assert await stack.value("SELECT count(*) FROM visits") == 0
    assert await stack.value("SELECT count(*) FROM settlements") == 1500 - left


async def test_a_conflicting_body_is_listed_and_never_applied(stack: Stack) -> None:
    first = created("sub_1", event_id="evt_1")
    resent = first.replace(b'"pending_webhooks": 1', b'"pending_webhooks": 0')
    forged = created("sub_1", event_id="evt_1").replace(b"prod_pro", b"prod_basic")
    assert resent != first
    await stack.apply(first)
    await stack.apply(resent, forged)
    assert await stack.value("SELECT count(*) FROM deliveries") == 2
    assert await stack.value("SELECT count(*) FROM conflicts") == 1
    assert await stack.features("tenant-sub_1") == {"seats": 10, "sso": True}
    assert await stack.value("SELECT count(*) FROM work") == 0


async def _visit_once(crew: object) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(drain(crew), 0.5)  # type: ignore[arg-type]


async def test_a_read_only_database_is_a_fault_and_no_hot_loop(stack: Stack) -> None:
    """As after a failover to a standby: nobody is charged, and lanes are not visited in a spin."""
    await stack.receive(*[created(f"sub_{number}") for number in range(20)])
    async with stack.owner.connection() as conn:
        name = await conn.fetchval("SELECT current_database()")
        await conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with new_crew(stack.endpoints, "late") as late:
        async with stack.owner.connection() as conn:
            await late.surroundings.refresh(conn)
        visits = 0
        for lane in await stack.lanes():
            assert await visit(late, lane) in (Progress.FAULT, Progress.NOTHING)
            visits += 1
    assert visits == 16
    async with stack.owner.connection() as conn:
        await conn.execute("SET default_transaction_read_only = off")
        await conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await stack.drain()
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await stack.value("SELECT count(*) FROM settlements WHERE outcome = 'applied'") == 20


async def test_the_solitary_charges_only_what_its_own_death_interrupted(stack: Stack) -> None:
    """A mark that says what was being applied alone, left by a process that lived on."""
    await stack.receive(*[created(f"sub_{number}") for number in range(40)])
    lane, first, last = (await stack.fetch(
        "SELECT lane, min(id), max(id) FROM work GROUP BY lane ORDER BY count(*) DESC LIMIT 1"
    ))[0]  # fmt: skip
    stop = asyncio.Event()
    solitary = Solitary(stack.crew, stop)
    left_behind = Visit(uuid4(), first, last, first)
    solitary.survived.add(left_behind.token)
    async with stack.crew.marks.connection() as conn:
        await work.mark_visit(conn, lane, left_behind, "solitary")
    running = asyncio.create_task(solitary.run())
    begun = time.monotonic()
    while await stack.value("SELECT count(*) FROM visits"):
        assert time.monotonic() - begun < 10
        await asyncio.sleep(0.05)
    stop.set()
    await running
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await stack.value("SELECT count(*) FROM work WHERE lane = $1", lane) == 0
    await stack.drain()
    assert await stack.value("SELECT count(*) FROM settlements WHERE outcome = 'applied'") == 40


async def test_new_partitions_do_not_wait_for_readers_nor_receipt_for_them(stack: Stack) -> None:
    async with stack.owner.transaction() as reader:
        await reader.fetch("SELECT count(*) FROM inbox")
        begun = time.monotonic()
        async with stack.crew.db.connection() as conn:
            with contextlib.suppress(Exception):
                await conn.fetchval("SELECT make_inbox_partitions(30)")
        await stack.receive(created("sub_1"))
        assert time.monotonic() - begun < 0.7
    async with stack.crew.db.connection() as conn:
        assert await conn.fetchval("SELECT make_inbox_partitions(30)") == 31
