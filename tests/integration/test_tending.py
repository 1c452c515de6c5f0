"""Ignoring and retrying against workers that are at it, or died at it; and a tail of it all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.domain.outcomes import RetryPolicy
from shared.store import intake
from shared.store.tended import read_acts
from shared.store.work import Visit, mark_visit
from tests.support.stack import Stack, drain, new_crew
from tests.support.stripe_events import event, subscription
from workers import process
from workers.actions import act_of
from workers.process import Progress, visit
from workers.solitary import Solitary
from workers.tailing import Seen, Tail
from workers.tending import ignore_events, retry_events
from workers.trail import verify

WHO, WHY = "operator:ada", "sent by mistake"


def created(number: int, tenant: str = "acme") -> bytes:
    return event(
        "customer.subscription.created",
        subscription(f"sub_{number}", tenant=tenant),
        event_id=f"evt_{number}",
    )


async def receive(stack: Stack, number: int) -> UUID:
    return (await stack.receive(created(number)))[0].tracking_id


async def lane_of(stack: Stack, tracking: UUID) -> int:
    lane: int = await stack.value("SELECT lane FROM inbox WHERE tracking_id = $1", tracking)
    return lane


async def ignore(stack: Stack, tracking: UUID) -> str:
    lane = await lane_of(stack, tracking)
    async with stack.owner.transaction() as conn:
        return (await ignore_events(conn, lane, [tracking], WHO, WHY))[tracking]


async def runs(stack: Stack, tracking: UUID) -> list[tuple[Any, ...]]:
    rows = await stack.fetch(
        "SELECT run, status, code, attempts FROM settlements WHERE tracking_id = $1 ORDER BY run",
        tracking,
    )
    return [tuple(row.values()) for row in rows]


async def records(stack: Stack, tracking: UUID) -> list[tuple[Any, ...]]:
    rows = await stack.fetch(
        "SELECT run, action, actor FROM audit WHERE cause = 'event' AND step = 0 AND cause_id = $1"
        " ORDER BY id",
        str(tracking),
    )
    return [tuple(row.values()) for row in rows]


async def check_trail(stack: Stack) -> None:
    async with stack.owner.connection() as conn:
        assert [found async for found in verify(conn, None, lambda _: None)] == []


async def bury(stack: Stack, tracking: UUID) -> None:
    """Have it fail until it is dead, by the code of a worker."""
    work_id = await stack.value("SELECT id FROM work WHERE tracking_id = $1", tracking)
    lane, stack.crew.retry = await lane_of(stack, tracking), RetryPolicy(1, 0.01, 0.01)
    assert await process.charge(stack.crew, lane, work_id, KeyError("price"))


class Stopped:
    """A worker that stands still inside of its transaction, with everything done but the commit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_inside, self.may_go_on = asyncio.Event(), asyncio.Event()
        real: Callable[..., Awaitable[Any]] = process._apply

        async def apply(*args: Any, **more: Any) -> Any:
            done = await real(*args, **more)
            self.is_inside.set()
            await self.may_go_on.wait()
            return done

        monkeypatch.setattr(process, "_apply", apply)


async def test_who_is_at_it_comes_first_and_what_it_settled_stays(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = await receive(stack, 1)
    lane = await lane_of(stack, tracking)
    at = Stopped(monkeypatch)
    applying = asyncio.create_task(visit(stack.crew, lane))
    await at.is_inside.wait()
    ignoring = asyncio.create_task(ignore(stack, tracking))
    await asyncio.sleep(0.3)
    assert not ignoring.done()
    at.may_go_on.set()
    assert await applying is Progress.DONE
    assert await ignoring == "settled"
    assert await runs(stack, tracking) == [(1, "processed", None, 1)]
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    await check_trail(stack)


async def test_who_comes_while_it_is_ignored_finds_the_lane_taken_and_then_nothing(
    stack: Stack,
) -> None:
    tracking = await receive(stack, 1)
    lane = await lane_of(stack, tracking)
    async with stack.owner.transaction() as conn:
        assert await ignore_events(conn, lane, [tracking], WHO, WHY) == {tracking: "ignored"}
        assert await visit(stack.crew, lane) is Progress.NOTHING
    assert await visit(stack.crew, lane) is Progress.NOTHING
    assert await runs(stack, tracking) == [(1, "ignored", "ignored_by_operator", 0)]
    assert await records(stack, tracking) == [(1, "event.ignored", WHO)]
    assert await stack.features("acme") == {}
    await check_trail(stack)


async def test_between_a_failure_and_its_charge_nothing_is_charged_any_more(stack: Stack) -> None:
    """A worker whose attempt was rolled back comes for the lane once more, to write it down."""
    tracking = await receive(stack, 1)
    lane = await lane_of(stack, tracking)
    work_id = await stack.value("SELECT id FROM work WHERE tracking_id = $1", tracking)
    assert await ignore(stack, tracking) == "ignored"
    assert await process.charge(stack.crew, lane, work_id, KeyError("price"))
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await process.isolate(stack.crew, lane, [work_id]) is Progress.MORE
    assert await runs(stack, tracking) == [(1, "ignored", "ignored_by_operator", 0)]
    assert await stack.value("SELECT count(*) FROM visits") == 0


async def test_a_mark_of_a_process_that_died_at_it_charges_nobody(stack: Stack) -> None:
    tracking, neighbour = await receive(stack, 1), await receive(stack, 1_000)
    lane = await lane_of(stack, tracking)
    work_id = await stack.value("SELECT id FROM work WHERE tracking_id = $1", tracking)
    async with stack.owner.connection() as conn:
        left = Visit(uuid4(), work_id, work_id, work_id)
        await mark_visit(conn, lane, left, "a process that is dead")
    await stack.fetch("UPDATE work SET alone = true, due_at = now() WHERE id = $1", work_id)
    assert await ignore(stack, tracking) == "ignored"
    await Solitary(stack.crew, asyncio.Event())._clear_suspicion(lane)
    await Solitary(stack.crew, asyncio.Event())._look()
    await stack.drain()
    assert await stack.value("SELECT count(*) FROM visits") == 0
    assert await stack.value("SELECT count(*) FROM attempts") == 0
    assert await runs(stack, tracking) == [(1, "ignored", "ignored_by_operator", 0)]
    assert await runs(stack, neighbour) == [(1, "processed", None, 1)]
    await check_trail(stack)


async def test_a_dead_one_is_dead_no_more_and_its_redelivery_changes_nothing(stack: Stack) -> None:
    tracking = await receive(stack, 1)
    await bury(stack, tracking)
    assert await ignore(stack, tracking) == "ignored"
    expected = [(1, "dead", "attempts_exhausted", 1), (2, "ignored", "ignored_by_operator", 0)]
    assert await runs(stack, tracking) == expected
    (again,) = await stack.receive(created(1))
    assert again.status == "duplicate"
    await stack.drain()
    assert await runs(stack, tracking) == expected
    assert await stack.features("acme") == {}
    assert await records(stack, tracking) == [(1, "event.dead", "provider:stripe"),
                                              (2, "event.ignored", WHO)]  # fmt: skip
    assert await ignore(stack, tracking) == "settled"
    await check_trail(stack)


async def test_what_is_retried_is_due_now_and_what_kills_stays_apart(stack: Stack) -> None:
    waiting, killer, fresh = [await receive(stack, number) for number in (1, 2, 3)]
    await stack.fetch("UPDATE work SET attempts = 1, due_at = now() + interval '1 h'"
                      " WHERE tracking_id = $1", waiting)  # fmt: skip
    await stack.fetch("UPDATE work SET attempts = 1, alone = true, due_at = now() + interval '1 h'"
                      " WHERE tracking_id = $1", killer)  # fmt: skip
    nobody = uuid4()
    async with stack.owner.transaction() as conn:
        became, lanes = await retry_events(conn, [waiting, killer, fresh, nobody], WHO, WHY)
    assert became == {waiting: "due", killer: "due", fresh: "already", nobody: "unknown"}
    assert set(lanes) == {await lane_of(stack, waiting), await lane_of(stack, killer)}
    row = await stack.fetch("SELECT alone, due_at <= now() AS due, attempts FROM work"
                            " WHERE tracking_id = $1", killer)  # fmt: skip
    assert tuple(row[0].values()) == (True, True, 1)
    await stack.drain()
    assert await runs(stack, waiting) == [(1, "processed", None, 2)]
    assert await runs(stack, killer) == []
    async with stack.owner.transaction() as conn:
        again, _ = await retry_events(conn, [waiting], WHO, WHY)
        assert again == {waiting: "settled"}
        acts = await read_acts(conn, act_of(waiting))
    assert [(one[0], one[1], one[3]) for one in acts] == [("event.retried", WHO, WHY)]
    await check_trail(stack)


# The tail ---------------------------------------------------------------------------------------


async def test_a_tail_misses_nothing_that_commits_late(stack: Stack) -> None:
    """Receipts and settlements of transactions that began before others were seen."""
    await stack.apply(created(1))
    tail = Tail()
    async with stack.owner.connection() as conn:
        late = await stack.gateway._pool.acquire()
        turn = late.transaction()
        await turn.start()
        lanes = await stack.lanes()
        before, after = (_delivery(stack, created(number), lanes) for number in (2, 3))
        await intake.insert_new(late, [before])
        await tail.begin(conn)
        assert await tail.look(conn) == []
        async with stack.gateway.connection() as other:
            await intake.insert_new(other, [after])
        assert await tail.look(conn) == [Seen(after.tracking_id, None)]
        await stack.drain()
        # Settled, and held back: an older transaction may still commit in front of it.
        for _ in range(3):
            assert await tail.look(conn) == []
        await turn.commit()
        await stack.gateway._pool.release(late)
        assert sorted(await tail.look(conn), key=str) == sorted(
            [Seen(before.tracking_id, None), Seen(after.tracking_id, 1)], key=str
        )
        await stack.drain()
        assert await tail.look(conn) == [Seen(before.tracking_id, 1)]
        for _ in range(4):
            assert await tail.look(conn) == []


def _delivery(stack: Stack, body: bytes, lanes: list[int]) -> Any:
    from tests.support import stack as support

    source_id = stack.sources["stripe"]
    provider = stack.crew.surroundings.provider(source_id)
    return support._delivery(provider, body, (), source_id, lanes)


async def test_a_tail_among_many_writers_has_everything_once(stack: Stack) -> None:
    """Batches that are committed in any order, while workers settle them and a tail looks."""
    tail = Tail()
    seen: list[Seen] = []
    lanes = await stack.lanes()
    deliveries = [_delivery(stack, created(number, f"t{number}"), lanes) for number in range(120)]
    is_over = asyncio.Event()

    async def write(some: list[Any], delay_s: float) -> None:
        async with stack.owner.transaction() as conn:
            await intake.insert_new(conn, some)
            await asyncio.sleep(delay_s)

    async def work() -> None:
        async with new_crew(stack.endpoints, "another") as crew:
            while not is_over.is_set():
                await drain(crew)
                await asyncio.sleep(0.01)

    async def look() -> None:
        async with stack.gateway.connection() as _, stack.crew.db.connection() as conn:
            while not is_over.is_set():
                seen.extend(await tail.look(conn))
                await asyncio.sleep(0.005)

    async with stack.owner.connection() as conn:
        await tail.begin(conn)
    looking, working = asyncio.create_task(look()), asyncio.create_task(work())
    turns = asyncio.Semaphore(3)

    async def in_turn(number: int) -> None:
        async with turns:
            await write(deliveries[number : number + 4], 0.03 * (number * 7 % 5))

    await asyncio.gather(*(in_turn(number) for number in range(0, 120, 4)))
    await stack.drain()
    await asyncio.sleep(0.3)
    is_over.set()
    await asyncio.gather(looking, working)
    settled = [one for one in seen if one.run is not None]
    received = [one for one in seen if one.run is None]
    ids = {one.tracking_id for one in deliveries}
    assert sorted(settled) == sorted(Seen(one, 1) for one in ids)
    # What came and went between two looks is seen in the trail alone.
    assert len(received) == len(set(received))
    assert {one.tracking_id for one in received} <= ids
