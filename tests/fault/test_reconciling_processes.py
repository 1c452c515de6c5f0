"""Reconciling in worker processes as they are run: killed in the middle, and followed by others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fault.test_fetching_processes import worker
from tests.support.fetching import until
from tests.support.polar_api import polar_api
from tests.support.reconciling import PolarScene
from tests.support.stack import Stack


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[PolarScene]:
    async with polar_api() as api:
        made = PolarScene(stack, api)
        await made.open()
        yield made


async def test_a_worker_that_is_killed_in_its_round_is_followed_by_another(
    scene: PolarScene, tmp_path: Path
) -> None:
    """What Polar never sent is there in the end, whoever died on the way."""
    for number in range(12):
        scene.api.sign_up(f"cus_{number}", f"t{number}")
        scene.api.subscribe(f"cus_{number}", f"sub_{number}")
    hanging = scene.api.fail(hang=True, path="/v1/customers/cus_7/state")
    tenants = [f"t{number}" for number in range(12)]

    async def is_stuck() -> bool:
        return any(asked.path == hanging.path for asked in scene.api.asked)

    async def is_healed() -> bool:
        return await scene.with_access(tenants) == set(tenants)

    async def is_over() -> bool:
        row = await scene.round()
        return row["finished_at"] is not None

    async with worker(scene.stack.endpoints, tmp_path):
        await until(is_stuck, 60)
    row = await scene.round()
    assert "cus_7" in row["customers"]  # type: ignore[operator]
    assert row["claimed_until"] is not None
    hanging.times = 0
    await scene.pass_round_claims()
    async with worker(scene.stack.endpoints, tmp_path):
        await until(is_over, 120)
        await until(is_healed, 120)
    row = await scene.round()
    assert (row["round"], row["looked_at"], row["failed"]) == (1, 12, 0)
    # The page was read once: the second one went on where the first one was.
    assert [asked.path for asked in scene.api.asked].count("/v1/customers/") == 1
