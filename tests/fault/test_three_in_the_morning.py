"""
At three in the morning: a handler's bug has dead-lettered ten thousand events of three tenants.

Everything is done through the command line, as a person would, while workers and the process of
jobs are killed: what is previewed is what comes, and each event has one effect.
"""

import asyncio
import importlib
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.conformance.processes import CLI, environment
from shared.conformance.running import RunningStack, Sending, running_stack, send_all
from shared.providers.base import Provider

PACKAGES = Path(__file__).parents[1] / "packages_broken"
EVENTS = 10_000
LEASES = 150
TENANTS = ("acme", "bolt", "crux")
RATE = 500
CONFIGURATION = """
[sources.leasing]
provider = "leasing"
secrets = ["any"]
[plans.seat]
products = ["leasing:seat"]
features = { seats = 1 }
[features.seats]
combine = "sum"
"""


GRANTS = """
SELECT md5(string_agg(g::text, '|' ORDER BY g::text))
FROM (SELECT tenant, feature, value FROM grants) g
"""


@dataclass(frozen=True)
class Lease:
    """What is true in the end of one lease."""

    tenant: str
    seats: int
    is_active: bool


def lives(rng: random.Random) -> tuple[list[bytes], dict[str, Lease]]:
    """The bodies of all events, shuffled, and what they come to."""
    bodies: list[bytes] = []
    truth: dict[str, Lease] = {}
    for number in range(EVENTS):
        lease, version = f"lease-{number % LEASES}", number // LEASES + 1
        is_last = number + LEASES >= EVENTS
        seats = rng.randrange(1, 50)
        is_active = not (is_last and rng.random() < 0.2)
        tenant = TENANTS[number % LEASES % len(TENANTS)]
        truth[lease] = Lease(tenant, seats, is_active)
        bodies.append(
            json.dumps(
                {
                    "id": f"lease-event-{number}", "lease": lease, "tenant": tenant,
                    "version": version, "seats": seats, "active": is_active,
                }
            ).encode()
        )  # fmt: skip
    rng.shuffle(bodies)
    return bodies, truth


def entitled(truth: dict[str, Lease]) -> dict[str, int]:
    """The model: the seats of each tenant's active leases."""
    return {
        tenant: sum(one.seats for one in truth.values() if one.tenant == tenant and one.is_active)
        for tenant in TENANTS
    }


class Operator:
    """Who sits at the terminal."""

    def __init__(self, running: RunningStack) -> None:
        self._running = running

    async def ask(self, *argv: str, code: int = 0) -> Any:
        """What a command says, read as JSON."""
        done = await self._running.cli(*argv, "--json")
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    async def plan(self, *chosen: str) -> dict[str, Any]:
        """Plan a replay, and wait for the plan."""
        found: dict[str, Any] = await self.ask("replay", "plan", *chosen)
        assert found["state"] == "done", found
        return found

    async def settled_again(self) -> int:
        """How many events have a second run that is settled."""
        return int(await self._running.value("SELECT count(*) FROM settlements WHERE run = 2"))


async def received(running: RunningStack, bodies: list[bytes], provider: Provider) -> None:
    """Send them all, and wait until every one is dead."""
    sendings = [Sending("leasing", provider, "any", body) for body in bodies]
    await send_all(running.port, sendings, within_s=10, deadline_s=90)
    async with asyncio.timeout(120):
        while await running.value("SELECT count(*) FROM settlements") < EVENTS:
            await asyncio.sleep(0.2)
    assert await running.value("SELECT array_agg(DISTINCT status) FROM settlements") == ["dead"]


@pytest.fixture
def leasing(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """The provider with the bug, as the processes of the stack will find it."""
    monkeypatch.syspath_prepend(str(PACKAGES))
    module: Any = importlib.import_module("sluice_leasing")
    provider: Provider = module.Leasing()

    return provider


@pytest.mark.timeout(420)
async def test_ten_thousand_dead_letters_are_found_previewed_and_replayed(
    tmp_path: Path, leasing: Provider
) -> None:
    bug = tmp_path / "bug"
    bug.touch()
    bodies, truth = lives(random.Random(6))
    async with running_stack(
        tmp_path,
        CONFIGURATION,
        LEASING_BUG=str(bug),
        SLUICE_MAX_ATTEMPTS="2",
        SLUICE_WORKER_PROCESSES="2",
    ) as running:
        operator = Operator(running)
        await received(running, bodies, leasing)

        # Finds the issue: one, however many events.
        (issue,) = (await operator.ask("issues", "list"))["items"]
        assert (issue["source"], issue["code"], issue["dead"]) == ("leasing", "KeyError", EVENTS)

        # With the bug still there, the preview says so.
        before = await operator.plan("--issue", issue["id"])
        assert before["result"]["effect"]["tenants"] == 0

        bug.unlink()
        plan = await operator.plan("--issue", issue["id"])
        effect = plan["result"]["effect"]
        foreseen = {
            change["tenant"]: (change["from"], change["to"]["value"])
            for change in effect["changes"]
        }
        model = entitled(truth)
        assert foreseen == {tenant: (None, seats) for tenant, seats in model.items()}

        # Replays it, pauses, resumes, and loses processes on the way.
        begun = await operator.ask(
            "replay", "run", plan["id"], "--rate", f"{RATE}/s", "--reason", "mended", "--detach"
        )
        started = asyncio.get_running_loop().time()
        while await operator.settled_again() < EVENTS // 10:
            await asyncio.sleep(0.1)
        running.kill_one("workers.fleet", random.Random(1))
        while await operator.settled_again() < EVENTS // 4:
            await asyncio.sleep(0.1)
        await operator.ask("replay", "pause", begun["id"], "--reason", "a look")
        await asyncio.sleep(3)
        held = await operator.settled_again()
        assert held < EVENTS
        await asyncio.sleep(3)
        assert await operator.settled_again() == held
        await operator.ask("replay", "resume", begun["id"], "--reason", "it is fine")
        while await operator.settled_again() < EVENTS // 2:
            await asyncio.sleep(0.1)
        running.kill("workers.jobs")
        running.kill_one("workers.fleet", random.Random(2))
        watched = await asyncio.to_thread(_watch, running, begun["id"])
        took_s = asyncio.get_running_loop().time() - started
        assert watched.returncode == 0, watched.stderr

        # Exact counts, one effect each, and what was foreseen.
        assert await operator.settled_again() == EVENTS
        assert await running.value("SELECT count(*) FROM settlements") == 2 * EVENTS
        assert await running.value("SELECT count(*) FROM work") == 0
        assert await running.value("SELECT count(*) FROM observations") == EVENTS
        assert await running.value("SELECT count(DISTINCT tracking_id) FROM observations") == EVENTS
        for tenant, seats in model.items():
            shown = await operator.ask("tenants", "show", tenant)
            values = {one["feature"]: one["value"] for one in shown["entitlements"]}
            assert values == {"seats": seats}
        done = await operator.ask("replay", "show", begun["id"])
        assert done["progress"]["done"] == EVENTS
        assert (await operator.ask("issues", "list"))["items"] == []
        verified = await running.cli("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr

        # A plan on what is applied says that nothing changes, and running it changes nothing.
        grants = await running.value(GRANTS)
        again = await operator.plan("--source", "leasing", "--tenant", "acme")
        assert again["result"]["effect"]["tenants"] == 0
        await operator.ask(
            "replay", "run", again["id"], "--rate", "2000/s", "--reason", "to see", "--yes"
        )
        assert await running.value(GRANTS) == grants
        print(f"\n  {EVENTS} events replayed at {RATE}/s in {took_s:.0f} s, killed 3 times")


def _watch(running: RunningStack, job: str) -> "subprocess.CompletedProcess[str]":
    """Longer than any other command may take."""
    return subprocess.run(
        [sys.executable, *CLI, "replay", "watch", job],
        env=environment(**running.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
