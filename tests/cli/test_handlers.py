"""`sluice handlers list`: who keeps up, and who is missing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.domain.events import OWN_SOURCE
from shared.domain.outcomes import RetryPolicy
from tests.cli.conftest import Sluice
from tests.support.packages import installed
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.extensions import handlers
from workers.extensions.following import Following


@pytest.fixture
async def doing(stack: Stack) -> AsyncIterator[Stack]:
    with installed():
        from sluice_doing import TABLES

        async with stack.owner.connection() as conn:
            await conn.execute(TABLES)
        yield stack


async def test_handlers_are_listed_with_what_waits_for_them(doing: Stack, sluice: Sluice) -> None:
    """Behind, waiting, retrying, dead: for each handler that a worker has."""
    said = await sluice("handlers", "list")
    assert "no worker has a handler" in said.err
    assert "recorder: installed here, and no worker has had it yet" in said.err
    following = Following(doing.crew, lambda _: None)
    await following.turn()
    bodies = []
    for number in range(3):
        one = subscription(f"sub_{number}", customer=f"cus_{number}", tenant=f"t{number}")
        one["metadata"]["note"] = "fails in the recorder" if number == 1 else ""
        bodies.append(event("customer.subscription.created", one))
    await doing.apply(*bodies)
    doer, recorder = (await sluice("handlers", "list", "--json")).json["items"]
    assert doer["name"] == "doer"
    assert (doer["installed"], doer["listensTo"], doer["lagRecords"]) == (True, [], None)
    assert (recorder["lagRecords"], recorder["waiting"]) == (9, 0)
    assert 0 < recorder["lagS"] < 60
    assert recorder["listensTo"][1] == "sluice:entitlement.*"
    await Following(doing.crew, lambda _: None).turn()
    _, recorder = (await sluice("handlers", "list", "--json")).json["items"]
    assert (recorder["lagRecords"], recorder["waiting"], recorder["dead"]) == (0, 9, 0)
    doing.crew.retry = RetryPolicy(1, 0.01, 0.02)
    await doing.drain()
    _, recorder = (await sluice("handlers", "list", "--json")).json["items"]
    assert (recorder["waiting"], recorder["retrying"], recorder["dead"]) == (0, 0, 1)
    dead = await sluice("events", "list", "--source", OWN_SOURCE, "--status", "dead", "--json")
    number = dead.json["items"][0]["trackingId"]
    shown = await sluice("events", "show", number)
    assert "sluice.handler/recorder" in shown.out
    assert "LookupError" in shown.out
    # A replay: the handler is told that it is one, and goes through.
    assert (await sluice("replay", number, "--reason", "mended")).code == 0
    await doing.drain()
    _, recorder = (await sluice("handlers", "list", "--json")).json["items"]
    assert recorder["dead"] == 0
    said = await sluice("handlers", "list")
    assert "recorder" in said.out
    assert "sluice:entitlement.*" in said.out
    assert said.err == ""


async def test_a_handler_that_nobody_has_is_said(doing: Stack, sluice: Sluice) -> None:
    """No worker has spoken for it in a minute."""
    await Following(doing.crew, lambda _: None).turn()
    async with doing.owner.connection() as conn:
        await conn.execute("UPDATE handlers SET seen_at = now() - interval '2 min'")
    mine = dict(handlers())
    handlers().pop("recorder")
    said = await sluice("handlers", "list")
    handlers().update(mine)
    assert "recorder: no worker has it now" in said.err


async def test_the_own_source_is_hidden(stack: Stack, sluice: Sluice, tmp_path: Path) -> None:
    """No list has it, no file may declare it, no apply removes it."""
    said = await sluice("sources", "list", "--all", "--json")
    assert [one["name"] for one in said.json["items"]] == ["stripe"]
    file = tmp_path / "sluice.toml"
    source = 'provider = "stripe"\nsecrets = ["whsec_1"]\nlivemode = true\n'
    file.write_text(f"[sources.sluice-handlers]\n{source}")
    said = await sluice("apply", file, "--yes")
    assert said.code != 0
    assert "sources.sluice-handlers" in said.err
    assert "Sluice's own" in said.err
    file.write_text(f"[sources.mine]\n{source.replace('stripe', 'sluice')}")
    said = await sluice("apply", file, "--yes")
    assert "unknown provider 'sluice'" in said.err
