"""Bodies go by whole days; what has to stay is found where it was, and nothing is lost."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.keeping import LONG_AGO, add_day, at, partitions, pruned
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.holding import hold, release


def created(name: str, tenant: str | None) -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant)
    return event("customer.subscription.created", content)


@pytest.fixture
async def old(stack: Stack) -> Stack:
    """Three days of long ago; on each an event of `kept` and one of `plain`, applied."""
    for ahead in range(3):
        moment = LONG_AGO + timedelta(days=ahead)
        await add_day(stack, moment.date())
        with at(moment):
            await stack.apply(created(f"k{ahead}", "kept"), created(f"p{ahead}", "plain"))
    return stack


async def say_hold(stack: Stack, tenant: str = "kept") -> None:
    async with stack.owner.transaction() as conn:
        await hold(conn, tenant, None, "operator:test", "a dispute")


MONTH = f"inbox_hold_{LONG_AGO:%Y%m}"


async def test_days_go_whole_where_nothing_has_to_stay(old: Stack, tmp_path: Path) -> None:
    recent = await old.apply(created("now", "plain"))
    assert await pruned(old, tmp_path, "standard") == {"standard": 3}
    assert await partitions(old) == {}
    assert await old.value("SELECT count(*) FROM inbox") == 1
    assert await old.outcomes(recent) == ["applied"]
    assert await old.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'inbox_gone%'") == 0
    assert await pruned(old, tmp_path, "standard") == {"standard": 0}


async def test_what_is_held_moves_and_stays_readable(old: Stack, tmp_path: Path) -> None:
    bodies = await old.fetch(
        "SELECT i.tracking_id, i.body, i.headers FROM inbox i"
        " JOIN settlements s USING (tracking_id) WHERE s.tenant = 'kept' ORDER BY 1"
    )
    await say_hold(old)
    assert await pruned(old, tmp_path, "standard", "hold") == {"standard": 3, "hold": 0}
    assert await partitions(old) == {MONTH: 3}
    now = await old.fetch("SELECT tracking_id, body, headers FROM inbox ORDER BY 1")
    assert [tuple(row) for row in now] == [tuple(row) for row in bodies]
    async with old.owner.transaction() as conn:
        await release(conn, "kept", "operator:test", "settled")
    assert await pruned(old, tmp_path, "standard", "hold") == {"standard": 0, "hold": 3}
    assert await partitions(old) == {}


async def test_a_month_takes_up_one_day_after_the_other(old: Stack, tmp_path: Path) -> None:
    """Days that go later join what the month has left already."""
    await say_hold(old)
    next_day = LONG_AGO + timedelta(days=3)
    await pruned(old, tmp_path, "standard")
    await add_day(old, next_day.date())
    with at(next_day):
        await old.apply(created("k9", "kept"), created("p9", "plain"))
    assert await pruned(old, tmp_path, "standard") == {"standard": 1}
    assert await partitions(old) == {MONTH: 4}


async def test_unfinished_events_stay_and_are_applied(old: Stack, tmp_path: Path) -> None:
    with at(LONG_AGO):
        (receipt,) = await old.receive(created("late", "late"))
    await pruned(old, tmp_path, "standard", "hold")
    assert await partitions(old) == {MONTH: 1}
    await old.drain()
    assert await old.outcomes([receipt.tracking_id]) == ["applied"]
    assert await old.features("late") == {"seats": 10, "sso": True}
    assert await pruned(old, tmp_path, "hold") == {"hold": 1}


async def test_a_redelivery_that_waits_keeps_its_event(old: Stack, tmp_path: Path) -> None:
    body = await old.value("SELECT body FROM inbox ORDER BY tracking_id LIMIT 1")
    await old.receive(body)
    assert await old.value("SELECT count(*) FROM work WHERE kind = 'redelivery'") == 1
    await pruned(old, tmp_path, "standard")
    assert await partitions(old) == {MONTH: 1}


async def test_strays_go_too_and_are_held_too(old: Stack, tmp_path: Path) -> None:
    """A day that had no partition when its events came: they lie in the default one."""
    with at(LONG_AGO - timedelta(days=1)):
        await old.apply(created("k5", "kept"), created("p5", "plain"))
    assert await old.value("SELECT count(*) FROM inbox_default") == 2
    await say_hold(old)
    await pruned(old, tmp_path, "standard", "hold")
    assert await partitions(old) == {MONTH: 4}
    assert await old.value("SELECT count(*) FROM inbox_default") == 0


async def test_what_begins_between_copy_and_change_is_seen(old: Stack, tmp_path: Path) -> None:
    """A replay, and a hold, that come after the copy: the day is copied again."""
    (ours,) = await old.fetch(
        "SELECT tracking_id, received_at, lane FROM inbox ORDER BY tracking_id LIMIT 1"
    )
    async with old.crew.db.connection() as conn:
        await conn.fetchrow("SELECT * FROM begin_inbox_move(30)")
        await old.fetch(
            "INSERT INTO work (tracking_id, received_at, lane, run) VALUES ($1, $2, $3, 2)",
            *ours.values(),
        )
        with pytest.raises(Exception, match="has changed since"):
            await conn.fetchval("SELECT finish_inbox_move(30, 100)")
        await old.fetch("DELETE FROM work")
        await say_hold(old)
        with pytest.raises(Exception, match="has changed since"):
            await conn.fetchval("SELECT finish_inbox_move(30, 100)")
    assert await pruned(old, tmp_path, "standard") == {"standard": 3}
    assert await partitions(old) == {MONTH: 3}


@pytest.mark.parametrize("keep_d", [-1000, 0, 6])
async def test_nobody_can_drop_what_is_young(stack: Stack, keep_d: int) -> None:
    """Whoever calls the functions, and with whatever: a week stays."""
    await stack.apply(created("1", "t"))
    async with stack.crew.db.connection() as conn:
        assert await conn.fetchrow("SELECT * FROM begin_inbox_move($1)", keep_d) is None
        with pytest.raises(Exception, match="no day of the inbox may go now"):
            await conn.fetchval("SELECT finish_inbox_move($1, 10)", keep_d)
        with pytest.raises(Exception, match="are to be kept"):
            await conn.fetchval(
                "SELECT forget_bodies(now() - interval '9 days', now(), $1, 100)", keep_d
            )
        with pytest.raises(Exception, match="not being erased"):
            await conn.fetch(
                "SELECT * FROM erase_bodies('t', (SELECT array_agg(received_at) FROM inbox),"
                " (SELECT array_agg(tracking_id) FROM inbox))"
            )
        with pytest.raises(Exception, match="permission denied"):
            await conn.execute("DELETE FROM inbox")
    assert await stack.value("SELECT count(*) FROM inbox") == 1


async def test_a_reader_that_stays_puts_it_off(old: Stack, tmp_path: Path) -> None:
    """A dump, say: the day stays, receipt goes on, and the next pass does it."""
    async with old.owner.transaction() as conn:
        await conn.fetchval("SELECT count(*) FROM inbox")
        pruning = asyncio.create_task(pruned(old, tmp_path, "standard"))
        for number in range(5):
            await asyncio.wait_for(old.receive(created(f"n{number}", "new")), 2)
            await asyncio.sleep(0.1)
        assert await pruning == {"standard": 0}
    assert await pruned(old, tmp_path, "standard") == {"standard": 3}
