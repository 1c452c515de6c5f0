"""Every command that reads, as a person sees it: on a real terminal of 80 by 24, and in a pipe."""

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.main import get_command

from shared.domain.keys import CustomerKey
from tests.cli.conftest import Sluice
from tests.cli.test_terminal import SLUICE
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.cli import build

#: Colours, bold, underlined; and anything else that a terminal obeys.
STYLES = re.compile(r"\x1b\[[0-9;]*m")
COLOURS = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|9[0-7]|38;[0-9;]+)m")
#: Long-lived processes, what follows for ever, what wants a filter, and what sets something up.
NOT_READ = {"up", "gateway", "worker", "demo", "db migrate", "events tail", "events export"}
#: Lines for programs, of any length: anchors are kept in files.
FOR_PROGRAMS = {"audit heads"}
TENANT = "org_0199b7a25d1c7c3e9c7e2f6b7c1d2e3f"


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Those that only read and want no argument."""
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
        return
    writes = {"--actor", "--reason", "--yes"} & {o for one in group.params for o in one.opts}
    if not writes and not any(one.required for one in group.params):
        yield path


READS = [path for path in commands(get_command(build())) if " ".join(path) not in NOT_READ]


def at_a_terminal(*args: str, width: int = 80, height: int = 24, **env: str) -> tuple[int, str]:
    """Run with a terminal of that size as all three streams; its exit code and what it showed."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(
        [*SLUICE, *args], stdin=follower, stdout=follower, stderr=follower, env=environment(env)
    )
    os.close(follower)
    said = b""
    try:
        while more := os.read(leader, 65536):
            said += more
    except OSError:  # the last writer has closed it
        pass
    os.close(leader)
    return process.wait(60), said.decode().replace("\r\n", "\n")


def in_a_pipe(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SLUICE, *args],
        capture_output=True,
        text=True,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def environment(more: Mapping[str, str]) -> dict[str, str]:
    ours = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "CI"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "TERM": "xterm-256color", **more}


@pytest.fixture
async def full(stack: Stack, home: Path, sluice: Sluice) -> Stack:
    """A stack with something in every list, names as long as they come."""
    await stack.apply(
        event("customer.subscription.created", subscription(tenant=TENANT)),
        event(
            "customer.subscription.created",
            subscription("sub_1Nxyz0123456789ABCDEFGHIJK", customer="cus_0123456789ABCDEFGHIJKLMN"),
        ),
        b"{",
    )
    await stack.add_source("results-of-a-partner-with-a-long-name", "hmac")
    await stack.link(CustomerKey(stack.sources["stripe"], "", True, "cus_9"), "acme")
    said = await sluice("tokens", "create", "billing-application", "--scope", "service")
    assert said.code == 0, said.err
    said = await sluice("tenants", "grant", TENANT, "seats", "99", "--reason", "a long story")
    assert said.code == 0, said.err
    for statement in (
        "INSERT INTO messages VALUES (1, 'slack', 'k', gen_random_uuid(), '{}')",
        "INSERT INTO sendings VALUES (1, 'slack', 'dead', 'x', 'a receiver that is away', 1)",
    ):
        await stack.fetch(statement)
    return stack


async def run_all(**env: str) -> dict[tuple[str, ...], tuple[int, str]]:
    found: dict[tuple[str, ...], tuple[int, str]] = {}
    gate = asyncio.Semaphore(2)

    async def one(path: tuple[str, ...]) -> None:
        async with gate:
            found[path] = await asyncio.to_thread(lambda: at_a_terminal(*path, **env))  # type: ignore[arg-type] # no sizes among them

    await asyncio.gather(*(one(path) for path in READS))
    return found


@pytest.mark.parametrize(
    "env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["colour", "no colour", "dumb"]
)
async def test_every_listing_fits_a_terminal(full: Stack, env: dict[str, str]) -> None:
    assert len(READS) > 12
    ids = [str(row["id"]) for row in await full.fetch("SELECT tracking_id AS id FROM inbox")]
    ids += [TENANT, "results-of-a-partner-with-a-long-name", "cus_0123456789ABCDEFGHIJKLMN"]
    for path, (code, said) in (await run_all(**env)).items():
        name = " ".join(path)
        assert code == 0 or name == "doctor", (name, said)
        assert "Traceback" not in said, (name, said)
        bare = STYLES.sub("", said)
        assert "\x1b" not in bare, name
        if env.get("TERM") == "dumb":
            assert said == bare, name
        if "NO_COLOR" in env:
            assert not COLOURS.search(said), name
        if name in FOR_PROGRAMS:
            continue
        for line in bare.splitlines():
            assert cell_len(line) <= 80, (name, line)
        for one in ids:
            # Whole or not there at all: a piece of its beginning at a line's end is a broken one.
            for size in range(9, len(one)):
                assert not re.search(rf"(?:^|\s){re.escape(one[:size])}\s*$", bare, re.MULTILINE), (
                    name, one, bare,
                )  # fmt: skip


async def test_colour_is_there_where_it_may_be(full: Stack) -> None:
    _, said = await asyncio.to_thread(at_a_terminal, "status")
    assert COLOURS.search(said)
    forced = await asyncio.to_thread(in_a_pipe, "status", FORCE_COLOR="1")
    assert COLOURS.search(forced.stdout)
    plain = await asyncio.to_thread(in_a_pipe, "status")
    assert "\x1b" not in plain.stdout


async def test_a_pipe_gets_every_column(full: Stack) -> None:
    """Nothing is left out, broken, or coloured; data is on stdout alone."""
    for path in READS:
        ran = await asyncio.to_thread(in_a_pipe, *path)
        assert ran.returncode == 0 or path == ("doctor",), (path, ran.stderr)
        assert "too narrow" not in ran.stderr, path
        assert "\x1b" not in ran.stdout + ran.stderr, path
    listed = await asyncio.to_thread(in_a_pipe, "audit", "list")
    heading, *lines = listed.stdout.splitlines()
    assert heading.split() == [
        "id", "at", "action", "tenant", "feature", "actor", "after", "before",
    ]  # fmt: skip
    assert len(lines) == await full.value("SELECT count(*) FROM audit")
    assert any("operator:ada" in line for line in lines)
    assert all("provider:stripe" in line or "operator:" in line for line in lines)


async def test_every_json_parses(full: Stack) -> None:
    root: Any = get_command(build())
    for path in READS:
        command = root
        for word in path:
            command = command.commands[word]
        if "--json" not in {option for one in command.params for option in one.opts}:
            continue
        ran = await asyncio.to_thread(in_a_pipe, *path, "--json", FORCE_COLOR="1")
        assert json.loads(ran.stdout), path


async def test_one_thing_fits_a_terminal(full: Stack) -> None:
    """What is shown in fields: long words begin a line of their own."""
    (tracking, *_) = [str(row[0]) for row in await full.fetch("SELECT tracking_id FROM inbox")]
    for args in (
        ("events", "show", tracking),
        ("tenants", "show", TENANT),
        ("tenants", "explain", TENANT, "seats"),
        ("audit", "show", "1"),
        ("catalog", "show", "1"),
        ("tokens", "show", "billing-application"),
        ("outbox", "show", "1"),
    ):
        code, said = await asyncio.to_thread(at_a_terminal, *args)
        assert code == 0, said
        for line in STYLES.sub("", said).splitlines():
            assert cell_len(line) <= 80, (args, line)


async def test_notes_of_sources_are_for_people(full: Stack, sluice: Sluice) -> None:
    await full.fetch("UPDATE sources SET paused_at = now(), paused_by = 'operator:ada'")
    said = await sluice("sources", "list", "--json")
    assert said.err == ""
    assert "paused since" in (await sluice("sources", "list")).err
    shown = await sluice("doctor")
    assert "paused: stripe" in shown.out or "paused" in shown.out
