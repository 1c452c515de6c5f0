"""Handlers of installed packages: in what they run, how they end, and what is left of them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from shared.domain.events import OWN_SOURCE
from shared.domain.outcomes import RetryPolicy
from shared.settings import Endpoints
from tests.support.packages import stack_with_package
from tests.support.stack import PLANS, Stack, new_crew
from tests.support.stripe_events import event, subscription
from workers.extensions import handlers
from workers.extensions.presence import say_what_is_here
from workers.process import Progress, isolate, visit
from workers.rounds import Rounds

PRODUCTS = ["stripe:prod_pro", "doing:prod_pro"]
#: What the handler's transaction is doing while it sleeps, here or there.
AT_IT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'sluice test'
  AND (state = 'idle in transaction' OR query LIKE '%pg_sleep%')
  AND query NOT LIKE '%pg_stat_activity%' AND xact_start < now() - interval '0.1 s'
"""


@pytest.fixture
async def doing(endpoints: Endpoints) -> AsyncIterator[Stack]:
    """A stack with the package `sluice_doing`, its tables and its source `doing`."""
    plans = {"pro": {**PLANS["pro"], "products": PRODUCTS}}
    async with stack_with_package(endpoints, plans) as stack:
        yield stack


def asked(event_id: str, *does: str, number: float = 0) -> bytes:
    return json.dumps({"id": event_id, "does": does, "number": number}).encode()


async def done(stack: Stack) -> list[str]:
    return [row["does"] for row in await stack.fetch("SELECT does FROM doing.done ORDER BY at")]


async def settled(stack: Stack, tracking_id: UUID) -> tuple[str, str | None]:
    rows = await stack.fetch(
        "SELECT outcome, code FROM settlements WHERE tracking_id = $1 ORDER BY run DESC",
        tracking_id,
    )
    return rows[0]["outcome"], rows[0]["code"]


async def charged(stack: Stack, tracking_id: UUID) -> list[str]:
    rows = await stack.fetch(
        "SELECT code FROM attempts WHERE tracking_id = $1 ORDER BY run, number", tracking_id
    )
    return [row["code"] for row in rows]


async def test_a_command_of_a_package_is_applied_in_its_event(doing: Stack) -> None:
    """Effect, settlement and audit record in one transaction, in the role made for it."""
    (one,) = await doing.apply(asked("e1", "ask_who"), source="doing")
    assert await settled(doing, one) == ("applied", None)
    assert await done(doing) == ["ask_who"]
    record = (await doing.fetch("SELECT * FROM audit WHERE cause_id = $1", str(one)))[0]
    assert (record["action"], record["step"]) == ("event.applied", 0)
    same = "SELECT count(*) FROM doing.done d JOIN settlements s ON s.settled_at = d.at"
    assert await doing.value(same) == 1


async def test_what_the_event_asks_of_sluice_comes_first(doing: Stack) -> None:
    """An event may ask for both: all of it happens, or none of it does."""
    both, none = await doing.apply(
        asked("tenant-1", "subscribe", "insert"),
        asked("tenant-2", "subscribe", "fail"),
        source="doing",
    )
    assert await doing.features("tenant-1") == {"seats": 10, "sso": True}
    assert await doing.tenant("tenant-2") is None
    assert await done(doing) == ["insert"]
    assert await settled(doing, both) == ("applied", None)
    assert await settled(doing, none) == ("dead", "attempts_exhausted")


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("fail", "LookupError"),
        ("sleep", "handler_timeout"),
        ("sleep_there", "handler_timeout"),
        ("go_on_when_late", "handler_timeout"),
        ("swallow", "InFailedSQLTransactionError"),
        ("commit", "ValueError"),
        ("commit_behind", "PostgresSyntaxError"),
        ("defer", "ForeignKeyViolationError"),
        ("read_tenants", "InsufficientPrivilegeError"),
        ("look_for_nothing", "UndefinedTableError"),
        ("be_cancelled", "CancelledError"),
        ("exit", "SystemExit"),
        ("return_nonsense", "bad_result"),
        ("send_nonsense", "bad_message"),
        ("fail_unspeakably", "ValueError"),
        ("block", "handler_timeout"),
        ("give_up", "SerializationError"),
        ("end_too_early", "EOFError"),
        ("ask_for_nonsense", "bad_result"),
    ],
)
@pytest.mark.timeout(30)
async def test_a_failure_is_its_own_and_leaves_nothing(doing: Stack, does: str, code: str) -> None:
    """Charged as a failed attempt, dead in the end; its neighbours never hear of it."""
    fine = [asked(f"fine-{n}", "insert") for n in range(20)]
    ids = await doing.apply(asked("bad", does), *fine, source="doing")
    assert await charged(doing, ids[0]) == [code, code]
    assert await settled(doing, ids[0]) == ("dead", "attempts_exhausted")
    assert await doing.outcomes(ids[1:]) == ["applied"] * 20
    assert await done(doing) == ["insert"] * 20
    assert await doing.value("SELECT count(*) FROM attempts") == 2
    assert await doing.value("SELECT count(*) FROM visits") == 0


@pytest.mark.parametrize("does", ["refuse_to_stop", "leave_tasks"])
async def test_who_does_not_stop_keeps_no_lane(doing: Stack, does: str) -> None:
    """It has no transaction any more, and its neighbours go on."""
    doing.crew.retry = RetryPolicy(1, 0.01, 0.02)
    begun_s = time.monotonic()
    ids = await doing.apply(asked("bad", does), asked("fine", "insert"), source="doing")
    assert time.monotonic() - begun_s < 6
    assert await charged(doing, ids[0]) == ["handler_timeout"]
    assert await doing.outcomes(ids) == ["dead", "applied"]
    await asyncio.sleep(8 - (time.monotonic() - begun_s))
    assert await done(doing) == ["insert"]


async def test_what_is_permanent_is_dead_at_once(doing: Stack) -> None:
    """With the code that the handler gave it; a replay tries again."""
    (one,) = await doing.apply(asked("e1", "fail_permanently"), source="doing")
    assert await settled(doing, one) == ("dead", "no_such_thing")
    assert await charged(doing, one) == ["no_such_thing"]
    assert await done(doing) == []


async def test_a_result_says_what_became_of_it(doing: Stack) -> None:
    """Outcome, code and tenant, without a place in the tenant's chain: nobody holds its lock."""
    (one,) = await doing.apply(asked("e1", "ignore"), source="doing")
    assert await settled(doing, one) == ("ignored", "not_mine")
    record = (await doing.fetch("SELECT * FROM audit WHERE cause_id = $1", str(one)))[0]
    assert record["tenant"] == "tenant-x"
    assert record["chain"].startswith("lane:")


async def test_the_connection_is_as_it_was(doing: Stack) -> None:
    """Role, limits and search path are put back: what comes after the handler finds its tables."""
    (one,) = await doing.apply(asked("e1", "move_away", "at_once", "ask_who"), source="doing")
    assert await settled(doing, one) == ("applied", None)
    assert sorted(await done(doing)) == ["ask_who", *["at once"] * 3, "at_once", "move_away"]


@pytest.mark.parametrize("does", ["sleep", "sleep_there"])
async def test_a_lost_connection_charges_nobody(doing: Stack, does: str) -> None:
    """The platform's faults are the platform's, also inside of a handler."""
    (receipt,) = await doing.receive(asked("e1", does, number=0.4), source="doing")
    lane = await doing.value("SELECT lane FROM work")
    assert await visit(doing.crew, lane) is Progress.MORE  # its source is known to run handlers now
    visiting = asyncio.create_task(visit(doing.crew, lane))
    while not await doing.value(AT_IT):
        assert not visiting.done()
    assert await visiting is Progress.FAULT
    assert await charged(doing, receipt.tracking_id) == []
    assert await doing.value("SELECT count(*) FROM work WHERE attempts = 0") == 1
    assert await done(doing) == []


async def test_messages_are_kept_with_the_event_and_once(doing: Stack) -> None:
    """A replay makes the same keys, and sends nothing again."""
    (one,) = await doing.apply(asked("e1", "send", "send"), source="doing")
    keys = "SELECT key FROM messages ORDER BY id"
    expected = [f"{one}/1", "the-second", f"{one}/3", f"{one}/4", f"{one}/6"]
    assert [row["key"] for row in await doing.fetch(keys)] == expected
    async with doing.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)"
            " SELECT tracking_id, received_at, lane, 2, 'operator:test', 'why' FROM inbox"
        )
    await doing.drain()
    assert [row["run"] for row in await doing.fetch("SELECT run FROM settlements")] == [1, 2]
    assert [row["key"] for row in await doing.fetch(keys)] == expected


async def test_who_lacks_the_handler_leaves_it_to_who_has_it(
    doing: Stack, endpoints: Endpoints
) -> None:
    """Uncharged while any worker has it; without one it fails, and is dead in the end."""
    async with doing.crew.db.connection() as conn:
        await say_what_is_here(conn)
    (receipt,) = await doing.receive(asked("e1", "insert"), source="doing")
    mine = dict(handlers())
    handlers().pop("doer")
    async with new_crew(endpoints, "without", retry=RetryPolicy(2, 0.01, 0.02)) as without:
        async with without.db.connection() as conn:
            await without.surroundings.refresh(conn)
        for lane in await doing.lanes("doing"):
            while await visit(without, lane) is Progress.MORE:
                pass
        assert await charged(doing, receipt.tracking_id) == []
        assert await doing.value("SELECT due_at > now() FROM work")
        assert without.missing == {"no handler of sluice_doing:Do is installed"}
        handlers().update(mine)
        await doing.drain()
        assert await settled(doing, receipt.tracking_id) == ("applied", None)

        handlers().pop("doer")
        async with doing.owner.connection() as conn:
            await conn.execute("UPDATE handlers SET seen_at = now() - interval '2 min'")
        (receipt,) = await doing.receive(asked("e2", "insert"), source="doing")
        await doing.drain(without)
        assert await settled(doing, receipt.tracking_id) == ("dead", "no_handler")
        assert await charged(doing, receipt.tracking_id) == ["no_handler"] * 2
    handlers().update(mine)


@pytest.mark.timeout(60)
async def test_slow_handlers_leave_slots_to_others(doing: Stack) -> None:
    """With every lane full of sleepers, two slots are never theirs, and others go on in them."""
    sleepers = [asked(f"s{n}", "sleep", number=0.3) for n in range(160)]
    await doing.receive(*sleepers, source="doing")
    crew = doing.crew

    theirs = set(await doing.lanes("doing"))
    begun: list[int] = []
    most = 0

    async def visit_lane(lane: int) -> Progress:
        nonlocal most
        begun.append(lane)
        if crew.extended:
            most = max(most, len(theirs & {*begun}))
        try:
            return await visit(crew, lane)
        finally:
            begun.remove(lane)

    rounds = Rounds(visit_lane, 4, crew.surroundings.source_ids_by_lane, crew.extended)
    running = asyncio.create_task(rounds.run())
    rounds.wake(theirs)
    await asyncio.sleep(1)
    most = 0
    late_ms = []
    for number in range(10):
        body = event(
            "customer.subscription.created",
            subscription(f"sub_{number}", customer=f"cus_{number}", tenant=f"t{number}"),
        )
        began = time.monotonic()
        receipts = await doing.receive(body)
        rounds.wake(await doing.lanes())
        while await doing.outcomes([receipts[0].tracking_id]) != ["applied"]:
            await asyncio.sleep(0.01)
        late_ms.append((time.monotonic() - began) * 1000)
    assert len(await done(doing)) < 160  # they still sleep
    rounds.close()
    await running
    assert most == 2
    assert sorted(late_ms)[5] < 400, late_ms


async def test_the_own_source_is_nobody_elses(doing: Stack) -> None:
    """It is there for workers, and removed for everybody who might send to it or declare it."""
    rows = await doing.fetch(
        "SELECT removed_at IS NOT NULL AS removed, count(*) AS lanes"
        " FROM sources s JOIN lanes l ON l.source_id = s.id WHERE name = $1 GROUP BY 1", OWN_SOURCE
    )  # fmt: skip
    assert [tuple(row.values()) for row in rows] == [(True, 16)]


async def test_what_another_worker_has_put_off_is_not_tried_at_once(doing: Stack) -> None:
    """Two workers may have read it as due: the failure of the one is not the other's to repeat."""
    doing.crew.retry = RetryPolicy(5, 60, 60)
    (receipt,) = await doing.receive(asked("e1", "fail"), source="doing")
    work_id, lane = (await doing.fetch("SELECT id, lane FROM work"))[0]
    for _ in range(3):
        await isolate(doing.crew, lane, [work_id])
    assert await charged(doing, receipt.tracking_id) == ["LookupError"]
    assert await doing.value("SELECT count(*) FROM visits") == 0


async def test_what_is_always_an_outage_holds_up_nobody(doing: Stack) -> None:
    """As a query that crashes its server process each time: uncharged, and others come first."""
    (bad,) = await doing.receive(asked("bad", "look_like_an_outage"), source="doing")
    fine = await doing.receive(*[asked(f"f{n}", "insert") for n in range(60)], source="doing")
    for _ in range(8):
        for lane in await doing.lanes("doing"):
            await visit(doing.crew, lane)
    assert await doing.outcomes([one.tracking_id for one in fine]) == ["applied"] * 60
    assert await charged(doing, bad.tracking_id) == []
    assert await doing.value("SELECT count(*) FROM work") == 1
