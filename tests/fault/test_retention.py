"""Pruning and erasing, killed anywhere; a day that goes while receipt is under load."""

import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.stack.processes import ROOT
from tests.support.keeping import LONG_AGO, add_day, at, partitions, pruned
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.erasure import begin_erasure
from workers.holding import hold
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor
from workers.trail import verify

DAYS = 12


def created(name: str, tenant: str) -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant)
    return event("customer.subscription.created", content)


def process(stack: Stack, module: str, home: Path) -> Child:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_HOME": str(home),
        "SLUICE_DATABASE_URL": stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": stack.endpoints.redis,
        "SLUICE_MAX_ATTEMPTS": "100",
        "SLUICE_RETRY_BASE_S": "0.1",
        "SLUICE_RETRY_CAP_S": "0.3",
    }
    return Child(
        name="victim",
        argv=(sys.executable, "-m", module, "--name", "victim"),
        env=environ,
        heartbeat=True,
    )


async def kill_until(supervisor: Supervisor, is_done: object, within_s: float) -> int:
    """Kill the victim again and again, at any moment, until what it does is done."""
    rng, kills, begun = random.Random(7), 0, time.monotonic()
    while not await is_done():  # type: ignore[operator]
        assert time.monotonic() - begun < within_s, "does not end"
        # Longer and longer: at first nearly everything is cut off.
        await asyncio.sleep(rng.uniform(0.3, 0.5 + kills * 0.05))
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(supervisor.pid("victim"), signal.SIGKILL)
            kills += 1
    return kills


async def fill(stack: Stack) -> dict[object, bytes]:
    """Days of long ago; by tracking id the bodies that have to stay of them."""
    stay: dict[object, bytes] = {}
    for ahead in range(DAYS):
        moment = LONG_AGO + timedelta(days=ahead - 8)
        await add_day(stack, moment.date())
        with at(moment):
            names = [created(f"k{ahead}_{n}", "kept") for n in range(5)]
            stay |= dict(zip(await stack.apply(*names), names, strict=True))
            await stack.apply(*(created(f"p{ahead}_{n}", "plain") for n in range(20)))
    for ahead in range(DAYS):
        late = created(f"u{ahead}", "late")
        with at(LONG_AGO + timedelta(days=ahead - 8)):
            (receipt,) = await stack.receive(late)
        stay[receipt.tracking_id] = late
    async with stack.owner.transaction() as conn:
        await hold(conn, "kept", None, "operator:test", "a dispute")
    return stay


@pytest.mark.timeout(240)
async def test_pruning_killed_anywhere_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    """All that has to stay is there at every moment, once; the days go."""
    stay = await fill(stack)

    async def is_done() -> bool:
        rows = await stack.fetch(
            "SELECT tracking_id, body FROM inbox WHERE tracking_id = ANY($1::uuid[])", list(stay)
        )
        assert sorted(row["tracking_id"] for row in rows) == sorted(stay)  # type: ignore[type-var]
        assert {row["tracking_id"]: row["body"] for row in rows} == stay
        return not any(name for name in await partitions(stack) if "hold" not in name)

    supervisor = Supervisor()
    await supervisor.start(process(stack, "tests.support.pruning_process", tmp_path))
    try:
        kills = await kill_until(supervisor, is_done, 150)
    finally:
        await supervisor.stop()
    await pruned(stack, tmp_path, "standard", "hold")
    assert kills > 3
    assert await stack.value("SELECT count(*) FROM inbox") == len(stay)
    assert await stack.value("SELECT count(*) FROM pg_class WHERE relname ~ '^inbox_(gone|mov)'"
                             " AND relkind = 'r' AND relname <> 'inbox_moves'") == 0  # fmt: skip
    await stack.drain()
    assert await stack.features("late") == {"seats": 10, "sso": True}
    print(f"\n  {kills} kills, {len(stay)} bodies stayed")


@pytest.mark.timeout(240)
async def test_erasing_killed_anywhere_goes_on(stack: Stack, tmp_path: Path) -> None:
    for n in range(20):
        with at(LONG_AGO + timedelta(hours=n)):
            await stack.apply(created(f"g{n}", "gone"), created(f"s{n}", "stays"))
    async with stack.owner.transaction() as conn:
        begun = await begin_erasure(conn, "gone", "operator:test", "a request")

    async def is_done() -> bool:
        state = await stack.value("SELECT state FROM jobs WHERE id = $1", begun.job)
        assert state in ("waiting", "running", "done"), state
        return bool(state == "done")

    supervisor = Supervisor()
    await supervisor.start(process(stack, "workers.jobs.run", tmp_path))
    try:
        kills = await kill_until(supervisor, is_done, 150)
    finally:
        await supervisor.stop()
    assert await stack.value("SELECT count(*) FROM inbox") == 20
    assert await stack.value("SELECT count(*) FROM objects") == 20
    assert await stack.value("SELECT count(*) FROM observations") == 20
    assert await stack.features("stays") != {}
    left = await stack.value(
        "SELECT count(*) FROM audit a JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.tenant = 'gone' AND num_nonnulls(c.salt, c.before, c.after, c.reason) > 0"
    )
    assert left == 0
    async with stack.owner.connection() as conn:
        assert [one async for one in verify(conn, None, lambda _: None)] == []
    print(f"\n  {kills} kills")


@pytest.mark.timeout(240)
async def test_a_day_goes_while_receipt_is_under_load(stack: Stack, tmp_path: Path) -> None:
    """Batches are received in a row on several connections; days go beside them."""
    for ahead in range(6):
        await add_day(stack, (LONG_AGO + timedelta(days=ahead)).date())
        with at(LONG_AGO + timedelta(days=ahead)):
            await stack.apply(*(created(f"{ahead}_{n}", "plain") for n in range(20)))
    counted = 0
    took: dict[str, list[float]] = {"alone": [], "beside": []}
    phase, is_over = "alone", False

    async def receive(number: int) -> None:
        nonlocal counted
        while not is_over:
            counted += 1
            name, began = phase, time.perf_counter()
            await stack.receive(created(f"n{number}_{counted}", "new"))
            took[name].append(time.perf_counter() - began)

    async def prune_all() -> int:
        gone = 0
        for _ in range(30):
            gone += (await pruned(stack, tmp_path, "standard"))["standard"]
            if not any("hold" not in name for name in await partitions(stack)):
                break
        return gone

    loads = [asyncio.create_task(receive(number)) for number in range(2)]
    await asyncio.sleep(4)
    phase = "beside"
    gone = await prune_all()
    await asyncio.sleep(1)
    is_over = True
    await asyncio.gather(*loads)
    p99 = {name: statistics.quantiles(each, n=100)[98] * 1000 for name, each in took.items()}
    longest = {name: max(each) * 1000 for name, each in took.items()}
    print(f"\n  {len(took['beside'])} receipts beside {gone} days that went: p99 {p99}, {longest}")
    assert gone == 6
    # A wait for the lock lasts 80 ms at most, and comes after shorter ones.
    assert p99["beside"] < 3 * p99["alone"] + 30
    assert await stack.value("SELECT count(*) FROM inbox") == counted
