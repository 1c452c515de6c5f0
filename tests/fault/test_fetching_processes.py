"""Fetching in worker processes as they are run: their keys, their end, and what they leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shared.settings import Endpoints, Settings
from tests.support.fetching import Scene, until
from tests.support.stack import Stack
from tests.support.stripe_api import stripe_api
from tests.support.stripe_events import event, subscription
from workers.stack import processes
from workers.stack.spawn import Life, spawn


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    async with stripe_api() as api:
        made = Scene(stack, api)
        await made.set_key()
        api.put(subscription(tenant="acme"))
        yield made


@asynccontextmanager
async def worker(endpoints: Endpoints, home: Path) -> AsyncIterator[Life]:
    """A worker as `sluice up` starts it."""
    child, *_ = processes.fleet(Settings(home=home), endpoints, first_admin_port=0)
    life = await spawn(replace(child, heartbeat=False))
    try:
        yield life
    finally:
        life.kill()
        await life.wait()
        life.close()


async def test_a_worker_that_is_killed_while_it_asks_is_followed_by_another(
    scene: Scene, tmp_path: Path
) -> None:
    await scene.see()
    hanging = scene.api.fail(hang=True, path="/v1/subscriptions/")

    async def is_asked() -> bool:
        return any(one.path.startswith(hanging.path) for one in scene.api.asked)

    async def is_settled() -> bool:
        found = await scene.events()
        return bool(found) and await scene.stack.value("SELECT count(*) FROM work") == 0

    async with worker(scene.stack.endpoints, tmp_path):
        await until(is_asked, 60)
    row = await scene.row()
    assert row["claimed_until"] is not None
    hanging.times = 0
    await scene.pass_claims()
    async with worker(scene.stack.endpoints, tmp_path):
        await until(is_settled, 60)
    (found,) = await scene.events()
    # Whatever else is asked takes numbers from the same sequence.
    assert int(found["event_id"].removeprefix("sluice.fetch/")) > row["number"]
    actor = "SELECT actor FROM audit WHERE cause_id = $1 AND step = 0"
    assert await scene.stack.value(actor, str(found["tracking_id"])) == "system:fetch"


async def test_a_worker_without_the_secret_key_applies_and_fetches_nothing(
    scene: Scene, tmp_path: Path
) -> None:
    await scene.want("sub_9")
    body = event("customer.subscription.created", subscription(tenant="acme"))
    (receipt,) = await scene.stack.receive(body)

    async def is_applied() -> bool:
        return await scene.stack.outcomes([receipt.tracking_id]) == ["applied"]

    async with worker(replace(scene.stack.endpoints, secret_key=""), tmp_path) as life:
        await until(is_applied, 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(life.wait(), 2)
    assert scene.api.asked == []
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 0
