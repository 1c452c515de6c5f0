"""`sluice replay`: plans, runs, and what operators do about them, as a person does it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from tests.cli.conftest import Sluice
from tests.support.acme import add_acme, licence
from tests.support.replaying import TENANTS, broken, mend, plan, turns
from tests.support.stack import Stack


@asynccontextmanager
async def working(stack: Stack) -> AsyncIterator[None]:
    """Jobs take steps, and lanes are drained, as long as it lasts."""
    taking = turns(stack)

    async def drain() -> None:
        while not taking.stop.is_set():
            await stack.drain()
            await asyncio.sleep(0.02)

    running = asyncio.gather(taking.run(), drain())
    try:
        yield
    finally:
        taking.stop.set()
        await running


async def test_the_whole_way_of_a_person(sluice: Sluice, stack: Stack) -> None:
    """Plan, look, run, look: each says what comes next."""
    ids = await broken(stack, 12)
    await mend(stack)
    async with working(stack):
        made = await sluice("replay", "plan", "--source", "acme", "--status", "dead")
        assert made.code == 0, made.err
        assert "not rehearsed" not in made.out
        assert "6 features of 3 tenants" in made.out
        assert "nothing" in made.out, "from nothing"
        number = made.err.partition("sluice replay run ")[2].partition(" ")[0]
        again = (await sluice("replay", "show", number, "--json")).json
        assert again["result"]["effect"]["outcomes"] == {"applied": 12}
        dry = await sluice("replay", "run", number, "--reason", "mended", "--dry-run", "--json")
        assert (dry.code, dry.json["events"], dry.json["dryRun"]) == (0, 12, True)
        ran = await sluice("replay", "run", number, "--reason", "mended", "--rate", "500/s")
        assert ran.code == 0, ran.err
        assert "12 of 12" in ran.out
        assert (await sluice("replay", "run", number, "--reason", "again")).code == 5
        shown = await sluice("replay", "show", number)
        assert "has run it, done: sluice replay show" in shown.err
        assert "within the hour" not in shown.err
    (job, plan_id) = [one["id"] for one in (await sluice("replay", "list", "--json")).json["items"]]
    assert plan_id == number
    page = (await sluice("replay", "show", job, "--events", "--limit", 5, "--json")).json
    seen = page["items"]
    while page["next"] is not None:
        more = ("--limit", 5, "--json", "--cursor", page["next"])
        page = (await sluice("replay", "show", job, "--events", *more)).json
        seen += page["items"]
    assert [one["trackingId"] for one in seen] == sorted(map(str, ids)), "the oldest first"
    assert {(one["outcome"], one["run"], one["replay"]) for one in seen} == {("applied", 2, job)}
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    listed = (await sluice("events", "list", "--replay", job, "--json")).json["items"]
    assert len(listed) == 12


async def test_a_plan_of_an_issue_tells_whose_body_is_gone(sluice: Sluice, stack: Stack) -> None:
    ids = await broken(stack, 6)
    (issue,) = (await sluice("issues", "list", "--json")).json["items"]
    await stack.fetch("DELETE FROM inbox WHERE tracking_id = ANY ($1)", ids[:2])
    # Of another code, and gone too: nothing of this issue.
    other = "UPDATE settlements SET code = 'unmapped' WHERE tracking_id = $1"
    await stack.fetch(other, ids[0])
    async with working(stack):
        made = await sluice("replay", "plan", "--issue", issue["id"], "--json")
        assert made.code == 0, made.err
        told = made.json["result"]
        assert (told["events"], told["replayable"]) == (5, 4)
        assert told["leftOut"] == {"body_expired": 1}
        shown = await sluice("replay", "show", made.json["id"])
        assert "the type is not known any more" in shown.err
        events = (await sluice("replay", "show", made.json["id"], "--events", "--json")).json
    outcomes = {one["trackingId"]: one["outcome"] for one in events["items"]}
    assert outcomes == {
        str(ids[1]): "body_expired", **dict.fromkeys(map(str, ids[2:]), "waiting")
    }  # fmt: skip


async def test_the_story_of_an_event_names_the_job(sluice: Sluice, stack: Stack) -> None:
    ids = await broken(stack, 2)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    async with working(stack):
        begun = await sluice(
            "replay", "run", made, "--reason", "mended", "--actor", "grace", "--json"
        )
    job = begun.json["id"]
    story = (await sluice("events", "show", ids[0], "--json")).json
    assert [(run["run"], run["actor"], run["reason"], run["replay"]) for run in story["runs"]] == [
        (1, None, None, None), (2, "operator:grace", "mended", job)
    ]  # fmt: skip
    actions = [(one["action"], one["actor"], one["reason"]) for one in story["audit"]]
    assert ("job.begun", "operator:grace", "mended") in actions


async def test_what_failed_ends_it_with_6(sluice: Sluice, stack: Stack) -> None:
    await broken(stack, 3)
    async with working(stack):
        made = await sluice("replay", "plan", "--status", "dead", "--json")
        number = made.json["id"]
        ran = await sluice("replay", "run", number, "--reason", "hope", "--json")
        assert ran.code == 6
        assert ran.json["progress"]["failed"] == 3
        watched = await sluice("replay", "watch", ran.json["id"])
        assert watched.code == 6
        assert "--outcome dead" in watched.err
        dead = await sluice(
            "replay", "show", ran.json["id"], "--events", "--outcome", "dead", "--json"
        )
        assert len(dead.json["items"]) == 3
        assert all(one["code"] for one in dead.json["items"])


async def test_nothing_to_change_says_so(sluice: Sluice, stack: Stack) -> None:
    await add_acme(stack)
    await stack.apply(
        *(licence(n, id=f"lic_{n}", account=f"a_{n}", tenant=TENANTS[n % 3]) for n in range(6)),
        source="acme",
    )
    async with working(stack):
        made = await sluice("replay", "plan", "--all")
        assert made.code == 0, made.err
        assert "no change" in made.out


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (("plan",), 2),
        (("plan", "--all", "--source", "acme"), 2),
        (("plan", "--status", "lost"), 2),
        (("plan", "--type", "*"), 2),
        (("plan", "--type", "*", "--all"), 2),
        (("plan", "--source", "nosuch"), 3),
        (("plan", "--since", "yesterdayish"), 2),
        (("plan", "--colour", "red"), 2),
        (("plan", str(uuid4()), "--source", "acme"), 2),
        (("plan", "evt_1"), 2),
        (("plan", "--issue", "nothing"), 3),
        (("plan", "--issue", "nothing", "--all"), 2),
        (("run", str(uuid4()), "--reason", "x"), 3),
        (("run", "x", "--reason", "x"), 2),
        (("run", str(uuid4()), "--reason", " "), 2),
        (("run", str(uuid4()), "--reason", "x", "--rate", "fast"), 2),
        (("run", str(uuid4()), "--reason", "x", "--rate", "0/s"), 2),
        (("run", str(uuid4())), 2),
        (("show", str(uuid4())), 3),
        (("show", str(uuid4()), "--outcome", "dead"), 2),
        (("show", str(uuid4()), "--events", "--outcome", "daed"), 2),
        (("watch", str(uuid4())), 3),
        (("pause", str(uuid4()), "--reason", "x"), 3),
        (("list", "--state", "lost"), 2),
        (("list", "--cursor", "x"), 2),
        (("plna",), 2),
        ((), 2),
    ],
)
async def test_what_is_not_understood_does_nothing(
    sluice: Sluice, stack: Stack, said: tuple[str, ...], code: int
) -> None:
    ended = await sluice("replay", *said)
    assert ended.code == code, ended
    assert await stack.value("SELECT count(*) FROM jobs") == 0


async def test_of_two_at_the_same_moment_the_other_is_refused(sluice: Sluice, stack: Stack) -> None:
    """Both have looked at the plan before either job has taken it."""
    await broken(stack, 6)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    for _ in range(2):
        begun = await sluice("replay", "run", made, "--reason", "mended", "--detach", "--json")
        assert begun.code == 0
    jobs = [one["id"] for one in (await sluice("replay", "list", "--json")).json["items"]][:2]
    async with working(stack):
        ended = [await sluice("replay", "watch", job, "--json") for job in jobs]
    assert sorted(one.code for one in ended) == [0, 5]
    (refused,) = [one.json for one in ended if one.code == 5]
    assert refused["error"]["code"] == "plan_was_run"
    assert await stack.value("SELECT count(*) FROM settlements WHERE run = 2") == 6


async def test_paused_resumed_and_cancelled_from_elsewhere(sluice: Sluice, stack: Stack) -> None:
    await broken(stack, 6)
    await mend(stack)
    made, _ = await plan(stack, status="dead")
    begun = await sluice("replay", "run", made, "--reason", "mended", "--detach", "--json")
    job = begun.json["id"]
    dry = await sluice("replay", "pause", job, "--reason", "busy", "--dry-run", "--json")
    assert (dry.code, dry.json["dryRun"]) == (0, True)
    assert (await sluice("replay", "show", job, "--json")).json["state"] == "waiting"
    assert (await sluice("replay", "pause", job, "--reason", "busy")).code == 0
    assert (await sluice("replay", "pause", job, "--reason", "busy")).code == 5
    shown = (await sluice("replay", "show", job, "--json")).json
    assert (shown["state"], shown["pausedBy"]) == ("paused", "operator:ada")
    assert (await sluice("replay", "resume", job, "--reason", "calm")).code == 0
    assert (await sluice("replay", "cancel", job, "--reason", "enough")).code == 0
    async with working(stack):
        watched = await sluice("replay", "watch", job)
    assert watched.code == 1
    assert "cancelled" in watched.out
    told = await stack.fetch("SELECT action FROM audit WHERE action LIKE 'job.%' ORDER BY id")
    assert [one["action"] for one in told][-4:] == [
        "job.begun", "job.paused", "job.resumed", "job.cancelled"
    ]  # fmt: skip


async def test_several_ids_are_opened_together_or_not_at_all(sluice: Sluice, stack: Stack) -> None:
    ids = await broken(stack, 3)
    await mend(stack)
    opened = "SELECT count(*) FROM work WHERE run = 2"
    dry = await sluice("replay", *ids, "--reason", "mended", "--dry-run", "--json")
    assert (dry.code, len(dry.json["items"]), dry.json["dryRun"]) == (0, 3, True)
    assert (await sluice("replay", *ids, uuid4(), "--reason", "x")).code == 3
    assert await stack.value(opened) == 0
    async with working(stack):
        said = await sluice("replay", "--reason", "mended", *ids, "--wait", "--json")
    assert said.code == 0, said.err
    assert [one["outcome"] for one in said.json["items"]] == ["applied"] * 3
    again = await sluice("replay", ids[0], "--reason", "once more")
    assert (again.code, f"run 3 of {ids[0]}" in again.out) == (0, True)
    both = await sluice("replay", ids[1], ids[0], "--reason", "once more")
    assert (both.code, str(ids[0]) in both.err) == (5, True)
    assert await stack.value("SELECT count(*) FROM audit WHERE action = 'event.replayed'") == 4
