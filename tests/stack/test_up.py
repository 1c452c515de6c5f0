"""`sluice up` as a user runs it: a process of its own, found by what it prints."""

import asyncio
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from shared import db
from shared.conformance.processes import (
    CLI,
    descendants,
    free_port,
    is_alive,
    ready_line,
    sluice,
    started,
    until,
)
from shared.sealing import new_key
from shared.settings import ROLES, Endpoints, Settings
from workers.stack import processes
from workers.stack.servers import Servers
from workers.stack.up import http_status


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home and a port of its own."""
    return {"SLUICE_HOME": str(tmp_path / "home"), "SLUICE_PORT": str(free_port())}


async def test_up_runs_stops_and_recovers(environ: dict[str, str]) -> None:
    """A whole life: first start, doctor, refusal of a second stack, SIGKILL, second start."""
    home, port = Path(environ["SLUICE_HOME"]), int(environ["SLUICE_PORT"])
    with started(*CLI, "up", "--json", **environ) as process:
        ready = await ready_line(process)
        assert ready["url"] == f"http://127.0.0.1:{port}"
        assert ready["home"] == str(home)
        assert ready["firstEvent"].endswith(" demo")
        assert await http_status("127.0.0.1", port, "/readyz") == 200

        endpoints = Endpoints.find(Settings(home=home))
        assert len(set(endpoints.database.values())) == 5
        assert (home / "endpoints.json").stat().st_mode & 0o077 == 0

        checkup = await asyncio.to_thread(sluice, "doctor", "--json", **environ)
        checks = {check["name"]: check for check in json.loads(checkup.stdout)["checks"]}
        assert checkup.returncode == 0, checkup.stdout
        assert {check["status"] for check in checks.values()} == {"ok"}, checkup.stdout
        assert {"postgres", "valkey", "durability", "partitions", "secret key"} <= checks.keys()

        second = await asyncio.to_thread(sluice, "up", **environ)
        assert second.returncode == 5
        assert f"pid {process.pid}" in second.stderr
        assert "Traceback" not in second.stderr

        everybody = descendants(process.pid)
        assert len(everybody) > 5
        process.kill()
        process.wait()

    # At once: what is still on its way out is waited for, and the same ports are free again.
    begun_at = time.monotonic()
    with started(*CLI, "up", "--json", **environ) as process:
        await ready_line(process)
        assert time.monotonic() - begun_at < 15
        assert Endpoints.find(Settings(home=home)).secret_key == endpoints.secret_key
        await until(lambda: not any(map(is_alive, everybody)))
        everybody = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
        assert not any(map(is_alive, everybody))
    assert not (home / "endpoints.json").exists()

    (home / "secret.key").unlink()
    refused = await asyncio.to_thread(sluice, "up", **environ)
    assert refused.returncode == 1
    assert "secret.key is missing" in refused.stderr


def test_every_process_gets_its_own_login_and_port() -> None:
    """No process is told another's URL; admin ports count on from the gateway's."""
    urls = {role: f"postgresql://{role}@localhost/x" for role in ROLES}
    endpoints = Endpoints(database=urls, redis="redis://r", secret_key="k", http="http://h")
    settings = Settings(admin_port=9000, worker_processes=2)
    gateway = processes.gateway(settings, endpoints)
    assert gateway.env["SLUICE_DATABASE_URL"] == urls["gateway"]
    assert gateway.env["SLUICE_READER_DATABASE_URL"] == urls["reader"]
    assert gateway.env["SLUICE_ADMIN_PORT"] == "9000"
    fleet = processes.fleet(settings, endpoints, first_admin_port=9001)
    assert [child.name for child in fleet] == ["worker-1", "worker-2", "solitary", "jobs"]
    assert [child.env["SLUICE_ADMIN_PORT"] for child in fleet] == ["9001", "9002", "9003", "9004"]
    for child in fleet:
        assert child.env["SLUICE_DATABASE_URL"] == urls["worker"]
        assert "SLUICE_READER_DATABASE_URL" not in child.env


async def test_up_uses_the_servers_it_is_told(servers: Servers, environ: dict[str, str]) -> None:
    """With both URLs set nothing is embedded, and the key has to come from outside too."""
    home = Path(environ["SLUICE_HOME"])
    environ["SLUICE_DATABASE_URL"] = servers.postgres.url()
    environ["SLUICE_REDIS_URL"] = servers.valkey.url()
    refused = await asyncio.to_thread(sluice, "up", **environ)
    assert refused.returncode == 1
    assert "export SLUICE_SECRET_KEY=" in refused.stderr

    environ["SLUICE_SECRET_KEY"] = new_key()
    with started(*CLI, "up", "--json", **environ) as process:
        ready = await ready_line(process)
        assert ready["database"] == "SLUICE_DATABASE_URL"
        assert ready["redis"] == "SLUICE_REDIS_URL"
        assert not (home / "postgres").exists()
        assert not (home / "valkey").exists()


async def test_up_names_the_port_that_is_taken(environ: dict[str, str]) -> None:
    """One line that says which variable to change; nothing was started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environ["SLUICE_PORT"])))
        taken.listen()
        result = await asyncio.to_thread(sluice, "up", **environ)
    assert result.returncode == 1
    assert "export SLUICE_PORT=" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (Path(environ["SLUICE_HOME"]) / "postgres").exists()


def test_doctor_on_a_fresh_machine(environ: dict[str, str]) -> None:
    """Nothing is wrong before the first start, and nothing is made by looking."""
    result = sluice("doctor", **environ)
    assert result.returncode == 0, result.stdout
    assert "none runs here" in result.stdout
    assert not Path(environ["SLUICE_HOME"]).exists()


def test_doctor_says_what_is_down(environ: dict[str, str]) -> None:
    """A server that does not answer is exit code 7, and its password is not shown."""
    nobody = free_port()
    environ["SLUICE_DATABASE_URL"] = f"postgresql://u:hidden@127.0.0.1:{nobody}/x"
    environ["SLUICE_REDIS_URL"] = f"redis://:hidden@127.0.0.1:{nobody}/0"
    result = sluice("doctor", "--json", **environ)
    assert result.returncode == 7
    failed = [check for check in json.loads(result.stdout)["checks"] if check["status"] == "fail"]
    assert {check["name"] for check in failed} == {"database", "redis"}
    assert all(check["mend"] for check in failed)
    assert "hidden" not in result.stdout + result.stderr


async def test_doctor_says_what_is_not_durable(servers: Servers, environ: dict[str, str]) -> None:
    """A database that may lose an acknowledged event is a failure, with its mending line."""
    url = servers.postgres.url()
    async with db.connect(url, "owner") as conn:
        await conn.execute("ALTER DATABASE sluice SET synchronous_commit = off")
    environ |= {"SLUICE_DATABASE_URL": url, "SLUICE_REDIS_URL": servers.valkey.url()}
    environ["SLUICE_SECRET_KEY"] = new_key()
    result = await asyncio.to_thread(sluice, "doctor", "--json", **environ)
    async with db.connect(url, "owner") as conn:
        await conn.execute("ALTER DATABASE sluice RESET synchronous_commit")
    assert result.returncode == 1
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["durability"]["status"] == "fail"
    assert "SET synchronous_commit = on" in checks["durability"]["mend"]


async def test_db_commands(servers: Servers, environ: dict[str, str]) -> None:
    """Plan, SQL for a DBA, migrate, status; the printed SQL does what `db migrate` does."""
    async with db.connect(servers.postgres.url(), "owner") as conn:
        await conn.execute("CREATE DATABASE by_us")
        await conn.execute("CREATE DATABASE by_hand")
    environ["SLUICE_DATABASE_URL"] = servers.postgres.url(database="by_us")

    async def run(*argv: str) -> "subprocess.CompletedProcess[str]":
        result = await asyncio.to_thread(sluice, "db", *argv, **environ)
        assert result.returncode == 0, result.stderr
        return result

    pending = json.loads((await run("migrate", "--plan", "--json")).stdout)["pending"]
    assert pending[0] == "0001_create_configuration"
    assert json.loads((await run("status", "--json")).stdout)["applied"] == 0
    sql = (await run("migrate", "--sql")).stdout
    async with db.connect(servers.postgres.url(database="by_hand"), "owner") as conn:
        await conn.execute(sql)
    assert json.loads((await run("migrate", "--json")).stdout)["applied"] == pending
    assert json.loads((await run("status", "--json")).stdout)["pending"] == []
    environ["SLUICE_DATABASE_URL"] = servers.postgres.url(database="by_hand")
    assert json.loads((await run("status", "--json")).stdout)["pending"] == []


def test_expected_errors_are_one_line(environ: dict[str, str]) -> None:
    """No traceback, and an exit code that says what kind of error it was."""
    for code, extra in (
        (7, {}),
        (2, {"SLUICE_NO_SUCH": "1"}),
        (7, {"SLUICE_DATABASE_URL": f"postgresql://u@127.0.0.1:{free_port()}/x"}),
    ):
        result = sluice("db", "status", **environ, **extra)
        assert result.returncode == code, result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""
    assert sluice("nonsense", **environ).returncode == 2
    assert sluice("--version").stdout.startswith("sluice ")


def test_help_is_cheap() -> None:
    """The commonest command imports no SDK and no driver."""
    code = (
        "import sys; from workers.cli import build; build();"
        "print({'stripe', 'svix', 'asyncpg', 'arq', 'cryptography'} & set(sys.modules))"
    )
    with started("-c", code) as process:
        output, _ = process.communicate(timeout=30)
    assert output.strip() == "set()"
