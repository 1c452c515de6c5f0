"""Replays of plans: what is frozen, refused and overtaken, and what the trail tells."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.db import Database
from shared.domain.commands import StartJob
from shared.domain.events import new_tracking_id
from tests.integration.test_reprocessing import order
from tests.support.acme import add_acme, licence, replay
from tests.support.carrying import apply_order
from tests.support.replaying import (
    TENANTS,
    begin,
    broken,
    features_of_all,
    finish,
    later_runs,
    mend,
    plan,
    row,
    run,
    turns,
)
from tests.support.stack import Stack
from tests.support.stripe_events import event as stripe_event
from tests.support.stripe_events import subscription
from workers.plans import PLAN, PlanRefused, check_plan
from workers.steering import cancel_job


async def refusal(stack: Stack, made: UUID) -> str | None:
    """Why the plan is refused now, to who asks as an operator; None: it is not."""
    operator = await Database.open(stack.endpoints.database["operator"], "operator", size=1)
    try:
        async with operator.connection() as conn:
            await check_plan(conn, made)
    except PlanRefused as error:
        return error.code
    finally:
        await operator.close()
    return None


async def gone(stack: Stack, *ids: UUID) -> None:
    """Retention has taken what these were received as."""
    await stack.fetch("DELETE FROM inbox WHERE tracking_id = ANY ($1)", list(ids))


async def test_a_plan_says_what_it_froze(stack: Stack) -> None:
    ids = await broken(stack, 9)
    await gone(stack, ids[0])
    _, told = await plan(stack, source="acme")
    assert (told["events"], told["replayable"]) == (8, 8)
    _, told = await plan(stack, status="dead")
    assert (told["events"], told["replayable"]) == (9, 8)
    assert told["leftOut"] == {"body_expired": 1}
    assert (told["bySource"], told["byStatus"]) == ({"acme": 9}, {"dead": 9})
    assert told["byType"] == {"licence.told": 8}
    assert sum(told["byCode"].values()) == 9
    assert told["oldest"] <= told["newest"] <= told["frozenAt"] < told["madeAt"]


async def test_a_body_that_goes_while_it_is_planned_is_gone(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being found and being described."""
    from workers.jobs import planning

    ids = await broken(stack, 4)
    select = planning.select_events

    async def select_and_lose(*asked: Any) -> Any:
        found = await select(*asked)
        await gone(stack, ids[0])
        return found

    monkeypatch.setattr(planning, "select_events", select_and_lose)
    _, told = await plan(stack, source="acme")
    assert (told["events"], told["replayable"]) == (4, 3)
    assert told["leftOut"] == {"body_expired": 1}


async def test_a_named_event_is_replayable_or_it_says_why_not(stack: Stack) -> None:
    ids = await broken(stack, 3)
    await gone(stack, ids[0])
    await stack.fetch("UPDATE sources SET paused_at = now() WHERE name = 'acme'")
    (waiting,) = await stack.receive(licence("late", id="lic_late"), source="acme")
    ordered = await order(stack, StartJob("export", {"what": "records"}))
    await apply_order(stack.crew, ordered)
    unknown = new_tracking_id(datetime.now(UTC), bytes(10))
    wanted = [*ids, waiting.tracking_id, ordered, unknown]
    made, told = await plan(stack, ids=[str(one) for one in wanted])
    assert (told["events"], told["replayable"]) == (6, 2)
    assert told["leftOut"] == {
        "body_expired": 1, "unfinished": 1, "order": 1, "unknown_event": 1
    }  # fmt: skip
    rows = await stack.fetch("SELECT tracking_id, code FROM replay_items WHERE plan = $1", made)
    assert {one["tracking_id"]: one["code"] for one in rows} == {
        ids[0]: "body_expired", ids[1]: None, ids[2]: None, waiting.tracking_id: "unfinished",
        ordered: "order", unknown: "unknown_event",
    }  # fmt: skip


async def test_what_is_received_later_is_in_no_plan(stack: Stack) -> None:
    await broken(stack, 30)
    job = await begin(stack, PLAN, select={"source": "acme"})
    taking = turns(stack)
    async with stack.crew.db.connection() as conn:
        # In chunks of a few, and something is received between them.
        await stack.fetch("UPDATE jobs SET deaths = 4 WHERE id = $1", job)
        assert await taking._step(conn, job)
        await stack.receive(licence("new", id="lic_new"), source="acme")
    await finish(stack, job)
    assert (await row(stack, job))["result"]["events"] == 30
    positions = await stack.fetch("SELECT position FROM replay_items ORDER BY position")
    assert [one["position"] for one in positions] == [*range(30)]


async def test_a_run_applies_it_once_more_and_the_trail_knows_who(stack: Stack) -> None:
    ids = await broken(stack, 12)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    done = await finish(stack, await run(stack, made))
    assert done["progress"] == {"done": 12, "failed": 0, "total": 12, "counts": {"applied": 12}}
    assert await features_of_all(stack) == {one: {"seats": 10, "sso": True} for one in TENANTS}
    assert await later_runs(stack) == {one: [1, 2] for one in ids}
    told = await stack.fetch(
        "SELECT a.actor, convert_from(c.reason, 'UTF8') AS reason FROM audit a"
        " JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.cause = 'event' AND a.run = 2 AND a.step = 0"
    )
    assert {tuple(one.values()) for one in told} == {("operator:ada", "mended")}
    begun = await stack.value("SELECT count(*) FROM audit WHERE action = 'job.begun'")
    assert begun == 2, "one for the plan, one for the run"


async def test_replaying_what_was_applied_changes_nothing(stack: Stack) -> None:
    """Acceptance 2: the plan says so, the run does so, and the trail tells of it."""
    await add_acme(stack)
    ids = await stack.apply(
        *(licence(n, id=f"lic_{n}", account=f"a_{n}", tenant=TENANTS[n % 3]) for n in range(20)),
        source="acme",
    )
    before = await stack.fetch("SELECT * FROM grants ORDER BY object, feature")
    changed = "SELECT count(*) FROM audit WHERE feature <> ''"
    records = await stack.value(changed)
    made, told = await plan(stack, source="acme")
    assert told["effect"]["changes"] == []
    assert (told["effect"]["tenants"], told["effect"]["features"]) == (0, 0)
    assert told["effect"]["outcomes"] == {"unchanged": 20}
    assert await stack.value(changed) == records, "a plan writes nothing"
    done = await finish(stack, await run(stack, made))
    assert done["progress"]["counts"] == {"unchanged": 20}
    assert await stack.fetch("SELECT * FROM grants ORDER BY object, feature") == before
    assert await stack.value(changed) == records
    assert await later_runs(stack) == {one: [1, 2] for one in ids}
    told_of = await stack.value(
        "SELECT count(*) FROM audit WHERE cause = 'event' AND run = 2 AND step = 0"
        " AND action = 'event.unchanged' AND actor = 'operator:ada'"
    )
    assert told_of == 20


async def test_what_is_dead_again_has_failed(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await broken(stack, 4)
    made, _ = await plan(stack, status="dead")
    done = await finish(stack, await run(stack, made))
    assert done["state"] == "done"
    assert done["progress"] == {"done": 4, "failed": 4, "total": 4, "counts": {"dead": 4}}
    assert await later_runs(stack) == {one: [1, 2] for one in ids}
    assert "a replay has failed events" in caplog.text


# What a plan is refused for ----------------------------------------------------------------------


async def failed_with(stack: Stack, made: UUID) -> tuple[str | None, str]:
    """What the check says, and what the job ends with."""
    said = await refusal(stack, made)
    ended = await finish(stack, await run(stack, made))
    assert ended["state"] == "failed", ended
    assert ended["error"]["code"] == said
    return said, ended["error"]["message"]


async def test_a_plan_is_refused_when_it_is_old_unmade_or_run(stack: Stack) -> None:
    ids = await broken(stack, 3)
    await mend(stack)
    assert (await failed_with(stack, uuid4()))[0] == "unknown_plan"
    unmade = await begin(stack, PLAN, select={"status": "dead"})
    assert await refusal(stack, unmade) == "plan_unfinished"
    await finish(stack, unmade)
    assert await refusal(stack, unmade) is None
    nothing, told = await plan(stack, source="nowhere")
    assert told["events"] == 0
    assert (await failed_with(stack, nothing))[0] == "plan_was_run"
    await stack.fetch("UPDATE replay_plans SET made_at = now() - interval '61 minutes'")
    assert (await failed_with(stack, unmade))[0] == "plan_too_old"
    made, _ = await plan(stack, status="dead")
    await finish(stack, await run(stack, made))
    assert (await failed_with(stack, made))[0] == "plan_was_run"
    assert await later_runs(stack) == {one: [1, 2] for one in ids}


async def test_of_two_that_carry_out_one_plan_one_does(stack: Stack) -> None:
    ids = await broken(stack, 40)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    jobs = [await run(stack, made, rate=40), await run(stack, made, rate=40)]
    ended = [await finish(stack, job) for job in jobs]
    assert sorted(one["state"] for one in ended) == ["done", "failed"]
    assert [one["error"]["code"] for one in ended if one["error"]] == ["plan_was_run"]
    assert await later_runs(stack) == {one: [1, 2] for one in ids}


async def test_a_plan_is_overtaken_by_configuration_events_and_entitlements(stack: Stack) -> None:
    ids = await broken(stack, 6)
    made, _ = await plan(stack, status="dead")
    await mend(stack)
    code, why = await failed_with(stack, made)
    assert (code, "configuration" in why) == ("plan_overtaken", True)
    made, _ = await plan(stack, status="dead")
    await replay(stack, ids[3])
    code, why = await failed_with(stack, made)
    assert (code, str(ids[3]) in why) == ("plan_overtaken", True)
    made, told = await plan(stack, status="dead")
    assert told["events"] == 5
    assert {one["tenant"] for one in told["effect"]["changes"]} <= {*TENANTS}
    await stack.apply(
        licence("x", id="lic_x", account="a_x", tenant="bolt", skus=["other"]), source="acme"
    )
    assert await refusal(stack, made) is None, "nothing of bolt's has changed"
    await stack.apply(licence("y", id="lic_y", account="a_y", tenant="bolt"), source="acme")
    code, why = await failed_with(stack, made)
    assert (code, "of tenant bolt" in why) == ("plan_overtaken", True)
    assert await stack.value("SELECT count(*) FROM settlements WHERE run > 1") == 1


async def test_a_plan_is_made_once(stack: Stack) -> None:
    """An order that is replayed does not freeze another list under the same id."""
    await broken(stack, 3)
    made, told = await plan(stack, status="dead")
    await stack.fetch("UPDATE jobs SET state = 'waiting', cursor = '{}', finished_at = NULL")
    assert (await finish(stack, made))["error"]["code"] == "plan_is_made"
    assert await stack.value("SELECT count(*) FROM replay_items") == told["events"]


async def test_the_lanes_of_what_is_opened_are_rung_for(stack: Stack) -> None:
    await broken(stack, 20)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    rung: set[int] = set()
    job, taking = await run(stack, made), turns(stack, ring=rung.update)
    await step(stack, job, taking)
    assert rung == set()
    await step(stack, job, taking)
    rows = await stack.fetch("SELECT DISTINCT lane FROM work WHERE run = 2")
    assert rung == {row["lane"] for row in rows} != set()


# Races -------------------------------------------------------------------------------------------


async def step(stack: Stack, job: UUID, taking: Any) -> None:
    async with stack.crew.db.connection() as conn:
        await taking._step(conn, job)


async def test_two_jobs_look_at_a_plan_one_after_the_other(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same moment, by two processes: who comes second sees that it is taken."""
    from workers.jobs import replaying

    await broken(stack, 6)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    jobs = [await run(stack, made), await run(stack, made)]
    check = replaying.check_plan

    async def check_slowly(*asked: Any) -> int:
        left = await check(*asked)
        await asyncio.sleep(0.3)
        return left

    monkeypatch.setattr(replaying, "check_plan", check_slowly)
    await asyncio.gather(*(step(stack, job, turns(stack)) for job in jobs))
    ended = [await row(stack, job) for job in jobs]
    assert sorted(one["state"] for one in ended) == ["failed", "running"]
    assert [one["error"]["code"] for one in ended if one["error"]] == ["plan_was_run"]


async def test_what_moves_on_meanwhile_is_passed_over(stack: Stack) -> None:
    """By hand, by a redelivery that opens a run, and by retention: each is told."""
    ids = await broken(stack, 8)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made), turns(stack)
    await step(stack, job, taking)  # it is ours from here on
    assert (await row(stack, job))["progress"]["total"] == 8
    await replay(stack, ids[0])
    (again,) = await stack.receive(
        licence(1, id="lic_1", account="a_1", tenant=TENANTS[1]), source="acme"
    )
    assert again.tracking_id == ids[1]
    await stack.fetch("UPDATE settlements SET settled_at = now() - interval '2 hours'")
    await stack.drain()
    assert (await later_runs(stack))[ids[1]] == [1, 2], "L3: a redelivery opens a run"
    await gone(stack, ids[2])
    done = await finish(stack, job)
    assert done["progress"] == {
        "done": 8, "failed": 1, "total": 8,
        "counts": {"applied": 5, "overtaken": 2, "body_expired": 1},
    }  # fmt: skip
    runs = await later_runs(stack)
    assert runs == {one: [1] if one == ids[2] else [1, 2] for one in ids}
    rows = await stack.fetch(
        "SELECT tracking_id, code FROM replay_items WHERE replay = $1 AND code IS NOT NULL", job
    )
    assert {one["tracking_id"]: one["code"] for one in rows} == {
        ids[0]: "overtaken", ids[1]: "overtaken", ids[2]: "body_expired"
    }  # fmt: skip


async def test_replays_by_hand_race_with_steps(stack: Stack) -> None:
    """Whoever comes first opens the run; the other one finds it."""
    ids = await broken(stack, 120)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    job = await run(stack, made, rate=200)
    await step(stack, job, turns(stack))
    (done, _) = await asyncio.gather(finish(stack, job), by_hand(stack, ids[::3]))
    counts = done["progress"]["counts"]
    assert counts["applied"] + counts.get("overtaken", 0) == 120
    runs = await later_runs(stack)
    by_job = await stack.value("SELECT count(*) FROM replay_items WHERE opened_run = 2")
    assert by_job == counts["applied"]
    assert all(found in ([1, 2], [1, 2, 3]) for found in runs.values())
    assert len(runs) == 120


async def by_hand(stack: Stack, ids: list[UUID]) -> None:
    from workers.replay import Unfinished, open_run

    operator = await Database.open(stack.endpoints.database["operator"], "operator", size=1)
    try:
        for one in ids:
            try:
                async with operator.transaction() as conn:
                    await open_run(conn, one, "operator:grace", "by hand")
            except Unfinished:
                continue
    finally:
        await operator.close()


async def test_a_lane_that_somebody_holds_fails_nothing(stack: Stack) -> None:
    """The others' events are opened meanwhile; it is waited for, and no attempt is charged."""
    ids = await broken(stack, 60)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    lane = await stack.value("SELECT min(lane) FROM replay_items")
    there = await stack.value("SELECT count(*) FROM replay_items WHERE lane = $1", lane)
    job, taking = await run(stack, made), turns(stack)
    async with stack.owner.transaction() as conn:
        await conn.execute("SELECT FROM lanes WHERE id = $1 FOR NO KEY UPDATE", lane)
        for _ in range(30):
            await step(stack, job, taking)
        opened = await stack.value("SELECT count(*) FROM replay_items WHERE opened_run = 2")
        assert opened == 60 - there
        assert (await row(stack, job))["attempts"] == 0
    done = await finish(stack, job)
    assert done["progress"]["counts"] == {"applied": 60}
    assert await later_runs(stack) == {one: [1, 2] for one in ids}


# Priority, rate, pause, cancel -------------------------------------------------------------------


async def test_nothing_is_opened_while_live_work_is_late(stack: Stack) -> None:
    await broken(stack, 10)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made), turns(stack)
    (live,) = await stack.receive(licence("live", id="lic_live"), source="acme")
    await stack.fetch(
        "UPDATE work SET received_at = now() - interval '3 s' WHERE tracking_id = $1",
        live.tracking_id,
    )
    for _ in range(3):
        await step(stack, job, taking)
    opened = "SELECT count(*) FROM replay_items WHERE opened_run IS NOT NULL"
    assert await stack.value(opened) == 0
    await stack.fetch("UPDATE work SET due_at = now() + interval '1 hour'")
    await step(stack, job, taking)
    assert await stack.value(opened) == 10, "what waits for its retry is not late"


async def test_only_what_came_by_itself_and_can_be_applied_is_late(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is old for another reason would keep a replay waiting until somebody mends it."""
    from workers.jobs import replaying

    body = licence("before", id="lic_before")
    await broken(stack, 30)
    await mend(stack)
    await stack.apply(body, source="acme")
    made, _ = await plan(stack, status="dead")
    monkeypatch.setattr(replaying, "CHUNK", 4)
    job, taking = await run(stack, made), turns(stack)
    await step(stack, job, taking)
    count = "SELECT count(*) FROM replay_items WHERE opened_run IS NOT NULL"
    old, due = "received_at = now() - interval '3 s'", "due_at = now() - interval '3 s'"
    (live,) = await stack.receive(licence("live", id="lic_live"), source="acme")
    (again,) = await stack.receive(body, source="acme")
    assert again.status == "duplicate"
    mine = f"tracking_id = '{live.tracking_id}'"
    for change, which, is_late in (
        (old, mine, True),
        (due, mine, True),
        (f"{due}, alone = true", mine, False),
        ("due_at = NULL, alone = false, received_at = now()", mine, False),
        (old, "run > 1", False),
        (due, "run > 1", False),
        (old, "kind = 'redelivery'", False),
        (due, "kind = 'redelivery'", False),
    ):
        await stack.fetch(f"UPDATE work SET {change} WHERE {which}")
        before = await stack.value(count)
        await stack.fetch("UPDATE jobs SET cursor = json_build_object('paid', 0)")
        await step(stack, job, taking)
        opened = await stack.value(count) - before
        assert (opened == 0) == is_late, (change, which, opened)


async def test_late_events_of_a_paused_source_keep_no_other_waiting(stack: Stack) -> None:
    await broken(stack, 4)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    await stack.receive(stripe_event("customer.subscription.created", subscription()))
    await stack.fetch("UPDATE work SET received_at = now() - interval '1 hour'")
    await stack.fetch("UPDATE sources SET paused_at = now() WHERE name = 'stripe'")
    job, taking = await run(stack, made), turns(stack)
    for _ in range(2):
        await step(stack, job, taking)
    assert await stack.value("SELECT count(*) FROM work WHERE run = 2") == 4


async def test_the_rate_holds_and_no_more_than_a_bound_is_open(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.jobs import replaying

    await broken(stack, 60)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    monkeypatch.setattr(replaying, "MOST_OPEN", 25)
    job, taking = await run(stack, made, rate=10), turns(stack)
    opened = "SELECT count(*) FROM replay_items WHERE opened_run IS NOT NULL"
    await step(stack, job, taking)
    began = time.monotonic()
    await step(stack, job, taking)
    at_once = await stack.value(opened)
    assert at_once <= 12, "a second's worth at most"
    for _ in range(5):
        await step(stack, job, taking)
    assert await stack.value(opened) <= at_once + 10 * (time.monotonic() - began) + 1
    for _ in range(40):
        await stack.fetch("UPDATE jobs SET cursor = json_build_object('paid', 0)")
        await step(stack, job, taking)
        assert await stack.value("SELECT count(*) FROM work") <= 25
    assert await stack.value("SELECT count(*) FROM work") == 25
    done = (await row(stack, job))["progress"]
    assert (done["done"], done["total"]) == (0, 60), "progress is what is settled"


async def test_a_lane_is_not_filled_and_the_others_go_on(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes by itself stands in its lane behind what is open there."""
    from workers.jobs import replaying

    await add_acme(stack)
    bodies = [licence(f"one_{n}", n) for n in range(30)]
    bodies += [
        licence(n, id=f"lic_{n}", account=f"a_{n}", tenant=TENANTS[n % 3]) for n in range(12)
    ]
    await stack.apply(*bodies, source="acme")
    made, _ = await plan(stack, source="acme")
    monkeypatch.setattr(replaying, "MOST_OPEN_OF_LANE", 8)
    monkeypatch.setattr(replaying, "CHUNK", 4)
    job, taking = await run(stack, made), turns(stack)
    for _ in range(20):
        await step(stack, job, taking)
    rows = await stack.fetch("SELECT lane, count(*) FROM work GROUP BY lane")
    opened = {row["lane"]: row["count"] for row in rows}
    rows = await stack.fetch("SELECT lane, count(*) FROM replay_items GROUP BY lane")
    frozen = {row["lane"]: row["count"] for row in rows}
    assert max(frozen.values()) >= 30
    assert {lane: opened[lane] for lane in frozen if frozen[lane] < 8} == {
        lane: count for lane, count in frozen.items() if count < 8
    }
    assert all(8 <= opened[lane] < 8 + 4 for lane in frozen if frozen[lane] >= 12)
    assert (await finish(stack, job))["progress"]["done"] == 42


async def test_a_paused_source_is_left_for_later(stack: Stack) -> None:
    await broken(stack, 6)
    await mend(stack)
    await stack.fetch("UPDATE sources SET paused_at = now() WHERE name = 'acme'")
    async with stack.owner.transaction() as conn:
        await conn.execute(
            "INSERT INTO configuration (version, actor, mode)"
            " SELECT max(version) + 1, 'test', 'live' FROM configuration"
        )
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made), turns(stack)
    for _ in range(3):
        await step(stack, job, taking)
    assert await stack.value("SELECT count(*) FROM work") == 0


async def test_what_a_cancelled_run_left_is_run_later(stack: Stack) -> None:
    """What it opened is applied all the same, and the next one opens the rest."""
    ids = await broken(stack, 30)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made, rate=10), turns(stack)
    await step(stack, job, taking)
    await step(stack, job, taking)
    opened = await stack.value("SELECT count(*) FROM replay_items WHERE opened_run = 2")
    assert 0 < opened < 30
    async with stack.owner.transaction() as conn:
        await cancel_job(conn, job, "operator:ada", "enough")
    assert await refusal(stack, made) == "plan_was_run", "it is not over before its next step"
    assert (await finish(stack, job))["state"] == "cancelled"
    await stack.drain()
    assert sum(runs == [1, 2] for runs in (await later_runs(stack)).values()) == opened
    assert await refusal(stack, made) is None, "what it changed itself is no news"
    done = await finish(stack, await run(stack, made))
    assert done["progress"]["counts"] == {"applied": 30 - opened}
    assert done["progress"]["total"] == 30 - opened
    assert await later_runs(stack) == {one: [1, 2] for one in ids}


async def test_a_step_that_dies_opens_nothing(stack: Stack) -> None:
    """Between the runs and the progress there is no gap: both commit, or neither."""
    await broken(stack, 10)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    job, taking = await run(stack, made), turns(stack)
    await step(stack, job, taking)
    await stack.fetch(
        "ALTER TABLE jobs ADD CONSTRAINT no_more CHECK (mark IS NOT NULL OR state <> 'running')"
        " NOT VALID"
    )
    with pytest.raises(Exception, match="no_more"):
        await step(stack, job, taking)
    assert await stack.value("SELECT count(*) FROM work") == 0
    assert await stack.value("SELECT count(*) FROM replay_items WHERE replay IS NOT NULL") == 0
    await stack.fetch("ALTER TABLE jobs DROP CONSTRAINT no_more")
    done = await finish(stack, job)
    assert done["progress"]["counts"] == {"applied": 10}
