"""The command as a process: terminals, servers that are down, help."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.main import get_command

from shared import db
from shared.settings import Endpoints
from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.cli import build, output
from workers.sweep import derive_again

FILE = '[sources.stripe]\nprovider = "stripe"\nsecrets = ["whsec_1"]\nlivemode = true\n'
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SLUICE = (sys.executable, "-m", "workers.cli")


def on_a_terminal(args: list[str], answer: bytes, wait_for: bytes) -> tuple[int, bytes]:
    """Run with a terminal as all three streams; type `answer` once `wait_for` is asked."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([*SLUICE, *args], stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    answered = False
    while True:
        try:
            more = os.read(leader, 4096)
        except OSError:  # the last writer has closed it
            break
        said += more
        if wait_for in said and not answered:
            os.write(leader, answer)
            answered = True
    os.close(leader)
    return process.wait(30), said


async def version(endpoints: Endpoints) -> int:
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        found: int = await conn.fetchval("SELECT max(version) FROM configuration")
    return found


async def test_a_terminal_is_asked(home: Path, endpoints: Endpoints, tmp_path: Path) -> None:
    file = tmp_path / "sluice.toml"
    file.write_text(FILE)
    code, said = await asyncio.to_thread(
        on_a_terminal, ["apply", str(file)], b"n\n", b"Apply this?"
    )
    assert (code, await version(endpoints)) == (1, 0)
    assert b"nothing was written" in said
    assert b"Traceback" not in said
    code, said = await asyncio.to_thread(
        on_a_terminal, ["apply", str(file)], b"y\n", b"Apply this?"
    )
    assert (code, await version(endpoints)) == (0, 1)
    assert b"version 1 is applied" in said


async def test_a_sources_address_can_be_copied(sluice: Sluice, stack: Stack) -> None:
    """It is in one piece wherever there is room for it, whatever is left out instead."""
    await stack.add_source("licences-of-the-shop", "hmac")
    shown = (await sluice("sources", "list", "--json")).json["items"]
    table = (await sluice("sources", "list")).out
    assert all(f"{item['url']} " in table for item in shown)


async def test_no_colour_means_none(home: Path) -> None:
    """`NO_COLOR` is set here."""
    _, said = await asyncio.to_thread(on_a_terminal, ["doctor"], b"", b"never asked")
    assert b"python" in said
    assert b"\x1b[3" not in said


async def test_whom_it_concerns_is_shown_before_the_question(
    stack: Stack, home: Path, tmp_path: Path
) -> None:
    tenant = "0199b7a2-5d1c-7c3e-9c7e-2f6b7c1d2e3f"
    await stack.apply(event("customer.subscription.created", subscription(tenant=tenant)))
    file = tmp_path / "sluice.toml"
    file.write_text(
        FILE + '[plans.pro]\nproducts = ["stripe:prod_pro"]\nfeatures = { seats = 20 }\n'
    )
    before = await stack.features(tenant)
    code, said = await asyncio.to_thread(
        on_a_terminal, ["apply", str(file)], b"n\n", b"Apply this?"
    )
    assert code == 1
    lines = said.decode().split("Apply this?")[0].splitlines()
    assert any(tenant in line and "seats" in line and "10 → 20" in line for line in lines)
    assert max(len(ESCAPES.sub("", line)) for line in lines) <= 80
    assert await stack.features(tenant) == before
    assert await stack.value("SELECT max(version) FROM catalogs") == 1


async def test_a_terminal_has_a_bar_while_tenants_follow(
    stack: Stack, home: Path, tmp_path: Path
) -> None:
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in ("acme", "globex")
        )
    )
    await stack.configure()
    await derive_again(stack.crew, "acme")
    watching = asyncio.ensure_future(
        asyncio.to_thread(on_a_terminal, ["catalog", "status", "--watch"], b"", b"never asked")
    )
    await asyncio.sleep(4)
    assert not watching.done()
    await derive_again(stack.crew, "globex")
    code, said = await watching
    assert code == 0
    assert "tenants on catalog 2" in said.decode()
    assert "1/2" in said.decode()
    assert "2 of 2" in said.decode()


async def test_yes_answers_on_a_terminal(home: Path, endpoints: Endpoints, tmp_path: Path) -> None:
    file = tmp_path / "sluice.toml"
    file.write_text(FILE)
    code, said = await asyncio.to_thread(
        on_a_terminal, ["apply", str(file), "--yes"], b"", b"never asked"
    )
    assert (code, await version(endpoints)) == (0, 1)
    assert b"Apply this?" not in said


async def test_consent_is_for_what_was_shown(
    home: Path, endpoints: Endpoints, tmp_path: Path
) -> None:
    """Somebody else applies while the question waits for its answer."""
    file = tmp_path / "sluice.toml"
    file.write_text(FILE)
    asked, go_on = asyncio.Event(), tmp_path / "go"
    loop = asyncio.get_running_loop()

    def run() -> tuple[int, bytes]:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            [*SLUICE, "apply", str(file)], stdin=follower, stdout=follower, stderr=follower
        )
        os.close(follower)
        said = b""
        while b"Apply this?" not in said:
            said += os.read(leader, 4096)
        loop.call_soon_threadsafe(asked.set)
        while not go_on.exists():
            time.sleep(0.01)
        os.write(leader, b"y\n")
        try:
            while more := os.read(leader, 4096):
                said += more
        except OSError:
            pass
        os.close(leader)
        return process.wait(30), said

    running = asyncio.ensure_future(asyncio.to_thread(run))
    await asyncio.wait_for(asked.wait(), 20)
    async with db.connect(endpoints.database["operator"], "operator") as conn:
        await conn.execute(
            "INSERT INTO configuration (version, actor, mode) VALUES (1, 'other', 'live')"
        )
    go_on.touch()
    code, said = await running
    assert code == 5
    assert b"version 1 was applied while" in said
    assert await version(endpoints) == 1


async def test_servers_that_are_down_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, sluice: Sluice
) -> None:
    monkeypatch.setenv("SLUICE_DATABASE_URL", "postgresql://sluice@127.0.0.1:9/sluice")
    for args in [("events", "list"), ("tenants", "show", "acme"), ("audit", "verify")]:
        said = await sluice(*args)
        assert said.code == 7
        assert said.err.count("\n") == 1
        assert said.out == ""


async def test_no_stack_is_one_line(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, sluice: Sluice
) -> None:
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path / "nowhere"))
    said = await sluice("events", "list")
    assert said.code == 7
    assert "sluice up" in said.err


async def test_a_replay_works_without_redis(
    sluice: Sluice, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tracking,) = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme"))
    )
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://127.0.0.1:9")
    said = await sluice("replay", tracking, "--reason", "redis is down", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["run"] == 2


async def test_a_replay_waits_for_whoever_holds_the_lane(sluice: Sluice, stack: Stack) -> None:
    """A worker may be settling the event: only after its commit is the next run's number known."""
    (tracking,) = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme"))
    )
    async with db.connect(stack.endpoints.database["worker"], "worker") as holder:
        async with holder.transaction():
            await holder.execute("SELECT id FROM lanes FOR NO KEY UPDATE")
            waiting = asyncio.ensure_future(sluice("replay", tracking, "--reason", "x", "--json"))
            await asyncio.sleep(2.5)
            assert not waiting.done()
            await holder.execute(
                "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, attempts)"
                " SELECT tracking_id, 2, source_id, status, outcome, 1 FROM settlements"
            )
        said = await waiting
    assert said.code == 0, said.err
    assert said.json["run"] == 3


async def test_a_link_is_tried_again_while_a_worker_holds_the_customer(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(event("customer.subscription.created", subscription()))
    async with db.connect(stack.endpoints.database["worker"], "worker") as holder:
        async with holder.transaction():
            await holder.execute("SELECT customer FROM customers FOR UPDATE")
            waiting = asyncio.ensure_future(
                sluice("tenants", "link", "acme", "--source", "stripe", "--customer", "cus_1")
            )
            await asyncio.sleep(3)  # longer than lock_timeout
            assert not waiting.done()
        said = await waiting
    assert said.code == 0, said.err
    assert await stack.features("acme") == {"seats": 10, "sso": True}


def test_every_command_of_the_operator_has_an_example() -> None:
    without = []
    root = get_command(build())
    context = typer.Context(root)
    operators = {"apply", "replay", "sources", "events", "parked", "tenants", "audit", "tokens",
                 "catalog"}  # fmt: skip
    assert isinstance(root, typer.core.TyperGroup)
    for name in operators:
        command = root.get_command(context, name)
        assert command is not None, name
        leaves = command.commands.values() if hasattr(command, "commands") else [command]
        without += [one.name for one in leaves if not (one.epilog or "").startswith("Example: slu")]
    assert without == []


def test_a_flag_is_not_shown_as_if_it_took_a_value() -> None:
    for args in ([], ["events", "list"]):
        ran = subprocess.run([*SLUICE, *args, "--help"], capture_output=True, text=True, check=True)
        assert "--help" in ran.stdout
        assert "<bool>" not in ran.stdout
    assert "--limit" in ran.stdout


def test_help_needs_no_database_library() -> None:
    """`--help` answers at once: what takes long to import is imported by the command."""
    code = (
        "import sys, workers.cli; workers.cli.build();"
        "heavy = {'asyncpg', 'stripe', 'arq', 'pydantic', 'cryptography'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_narrow_terminal_leaves_columns_out_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"a": "x" * 36, "b": "processed", "c": "customer.subscription.created", "d": "acme"}
    for width, left_out in [(80, "fourth"), (60, "third"), (54, "third, fourth"), (120, "")]:
        monkeypatch.setattr(
            output, "console", lambda width=width: Console(file=sys.stdout, width=width)
        )
        output.print_table({"a": "first", "b": "second", "c": "third", "d": "fourth"}, [row])
        said = capsys.readouterr()
        assert "x" * 36 in said.out
        assert "processed" in said.out
        assert said.err == (
            f"too narrow for: {left_out} (--json has everything)\n" if left_out else ""
        )


def test_who_and_when_come_before_columns_that_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 columns the trail told of a paused source neither who nor when."""
    columns = {"id": "id", "action": "action", "tenant": "tenant", "feature": "feature",
               "after": "after", "before": "before", "at": "at", "actor": "actor"}  # fmt: skip
    row = {"id": 143, "action": "entitlement.granted", "tenant": None, "feature": None,
           "after": None, "before": None, "at": "2026-11-21T23:23:47Z",
           "actor": "operator:ada"}  # fmt: skip
    monkeypatch.setattr(output, "console", lambda: Console(file=sys.stdout, width=70))
    output.print_table(columns, [row])
    said = capsys.readouterr()
    assert "2026-11-21T23:23:47Z  operator:ada" in said.out
    assert said.err == "too narrow for: feature, after, before (--json has everything)\n"


def test_lines_of_an_error_are_told_apart() -> None:
    """Whoever sent it: on one line, and as nothing that a terminal obeys."""
    assert output.plain("503 Service Unavailable\nsee \x1b[31mhere") == (
        "503 Service Unavailable ⏎ see \\x1b[31mhere"
    )
