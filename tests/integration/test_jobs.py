"""The spine of long work: steps, marks, deaths, turns and ends, in this process."""

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.db import LOOKUPS_ONLY, Database
from shared.domain.outcomes import RetryPolicy
from shared.store import job_lists, jobs, steering
from shared.store.job_lists import Wanted
from tests.support.stack import Stack, new_crew
from tests.support.working import CREATE, KINDS, Count, finish, start, turns
from workers.jobs.counting import Counting
from workers.jobs.kinds import Tools
from workers.steering import IsOver, begin_job, cancel_job, pause_job, resume_job


@pytest.fixture
async def counting(stack: Stack) -> Stack:
    async with stack.owner.connection() as conn:
        await conn.execute(CREATE)
    return stack


async def job_of(stack: Stack, job: UUID) -> dict[str, Any]:
    (row,) = await stack.fetch("SELECT * FROM jobs WHERE id = $1", job)
    return dict(row)


async def counted(stack: Stack, job: UUID, run: int = 1) -> list[int]:
    rows = await stack.fetch("SELECT number FROM counted WHERE job = $1 AND run = $2", job, run)
    return sorted(row["number"] for row in rows)


async def test_a_step_and_its_progress_commit_together(counting: Stack) -> None:
    """One that fails after it wrote has written nothing, and is done once in the end."""
    job = await start(counting, 10, by=3, at={"3": "fail once"})
    await finish(counting, turns(counting))
    assert await counted(counting, job) == [*range(10)]
    row = await job_of(counting, job)
    assert (row["state"], row["done"], row["total"]) == ("done", 10, 10)
    assert json.loads(row["result"]) == {"sum": 45}
    assert json.loads(row["counts"]) == {"counted": 10}
    assert (row["attempts"], row["deaths"], row["mark"], row["error"]) == (0, 0, None, None)
    assert row["started_at"] <= row["finished_at"]


async def test_a_later_run_does_the_work_again(counting: Stack) -> None:
    job = await start(counting, 4)
    await finish(counting, turns(counting))
    assert await start(counting, 4, job=job, run=1) == job
    assert (await job_of(counting, job))["state"] == "done"
    await start(counting, 6, job=job, run=2)
    await finish(counting, turns(counting))
    assert await counted(counting, job, 1) == [*range(4)]
    assert await counted(counting, job, 2) == [*range(6)]


async def test_a_run_that_begins_between_steps_starts_over(counting: Stack) -> None:
    job = await start(counting, 4, at={"prepare:2": "slow"})
    one = turns(counting)
    running = asyncio.create_task(finish(counting, one))
    while (await job_of(counting, job))["done"] < 2:
        await asyncio.sleep(0.01)
    await start(counting, 5, job=job, run=2)
    await running
    assert await counted(counting, job, 1) == [0, 1]
    assert await counted(counting, job, 2) == [*range(5)]


async def test_a_failing_step_is_put_off_and_fails_for_good(counting: Stack) -> None:
    job = await start(counting, 5, at={"2": "fail"})
    await finish(counting, turns(counting))
    row = await job_of(counting, job)
    assert (row["state"], row["code"], row["error"]) == ("failed", "ValueError", "no such luck")
    # The last one is not waited for.
    assert (row["attempts"], row["done"], row["mark"]) == (3, 2, None)
    assert await counted(counting, job) == [0, 1]


async def test_backoff_grows(counting: Stack) -> None:
    counting.crew.retry = RetryPolicy(5, 10.0, 3600.0)
    job = await start(counting, 5, at={"0": "fail"})
    one = turns(counting)
    await one.turn_of_each()
    waits = []
    for _ in range(3):
        waits.append(
            await counting.value("SELECT extract(epoch FROM due_at - now())::float8 FROM jobs")
        )
        assert not await one.turn_of_each()  # it is not due
        await counting.fetch("UPDATE jobs SET due_at = now() WHERE id = $1", job)
        await one.turn_of_each()
    for wait, full in zip(waits, (10, 20, 40), strict=True):
        assert full * 0.4 < wait <= full


@pytest.mark.parametrize(
    ("at", "code"),
    [("final", "hopeless"), ("damaged", "artifact_store")],
)
async def test_what_a_kind_says_of_a_failure(counting: Stack, at: str, code: str) -> None:
    """`JobFailed` ends it at once; what is damaged where it is kept is tried again."""
    job = await start(counting, 5, at={"prepare:1": at})
    await finish(counting, turns(counting))
    row = await job_of(counting, job)
    assert (row["state"], row["code"], row["done"]) == ("failed", code, 1)
    assert row["attempts"] == (0 if at == "final" else 3)


async def test_an_artifact_store_that_is_away_for_long_fails_no_job(counting: Stack) -> None:
    """It is asked again, not too seldom, and what fails afterwards still has attempts."""
    job = await start(counting, 3, at={"prepare:1": "store"})
    one = turns(counting)
    for _ in range(3 * counting.crew.retry.max_attempts):
        await counting.fetch("UPDATE jobs SET due_at = now()")
        await one.turn_of_each()
    row = await job_of(counting, job)
    assert (row["state"], row["error"], row["done"]) == ("running", "the store is away", 1)
    assert row["attempts"] == counting.crew.retry.max_attempts // 2
    assert row["due_at"] > row["updated_at"]
    back = json.dumps({"to": 3, "at": {"prepare:1": "fail"}})
    await counting.fetch("UPDATE jobs SET arguments = $1, due_at = now()", back)
    await one.turn_of_each()
    assert (await job_of(counting, job))["state"] == "running"
    await counting.fetch("UPDATE jobs SET arguments = $1", json.dumps({"to": 3}))
    # Begun work has its job from each step.
    await finish(counting, one)
    assert (await job_of(counting, job))["state"] == "done"


async def test_an_unknown_kind_is_left_to_newer_processes_for_a_while(counting: Stack) -> None:
    job = await start(counting, 3, kind="newer")
    await turns(counting).turn_of_each()
    row = await job_of(counting, job)
    assert (row["state"], row["attempts"]) == ("running", 1)
    await counting.fetch("UPDATE jobs SET due_at = now()")
    await finish(counting, turns(counting, kinds={"newer": KINDS["count"]}))
    assert (await job_of(counting, job))["state"] == "done"
    lost = await start(counting, 3, kind="none")
    await finish(counting, turns(counting))
    assert (await job_of(counting, lost))["code"] == "unknown_kind"


async def test_one_that_is_over_is_not_begun(counting: Stack) -> None:
    job = await start(counting, 3)
    await counting.fetch("UPDATE jobs SET cancelled_by = 'operator:ana' WHERE id = $1", job)
    await finish(counting, turns(counting))
    assert (await job_of(counting, job))["state"] == "cancelled"
    assert await counted(counting, job) == []


@pytest.mark.parametrize("when", ["prepare:2", "2"])
async def test_cancelled_on_its_way(counting: Stack, when: str) -> None:
    """During a step the step still counts; while one is prepared it is not taken."""
    job = await start(counting, 100, at={when: "slow"})
    one = turns(counting)
    running = asyncio.create_task(finish(counting, one))
    while (await job_of(counting, job))["done"] < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    async with counting.crew.db.transaction() as conn:
        assert await steering.cancel(conn, job, "operator:ana")
        assert not await steering.cancel(conn, job, "operator:ana")
    await running
    row = await job_of(counting, job)
    assert (row["state"], row["cancelled_by"]) == ("cancelled", "operator:ana")
    assert await counted(counting, job) == ([0, 1] if when == "prepare:2" else [0, 1, 2])


async def test_a_paused_job_waits_and_can_still_be_cancelled(counting: Stack) -> None:
    """It is begun by an operator: no event stands behind it."""
    async with counting.crew.db.transaction() as conn:
        job = await begin_job(conn, "count", {"to": 3}, "operator:ana", "to see it")
        ended = await begin_job(conn, "count", {"to": 3}, "operator:ana", "to see it")
        for one in (job, ended):
            await pause_job(conn, one, "operator:ana", "not now")
    with pytest.raises(IsOver, match="paused already"):
        async with counting.crew.db.transaction() as conn:
            await pause_job(conn, job, "operator:ana", "not now")
    assert not await turns(counting).turn_of_each()
    assert await counted(counting, job) == []
    async with counting.crew.db.connection() as conn:
        row = await job_lists.read_job(conn, job)
    assert row is not None
    assert (row["state"], row["paused_by"]) == ("paused", "operator:ana")
    async with counting.crew.db.transaction() as conn:
        await resume_job(conn, job, "operator:ana", "now")
        await cancel_job(conn, ended, "operator:ana", "never")
    await finish(counting, turns(counting))
    assert (await job_of(counting, job))["state"] == "done"
    assert (await job_of(counting, ended))["state"] == "cancelled"
    assert await counted(counting, job) == [0, 1, 2]
    actions = await counting.fetch("SELECT action FROM audit WHERE subject = $1", f"job/{job}")
    assert [row["action"] for row in actions] == ["job.begun", "job.paused", "job.resumed"]


async def test_jobs_of_a_paused_source_wait(counting: Stack) -> None:
    job = await start(counting, 100, source="stripe", at={"3": "slow"})
    other = await start(counting, 3)
    one = turns(counting)
    running = asyncio.create_task(one.run())
    while (await job_of(counting, job))["done"] < 3:
        await asyncio.sleep(0.01)
    await counting.fetch("UPDATE sources SET paused_at = now()")
    while (await job_of(counting, other))["state"] != "done":
        await asyncio.sleep(0.01)
    held = (await job_of(counting, job))["done"]
    assert held < 100
    await asyncio.sleep(0.6)
    row = await job_of(counting, job)
    assert (row["done"], row["mark"], row["state"]) == (held, None, "running")
    # Whoever wants it to end need not resume the source.
    cancelled = await start(counting, 3, source="stripe")
    await counting.fetch("UPDATE jobs SET cancelled_by = 'x' WHERE id = $1", cancelled)
    await counting.fetch("SELECT pg_sleep(0.6)")
    assert (await job_of(counting, cancelled))["state"] == "cancelled"
    await counting.fetch("UPDATE sources SET paused_at = NULL")
    one.stop.set()
    await running
    await finish(counting, turns(counting))
    assert await counted(counting, job) == [*range(100)]


async def test_two_processes_share_jobs_and_nobody_is_thought_dead(counting: Stack) -> None:
    """Slow preparations included, during which no transaction holds anything."""
    slow = {f"prepare:{n}": "slow" for n in range(0, 40, 7)}
    ids = [await start(counting, 40, at=slow) for _ in range(4)]
    async with new_crew(counting.endpoints, "other") as crew:
        await finish(counting, turns(counting), turns(counting, crew), within_s=60)
    for job in ids:
        assert await counted(counting, job) == [*range(40)]
    assert await counting.value("SELECT max(deaths) FROM counted") == 0
    by = await counting.fetch("SELECT DISTINCT by FROM counted")
    assert {row["by"] for row in by} == {"test", "other"}


async def test_a_mark_of_a_dead_process_counts_as_a_death(counting: Stack) -> None:
    """The step comes later and knows of it; progress forgives."""
    job = await start(counting, 3)
    await counting.fetch("UPDATE jobs SET mark = $1, updated_at = now()", uuid4())
    one = turns(counting)
    assert not await one.turn_of_each()
    row = await job_of(counting, job)
    assert (row["deaths"], row["mark"]) == (1, None)
    assert row["due_at"] > row["updated_at"]
    await finish(counting, one)
    rows = await counting.fetch("SELECT number, deaths FROM counted ORDER BY number")
    assert [tuple(row.values()) for row in rows] == [(0, 1), (1, 0), (2, 0)]


async def test_a_step_that_finds_the_row_locked_is_no_death(counting: Stack) -> None:
    """Somebody may hold the job's row, to cancel it say, and give it up again."""
    job = await start(counting, 3, at={"prepare:1": "slow"})
    one = turns(counting)
    running = asyncio.create_task(one.turn_of_each())
    while not await counting.value("SELECT done = 1 AND mark IS NOT NULL FROM jobs"):
        await asyncio.sleep(0.01)
    async with counting.owner.transaction() as conn:
        await conn.execute("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE", job)
        await asyncio.sleep(0.8)
    await running
    row = await job_of(counting, job)
    assert (row["done"], row["mark"]) == (1, None)
    async with new_crew(counting.endpoints, "other") as crew:
        await finish(counting, turns(counting, crew))
    assert await counting.value("SELECT max(deaths) FROM counted") == 0


async def test_what_takes_long_to_begin_has_a_turn_all_the_same(counting: Stack) -> None:
    """Of more jobs than are kept open, each turn begins anew: it has to be worth that."""

    async def begin(tools: Tools, job: jobs.Job) -> Count:
        await asyncio.sleep(0.4)
        return Count(tools, job)

    job = await start(counting, 1000)
    await turns(counting, kinds={"count": begin}, turn_s=0.3).turn_of_each()
    assert (await job_of(counting, job))["done"] > 1


async def test_what_kills_again_and_again_fails(counting: Stack) -> None:
    job = await start(counting, 3)
    one = turns(counting)
    for deaths in range(1, 5):
        await counting.fetch(
            "UPDATE jobs SET mark = $1, due_at = now(), updated_at = now()", uuid4()
        )
        await one.turn_of_each()
        assert (await job_of(counting, job))["deaths"] == deaths
    row = await job_of(counting, job)
    assert (row["state"], row["code"], row["mark"]) == ("failed", "process_died", None)


async def test_a_mark_from_before_postgres_was_started_is_no_death(counting: Stack) -> None:
    job = await start(counting, 3)
    await counting.fetch(
        "UPDATE jobs SET mark = $1, updated_at = pg_postmaster_start_time() - interval '1 s'",
        uuid4(),
    )
    await finish(counting, turns(counting))
    assert await counting.value("SELECT max(deaths) FROM counted") == 0
    assert (await job_of(counting, job))["state"] == "done"


async def test_platform_faults_charge_nobody(counting: Stack) -> None:
    """Nor do they look like a death to anybody else."""
    job = await start(counting, 3, at={"1": "fault"})
    one = turns(counting)
    assert await one.turn_of_each()
    for _ in range(6):
        await counting.fetch("UPDATE jobs SET due_at = now()")
        await one.turn_of_each()
    row = await job_of(counting, job)
    assert (row["state"], row["attempts"], row["deaths"], row["mark"]) == ("running", 0, 0, None)
    assert (row["done"], await counted(counting, job)) == (1, [0])


async def test_a_lost_connection_charges_nobody(counting: Stack) -> None:
    """Everybody's connections are cut, again and again, in whatever they are at."""
    ids = [await start(counting, 60, at={str(n): "slow" for n in (7, 30)}) for _ in range(2)]

    async def cut() -> None:
        for _ in range(12):
            await asyncio.sleep(0.15)
            await counting.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'sluice_worker' AND datname = current_database()"
            )

    cutting = asyncio.create_task(cut())
    await finish(counting, turns(counting), within_s=60)
    await cutting
    for job in ids:
        assert await counted(counting, job) == [*range(60)]
    assert await counting.value("SELECT max(deaths) FROM counted") == 0


async def test_turns_are_fair(counting: Stack) -> None:
    """Jobs that would take for ever keep no other waiting, and none of them any other."""
    for _ in range(12):
        await start(counting, 10**6)
    one = turns(counting, turn_s=0.05)
    running = asyncio.create_task(one.run())
    await asyncio.sleep(0.3)
    small = await start(counting, 2)
    deadline = asyncio.get_running_loop().time() + 10
    while (await job_of(counting, small))["state"] != "done":
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    one.stop.set()
    await running
    assert await counting.value("SELECT count(DISTINCT job) FROM counted") == 13


async def test_a_dozen_jobs_are_each_begun_once(counting: Stack) -> None:
    """What one holds after its turn is there at its next: else a rehearsal would never end."""
    begun: list[UUID] = []

    async def begin(tools: Tools, job: Any) -> Count:
        begun.append(job.id)
        return Count(tools, job)

    started = [await start(counting, 4) for _ in range(12)]
    await finish(counting, turns(counting, kinds={"count": begin}, turn_s=0.0))
    assert sorted(begun) == sorted(started)


async def test_stop_finishes_the_step_at_hand(counting: Stack) -> None:
    job = await start(counting, 10, at={"1": "slow"})
    one = turns(counting)
    running = asyncio.create_task(one.run())
    while (await job_of(counting, job))["done"] < 1:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    one.stop.set()
    await running
    row = await job_of(counting, job)
    assert (row["done"], row["mark"], row["state"]) == (2, None, "running")


async def test_work_is_kept_between_steps_and_given_up_when_another_had_the_job(
    counting: Stack,
) -> None:
    begun: list[str] = []

    async def begin(tools: Tools, job: jobs.Job) -> Count:
        begun.append(f"{tools.crew.name} at {job.done}")
        return Count(tools, job)

    kinds = {"count": begin}
    job = await start(counting, 10, at={"4": "fail once", "2": "fault"})
    first = turns(counting, kinds=kinds)
    await first.turn_of_each()
    assert begun == ["test at 0"]
    await counting.fetch('UPDATE jobs SET arguments = \'{"to": 10, "at": {"4": "fail once"}}\'')
    async with new_crew(counting.endpoints, "other") as crew:
        await counting.fetch("UPDATE jobs SET due_at = now()")
        await turns(counting, crew, kinds=kinds).turn_of_each()
        await counting.fetch("UPDATE jobs SET due_at = now()")
        await first.turn_of_each()
    assert begun == ["test at 0", "other at 2", "test at 4"]
    assert await counted(counting, job) == [*range(10)]


async def test_jobs_are_counted(counting: Stack) -> None:
    await start(counting, 5)
    await start(counting, 5, source="stripe")
    await counting.fetch("UPDATE sources SET paused_at = now() WHERE name = 'stripe'")
    await counting.fetch("UPDATE jobs SET due_at = now() - interval '1 h'")
    found = Counting(counting.crew)
    await found.count()
    assert found.jobs == {("count", "waiting"): 1, ("count", "paused"): 1}
    assert 3600 <= found.waits_s["count"] < 3700


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(state="failed"), Wanted(state="running"), Wanted(state="paused"),
        Wanted(source="stripe"), Wanted(source="none"), Wanted(tenant="acme"), Wanted(),
    ],
)  # fmt: skip
async def test_lists_of_jobs_do_not_read_all_of_them(counting: Stack, wanted: Wanted) -> None:
    """Each push is a job: there are many of one busy source, and nearly all of them are done."""
    await counting.fetch(
        "INSERT INTO jobs (id, kind, actor, source_id, tenant, state, finished_at)"
        " SELECT gen_random_uuid(), 'import', 'test', (SELECT min(id) FROM sources), 'busy',"
        " 'done', now() FROM generate_series(1, 100000)"
    )
    await start(counting, 3, source="stripe")
    await counting.fetch("ANALYZE jobs")
    reader = await Database.open(counting.endpoints.database["reader"], "reader", size=1)
    async with reader.connection() as conn:
        listed = f"EXPLAIN (ANALYZE, BUFFERS) {job_lists.LIST_JOBS}"
        values = (None, *wanted, 50)
        for number, value in reversed([*enumerate(values, start=1)]):
            said = "NULL" if value is None else f"'{value}'"
            listed = listed.replace(f"${number}", said)
        rows = await conn.fetch(listed)
        found = await job_lists.list_jobs(conn, None, wanted, 50)
    await reader.close()
    buffers = next(row[0] for row in rows if "Buffers:" in row[0])
    assert sum(int(one) for one in re.findall(r"(?:hit|read)=(\d+)", buffers)) < 200, rows
    assert len(found) == (50 if wanted == Wanted() else wanted.source == "stripe")


async def test_looking_for_jobs_does_not_read_those_that_are_over(counting: Stack) -> None:
    await counting.fetch(
        "INSERT INTO jobs (id, kind, actor, state, finished_at)"
        " SELECT gen_random_uuid(), 'count', 'test', 'done', now() FROM generate_series(1, 100000)"
    )
    for _ in range(3):
        await start(counting, 3)
    await counting.fetch("ANALYZE jobs")
    url = counting.endpoints.database["worker"]
    for settings in (LOOKUPS_ONLY, None):
        db = await Database.open(url, "worker", size=1, settings=settings)
        async with db.connection() as conn:
            rows = await conn.fetch(
                f"EXPLAIN (ANALYZE, BUFFERS) {jobs.DUE_JOBS}".replace("$1", "8")
            )
        await db.close()
        plan = "\n".join(row[0] for row in rows)
        assert "jobs_due" in plan, plan
        assert "Seq Scan on jobs" not in plan, plan
        rows = [row[0] for row in rows if "Execution Time" in row[0]]
        assert float(rows[0].split()[2]) < 50
