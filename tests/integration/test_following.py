"""Followers: what handlers listen to is brought to them, each of it once, whatever happens."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from shared import db
from shared.domain.events import OWN_SOURCE
from shared.domain.outcomes import RetryPolicy
from shared.settings import Endpoints
from tests.support.packages import stack_with_package
from tests.support.stack import Stack, new_crew
from tests.support.stripe_events import event, subscription
from workers.extensions import following, handlers
from workers.extensions.following import Following
from workers.fleet import work_until
from workers.granting import give
from workers.surroundings import Surroundings
from workers.sweep import derive_again, turn_tenant


@pytest.fixture
async def doing(endpoints: Endpoints) -> AsyncIterator[Stack]:
    """A stack with the package `sluice_doing`, whose recorder listens from the beginning."""
    async with stack_with_package(endpoints) as stack:
        await Following(stack.crew, lambda _: None).turn()
        yield stack


def created(number: int, **more: Any) -> bytes:
    body = subscription(f"sub_{number}", customer=f"cus_{number}", tenant=f"t{number}")
    body["metadata"].update(more)
    return event("customer.subscription.created", body, event_id=f"evt_{number}")


async def follow(stack: Stack) -> None:
    """Follow to the end of the trail, and apply what was brought."""
    await Following(stack.crew, lambda _: None).turn()
    await stack.drain()
    await Following(stack.crew, lambda _: None).turn()
    assert await stack.value("SELECT count(*) FROM work") == 0


async def recorded(stack: Stack) -> list[tuple[str, str]]:
    rows = await stack.fetch("SELECT provider, type FROM doing.records ORDER BY position")
    return sorted((row["provider"], row["type"]) for row in rows)


CHANGED = ("sluice", "entitlement.granted")
CREATED = ("stripe", "customer.subscription.created")


async def test_an_event_and_what_it_changed_are_brought_once(doing: Stack) -> None:
    """As the original is: its id, source, subject and body; of a change, what is in the trail."""
    (one,) = await doing.apply(created(1))
    await follow(doing)
    await follow(doing)
    assert await recorded(doing) == [CHANGED, CHANGED, CREATED]
    original = (await doing.fetch("SELECT * FROM doing.records WHERE provider = 'stripe'"))[0]
    assert original["tracking_id"] == one
    assert (original["source"], original["event_id"]) == ("stripe", "evt_1")
    assert original["subject"] == "subscription/sub_1"
    assert json.loads(original["body"])["id"] == "evt_1"
    changes = await doing.fetch("SELECT * FROM doing.records WHERE provider = 'sluice'")
    bodies = sorted((json.loads(row["body"]) for row in changes), key=lambda body: body["feature"])
    assert bodies == [
        {"tenant": "t1", "feature": "seats", "before": None,
         "after": {"value": 10, "validUntil": None}},
        {"tenant": "t1", "feature": "sso", "before": None,
         "after": {"value": True, "validUntil": None}},
    ]  # fmt: skip
    assert {row["source"] for row in changes} == {"stripe"}
    # Brought events are in the trail and the inbox like all others, and bring nothing themselves.
    own = "SELECT count(*) FROM audit WHERE source = $1 AND action = 'event.applied'"
    assert await doing.value(own, OWN_SOURCE) == 3
    assert await doing.value("SELECT count(*) FROM ledger WHERE event_id LIKE 'recorder/%'") == 3


async def test_what_came_before_is_not_brought(doing: Stack, endpoints: Endpoints) -> None:
    """Also what had committed just before, above a transaction that was open all the while."""
    async with doing.owner.connection() as conn:
        await conn.execute("DELETE FROM handlers")
    await doing.apply(created(1))
    async with doing.owner.transaction() as open_since:
        await open_since.fetchval("SELECT pg_current_xact_id()")
        await doing.apply(created(2))
        await follow(doing)  # the handler is seen for the first time
        await doing.apply(created(3))
    await follow(doing)
    rows = await doing.fetch("SELECT event_id FROM doing.records WHERE provider = 'stripe'")
    assert [row["event_id"] for row in rows] == ["evt_3"]


async def test_what_commits_late_is_not_skipped(doing: Stack) -> None:
    """The cursor waits below the oldest open transaction, whatever has a larger number."""
    await doing.apply(created(1))
    async with doing.owner.transaction() as late:
        await late.fetchval("SELECT pg_current_xact_id()")
        await doing.apply(created(2))
        await follow(doing)
        assert await doing.value("SELECT count(*) FROM doing.records WHERE type LIKE 'cust%'") == 1
        # What it writes has a smaller number than what was committed meanwhile.
        await late.execute(
            "INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant,"
            " step, action, actor, source, subject, feature, catalog_version, xid, at)"
            " VALUES ('x', 1, '', '', 'operator', 'x', 1, 't', 1, 'entitlement.revoked',"
            " 'operator:x', '', '', 'seats', 1, pg_current_xact_id(), now())"
        )
    await follow(doing)
    revoked = ("sluice", "entitlement.revoked")
    assert await recorded(doing) == [*[CHANGED] * 4, revoked, CREATED, CREATED]


async def test_many_in_batches_by_many_at_once(
    doing: Stack, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers of several processes, while events are applied: nobody brings anything twice."""
    monkeypatch.setattr(following, "RECORDS_AT_ONCE", 7)
    applying = asyncio.create_task(doing.apply(*(created(n) for n in range(120))))
    async with new_crew(endpoints, "other", retry=RetryPolicy(2, 0.01, 0.02)) as other:
        async with other.db.connection() as conn:
            await other.surroundings.refresh(conn)
        crews = [doing.crew, other, doing.crew]
        while not applying.done():
            await asyncio.gather(*(Following(crew, lambda _: None).turn() for crew in crews))
    await applying
    await follow(doing)
    assert await recorded(doing) == [*[CHANGED] * 240, *[CREATED] * 120]
    twice = (
        "SELECT count(*) FROM (SELECT event_id FROM doing.records GROUP BY 1 HAVING count(*) > 1) x"
    )
    assert await doing.value(twice) == 0


async def test_changes_of_every_cause_are_brought(doing: Stack) -> None:
    """By an event, an operator, the clock and a new catalog: whatever the trail tells."""
    await doing.apply(created(1))
    async with (
        db.connect(doing.endpoints.database["operator"], "operator") as conn,
        conn.transaction(),
    ):
        await give(conn, "t1", "calls", 5, timedelta(seconds=1), "operator:test", "because")
    await asyncio.sleep(1.1)
    await turn_tenant(doing.crew, "t1")
    await doing.configure(plans={})
    await derive_again(doing.crew, "t1")
    await follow(doing)
    told = await doing.fetch("SELECT id, action, cause FROM audit WHERE action LIKE 'entitle%'")
    brought = await doing.fetch(
        "SELECT event_id, type, source FROM doing.records WHERE provider = 'sluice'"
    )
    assert sorted((f"audit/{row['id']}", row["action"]) for row in told) == sorted(
        (row["event_id"], row["type"]) for row in brought
    )
    assert sorted(row["cause"] for row in told) == [
        "catalog", "catalog", "end", "event", "event", "operator"
    ]  # fmt: skip
    assert sorted({row["source"] for row in brought}) == ["", "stripe"]


async def test_a_replay_of_the_original_is_not_brought_again(doing: Stack) -> None:
    """The handler had it; the handler's own event can be replayed, and says so."""
    (one,) = await doing.apply(created(1))
    await follow(doing)
    for source in ("stripe", "doing"):
        async with doing.owner.connection() as conn:
            await conn.execute(
                "INSERT INTO work (tracking_id, received_at, lane, run, actor, reason)"
                " SELECT tracking_id, received_at, lane, 2, 'operator:test', 'why' FROM inbox"
                " WHERE (tracking_id = $1) = $2 AND subject LIKE 'subscription/%'",
                one, source == "stripe",
            )  # fmt: skip
        await follow(doing)
        runs = await doing.fetch("SELECT run FROM doing.records WHERE provider = 'stripe'")
        assert [row["run"] for row in runs] == ([1] if source == "stripe" else [1, 2])


async def test_a_handler_that_fails_has_a_dead_letter_of_its_own(doing: Stack) -> None:
    """The event itself is settled long before; what the handler wants nothing of is ignored."""
    ids = await doing.apply(
        created(1, note="fails in the recorder"), created(2, note="not for the recorder")
    )
    assert await doing.outcomes(ids) == ["applied", "applied"]
    await follow(doing)
    rows = await doing.fetch(
        "SELECT i.subject, s.outcome, s.code FROM settlements s JOIN inbox i USING (tracking_id)"
        " JOIN sources o ON o.id = i.source_id"
        " WHERE o.name = $1 AND i.subject LIKE 'subscription/%' ORDER BY 1", OWN_SOURCE
    )  # fmt: skip
    assert [tuple(row.values()) for row in rows] == [
        ("subscription/sub_1", "dead", "attempts_exhausted"),
        ("subscription/sub_2", "ignored", "not_for_handler"),
    ]
    assert await recorded(doing) == [CHANGED] * 4


async def test_what_is_not_kept_any_more_is_said(doing: Stack) -> None:
    """A body gone by retention, contents emptied: a dead letter, and not nothing."""
    await doing.apply(created(1))
    await Following(doing.crew, lambda _: None).turn()
    async with doing.owner.connection() as conn:
        await conn.execute("DELETE FROM inbox WHERE source_id = $1", doing.sources["stripe"])
        await conn.execute(
            "UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL"
        )
    await doing.drain()
    rows = await doing.fetch("SELECT outcome, code FROM settlements WHERE code IS NOT NULL")
    assert [tuple(row.values()) for row in rows] == [("dead", "body_gone")] * 3
    # Gone before the follower came, nobody knows its type.
    await doing.apply(created(2))
    async with doing.owner.connection() as conn:
        await conn.execute("DELETE FROM inbox WHERE source_id = $1", doing.sources["stripe"])
    await follow(doing)
    dead = "SELECT count(*) FROM settlements WHERE code = 'body_gone'"
    assert await doing.value(dead) == 4


async def test_without_handlers_nothing_follows(doing: Stack) -> None:
    """What is removed keeps its place, and goes on from there when it is back."""
    mine = dict(handlers())
    handlers().clear()
    await doing.apply(created(1))
    await follow(doing)
    assert await recorded(doing) == []
    handlers().update(mine)
    await follow(doing)
    assert await recorded(doing) == [CHANGED, CHANGED, CREATED]


async def test_an_idle_system_brings_it_at_once(doing: Stack) -> None:
    """Half a second from the commit of the original until its handler has been given it."""
    stop = asyncio.Event()
    working = asyncio.create_task(work_until(stop, doing.crew, "", 4))
    await asyncio.sleep(1)
    late_s = []
    for number in range(5):
        (receipt,) = await doing.receive(created(number))
        while await doing.outcomes([receipt.tracking_id]) != ["applied"]:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        found = "SELECT count(*) FROM doing.records WHERE tracking_id = $1"
        while not await doing.value(found, receipt.tracking_id):
            await asyncio.sleep(0.005)
        late_s.append(time.monotonic() - began)
    stop.set()
    await working
    print(f"\n  brought after {[round(one, 3) for one in late_s]} s")
    assert sorted(late_s)[2] < 0.5


async def test_a_worker_that_was_there_before_the_migration_follows(doing: Stack) -> None:
    """The source for what is brought came without a new version of the configuration."""
    async with doing.owner.connection() as conn:
        await conn.execute("UPDATE sources SET provider = 'x' WHERE name = $1", OWN_SOURCE)
    doing.crew.surroundings = Surroundings()
    async with doing.crew.db.connection() as conn:
        await doing.crew.surroundings.refresh(conn)
        async with doing.owner.connection() as owner:
            await owner.execute(
                "UPDATE sources SET provider = 'sluice' WHERE name = $1", OWN_SOURCE
            )
        await doing.crew.surroundings.refresh(conn)
        assert not await doing.crew.surroundings.refresh(conn)
    await doing.apply(created(1))
    await follow(doing)
    assert await recorded(doing) == [CHANGED, CHANGED, CREATED]
