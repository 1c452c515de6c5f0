"""`sluice reconcile` and `sluice backfill`: what is asked for, what is said, and how they end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.artifacts import Artifacts
from tests.cli.conftest import Said, Sluice
from tests.support.polar_api import polar_api
from tests.support.pulling import ArchiveScene, turns
from tests.support.reconciling import PolarScene
from tests.support.stack import Stack
from tests.support.stripe_archive import stripe_archive
from tests.support.stripe_events import customer, event, subscription
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.steering import begin_job


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[ArchiveScene]:
    """The source `stripe` with an API key."""
    await stack.configure()
    async with stripe_archive() as api:
        made = ArchiveScene(stack, api)
        await made.set_key()
        yield made


@asynccontextmanager
async def working(of: Turns) -> AsyncIterator[None]:
    """A process that takes turns."""
    running = asyncio.create_task(of.run())
    try:
        yield
    finally:
        of.stop.set()
        await running


async def call(scene: ArchiveScene, sluice: Sluice, *args: object) -> Said:
    async with working(turns(scene)):
        said = await sluice(*args)
    await scene.settle()
    return said


def created(number: str) -> bytes:
    content = subscription(number, customer=f"cus_{number}", tenant=f"t_{number}")
    return event("customer.subscription.created", content, event_id=f"evt_{number}")


async def test_what_was_missed_is_shown_then_stored_and_then_known(
    scene: ArchiveScene, sluice: Sluice
) -> None:
    scene.api.made(created("sub_1"), created("sub_2"))
    for number in ("sub_1", "sub_2"):
        scene.api.put(subscription(number, customer=f"cus_{number}", tenant=f"t_{number}"))
        scene.api.put(customer(f"cus_{number}"))
    await scene.stack.apply(created("sub_1"))
    dry = await call(scene, sluice, "reconcile", "stripe", "--since", "48h", "--dry-run", "--json")
    assert (dry.code, dry.json["dryRun"], dry.json["missed"], dry.json["inserted"]) == (
        0, True, 1, 0,
    )  # fmt: skip
    (missing,) = dry.json["missing"]
    assert (missing["eventId"], missing["type"]) == ("evt_sub_2", "customer.subscription.created")
    assert await scene.stack.features("t_sub_2") == {}
    said = await call(scene, sluice, "reconcile", "stripe", "--since", "48h")
    assert said.code == 0
    assert "evt_sub_2" in said.out
    assert "sluice jobs show" in said.err
    assert await scene.stack.features("t_sub_2") == {"seats": 10, "sso": True}
    number = await scene.stack.value("SELECT tracking_id FROM missed_events")
    story = (await sluice("events", "show", number, "--json")).json
    assert story["secret"] == story["receipts"][0]["secret"] == "reconciled"
    assert {one["actor"] for one in story["audit"]} == {"system:reconcile"}
    again = await call(scene, sluice, "reconcile", "stripe", "--since", "48h", "--json")
    assert (again.json["missed"], again.json["inserted"], again.json["different"]) == (0, 0, 0)
    actors = await scene.stack.fetch("SELECT actor FROM audit WHERE action = 'job.begun'")
    assert {row["actor"] for row in actors} == {"operator:ada"}


async def test_events_only_leaves_objects_alone(scene: ArchiveScene, sluice: Sluice) -> None:
    scene.api.put(subscription("sub_1", tenant="t_sub_1"))
    said = await call(
        scene, sluice, "reconcile", "stripe", "--since", "2d", "--events-only", "--json"
    )
    assert (said.code, said.json["objectsCompared"]) == (0, 0)
    assert not any(one.path == "/v1/subscriptions" for one in scene.api.asked)


async def test_backfill_brings_everything_in(scene: ArchiveScene, sluice: Sluice) -> None:
    for number in range(3):
        scene.api.put(subscription(f"sub_{number}", customer=f"cus_{number}"))
        scene.api.put(customer(f"cus_{number}", tenant=f"t{number}"))
    said = await call(scene, sluice, "backfill", "stripe", "--json")
    assert (said.code, said.json["different"]) == (0, 6)
    for number in range(3):
        assert await scene.stack.features(f"t{number}") == {"seats": 10, "sso": True}
    again = await call(scene, sluice, "backfill", "stripe")
    assert (again.code, "nothing was missed" in again.out) == (0, True)


async def test_an_account_that_cannot_be_asked_ends_with_6(
    scene: ArchiveScene, sluice: Sluice
) -> None:
    left = event("customer.subscription.created", subscription("sub_1"), account="acct_left")
    await scene.stack.apply(left)
    said = await call(scene, sluice, "reconcile", "stripe", "--since", "2d", "--events-only")
    assert said.code == 6


async def test_a_key_that_is_refused_ends_with_1_and_says_why(
    scene: ArchiveScene, sluice: Sluice
) -> None:
    await scene.set_key("sk_live_wrong")
    said = await call(scene, sluice, "reconcile", "stripe", "--since", "2d")
    assert said.code == 1
    assert "unauthorized" in said.err
    assert "sk_live_wrong" not in said.err


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("reconcile", "nobody"), 3, "no source nobody"),
        (("reconcile", "stripe", "--since", "soon"), 2, "--since"),
        (("reconcile", "stripe", "--since", "31d"), 2, "30 days"),
        (("reconcile", "acme"), 2, "lists nothing"),
        (("backfill", "acme"), 2, "lists nothing"),
        (("reconcile", "keyless"), 5, "no API key"),
        (("backfill", "keyless"), 5, "api_key"),
    ],
)
async def test_what_cannot_be_asked_says_what_it_lacks(
    scene: ArchiveScene, sluice: Sluice, args: tuple[str, ...], code: int, says: str
) -> None:
    await scene.stack.add_source("acme", "clerk", True)
    await scene.stack.add_source("keyless", "stripe", True)
    said = await sluice(*args)
    assert (said.code, says in said.err) == (code, True), said.err
    assert await scene.stack.value("SELECT count(*) FROM jobs") == 0


# Polar ------------------------------------------------------------------------------------------


async def test_polar_has_a_round_now(stack: Stack, sluice: Sluice) -> None:
    async with polar_api() as api:
        scene = PolarScene(stack, api)
        await scene.open()
        api.sign_up("cus_0", "t0")
        await scene.deliver(*api.subscribe("cus_0", "sub_0"))
        api.sign_up("cus_1", "t1")
        api.subscribe("cus_1", "sub_1")  # nobody was told

        async def run(*args: str) -> Said:
            tools = Tools(stack.crew, Artifacts(None, Path("/nowhere")), scene.keys)
            async with working(Turns(tools, asyncio.Event())):
                said = await sluice("reconcile", "polar", "--json", *args)
            await scene.settle()
            return said

        dry = await run("--dry-run")
        assert (dry.code, dry.json["objectsCompared"], dry.json["different"]) == (0, 2, 1)
        assert dry.json["drift"] == [{"object": "customer_state/cus_1", "account": ""}]
        assert await scene.with_access(["t0", "t1"]) == {"t0"}
        assert await scene.states() == 0
        first = await run()
        assert (first.code, first.json["different"]) == (0, 1), first.err
        assert await scene.with_access(["t0", "t1"]) == {"t0", "t1"}
        again = await run()
        assert (again.json["objectsCompared"], again.json["different"]) == (2, 0)
        assert await scene.states() == 1
        refused = await sluice("reconcile", "polar", "--since", "2d")
        assert (refused.code, "no list of events" in refused.err) == (2, True)
        backfilled = await sluice("backfill", "polar")
        assert backfilled.code == 2


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_round_that_nobody_can_go_on_with_ends(stack: Stack, *, dry_run: bool) -> None:
    async with polar_api() as api:
        scene = PolarScene(stack, api)
        await scene.open()
        for number in range(3):
            api.sign_up(f"cus_{number}", f"t{number}")
        async with stack.owner.transaction() as conn:
            source_id = stack.sources["polar"]
            arguments = {"dryRun": dry_run}
            job = await begin_job(
                conn, "reconcile", arguments, "operator:test", "a test", source_id=source_id
            )
        tools = Tools(stack.crew, Artifacts(None, Path("/nowhere")), scene.keys)
        process = Turns(tools, asyncio.Event(), turn_s=0.0)
        await process.turn_of_each()
        assert (await stack.value("SELECT state FROM jobs WHERE id = $1", job)) == "running"
        await scene.set_key(None, source="polar")
        for _ in range(3):
            await scene.execute("UPDATE jobs SET due_at = now()")
            await process.turn_of_each()
        (row,) = await stack.fetch("SELECT state, code FROM jobs WHERE id = $1", job)
        assert tuple(row) == ("failed", "no_api_key")


async def test_a_round_is_not_refused_for_what_was_mended(stack: Stack, sluice: Sluice) -> None:
    """The schedule failed and waits for hours; whoever asks now has given the key its rights."""
    async with polar_api() as api:
        scene = PolarScene(stack, api)
        await scene.open()
        api.sign_up("cus_0", "t0")
        await scene.reconciling().turn()
        await scene.execute(
            "UPDATE reconciliations SET phase = 'listed', page = 1, customers = '{}', failures = 9,"
            " last_error = 'forbidden: no right to list', due_at = now() + interval '1 hour',"
            " claimed_until = now() + interval '2 s'"
        )
        tools = Tools(stack.crew, Artifacts(None, Path("/nowhere")), scene.keys)
        async with working(Turns(tools, asyncio.Event())):
            said = await sluice("reconcile", "polar", "--json")
        assert (said.code, said.json["objectsCompared"]) == (0, 1), said.err
