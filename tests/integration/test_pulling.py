"""What no webhook brought is found in the provider's own list of events, and stored once."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared import telemetry
from shared.store.pulls import What
from tests.support.fetching import until
from tests.support.pulling import ArchiveScene, finish
from tests.support.stack import Stack, new_crew
from tests.support.stripe_archive import stripe_archive
from tests.support.stripe_events import NOW_S, customer, event, subscription
from workers.fetching import missing

PRO = {"seats": 10, "sso": True}


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[ArchiveScene]:
    """The source `stripe` with an API key, and an account in which nothing happened yet."""
    await stack.configure()
    async with stripe_archive() as api:
        made = ArchiveScene(stack, api)
        await made.set_key()
        await made.since()
        yield made


def created(number: str = "sub_1", **more: Any) -> bytes:
    content = subscription(number, customer=f"cus_{number}", tenant=f"t_{number}")
    return event("customer.subscription.created", content, event_id=f"evt_{number}", **more)


async def secrets_of(scene: ArchiveScene) -> dict[str, str]:
    rows = await scene.stack.fetch("SELECT event_id, secret FROM inbox")
    return {row["event_id"]: row["secret"] for row in rows}


# The same event by both ways ----------------------------------------------------------------------


async def test_a_webhook_that_commits_while_it_is_pulled_is_the_one(scene: ArchiveScene) -> None:
    """The pull has looked, and waits for the webhook's transaction on the other connection."""
    body = created()
    scene.api.made(body)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def webhook() -> None:
        async with scene.stack.owner.transaction() as conn:
            await conn.execute(
                "INSERT INTO ledger"
                " VALUES ($1, '', true, 'evt_sub_1', gen_random_uuid(), '', now())",
                scene.stack.sources["stripe"],
            )
            waiting.set()
            await go_on.wait()

    delivering = asyncio.create_task(webhook())
    await waiting.wait()
    pulling = asyncio.create_task(finish(scene.pulling(every_s={"events": 300})))

    async def pull_waits() -> bool:
        return bool(await scene.stack.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await until(pull_waits)
    go_on.set()
    await asyncio.gather(delivering, pulling)
    assert await scene.stack.value("SELECT count(*) FROM ledger WHERE event_id = 'evt_sub_1'") == 1
    assert await scene.stack.value("SELECT count(*) FROM inbox") == 0
    assert await scene.missed() == set()
    assert (await scene.at("events"))["different"] == 0


async def test_both_ways_at_once_store_one_event(scene: ArchiveScene) -> None:
    """Twenty events, pulled by two processes while the gateway receives them, in any order."""
    bodies = [created(f"sub_{number}") for number in range(20)]
    scene.api.made(*bodies)
    async with new_crew(scene.stack.endpoints, "other") as other:
        processes = [scene.pulling(), scene.pulling(other)]
        await asyncio.gather(
            *(process.turn() for process in processes),
            *(scene.stack.receive(body) for body in bodies[::-1]),
        )
        await finish(*processes)
    await scene.stack.drain()
    assert await scene.stack.value("SELECT count(*) FROM ledger WHERE event_id LIKE 'evt_%'") == 20
    assert await scene.stack.value("SELECT count(*) FROM inbox WHERE event_id LIKE 'evt_%'") == 20
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 0
    for number in range(20):
        assert await scene.stack.features(f"t_sub_{number}") == PRO
    found = await scene.missed()
    rows = await scene.stack.fetch("SELECT event_id FROM inbox WHERE secret = 'reconciled'")
    assert {row["event_id"] for row in rows} == found


@pytest.mark.parametrize("version", ["2025-03-31.basil", "2020-08-27"])
async def test_a_webhook_after_the_pull_is_a_redelivery_and_no_conflict(
    scene: ArchiveScene, version: str
) -> None:
    """The endpoint's version is its own, and so is what an event of it looks like."""
    scene.api.version = version
    sent = created()
    scene.api.made(sent)
    await scene.pull("events")
    assert await scene.stack.features("t_sub_1") == PRO
    content = json.loads(sent)
    content["data"]["object"]["billing_mode"] = {"type": "classic"}
    content["api_version"] = "2026-10-28.endive" if version[:4] == "2020" else version
    if version[:4] != "2020":
        del content["data"]["object"]["billing_mode"]
    content["pending_webhooks"] = 3
    (receipt,) = await scene.stack.receive(json.dumps(content).encode())
    await scene.stack.drain()
    assert receipt.status == "duplicate"
    assert await scene.stack.value("SELECT count(*) FROM deliveries") == 1
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 0
    assert await scene.stack.value("SELECT count(*) FROM work") == 0


async def test_another_object_under_the_id_is_a_conflict_whatever_the_version(
    scene: ArchiveScene,
) -> None:
    scene.api.version = "2020-08-27"
    scene.api.made(created())
    await scene.pull("events")
    other = json.loads(created())
    other["data"]["object"]["id"] = "sub_2"
    await scene.stack.apply(json.dumps(other).encode())
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 1


async def test_a_pull_after_the_webhook_finds_nothing(scene: ArchiveScene) -> None:
    scene.api.version = "2020-08-27"
    await scene.stack.apply(created())
    scene.api.made(created())
    scene.api.put(customer("cus_sub_1"))
    await scene.pull("events")
    assert await scene.missed() == set()
    assert await scene.stack.value("SELECT count(*) FROM deliveries") == 0
    assert (await scene.at("events"))["looked_at"] == 1


async def test_who_dies_after_storing_is_followed_by_who_finds_nothing(
    scene: ArchiveScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.api.made(created())
    process = scene.pulling(every_s={"events": 300})
    stored = asyncio.Event()

    async def die(*args: object) -> None:
        stored.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(process, "_move", die)
        dying = asyncio.create_task(process.turn())
        await stored.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    assert await scene.missed() == {"evt_sub_1"}
    await scene.pass_pull_claims()
    await finish(scene.pulling(every_s={"events": 300}))
    assert await scene.stack.value("SELECT count(*) FROM inbox") == 1
    row = await scene.at("events")
    assert (row["place"], row["looked_at"], row["different"]) == (None, 1, 0)
    await scene.stack.drain()
    assert await scene.stack.features("t_sub_1") == PRO


# What it is then ----------------------------------------------------------------------------------


async def test_it_says_of_itself_that_no_webhook_brought_it(scene: ArchiveScene) -> None:
    scene.api.made(created())
    await scene.pull("events")
    assert await secrets_of(scene) == {"evt_sub_1": "reconciled"}
    actors = await scene.stack.fetch("SELECT DISTINCT actor, cause FROM audit WHERE step = 0")
    assert [tuple(row) for row in actors] == [(missing.ACTOR, "event")]


async def test_somebody_is_told_that_webhooks_are_broken(
    scene: ArchiveScene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(telemetry, "missed", lambda *said: counted.append(said))
    scene.api.made(created("sub_1"), created("sub_2"), created("sub_3"))
    scene.api.put(customer("cus_sub_3"))
    await scene.stack.apply(created("sub_3"))
    await scene.pull("events")
    (said,) = [one for one in caplog.records if "events were missed" in one.getMessage()]
    assert (said.levelname, said.__dict__["source"], said.__dict__["events"]) == (
        "ERROR", "stripe", 2,
    )  # fmt: skip
    assert {one[0] for one in counted} == {"stripe"}
    assert sum(events for _, events in counted) == 2
    caplog.clear()
    await scene.pull("events")
    assert "events were missed" not in caplog.text
    assert sum(events for _, events in counted) == 2, "once"


async def test_an_event_of_a_connected_account_is_that_accounts(scene: ArchiveScene) -> None:
    known = created("sub_1", account="acct_1")
    await scene.stack.apply(known)
    scene.api.made(known, created("sub_2", account="acct_1"), account="acct_1")
    await scene.pull("events")
    rows = await scene.stack.fetch("SELECT account, event_id FROM ledger ORDER BY event_id")
    assert [tuple(row) for row in rows] == [("acct_1", "evt_sub_1"), ("acct_1", "evt_sub_2")]
    (receipt,) = await scene.stack.receive(created("sub_2", account="acct_1"))
    await scene.stack.drain()
    assert receipt.status == "duplicate"
    assert await scene.stack.value("SELECT count(*) FROM conflicts") == 0


async def test_an_account_that_has_left_does_not_stop_the_others(scene: ArchiveScene) -> None:
    await scene.stack.apply(created("sub_1", account="acct_0"), created("sub_2", account="acct_1"))
    scene.api.made(created("sub_3", account="acct_1"), account="acct_1")
    await scene.pull("events")
    assert await scene.missed() == {"evt_sub_3"}
    row = await scene.at("events")
    assert (row["failed"], row["place"], row["last_error"]) == (1, None, None)


# Which of them ------------------------------------------------------------------------------------


async def test_all_pages_are_read_and_none_twice(scene: ArchiveScene) -> None:
    bodies = [created(f"sub_{number}", created=NOW_S - number // 7) for number in range(250)]
    scene.api.made(*bodies)
    await finish(scene.pulling(every_s={"events": 300}))
    assert len(await scene.missed()) == 250
    asked = [one.query for one in scene.api.asked if one.path == "/v1/events"]
    assert [("starting_after" in query) for query in asked] == [False, True, True, False]
    assert {query["limit"] for query in asked} == {"100"}
    assert all("created[gte]" in query and "created[gt]" not in query for query in asked)


async def test_the_next_one_begins_before_where_the_last_one_ended(scene: ArchiveScene) -> None:
    await scene.pull("events")
    reached_at = (await scene.at("events"))["reached_at"]
    await scene.pull("events")
    asked = [one.query for one in scene.api.asked if one.path == "/v1/events"]
    assert int(asked[-1]["created[gte]"]) == int(reached_at.timestamp()) - 600
    assert int(asked[-1]["created[lte]"]) >= int(reached_at.timestamp())


async def test_what_is_on_its_way_is_left_to_its_webhook(scene: ArchiveScene) -> None:
    now_s = int(scene.api.clock())
    young, old = now_s - 60, now_s - 240
    scene.api.made(created("sub_1", created=young), created("sub_2", created=old))
    await scene.pull("events")
    assert await scene.missed() == {"evt_sub_2"}


async def test_a_clock_of_ours_that_is_ahead_passes_over_nothing(scene: ArchiveScene) -> None:
    """It says an hour more than the provider's: what is made next is older than our last look."""
    scene.api.clock = lambda: time.time() - 3600
    await scene.pull("events")
    made = int(scene.api.clock()) + 10
    scene.api.made(created("sub_1", created=made), created("sub_2", created=made + 500))
    scene.api.clock = lambda: made + 600.0
    await scene.pull("events")
    assert await scene.missed() == {
        "evt_sub_1"
    }  # the other one is young, by the clock that made it
    scene.api.clock = lambda: made + 1200.0
    await scene.pull("events")
    assert await scene.missed() == {"evt_sub_1", "evt_sub_2"}


async def test_types_that_decide_nothing_are_not_asked_for(scene: ArchiveScene) -> None:
    scene.api.made(event("product.created", {"id": "prod_1", "object": "product"}))
    await scene.pull("events")
    assert await scene.missed() == set()


# When it fails ------------------------------------------------------------------------------------


async def test_a_key_of_another_account_brings_nothing_in(scene: ArchiveScene) -> None:
    await scene.stack.apply(created("sub_ours"))
    scene.api.made(created("sub_theirs"))  # and no customer `cus_sub_ours` is there
    await scene.pulling(every_s={"events": 300}).turn()
    assert await scene.missed() == set()
    row = await scene.at("events")
    assert "another account" in row["last_error"]
    scene.api.put(customer("cus_sub_ours"))
    await scene.execute("UPDATE pulls SET due_at = now()")
    await finish(scene.pulling(every_s={"events": 300}))
    assert await scene.missed() == {"evt_sub_theirs"}


async def test_a_page_that_fails_comes_again(scene: ArchiveScene) -> None:
    scene.api.made(created())
    scene.api.fail(status=500, path="/v1/events", times=1)
    process = scene.pulling(every_s={"events": 300})
    await process.turn()
    row = await scene.at("events")
    assert (row["failures"], row["place"] is not None) == (1, True)
    await scene.execute("UPDATE pulls SET due_at = now()")
    await finish(process)
    assert await scene.missed() == {"evt_sub_1"}
    assert (await scene.at("events"))["failures"] == 0


@pytest.mark.parametrize("what", ["events", "objects"])
async def test_a_list_that_begins_again_for_ever_is_no_list(
    scene: ArchiveScene, monkeypatch: pytest.MonkeyPatch, what: What
) -> None:
    scene.api.made(created())
    scene.api.put(subscription("sub_1", customer="cus_1"))

    def the_first_page(found: list[Any], query: Any, path: str) -> dict[str, Any]:
        return {"object": "list", "url": path, "data": found[:1], "has_more": bool(found)}

    monkeypatch.setattr(scene.api, "_after", the_first_page)
    process = scene.pulling(every_s={what: 300})
    await scene.make_pull_due(what)
    for _ in range(2):
        await process.turn()
    row = await scene.at(what)
    assert row["failures"] == 1
    assert "the same page again" in row["last_error"]


async def test_fetches_go_first(scene: ArchiveScene) -> None:
    """Half of the burst is left to them."""
    await scene.pulling(every_s={"events": 300}, burst=4, rate=0.0001).turn()
    await scene.execute("UPDATE pulls SET place = NULL, finished_at = NULL, claimed_until = NULL")
    for _ in range(5):
        await scene.pulling(every_s={"events": 300}, burst=4, rate=0.0001).turn()
    assert len(scene.api.asked) == 2


async def test_what_the_provider_has_forgotten_is_warned_of(
    scene: ArchiveScene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.since(26 * 86400.0)
    with caplog.at_level("WARNING"):
        await scene.pull("events")
    assert "may have forgotten" in caplog.text
