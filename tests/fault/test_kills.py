"""Kill things under load: what got a 2xx is settled, exactly once, and nothing is dead."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.settings import Endpoints, Settings
from tests.stack.processes import descendants, started
from tests.stack.test_up import CLI, free_port, ready_line, sluice
from tests.support.load import Acknowledged, Load

SECRET = "whsec_kills"
CONFIGURATION = f"""
[sources.stripe]
provider = "stripe"
secrets = ["{SECRET}"]
livemode = true
[plans.pro]
products = ["stripe:prod_pro"]
features = {{ seats = 10 }}
"""


class RunningStack:
    """`sluice up` in a process of its own, with a source and a plan."""

    def __init__(self, process: "subprocess.Popen[str]", environ: dict[str, str]) -> None:
        self.process = process
        self.environ = environ
        self.port = int(environ["SLUICE_PORT"])
        self.endpoints = Endpoints.find(Settings(home=Path(environ["SLUICE_HOME"])))

    def pids(self, what: str) -> list[int]:
        """The stack's processes whose command line holds `what`."""
        found = []
        for pid in descendants(self.process.pid):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if what.encode() in command:
                found.append(pid)
        return found

    def kill(self, what: str, number: int = signal.SIGKILL) -> int:
        """Signal them all; how many there were."""
        pids = self.pids(what)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(pids)

    async def value(self, query: str, *args: Any) -> Any:
        async with db.connect(self.endpoints.database["owner"], "owner") as conn:
            return await conn.fetchval(query, *args)


@pytest.fixture
async def running(tmp_path: Path) -> Any:
    environ = {
        "SLUICE_HOME": str(tmp_path / "home"),
        "SLUICE_PORT": str(free_port()),
        "SLUICE_WORKER_PROCESSES": "6",
        "SLUICE_RETRY_BASE_S": "0.2",
    }
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        started(*CLI, "up", "--json", stderr=errors, **environ) as process,
    ):
        await ready_line(process)
        file = tmp_path / "sluice.toml"
        file.write_text(CONFIGURATION)
        applied = await asyncio.to_thread(sluice, "apply", str(file), "--yes", **environ)
        assert applied.returncode == 0, applied.stderr
        await asyncio.sleep(2)
        yield RunningStack(process, environ)


async def check(stack: RunningStack, acknowledged: Acknowledged, last_kill: float) -> None:
    """Everything acknowledged is settled within 30 s, once, and nothing is dead."""
    while await stack.value("SELECT count(*) FROM work"):
        assert time.monotonic() - last_kill < 30, "not settled within 30 s of the last kill"
        await asyncio.sleep(0.2)
    settled_after_s = time.monotonic() - last_kill
    known = await stack.value(
        "SELECT count(*) FROM ledger l JOIN settlements s USING (tracking_id)"
        " WHERE l.event_id = ANY($1::text[])",
        list(acknowledged.at),
    )
    assert known == len(acknowledged.at)
    assert await stack.value("SELECT count(*) FROM settlements WHERE status <> 'processed'") == 0
    events = await stack.value("SELECT count(*) FROM ledger")
    assert await stack.value("SELECT count(*) FROM settlements") == events
    first = await stack.value("SELECT count(*) FROM audit WHERE cause = 'event' AND step = 0")
    assert first == events
    verified = await asyncio.to_thread(sluice, "audit", "verify", **stack.environ)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    print(
        f"\n  {len(acknowledged.at)} acknowledged of {acknowledged.sent} requests"
        f" ({acknowledged.other}), all settled {settled_after_s:.1f} s after the last kill"
    )


@pytest.mark.timeout(240)
async def test_everything_killed_one_after_another_or_paused(running: RunningStack) -> None:
    stop = asyncio.Event()
    load = Load(running.port, SECRET)
    loading = asyncio.create_task(load.run(stop))
    await asyncio.sleep(2)
    for what in ("gateway", "workers.fleet", "valkey-server", "workers.solitary", "postgres"):
        assert running.kill(what) >= 1, what
        last_kill = time.monotonic()
        await asyncio.sleep(4)
    # Paused for longer than Postgres lets an idle transaction hold its lane.
    assert running.kill("workers.fleet", signal.SIGSTOP) >= 1
    await asyncio.sleep(7)
    assert running.kill("workers.fleet", signal.SIGCONT) >= 1
    last_kill = time.monotonic()
    await asyncio.sleep(2)
    stop.set()
    acknowledged = await loading
    assert len(acknowledged.at) > 500
    await check(running, acknowledged, last_kill)


@pytest.mark.timeout(300)
async def test_two_hundred_kills_of_workers_in_a_minute(running: RunningStack) -> None:
    rng = random.Random(1)
    stop = asyncio.Event()
    load = Load(running.port, SECRET)
    loading = asyncio.create_task(load.run(stop))
    kills, begun = 0, time.monotonic()
    while time.monotonic() - begun < 60:
        pids = running.pids("workers.fleet")
        if pids and kills < (time.monotonic() - begun) / 60 * 200:
            os.kill(rng.choice(pids), signal.SIGKILL)
            kills += 1
            last_kill = time.monotonic()
        await asyncio.sleep(0.05)
    stop.set()
    acknowledged = await loading
    print(f"\n  {kills} kills")
    assert kills >= 190
    assert len(acknowledged.at) > 2000
    await check(running, acknowledged, last_kill)
