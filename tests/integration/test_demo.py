"""`sluice demo` as a user runs it: a stack of its own, real HTTP, and checks that can fail."""

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shared import db
from shared.conformance.processes import (
    CLI,
    descendants,
    free_port,
    ready_line,
    sluice,
    started,
)
from shared.settings import Endpoints, Settings
from workers.demo import proof

SCENES = {
    "access", "duplicates", "order", "forgery", "recovery", "parked", "results", "cancellation",
    "audit",
}  # fmt: skip

FOREIGN = """
[sources.stripe]
provider = "stripe"
secrets = ["whsec_not_the_demos"]
livemode = true

[plans.pro]
products = ["stripe:prod_pro"]
features = { seats = "as many as you like", calls = true }
"""
#: Everything of a configuration that is not the demo's.
FOREIGN_SOURCES = """
SELECT s.name, s.provider, s.livemode, s.created_at, s.removed_at, x.slot, x.version, x.ciphertext
FROM sources s JOIN source_secrets x ON x.source_id = s.id
WHERE s.name NOT LIKE 'demo-%' ORDER BY s.name, x.slot
"""
CATALOG = "SELECT version, document::text FROM catalogs ORDER BY version DESC LIMIT 1"

ALTER_A_RECORD = """
ALTER TABLE audit DISABLE TRIGGER append_only;
UPDATE audit SET actor = '{}' WHERE chain LIKE 'tenant:%' AND position = 1;
ALTER TABLE audit ENABLE TRIGGER append_only
"""


class Stack:
    """A running stack, and how to call the CLI beside it."""

    def __init__(self, environ: dict[str, str], process: "subprocess.Popen[str]") -> None:
        self.environ = environ
        self.process = process
        self.endpoints = Endpoints.find(Settings(home=Path(environ["SLUICE_HOME"])))

    async def sluice(self, *argv: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(sluice, *argv, **{**self.environ, **more})

    async def demo(self, *, code: int = 0) -> dict[str, Any]:
        result = await self.sluice("demo", "--json")
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        async with db.connect(self.endpoints.database["owner"], "owner") as conn:
            return await conn.fetch(query, *args)

    async def execute(self, statements: str) -> None:
        async with db.connect(self.endpoints.database["owner"], "owner") as conn:
            await conn.execute(statements)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """`sluice up` in a home of its own, with a source and a plan that are somebody else's."""
    place = tmp_path_factory.mktemp("demo")
    environ = {"SLUICE_HOME": str(place / "home"), "SLUICE_PORT": str(free_port())}
    (place / "foreign.toml").write_text(FOREIGN)
    # Nobody reads the log while the tests run, and a full pipe would stop the stack.
    with started(*CLI, "up", "--json", **environ, SLUICE_LOG_LEVEL="ERROR") as process:
        await ready_line(process)
        stack = Stack(environ, process)
        applied = await stack.sluice("apply", str(place / "foreign.toml"), "--yes")
        assert applied.returncode == 0, applied.stderr
        yield stack


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Processes that do nothing for a while; the first is the supervisor, who would mend it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def command_of(pid: int) -> str:
    """The command line of a process."""
    if (place := Path(f"/proc/{pid}/cmdline")).exists():
        return place.read_bytes().replace(b"\0", b" ").decode()
    command = ["ps", "-o", "args=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


async def test_every_check_is_green_and_again(running: Stack) -> None:
    """Twice, and whatever is not the demo's own is as it was."""
    sources = await running.fetch(FOREIGN_SOURCES)
    (catalog,) = await running.fetch(CATALOG)
    tenants = set()
    for _ in range(2):
        result = await running.demo()
        assert result.keys() == {"ok", "checks", "tenant"}
        red = [check for check in result["checks"] if not check["ok"]]
        assert result["ok"] is True
        assert not red
        names = [check["name"] for check in result["checks"]]
        assert len(set(names)) == len(names) > 30
        assert {name.partition(": ")[0] for name in names} == SCENES
        tenants.add(result["tenant"])
    assert len(tenants) == 2
    assert all(tenant.startswith("demo-") for tenant in tenants)

    assert await running.fetch(FOREIGN_SOURCES) == sources
    (after,) = await running.fetch(CATALOG)
    assert after["version"] == catalog["version"] + 1  # the second run found the plans as they are
    plans = json.loads(after["document"])["plans"]
    assert plans.keys() == {"pro", "demo-basic", "demo-pro"}
    assert plans["pro"] == json.loads(catalog["document"])["plans"]["pro"]
    assert not await running.fetch("SELECT tenant FROM tenants WHERE tenant NOT LIKE 'demo-%'")
    assert not await running.fetch("SELECT tenant FROM grants")
    assert not await running.fetch("SELECT id FROM objects WHERE parked IS NOT NULL")


async def test_what_it_says_is_what_happened(running: Stack) -> None:
    """Counted once more, with other statements than the demo's own."""
    result = await running.demo()
    run = result["tenant"].removeprefix("demo-acme-")
    events = await running.fetch(
        "SELECT tracking_id, event_id FROM inbox WHERE event_id LIKE $1", f"evt_demo_{run}_%"
    )
    assert len({row["event_id"] for row in events}) == len(events) == 16
    ids = [row["tracking_id"] for row in events]
    deliveries = await running.fetch(
        "SELECT tracking_id FROM deliveries WHERE tracking_id = ANY($1)", ids
    )
    assert list(Counter(row["tracking_id"] for row in deliveries).values()) == [4]
    zero = await running.fetch(
        "SELECT cause_id, action FROM audit WHERE step = 0 AND cause_id = ANY($1::text[])",
        [str(one) for one in ids],
    )
    assert Counter(row["cause_id"] for row in zero) == {str(one): 1 for one in ids}
    assert Counter(row["action"] for row in zero)["event.parked"] == 1
    assert not await running.fetch("SELECT FROM attempts WHERE tracking_id = ANY($1)", ids)
    shown = await running.sluice("tenants", "show", result["tenant"], "--json")
    assert json.loads(shown.stdout)["entitlements"] == []


async def test_two_at_once(running: Stack) -> None:
    """A colleague may run it at the same time: neither takes the other's secret away."""
    results = await asyncio.gather(running.demo(), running.demo())
    assert [result["ok"] for result in results] == [True, True]


async def test_for_people(running: Stack) -> None:
    """The show is on stderr, in plain lines of at most 80 columns, and stdout is empty."""
    result = await running.sluice("demo")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    lines = result.stderr.splitlines()
    said = lines[: lines.index("Look closer:")]
    assert max(map(len, said)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "✗" not in result.stderr
    assert result.stderr.count("✓ ") == 1 + sum(line.startswith("   ✓ ") for line in lines) + 1


async def test_an_altered_record_is_red(running: Stack) -> None:
    """The trail's own checks can fail, and only they do."""
    await running.execute(ALTER_A_RECORD.format("operator:mallory"))
    try:
        result = await running.demo(code=1)
    finally:
        await running.execute(ALTER_A_RECORD.format("provider:stripe"))
    assert result["ok"] is False
    red = [check for check in result["checks"] if not check["ok"]]
    assert [check["name"] for check in red] == ["audit: the audit trail verifies"]
    assert "altered in tenant:demo-" in red[0]["detail"]
    assert (await running.demo())["ok"] is True


async def test_of_a_large_trail_only_the_demos_chains(
    running: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the whole would take too long: nothing altered or missing in them goes unseen."""
    monkeypatch.setattr(proof, "WHOLE_BELOW_BYTES", 0)
    main = (await running.demo())["tenant"]
    tenants = [main, main.replace("acme", "globex"), main.replace("acme", "initech")]
    async with db.connect(running.endpoints.database["operator"], "operator") as conn:
        whole = await proof.verify_trail(conn, tenants)
        without = await proof.verify_trail(conn, [*tenants, "demo-nobody"])
        await running.execute(ALTER_A_RECORD.format("operator:mallory"))
        altered = await proof.verify_trail(conn, tenants)
        await running.execute(ALTER_A_RECORD.format("provider:stripe"))
    assert not whole.is_whole
    assert (whole.chains, whole.findings) == (3, ())
    assert [finding.kind for finding in without.findings] == ["cut_off"]
    assert [finding.kind for finding in altered.findings] == ["altered"] * 3


async def test_without_workers_it_is_red(running: Stack) -> None:
    """Nothing is settled, the story ends there, and says what to look at."""
    workers = [
        pid for pid in descendants(running.process.pid) if "workers.fleet" in command_of(pid)
    ]
    assert workers
    with paused(running.process.pid, *workers):
        result = await running.demo(code=1)
    (check,) = result["checks"]
    assert not check["ok"]
    assert "is a worker running?" in check["name"]


async def test_without_a_gateway_it_is_refused(running: Stack) -> None:
    """A database alone is no stack."""
    environ = {
        "SLUICE_DATABASE_URL": running.endpoints.database["owner"],
        "SLUICE_SECRET_KEY": running.endpoints.secret_key,
        "SLUICE_HOME": running.environ["SLUICE_HOME"] + "-other",
        "SLUICE_PORT": str(free_port()),
    }
    result = await asyncio.to_thread(sluice, "demo", "--json", **environ)
    assert result.returncode == 7
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "no gateway answers" in result.stderr
    assert " up`" in result.stderr


def test_without_a_stack_it_is_refused(tmp_path: Path) -> None:
    """One line, what to type, and the exit code of a dependency that is down."""
    environ = {"SLUICE_HOME": str(tmp_path / "none"), "SLUICE_PORT": str(free_port())}
    for argv in (("demo",), ("demo", "--json")):
        result = sluice(*argv, **environ)
        assert result.returncode == 7
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert "no stack found" in result.stderr
        assert "`sluice up`" in result.stderr


async def test_after_a_stack_was_killed(tmp_path: Path) -> None:
    """Its endpoints are still written down, and nobody is there."""
    environ = {"SLUICE_HOME": str(tmp_path / "home"), "SLUICE_PORT": str(free_port())}
    with started(*CLI, "up", "--json", **environ) as process:
        await ready_line(process)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        deadline = asyncio.get_running_loop().time() + 20
        while asyncio.get_running_loop().time() < deadline:
            result = await asyncio.to_thread(sluice, "demo", **environ)
            if "no gateway answers" in result.stderr:
                break
    assert (tmp_path / "home" / "endpoints.json").exists()
    assert result.returncode == 7
    assert len(result.stderr.splitlines()) == 1
