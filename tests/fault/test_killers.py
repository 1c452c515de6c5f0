"""Killers die alone: what is near them is settled, and only their own attempts are charged."""

import asyncio
import os
import sys
import time

import pytest

from tests.stack.processes import ROOT
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.stack.spawn import Child
from workers.stack.supervisor import Supervisor


def fleet(stack: Stack, workers: int = 2) -> list[Child]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLUICE_DATABASE_URL": stack.endpoints.database["worker"],
        "SLUICE_REDIS_URL": stack.endpoints.redis,
        "SLUICE_MAX_ATTEMPTS": "3",
        "SLUICE_RETRY_BASE_S": "0.2",
    }
    names = [f"worker-{number}" for number in range(1, workers + 1)]
    programs = [("workers.fleet", name) for name in names] + [("workers.solitary", "solitary")]
    return [
        Child(
            name=name,
            argv=(sys.executable, "-m", "tests.fault.killers", program, "--name", name),
            env=environ,
            heartbeat=True,
        )
        for program, name in programs
    ]


def events(neighbours: int, does: str) -> list[bytes]:
    """One that kills or hangs among events of all lanes."""
    bodies = [
        event("customer.subscription.created",
              subscription(f"sub_{n}", customer=f"cus_{n}", tenant=f"tenant-{n}"))
        for n in range(neighbours)
    ]  # fmt: skip
    killer = subscription("sub_killer", customer="cus_killer", tenant="killer")
    killer["metadata"]["does"] = does
    bodies.insert(neighbours // 2, event("customer.subscription.created", killer, event_id="evt_k"))
    return bodies


@pytest.mark.timeout(150)
@pytest.mark.parametrize("does", ["kill", "hang"])
async def test_one_killer_among_busy_lanes_is_the_only_dead_letter(stack: Stack, does: str) -> None:
    await stack.configure({"stripe": True, "second": True})
    neighbours = 1200
    bodies = events(neighbours, does)
    for first in range(0, len(bodies), 200):
        await stack.receive(*bodies[first : first + 200])
        await stack.receive(*bodies[first : first + 200], source="second")
    supervisor = Supervisor(hang_after_s=1.5)
    for child in fleet(stack):
        await supervisor.start(child)
    deadline = time.monotonic() + 120
    while await stack.value("SELECT count(*) FROM work"):
        assert time.monotonic() < deadline, "not settled"
        await asyncio.sleep(0.2)
    await supervisor.stop()
    # The killer came to both sources: one dead letter in each.
    dead = await stack.fetch(
        "SELECT s.code, l.event_id, s.attempts FROM settlements s JOIN ledger l USING (tracking_id)"
        " WHERE s.status = 'dead'"
    )
    assert [(row["code"], row["event_id"], row["attempts"]) for row in dead] == [
        ("process_died", "evt_k", 3)
    ] * 2
    assert await stack.value("SELECT count(*) FROM settlements WHERE outcome = 'applied'") == (
        2 * neighbours
    )
    charged = await stack.fetch(
        "SELECT DISTINCT l.event_id FROM attempts JOIN ledger l USING (tracking_id)"
    )
    assert [row["event_id"] for row in charged] == ["evt_k"]
    assert await stack.value("SELECT count(*) FROM visits") == 0
