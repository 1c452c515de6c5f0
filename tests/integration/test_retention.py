"""Bodies go by whole days; what has to stay is found where it was, and nothing is lost."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest

from shared.artifacts import Artifacts
from shared.store import merges, pruning
from tests.integration.test_exporting import begin, turns
from tests.support.keeping import LONG_AGO, add_day, at, partitions, pruned
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, event, subscription
from tests.support.working import finish
from workers.holding import hold, release
from workers.replay import BodyGone, open_run
from workers.retention.classes import CLASSES
from workers.steering import begin_job


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


@pytest.mark.parametrize(("until", "stays"), [("1 hour", 3), ("-1 s", 0)])
async def test_a_hold_holds_until_its_end(
    old: Stack, tmp_path: Path, until: str, stays: int
) -> None:
    await say_hold(old)
    await old.fetch("UPDATE tenants SET held_until = now() + $1::text::interval", until)
    assert await pruned(old, tmp_path, "standard") == {"standard": 3}
    assert await old.value("SELECT count(*) FROM inbox") == stays


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


async def test_a_job_that_waits_for_its_operator_keeps_no_day(old: Stack, tmp_path: Path) -> None:
    """Begun by hand long ago, and paused: it is no event, and has no body."""
    with mock.patch("workers.steering.datetime", wraps=datetime) as clock:
        clock.now.return_value = LONG_AGO
        async with old.owner.transaction() as conn:
            job = await begin_job(conn, "backfill", {}, "operator:test", "x")
    await old.fetch("UPDATE jobs SET state = 'paused' WHERE id = $1", job)
    assert await pruned(old, tmp_path, "standard") == {"standard": 3}


async def test_who_is_merged_into_a_held_tenant_meanwhile_is_held(
    old: Stack, tmp_path: Path
) -> None:
    await say_hold(old)
    async with old.crew.db.connection() as conn:
        stretch = await conn.fetchrow("SELECT * FROM begin_inbox_move(30)")
        await conn.fetchval("SELECT copy_kept_bodies($1, $2)", *stretch)
        async with old.owner.transaction() as merging:
            await merges.merge(merging, "plain", "kept")
        with pytest.raises(Exception, match="has changed since"):
            await conn.fetchval("SELECT finish_inbox_move(30, 100)")


async def test_an_event_that_is_opened_while_bodies_go_keeps_its_own(
    old: Stack, tmp_path: Path
) -> None:
    """Whoever opens a run and whoever forgets wait for each other: no run is without its body."""
    await say_hold(old)
    await pruned(old, tmp_path, "standard")
    async with old.owner.transaction() as conn:
        await release(conn, "kept", "operator:test", "settled")
    (one, other, _) = await old.fetch("SELECT tracking_id FROM inbox ORDER BY 1")
    async with old.owner.transaction() as conn:
        await open_run(conn, one[0], "operator:test", "x")
        going = asyncio.create_task(pruned(old, tmp_path, "hold"))
        await asyncio.sleep(0.3)
    assert await going == {"hold": 2}
    assert await old.value("SELECT tracking_id FROM inbox") == one[0]
    async with old.owner.transaction() as conn:
        with pytest.raises(BodyGone):
            await open_run(conn, other[0], "operator:test", "x")
    await old.drain()
    assert await old.value("SELECT count(*) FROM work") == 0
    assert await old.value("SELECT max(run) FROM settlements") == 2


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


async def test_an_event_is_looked_for_in_one_partition(old: Stack, tmp_path: Path) -> None:
    """Whatever its class: nobody who has a tracking id knows it, or need to."""
    await say_hold(old)
    await pruned(old, tmp_path, "standard")
    (recent,) = await old.apply(created("now", "plain"))
    held = await old.value("SELECT min(tracking_id::text)::uuid FROM inbox")
    for wanted, where in ((held, MONTH), (recent, f"inbox_{datetime.now(UTC):%Y%m%d}")):
        rows = await old.fetch(
            f"EXPLAIN SELECT body FROM inbox WHERE received_at = received_at_of('{wanted}')"
            f" AND tracking_id = '{wanted}'"
        )
        plan = "\n".join(row[0] for row in rows)
        assert plan.count(" on inbox") == 1, plan
        assert f" on {where} " in plan


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


async def test_the_ledger_goes_below_its_horizon(old: Stack, tmp_path: Path) -> None:
    """Finished events whose bodies are gone, with all that is known of them; and no others."""
    await pruned(old, tmp_path, "standard")
    body = created("k0", "kept")
    with at(LONG_AGO):
        await old.receive(body)
    age = {"keep_ledger_d": 90}
    await back_date(old, 200)
    assert await pruned(old, tmp_path, "ledger", **age) == {"ledger": 12}
    horizon = await old.value("SELECT now() - pruned_before FROM ledger_horizon")
    assert timedelta(days=90) <= horizon < timedelta(days=91)
    # One is unfinished.
    assert await old.value("SELECT count(*) FROM ledger") == 1
    assert await old.value("SELECT count(*) FROM settlements") == 0
    assert await pruned(old, tmp_path, "ledger", **age) == {"ledger": 0}
    # What is as old as that is not applied any more: nobody can say whether it was.
    (receipt,) = await old.receive(event("customer.subscription.created", subscription("sub_x"),
                                         created=1_600_000_000))  # fmt: skip
    await old.drain()
    code = "SELECT code FROM settlements WHERE tracking_id = $1"
    assert await old.value(code, receipt.tracking_id) == "older_than_ledger"


async def back_date(stack: Stack, days: int) -> None:
    """As if all that is settled, but for bodies that are there, were so much older."""
    for table, column in (("ledger", "received_at"), ("settlements", "settled_at")):
        await stack.fetch(f"UPDATE {table} SET {column} = {column} - $1::interval",
                          timedelta(days=days))  # fmt: skip
    await stack.fetch(
        "UPDATE settlements SET tracking_id = older.id FROM (SELECT tracking_id AS was,"
        " overlay(tracking_id::text PLACING left(first_id(received_at_of(tracking_id)"
        " - $1::interval)::text, 13) FROM 1 FOR 13)::uuid AS id FROM settlements) AS older"
        " WHERE was = tracking_id",
        timedelta(days=days),
    )
    await stack.fetch(
        "UPDATE ledger SET tracking_id = overlay(tracking_id::text PLACING left(first_id("
        "received_at_of(tracking_id) - $1::interval)::text, 13) FROM 1 FOR 13)::uuid"
        " WHERE tracking_id NOT IN (SELECT tracking_id FROM work)",
        timedelta(days=days),
    )


async def test_no_statement_goes_beyond_the_horizon(old: Stack, tmp_path: Path) -> None:
    """Of what is younger the ledger is still believed, whatever age is asked for."""
    await pruned(old, tmp_path, "standard")
    rows = await old.value("SELECT count(*) FROM ledger")
    async with old.crew.db.connection() as conn:
        before = await pruning.moment_before(conn, timedelta(days=10))
        blocks = await pruning.blocks_of_ledger(conn)
        await pruning.move_horizon(conn, LONG_AGO - timedelta(days=1))
        assert await pruning.forget_ledger(conn, before, 0, blocks) == 0
        await pruning.move_horizon(conn, before)
        assert await pruning.forget_ledger(conn, before, 0, blocks) == rows > 0


async def test_an_event_whose_body_is_there_stays_known(old: Stack, tmp_path: Path) -> None:
    await say_hold(old)
    await pruned(old, tmp_path, "standard")
    await old.fetch("UPDATE ledger_horizon SET pruned_before = now()")
    await old.fetch("UPDATE settlements SET settled_at = settled_at - interval '300 days'")
    async with old.crew.db.connection() as conn:
        before = await pruning.moment_before(conn, timedelta(days=10))
        blocks = await pruning.blocks_of_ledger(conn)
        assert await pruning.forget_ledger(conn, before, 0, blocks) == 3
        found = await pruning.oldest_events(conn, before, 100, UUID(int=0))
        assert len(await pruning.forgettable(conn, found, before)) == 3
    tenants = await old.fetch(
        "SELECT DISTINCT s.tenant FROM ledger l JOIN settlements s USING (tracking_id)"
    )
    assert [row["tenant"] for row in tenants] == ["kept"]


async def test_what_is_unfinished_stays_known_even_without_its_body(
    old: Stack, tmp_path: Path
) -> None:
    """No body of it goes; whoever lost one by another way is not to lose the event as well."""
    rows = await old.fetch("SELECT tracking_id, received_at, lane FROM inbox ORDER BY 1")
    replayed, job, again, *others = [row["tracking_id"] for row in rows]
    await old.fetch("DELETE FROM inbox")
    await old.fetch(
        "INSERT INTO work (tracking_id, received_at, lane, run) VALUES ($1, $2, $3, 2)", *rows[0]
    )
    await old.fetch(
        "INSERT INTO jobs (id, kind, actor, state) VALUES ($1, 'import', 'x', 'waiting')", job
    )
    delivery = await old.value(
        "INSERT INTO deliveries (tracking_id, received_at, body_sha, secret, trace_context)"
        " VALUES ($1, now(), '', '0.1', '') RETURNING id", again,
    )  # fmt: skip
    await old.fetch(
        "INSERT INTO work (kind, tracking_id, received_at, lane, delivery_id)"
        " VALUES ('redelivery', $1, $2, $3, $4)", *rows[2], delivery,
    )  # fmt: skip
    await old.fetch("UPDATE settlements SET settled_at = settled_at - interval '300 days'")
    async with old.crew.db.connection() as conn:
        before = await pruning.moment_before(conn, timedelta(days=10))
        found = await pruning.oldest_events(conn, before, 100, UUID(int=0))
        assert set(await pruning.forgettable(conn, found, before)) == set(others)
        await pruning.move_horizon(conn, before)
        await pruning.forget_ledger(conn, before, 0, await pruning.blocks_of_ledger(conn))
    left = {row["tracking_id"] for row in await old.fetch("SELECT tracking_id FROM ledger")}
    assert left >= {replayed, job}
    assert not left & set(others)


async def test_what_is_held_does_not_keep_what_is_younger(
    old: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass looks through so much, and the next one goes on behind it."""
    monkeypatch.setattr("workers.retention.prune.EVENTS_AT_ONCE", 1)
    monkeypatch.setattr("workers.retention.prune.EVENTS_OF_PASS", 3)
    await pruned(old, tmp_path, "standard")
    await back_date(old, 500)
    held = await old.fetch("SELECT tracking_id FROM settlements ORDER BY 1 LIMIT 4")
    await old.fetch(
        "UPDATE settlements SET settled_at = now() WHERE tracking_id = ANY($1::uuid[])",
        [row[0] for row in held],
    )
    await old.fetch("DELETE FROM ledger")
    gone = [(await pruned(old, tmp_path, "ledger"))["ledger"] for _ in range(5)]
    assert sum(gone) == 2
    assert await old.value("SELECT count(*) FROM settlements") == 4


async def test_a_class_that_fails_keeps_no_other(old: Stack, tmp_path: Path) -> None:
    await old.fetch("ALTER TABLE inbox_moves RENAME TO elsewhere")
    await old.fetch(
        "INSERT INTO jobs (id, kind, actor, state, finished_at)"
        " VALUES (gen_random_uuid(), 'export', 'x', 'done', now() - interval '91 days')"
    )
    with pytest.raises(Exception, match="inbox_moves"):
        await pruned(old, tmp_path, *CLASSES)
    assert await old.value("SELECT count(*) FROM jobs") == 0
    await old.fetch("ALTER TABLE elsewhere RENAME TO inbox_moves")
    assert (await pruned(old, tmp_path, *CLASSES))["standard"] == 3


async def test_a_plan_goes_with_its_job_and_not_before_who_carries_it_out(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.retention.prune.ITEMS_AT_ONCE", 2)
    plan, replay = uuid4(), uuid4()
    await stack.fetch(
        "INSERT INTO jobs (id, kind, actor, state, finished_at) VALUES"
        " ($1, 'replay-plan', 'x', 'done', now() - interval '99 days'),"
        " ($2, 'replay', 'x', 'paused', NULL)",
        plan, replay,
    )  # fmt: skip
    await stack.fetch("INSERT INTO replay_plans (plan, configuration, snapshot, run_by)"
                      " VALUES ($1, 1, '1:1:', $2)", plan, replay)  # fmt: skip
    await stack.fetch("INSERT INTO replay_tenants VALUES ($1, 't')", plan)
    await stack.fetch("INSERT INTO replay_items (plan, position, tracking_id, received_at, code)"
                      " SELECT $1, n, gen_random_uuid(), now(), 'body_expired'"
                      " FROM generate_series(1, 5) n", plan)  # fmt: skip
    assert await pruned(stack, tmp_path, "jobs") == {"jobs": 0}
    await stack.fetch("UPDATE jobs SET state = 'done', finished_at = now() WHERE id = $1", replay)
    assert await pruned(stack, tmp_path, "jobs") == {"jobs": 0}
    assert await stack.value("SELECT count(*) FROM replay_items") == 5
    await stack.fetch("UPDATE jobs SET finished_at = now() - interval '91 days' WHERE id = $1",
                      replay)  # fmt: skip
    assert (await pruned(stack, tmp_path, "jobs"))["jobs"] == 2
    for table in ("replay_items", "replay_plans", "replay_tenants"):
        assert await stack.value(f"SELECT count(*) FROM {table}") == 0


async def test_observations_go_that_nothing_stands_on(stack: Stack, tmp_path: Path) -> None:
    """Below a settled one that is older than the horizon; the register stays what it was."""
    updates = [
        event("customer.subscription.updated",
              subscription("sub_1", customer="cus_1", tenant="t", quantity=n + 1),
              previous={"items": {"data": []}}, created=NOW_S - 1000 + n)
        for n in range(5)
    ]  # fmt: skip
    with at(datetime.now(UTC) - timedelta(days=500)):
        await stack.apply(created("1", "t"), *updates[:4])
    await stack.apply(updates[4])
    registers = await stack.fetch("SELECT register::text FROM objects ORDER BY id")
    assert await stack.value("SELECT count(*) FROM observations") == 6
    await pruned(stack, tmp_path, "observations")
    left = await stack.value("SELECT count(*) FROM observations")
    assert 2 <= left < 6
    await stack.apply(updates[4])
    assert [row[0] for row in await stack.fetch("SELECT register::text FROM objects ORDER BY id")] \
        == [row[0] for row in registers]  # fmt: skip
    assert await pruned(stack, tmp_path, "observations") == {"observations": 0}


async def test_an_observation_stays_that_says_since_when(stack: Stack, tmp_path: Path) -> None:
    """A grace period runs from the first of two that say the same."""

    def told(kind: str, at_s: int, **more: Any) -> bytes:
        content = subscription("sub_1", customer="cus_1", tenant="t", **more)
        previous = {"items": {"data": []}} if kind == "updated" else None
        return event(f"customer.subscription.{kind}", content, previous=previous, created=at_s)

    began = NOW_S - 1000
    unpaid = [told("updated", began + n, status="past_due", quantity=n + 2) for n in range(3)]
    with at(datetime.now(UTC) - timedelta(days=500)):
        await stack.apply(told("created", began - 500), *unpaid[:2])
    since = "SELECT register::json #>> '{sightings,0,past_due_since}' FROM objects"
    assert await stack.value(since) == str(began)
    await pruned(stack, tmp_path, "observations")
    await stack.apply(unpaid[2])
    assert await stack.value(since) == str(began)


async def test_jobs_that_are_over_go_with_their_files(stack: Stack, tmp_path: Path) -> None:
    await stack.apply(created("1", "t"))
    job = await begin(stack, "entitlements")
    await finish(stack, turns(stack, tmp_path))
    young = await begin(stack, "entitlements")
    files = tmp_path / "artifacts"
    assert len([one for one in files.rglob("*") if one.is_file()]) == 2
    await stack.fetch("UPDATE jobs SET finished_at = finished_at - interval '91 days'"
                      " WHERE id = $1", job)  # fmt: skip
    assert await pruned(stack, tmp_path, "jobs") == {"jobs": 1}
    assert await stack.value("SELECT id FROM jobs") == young
    assert await stack.value("SELECT count(*) FROM job_assets") == 0
    # A file is younger than any upload may be old.
    assert await pruned(stack, tmp_path, "artifacts") == {"artifacts": 0}
    draft = files / "sha256" / "ab" / f"{'ab' * 32}.{'0' * 32}"
    draft.parent.mkdir()
    draft.write_bytes(b"cut off")
    named = files / "sha256" / "cd" / ("cd" * 32)
    named.parent.mkdir()
    named.write_bytes(b"named")
    await stack.fetch("INSERT INTO job_assets (job, name, media_type, size_bytes, sha256)"
                      " VALUES ($1, 'x', 'x', 5, decode($2, 'hex'))", young, "cd" * 32)  # fmt: skip
    for one in files.rglob("*"):
        os.utime(one, (0, 0))
    assert await pruned(stack, tmp_path, "artifacts") == {"artifacts": 3}
    assert named.exists()
    assert not draft.exists()


async def test_a_file_that_is_put_again_is_young_again(tmp_path: Path) -> None:
    """Its row is still to come: whoever prunes must not take it for forgotten."""
    artifacts, content = Artifacts(None, tmp_path), b"twice"
    digest = sha256(content).digest()
    for _ in range(2):
        await artifacts.put(BytesIO(content), digest, len(content))
        old = [one async for one in artifacts.older_than(timedelta(days=1))]
        assert old == []
        for one in (tmp_path / "artifacts").rglob("*"):
            os.utime(one, (0, 0))
    assert len([one async for one in artifacts.older_than(timedelta(days=1))]) == 1


async def test_a_file_that_is_put_again_while_old_ones_go_stays(tmp_path: Path) -> None:
    """It was listed as old, and nobody had named it yet when that was looked up."""
    artifacts, content = Artifacts(None, tmp_path), b"twice"
    digest = sha256(content).digest()
    await artifacts.put(BytesIO(content), digest, len(content))
    for one in (tmp_path / "artifacts").rglob("*"):
        os.utime(one, (0, 0))
    (listed,) = [one async for one in artifacts.older_than(timedelta(days=2))]
    await artifacts.put(BytesIO(content), digest, len(content))
    await artifacts.remove_stored(listed)
    assert [chunk async for chunk in artifacts.read(digest)] == [content]
