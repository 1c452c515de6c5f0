"""Handlers of installed packages under kills: each event once in effect, and killers die alone."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.settings import Endpoints
from tests.stack.processes import ROOT
from tests.support.packages import PACKAGES, stack_with_package
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.extensions.following import Following
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor


@pytest.fixture
async def doing(endpoints: Endpoints) -> AsyncIterator[Stack]:
    async with stack_with_package(endpoints) as stack:
        # The handlers are there before the first event is.
        await Following(stack.crew, lambda _: None).turn()
        yield stack


def fleet(stack: Stack, workers: int) -> list[Child]:
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{PACKAGES}",
        "SLUICE_DATABASE_URL": stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": stack.endpoints.redis,
        "SLUICE_MAX_ATTEMPTS": "3",
        "SLUICE_RETRY_BASE_S": "0.2",
    }
    names = [("workers.fleet", f"worker-{number}") for number in range(1, workers + 1)]
    return [
        Child(
            name=name,
            argv=(sys.executable, "-m", program, "--name", name),
            env=environ,
            heartbeat=True,
        )
        for program, name in [*names, ("workers.solitary", "solitary")]
    ]


def asked(event_id: str, *does: str) -> bytes:
    return json.dumps({"id": event_id, "does": does}).encode()


async def settled(stack: Stack, within_s: float) -> None:
    """Nothing is left to apply, and no follower is behind."""
    deadline = time.monotonic() + within_s
    behind = """
    SELECT (SELECT count(*) FROM work) + count(*) FROM handlers h
    WHERE EXISTS (SELECT FROM audit a WHERE (a.xid, a.id) > (h.xid, h.id))
    """
    while await stack.value(behind):
        assert time.monotonic() < deadline, "not settled"
        await asyncio.sleep(0.1)


async def pids(stack: Stack) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read()
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and b"workers.fleet" in command:
                found.append(int(entry))
    return found


@pytest.mark.timeout(180)
async def test_workers_killed_at_random_bring_and_apply_everything_once(doing: Stack) -> None:
    """Both ways, into a table without a key: one row for each event, and for each change."""
    rng = random.Random(7)
    supervisor = Supervisor()
    for child in fleet(doing, 3):
        await supervisor.start(child)
    ids, kills, number, begun = [], 0, 0, time.monotonic()
    while (elapsed_s := time.monotonic() - begun) < 20:
        stripe = [
            event(
                "customer.subscription.created",
                subscription(f"sub_{n}", customer=f"cus_{n}", tenant=f"t{n}"),
                event_id=f"evt_{n}",
            )
            for n in range(number, number + 10)
        ]
        await doing.receive(*stripe)
        own = [asked(f"e{n}", "insert") for n in range(number, number + 10)]
        ids += [one.tracking_id for one in await doing.receive(*own, source="doing")]
        number += 10
        running = await pids(doing)
        if running and kills < elapsed_s * 3:
            os.kill(rng.choice(running), signal.SIGKILL)
            kills += 1
        await asyncio.sleep(0.1)
    await settled(doing, 90)
    await supervisor.stop()
    done = Counter(row["tracking_id"] for row in await doing.fetch("SELECT * FROM doing.done"))
    assert done == Counter(ids)
    told = await doing.fetch(
        "SELECT 'audit/' || id AS event_id FROM audit WHERE action LIKE 'entitlement.%'"
    )
    events = await doing.fetch(
        "SELECT l.event_id FROM ledger l JOIN sources s ON s.id = l.source_id"
        " WHERE s.name IN ('stripe', 'doing')"
    )
    brought = await doing.fetch("SELECT event_id FROM doing.records")
    assert Counter(row["event_id"] for row in brought) == Counter(
        row["event_id"] for row in [*told, *events]
    )
    assert len(told) == 2 * number
    assert await doing.value("SELECT count(*) FROM settlements WHERE outcome = 'dead'") == 0
    print(f"\n  {kills} kills, {len(ids)} commands, {len(brought)} brought")
    assert kills >= 30


@pytest.mark.timeout(150)
@pytest.mark.parametrize("does", ["kill", "hang"])
async def test_a_handler_that_kills_or_hangs_dies_alone(doing: Stack, does: str) -> None:
    """Only its own event is charged, and dead in the end; its neighbours are applied once."""
    neighbours = 300
    bodies = [asked(f"e{n}", "insert") for n in range(neighbours)]
    bodies.insert(neighbours // 2, asked("killer", does))
    await doing.receive(*bodies, source="doing")
    supervisor = Supervisor(hang_after_s=1.5)
    for child in fleet(doing, 2):
        await supervisor.start(child)
    await settled(doing, 120)
    await supervisor.stop()
    dead = await doing.fetch(
        "SELECT s.code, l.event_id, s.attempts FROM settlements s JOIN ledger l USING (tracking_id)"
        " WHERE s.status = 'dead'"
    )
    assert [tuple(row.values()) for row in dead] == [("process_died", "killer", 3)]
    charged = await doing.fetch(
        "SELECT DISTINCT l.event_id FROM attempts JOIN ledger l USING (tracking_id)"
    )
    assert [row["event_id"] for row in charged] == ["killer"]
    done = await doing.fetch("SELECT count(*) AS rows FROM doing.done GROUP BY tracking_id")
    assert [row["rows"] for row in done] == [1] * neighbours
    assert await doing.value("SELECT count(*) FROM visits") == 0


#: Says in a file named by the program whether the loop waited for this import.
LOADING = """
import asyncio, os, sys, pathlib
from sluice_doing import Do, Doer
program = sys.modules["__main__"].__spec__.name
found = asyncio._get_running_loop()
pathlib.Path(os.environ["LOADED"], program).write_text("late" if found else "before")
class Handles(Doer):
    name = "loading"
"""


async def test_packages_are_imported_before_anybody_waits(doing: Stack, tmp_path: Path) -> None:
    """An import may take long: in the loop it would look like a hang, and charge an event."""
    (tmp_path / "loading.py").write_text(LOADING)
    information = tmp_path / "loading-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: loading\nVersion: 1.0\n")
    point = "[sluice.handlers]\nloading = loading:Handles\n"
    (information / "entry_points.txt").write_text(point)
    supervisor = Supervisor()
    for child in fleet(doing, 1):
        path = f"{tmp_path}:{child.env['PYTHONPATH']}"
        env = {**child.env, "PYTHONPATH": path, "LOADED": str(tmp_path)}
        await supervisor.start(replace(child, env=env))
    programs = [tmp_path / "workers.fleet", tmp_path / "workers.solitary"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(one.exists() for one in programs):
        await asyncio.sleep(0.1)
    await supervisor.stop()
    assert [one.exists() and one.read_text() for one in programs] == ["before", "before"]
