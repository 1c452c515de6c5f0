"""Orders: carried out once each, in their order, never half; audited with who and why."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.domain.commands import (
    CancelJob,
    Order,
    PauseSource,
    ResumeSource,
    StartJob,
)
from shared.sealing import API_KEY_SLOT
from shared.store import backlog, configuration, source_keys
from shared.store.source_keys import SourceKey
from shared.store.sources import load_configuration
from tests.support.ordering import Ordering, put_secret
from tests.support.stack import Stack, drain, new_crew
from tests.support.stripe_events import event, subscription
from workers import replay, trail
from workers.fetching.targets import Targets
from workers.handlers.operating import ORDERS
from workers.process import Progress, visit
from workers.rounds import Rounds
from workers.solitary import Solitary
from workers.sweep import Sweep

PAUSE, RESUME = PauseSource("stripe"), ResumeSource("stripe")


@pytest.fixture
async def ordering(stack: Stack) -> AsyncIterator[Ordering]:
    async with Ordering.open(stack) as opened:
        await put_secret(stack, opened.keys, "whsec_old")
        yield opened


def bought(number: int, tenant: str = "acme") -> bytes:
    content = subscription(f"sub_{number}", customer=f"cus_{number}", tenant=tenant)
    return event("customer.subscription.created", content)


async def paused(stack: Stack, source: str = "stripe") -> str | None:
    found: str | None = await stack.value("SELECT paused_by FROM sources WHERE name = $1", source)
    return found


async def version(stack: Stack) -> int:
    return int(await stack.value("SELECT max(version) FROM configuration"))


async def findings(stack: Stack) -> list[Any]:
    async with stack.owner.connection() as conn:
        return [one async for one in trail.verify(conn, None, lambda tally: None)]


async def records(stack: Stack, tracking_id: UUID) -> list[dict[str, Any]]:
    rows = await stack.fetch(
        "SELECT a.step, a.action, a.actor, a.source, a.subject, a.chain, c.before, c.after,"
        " c.reason FROM audit a LEFT JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.cause = 'event' AND a.cause_id = $1 ORDER BY a.run, a.step",
        str(tracking_id),
    )
    return [dict(row) for row in rows]


# Pausing ----------------------------------------------------------------------------------------


async def test_a_paused_source_stores_and_applies_nothing(ordering: Ordering) -> None:
    stack = ordering.stack
    settled = await ordering.carry_out(PAUSE, reason="the vendor migrates")
    assert settled["outcome"] == "applied"
    assert await paused(stack) == "token:ci"
    events = await stack.receive(*(bought(number) for number in range(20)))
    await stack.drain()
    ids = [receipt.tracking_id for receipt in events]
    assert set(await stack.outcomes(ids)) == {"unfinished"}
    assert await stack.features("acme") == {}
    async with stack.crew.db.connection() as conn:
        assert await backlog.lanes_with_due_work(conn) == []
        assert await backlog.oldest_unfinished_s(conn) == {}

    assert (await ordering.carry_out(RESUME))["outcome"] == "applied"
    await stack.drain()
    assert set(await stack.outcomes(ids)) == {"applied"}
    assert (await stack.features("acme"))["seats"] == 10
    assert await paused(stack) is None
    assert await findings(stack) == []


async def test_what_rings_for_a_paused_source_is_left(ordering: Ordering) -> None:
    """A process that has not noticed yet finds out under the lane's lock."""
    stack = ordering.stack
    await stack.receive(bought(1))
    await ordering.order(PAUSE)
    await stack.drain()
    await stack.receive(bought(2))
    async with new_crew(stack.endpoints, "late") as late:
        assert late.surroundings.paused_lanes == frozenset()
        for lane in await stack.lanes():
            assert await visit(late, lane) is Progress.NOTHING
        assert await stack.value("SELECT count(*) FROM visits") == 0
    for lane in await stack.lanes():
        assert await visit(stack.crew, lane) is Progress.NOTHING
    assert await stack.value("SELECT count(*) FROM attempts") == 0


async def test_redeliveries_and_other_sources(ordering: Ordering) -> None:
    """A redelivery waits beside its event; another source goes on."""
    stack = ordering.stack
    await stack.configure({"other": True})
    await ordering.carry_out(PAUSE)
    body = bought(1)
    await stack.receive(body)
    await stack.receive(body)
    elsewhere = await stack.apply(bought(2, "umbrella"), source="other")
    assert await stack.outcomes(elsewhere) == ["applied"]
    assert await stack.value("SELECT count(*) FROM work") == 2
    await ordering.carry_out(RESUME)
    await stack.drain()
    assert await stack.value("SELECT count(*) FROM work") == 0
    assert await stack.value("SELECT count(*) FROM conflicts") == 0


async def test_every_process_learns_of_it_by_the_version(ordering: Ordering) -> None:
    stack = ordering.stack
    before = await version(stack)
    await ordering.carry_out(PAUSE)
    assert await version(stack) == before + 1
    async with stack.crew.db.connection() as conn:
        await stack.crew.surroundings.refresh(conn)
    assert stack.crew.surroundings.paused_lanes == set(await stack.lanes())
    # What is so already makes no version.
    assert (await ordering.carry_out(PAUSE))["outcome"] == "unchanged"
    assert await version(stack) == before + 1


async def test_orders_about_one_thing_are_carried_out_in_their_order(ordering: Ordering) -> None:
    """Whatever was received last holds, however many there are in one batch."""
    stack = ordering.stack
    ids = [await ordering.order(one) for one in (PAUSE, RESUME, PAUSE, RESUME, PAUSE)]
    lanes = await stack.fetch("SELECT DISTINCT lane FROM inbox")
    assert len(lanes) == 1
    await stack.drain()
    assert await stack.outcomes(ids) == ["applied"] * 5
    assert await paused(stack) == "token:ci"


async def test_an_order_that_was_put_off_does_not_undo_a_later_one(ordering: Ordering) -> None:
    """The pause fails at first, and comes again after the resume."""
    stack = ordering.stack
    first = await ordering.order(PAUSE)
    await stack.fetch(
        "UPDATE work SET due_at = now() + interval '1 hour' WHERE tracking_id = $1", first
    )
    second = await ordering.order(RESUME)
    for lane in await operator_lanes(stack):
        await visit(stack.crew, lane)
    assert await stack.outcomes([second]) == ["unchanged"]
    await stack.fetch("UPDATE work SET due_at = now()")
    await stack.drain()
    assert await stack.outcomes([first]) == ["superseded"]
    assert await paused(stack) is None


async def operator_lanes(stack: Stack) -> list[int]:
    rows = await stack.fetch(
        "SELECT l.id FROM lanes l JOIN sources s ON s.id = l.source_id WHERE s.name = 'operator'"
    )
    return [row["id"] for row in rows]


async def test_what_is_being_retried_waits_with_the_attempts_it_has(ordering: Ordering) -> None:
    stack = ordering.stack
    await ordering.carry_out(PAUSE)
    [receipt] = await stack.receive(bought(1))
    await stack.fetch("UPDATE work SET attempts = 2, due_at = now()")
    await stack.drain()
    assert await stack.value("SELECT attempts FROM work") == 2
    await ordering.carry_out(RESUME)
    await stack.drain()
    assert await stack.outcomes([receipt.tracking_id]) == ["applied"]


async def test_pausing_under_load_loses_nothing_and_applies_nothing(ordering: Ordering) -> None:
    """Two workers and a stream of events; a pause in the middle of it."""
    stack = ordering.stack
    ids: list[UUID] = []
    is_over = False

    async def send() -> None:
        for number in range(400):
            ids.extend(one.tracking_id for one in await stack.receive(bought(number)))
            await asyncio.sleep(0)

    async def keep_draining(name: str) -> None:
        async with new_crew(stack.endpoints, name, batch_size=10) as crew:
            while not is_over:
                await drain(crew)
                await asyncio.sleep(0.01)

    async def settled() -> int:
        return int(
            await stack.value(
                "SELECT count(*) FROM settlements WHERE source_id = $1", stack.sources["stripe"]
            )
        )

    sending = asyncio.create_task(send())
    workers = [asyncio.create_task(keep_draining(f"worker-{n}")) for n in range(2)]
    while not await settled():
        await asyncio.sleep(0.01)
    pausing = await ordering.order(PAUSE)
    while not await ordering.settled(pausing):
        await asyncio.sleep(0.01)
    # What was being applied when the pause was committed is finished; from then on nothing is.
    async with stack.owner.transaction() as conn:
        await conn.execute(
            "SELECT id FROM lanes WHERE source_id = $1 FOR NO KEY UPDATE", stack.sources["stripe"]
        )
    at_the_pause = await settled()
    await sending
    await asyncio.sleep(0.5)
    assert await settled() == at_the_pause < 400
    resuming = await ordering.order(RESUME)
    async with asyncio.timeout(60):
        while await settled() < 400:
            await asyncio.sleep(0.05)
    is_over = True
    await asyncio.gather(*workers)
    assert await stack.outcomes([resuming]) == ["applied"]
    assert await stack.outcomes(ids) == ["applied"] * 400
    assert await findings(stack) == []


# Audit ------------------------------------------------------------------------------------------


async def test_the_trail_says_who_and_why(ordering: Ordering) -> None:
    tracking_id = await ordering.order(PAUSE, reason="the vendor migrates")
    await ordering.stack.drain()
    zero, one = await records(ordering.stack, tracking_id)
    assert (zero["action"], zero["actor"]) == ("event.applied", "token:ci")
    assert (zero["source"], zero["subject"]) == ("operator", "source/stripe")
    assert zero["reason"] == b"the vendor migrates"
    assert (one["action"], one["actor"], one["source"]) == ("source.paused", "token:ci", "stripe")
    assert one["chain"] == zero["chain"]
    assert json.loads(one["before"]) == {"pausedAt": None, "pausedBy": None}
    assert json.loads(one["after"])["pausedBy"] == "token:ci"
    assert await findings(ordering.stack) == []


async def test_the_trail_says_why_not(ordering: Ordering) -> None:
    tracking_id = await ordering.order(PauseSource("nobody"), reason="because")
    await ordering.stack.drain()
    [zero] = await records(ordering.stack, tracking_id)
    assert (zero["action"], zero["actor"]) == ("event.ignored", "token:ci")
    assert zero["reason"] == b"unknown_source: because"


# What cannot be done ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nobody", "sluice-handlers", "operator"])
async def test_what_is_no_source_is_refused(ordering: Ordering, source: str) -> None:
    """Those of Sluice's own can be neither paused nor rotated."""
    for order in (PauseSource(source), ResumeSource(source), ordering.rotation("x", source=source)):
        settled = await ordering.carry_out(order)
        assert (settled["outcome"], settled["code"]) == ("ignored", "unknown_source")
    assert await ordering.stack.value("SELECT count(*) FROM attempts") == 0


async def test_a_removed_source_is_refused_and_not_paused_any_more(ordering: Ordering) -> None:
    stack = ordering.stack
    await ordering.carry_out(PAUSE)
    [receipt] = await stack.receive(bought(1))
    async with stack.owner.transaction() as conn:
        await configuration.remove_source(conn, stack.sources["stripe"])
        await configuration.insert_version(conn, 99, "test", "live")
    await stack.drain()
    # Its provider's events are applied, and grant nothing: none waits for ever.
    assert await stack.outcomes([receipt.tracking_id]) == ["parked"]
    assert (await ordering.carry_out(RESUME))["code"] == "unknown_source"


async def test_a_tenants_token_does_not_operate(ordering: Ordering) -> None:
    """The API asks for an operator; whoever carries it out asks again."""
    for order in (PAUSE, RESUME, ordering.rotation("new")):
        settled = await ordering.carry_out(order, scope="tenant:acme")
        assert (settled["outcome"], settled["code"]) == ("ignored", "not_covered")
    assert await paused(ordering.stack) is None


async def test_an_order_that_nobody_knows_is_refused(
    ordering: Ordering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.handlers.operating.ORDERS", {})
    settled = await ordering.carry_out(PAUSE)
    assert (settled["outcome"], settled["code"]) == ("ignored", "unknown_order")


def test_every_order_is_carried_out_by_somebody() -> None:
    assert {*ORDERS} == {*Order.__args__}


# Once each --------------------------------------------------------------------------------------


async def test_a_replayed_order_is_done_already(ordering: Ordering) -> None:
    """Not even where it was undone since: whoever wants it again orders it again."""
    stack = ordering.stack
    tracking_id = await ordering.order(PAUSE)
    await stack.drain()
    await ordering.carry_out(RESUME)
    await run_again(stack, tracking_id)
    assert await ordering.settled(tracking_id) == {"outcome": "unchanged", "code": None, "run": 2}
    assert await paused(stack) is None


async def test_a_replay_of_what_was_refused_may_be_done(ordering: Ordering) -> None:
    stack = ordering.stack
    tracking_id = await ordering.order(PauseSource("later"))
    await stack.drain()
    await stack.configure({"later": True})
    await run_again(stack, tracking_id)
    assert (await ordering.settled(tracking_id))["outcome"] == "applied"
    assert await paused(stack, "later") == "token:ci"
    # Who had it done now is who replayed it.
    assert (await records(stack, tracking_id))[1]["actor"] == "operator:ada"


async def run_again(stack: Stack, tracking_id: UUID) -> None:
    async with stack.owner.transaction() as conn:
        await replay.open_run(conn, tracking_id, "operator:ada", "again")
    await stack.drain()


# Rotating ---------------------------------------------------------------------------------------


async def secrets_of(ordering: Ordering) -> dict[str, tuple[str, bool]]:
    """By label: the secret, and whether it has an end, as a gateway has them."""
    async with ordering.stack.gateway.connection() as conn:
        loaded = await load_configuration(conn, ordering.keys)
    return {
        one.label: (one.plaintext, one.retires_at is not None)
        for one in loaded.sources["stripe"].secrets
    }


async def test_both_secrets_work_during_the_overlap(ordering: Ordering) -> None:
    stack = ordering.stack
    before = await version(stack)
    tracking_id = await ordering.order(ordering.rotation("whsec_new"), reason="leaked")
    await stack.drain()
    assert (await ordering.settled(tracking_id))["outcome"] == "applied"
    assert await secrets_of(ordering) == {"0.1": ("whsec_old", True), "1.2": ("whsec_new", False)}
    assert await version(stack) == before + 1
    assert await stack.value("SELECT added_by FROM source_secrets WHERE slot = 1") == "token:ci"
    assert await stack.value("SELECT count(*) FROM seals WHERE key_id = $1", ordering.keys.first)
    await stack.fetch("UPDATE source_secrets SET retires_at = now() WHERE slot = 0")
    assert await secrets_of(ordering) == {"1.2": ("whsec_new", False)}

    zero, one = await records(stack, tracking_id)
    assert zero["reason"] == b"leaked"
    assert (one["action"], one["actor"], one["source"]) == ("secret.rotated", "token:ci", "stripe")
    assert json.loads(one["before"]) == {"secret": "0.1"}
    assert json.loads(one["after"])["secret"] == "1.2"
    assert await findings(stack) == []


async def test_no_plaintext_is_kept_anywhere(ordering: Ordering) -> None:
    stack = ordering.stack
    await ordering.carry_out(ordering.rotation("whsec_newly_made_and_secret"))
    for table in ("inbox", "audit", "audit_content", "ledger", "source_secrets", "settlements"):
        rows = await stack.fetch(f"SELECT t::text AS all FROM {table} t")
        assert rows
        for row in rows:
            # bytea is shown in hex.
            for plain in ("newly_made", b"newly_made".hex()):
                assert plain not in row["all"], table


async def test_the_loser_of_two_rotations_is_refused(ordering: Ordering) -> None:
    first = await ordering.order(ordering.rotation("whsec_one"))
    second = await ordering.order(ordering.rotation("whsec_two"))
    await ordering.stack.drain()
    assert (await ordering.settled(first))["outcome"] == "applied"
    assert await ordering.settled(second) == {
        "outcome": "ignored", "code": "secret_moved_on", "run": 1,
    }  # fmt: skip
    assert await secrets_of(ordering) == {"0.1": ("whsec_old", True), "1.2": ("whsec_one", False)}


@pytest.mark.parametrize(
    "change",
    [
        {"replaces": (0, 7)},  # that slot has another one by now
        {"replaces": (5, 1)},
        {"slot": 0},
        {"version": 3},  # a version was given in between
        {"version": 1},
    ],
)
async def test_what_has_moved_on_is_not_written_over(
    ordering: Ordering, change: dict[str, Any]
) -> None:
    before = await version(ordering.stack)
    settled = await ordering.carry_out(ordering.rotation("whsec_new", **change))
    assert (settled["outcome"], settled["code"]) == ("ignored", "secret_moved_on")
    assert await secrets_of(ordering) == {"0.1": ("whsec_old", False)}
    assert await version(ordering.stack) == before


async def test_a_replayed_rotation_brings_no_secret_back(ordering: Ordering) -> None:
    """Neither the one that it brought, once that was rotated out, nor the one that it replaced."""
    stack = ordering.stack
    first = await ordering.order(ordering.rotation("whsec_two", overlap_s=0))
    await stack.drain()
    next_one = ordering.rotation("whsec_three", slot=2, version=3, replaces=(1, 2), overlap_s=0)
    await ordering.carry_out(next_one)
    assert await secrets_of(ordering) == {"2.3": ("whsec_three", False)}
    await run_again(stack, first)
    assert (await ordering.settled(first))["outcome"] == "unchanged"
    assert await secrets_of(ordering) == {"2.3": ("whsec_three", False)}
    # Also where nothing tells any more that it was applied, and its place is free again.
    await stack.fetch("DELETE FROM settlements")
    await stack.fetch("DELETE FROM source_secrets WHERE slot < 2")
    await run_again_anyhow(stack, first)
    assert (await ordering.settled(first))["code"] == "secret_moved_on"
    assert await secrets_of(ordering) == {"2.3": ("whsec_three", False)}


async def run_again_anyhow(stack: Stack, tracking_id: UUID) -> None:
    await stack.fetch(
        "INSERT INTO work (tracking_id, received_at, lane, run)"
        " SELECT tracking_id, received_at, lane, 3 FROM inbox WHERE tracking_id = $1",
        tracking_id,
    )
    await stack.drain()


async def test_it_takes_its_turn_with_apply(ordering: Ordering) -> None:
    """Somebody applies meanwhile: the order waits, uncharged, and is carried out afterwards."""
    stack = ordering.stack
    tracking_id = await ordering.order(PAUSE)
    async with stack.owner.transaction() as conn:
        await configuration.take_turn(conn)
        for lane in await operator_lanes(stack):
            await visit(stack.crew, lane)
        assert await ordering.settled(tracking_id) == {}
    await stack.drain()
    assert (await ordering.settled(tracking_id))["outcome"] == "applied"
    assert await stack.value("SELECT count(*) FROM attempts") == 0


# Jobs -------------------------------------------------------------------------------------------


async def test_a_job_is_begun_and_cancelled_by_orders(ordering: Ordering) -> None:
    stack = ordering.stack
    job = await ordering.order(
        StartJob("export", {"what": "records", "format": "ndjson"}, tenant="acme", source="stripe")
    )
    await stack.drain()
    assert (await ordering.settled(job))["outcome"] == "applied"
    [row] = await stack.fetch("SELECT id, kind, tenant, actor, source_id FROM jobs")
    assert (row["id"], row["kind"], row["tenant"]) == (job, "export", "acme")
    assert (row["actor"], row["source_id"]) == ("token:ci", stack.sources["stripe"])

    for scope in ("tenant:umbrella", "operator"):
        settled = await ordering.carry_out(
            CancelJob(job if scope != "operator" else uuid4()), scope=scope
        )
        assert (settled["outcome"], settled["code"]) == ("ignored", "unknown_job")
    assert await stack.value("SELECT cancelled_by FROM jobs") is None
    assert (await ordering.carry_out(CancelJob(job), scope="tenant:acme"))["outcome"] == "applied"
    assert await stack.value("SELECT cancelled_by FROM jobs") == "token:ci"
    assert (await ordering.carry_out(CancelJob(job)))["outcome"] == "unchanged"


# What else looks at sources ---------------------------------------------------------------------


async def test_a_suspect_lane_waits_with_its_source(ordering: Ordering) -> None:
    """A worker died at it before the pause: who works alone leaves it until the resume."""
    stack = ordering.stack
    [receipt] = await stack.receive(bought(1))
    lane, work_id = (await stack.fetch("SELECT lane, id FROM work"))[0].values()
    await stack.fetch(
        "INSERT INTO visits (lane, token, worker, started_at, first_work, last_work)"
        " VALUES ($1, gen_random_uuid(), 'dead', now() - interval '1 minute', $2, $2)",
        lane, work_id,
    )  # fmt: skip
    pausing = await ordering.order(PAUSE)
    for one in await operator_lanes(stack):
        await visit(stack.crew, one)
    assert await stack.outcomes([pausing]) == ["applied"]
    alone = Solitary(stack.crew, asyncio.Event())
    running = asyncio.create_task(alone.run())
    await asyncio.sleep(0.8)
    assert await stack.outcomes([receipt.tracking_id]) == ["unfinished"]
    assert await stack.value("SELECT count(*) FROM visits") == 1
    resuming = await ordering.order(RESUME)
    for one in await operator_lanes(stack):
        await visit(stack.crew, one)
    async with asyncio.timeout(10):
        while await stack.value("SELECT count(*) FROM visits"):
            await asyncio.sleep(0.05)
    alone.stop.set()
    await running
    assert await stack.outcomes([receipt.tracking_id, resuming]) == ["applied"] * 2
    assert await stack.value("SELECT count(*) FROM attempts") == 0


async def test_the_sweep_tells_how_long_a_source_is_paused(ordering: Ordering) -> None:
    """And pages nobody for what waits in it."""
    stack = ordering.stack
    sweep = Sweep(stack.crew, Rounds(lambda lane: visit(stack.crew, lane), 1, dict))
    await stack.receive(bought(1))
    await sweep.age()
    assert (list(sweep.ages), list(sweep.paused)) == (["stripe"], [])
    pausing = await ordering.order(PAUSE)
    for one in await operator_lanes(stack):
        await visit(stack.crew, one)
    assert await stack.outcomes([pausing]) == ["applied"]
    await sweep.age()
    assert sweep.ages == {}
    assert 0 <= sweep.paused["stripe"] < 10


async def test_nothing_is_fetched_for_a_paused_source(ordering: Ordering) -> None:
    stack = ordering.stack
    key = ordering.keys.seal("rk_1", source="stripe", slot=API_KEY_SLOT, version=1)
    async with stack.owner.transaction() as conn:
        await source_keys.put_key(conn, stack.sources["stripe"], SourceKey(1, key, None))
    targets = Targets(ordering.keys, None)
    found = []
    for order in (RESUME, PAUSE, RESUME):
        await ordering.carry_out(order)
        async with stack.crew.db.connection() as conn:
            await stack.crew.surroundings.refresh(conn)
            await targets.learn(conn, stack.crew.surroundings)
        found.append(len(targets.by_source))
    await targets.close()
    assert found == [1, 0, 1]
