"""`sluice status` and `sluice drain`, as somebody uses them at three in the morning."""

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from shared import db
from tests.cli.conftest import Sluice
from tests.cli.test_screen import at_a_terminal, environment, in_a_pipe
from tests.cli.test_terminal import SLUICE
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.stack.servers import running_servers

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def changed(name: str = "sub_1") -> bytes:
    return event("customer.subscription.created", subscription(name))


class Watching:
    """`sluice status --watch` on a terminal of 80 by 24."""

    def __init__(self, **env: str) -> None:
        self.leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [*SLUICE, "status", "--watch"], stdin=follower, stdout=follower, stderr=follower,
            env=environment(env), start_new_session=True,
            # Without a terminal of its own, Ctrl-C is only a letter.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no Python lock
        )  # fmt: skip
        self.follower = follower
        self.said = ""

    def read_until(self, is_there: Callable[[str], bool], within_s: float = 40.0) -> str:
        """What came since the last time, once it is what is waited for."""
        since, give_up = len(self.said), time.monotonic() + within_s
        while not is_there(self.said[since:]):
            assert time.monotonic() < give_up, self.said[since:]
            if select.select([self.leader], [], [], 0.2)[0]:
                self.said += os.read(self.leader, 65536).decode(errors="replace")
        return self.said[since:]

    def end(self, keys: bytes) -> int:
        os.write(self.leader, keys)
        give_up = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < give_up:
            if select.select([self.leader], [], [], 0.2)[0]:
                self.said += os.read(self.leader, 65536).decode(errors="replace")
        code = self.process.wait(1)
        echoes = bool(termios.tcgetattr(self.follower)[3] & termios.ECHO)
        os.close(self.follower)
        os.close(self.leader)
        assert echoes  # the terminal is as it was
        return code


async def test_one_screen_and_its_exit_codes(stack: Stack, home: Path, sluice: Sluice) -> None:
    await stack.apply(changed())
    code, said = await asyncio.to_thread(at_a_terminal, "status", NO_COLOR="1")
    lines = ESCAPES.sub("", said).splitlines()
    assert code == 0
    assert len(lines) <= 24
    assert max(cell_len(line) for line in lines) <= 80
    assert lines[0].startswith("broken: ")
    assert any(line.startswith("X no worker is connected") for line in lines)
    shown = await sluice("status", "--json")
    assert shown.code == 0
    assert shown.json["status"] == "broken"
    assert shown.json["receivedPerMinute"]["last1Min"] == 1.0
    assert shown.json["postgres"]["partitionDaysAhead"] >= 13
    assert [one["source"] for one in shown.json["sources"]] == ["stripe"]
    assert (await sluice("status", "--check")).code == 1


async def test_a_check_is_0_only_when_all_is_well(stack: Stack, home: Path, sluice: Sluice) -> None:
    """Whatever is wanted attention for ends it with 1, and a note does not."""
    url = stack.endpoints.database["worker"]
    names = ("sluice-gateway-sources", "sluice worker-1", "sluice solitary-1", "sluice jobs-1")
    there = [await db.open_connection(url, "worker", name=name) for name in names]
    paused = "UPDATE sources SET paused_at = now() - $1::interval, paused_by = 'operator:ada'"
    try:
        for since, status, code in (
            (None, "ok", 0),
            (timedelta(hours=1), "ok", 0),
            (timedelta(days=2), "attention", 1),
        ):
            if since is not None:
                await stack.fetch(paused, since)
            said = await sluice("status", "--check", "--json")
            assert (said.json["status"], said.code) == (status, code), said.json["problems"]
    finally:
        for conn in there:
            await conn.close()


async def test_with_redis_away_it_says_so(
    stack: Stack, home: Path, sluice: Sluice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://127.0.0.1:9")
    said = await sluice("status", "--json")
    assert said.code == 0
    assert said.json["redis"]["reachable"] is False
    assert any("Redis does not answer" in one["text"] for one in said.json["problems"])
    assert said.json["unfinished"] == 0


async def test_with_postgres_away_it_says_what_it_can(
    home: Path, sluice: Sluice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_DATABASE_URL", "postgresql://sluice@127.0.0.1:9/sluice")
    for args in ((), ("--check",)):
        said = await sluice("status", *args)
        assert said.code == 7
        assert "Postgres does not answer" in said.out
        assert re.search(r"answers, \d+ wake-ups? waits?", said.out)
    assert (await sluice("status", "--json")).json["redis"]["reachable"] is True


async def test_watching_wants_a_terminal_or_json(home: Path, sluice: Sluice) -> None:
    said = await sluice("status", "--watch")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert (await sluice("status", "--watch", "--check")).code == 2


async def test_a_line_of_json_each_time(stack: Stack, home: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *SLUICE, "status", "--watch", "--json", stdout=subprocess.PIPE, env=environment({})
    )
    assert process.stdout is not None
    first, second = [json.loads(await process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert first["at"] < second["at"]


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
async def test_watching_draws_in_place_and_ends(stack: Stack, home: Path, key: bytes) -> None:
    watching = Watching(NO_COLOR="1")
    await asyncio.to_thread(watching.read_until, lambda text: "stripe" in text)
    await stack.receive(changed())
    again = await asyncio.to_thread(
        watching.read_until, lambda text: re.search(r"unfinished +1,", text) is not None
    )
    assert "\x1b[2J" not in again  # nothing is wiped: it would flicker
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", watching.said)
    assert await asyncio.to_thread(watching.end, key) == 0
    assert "Traceback" not in watching.said
    assert watching.said.count("\x1b[?1049h") == watching.said.count("\x1b[?1049l") == 1
    assert "broken" in watching.said.split("\x1b[?1049l")[1]  # the last one stays


async def test_a_dumb_terminal_is_told_one_after_the_other(stack: Stack, home: Path) -> None:
    watching = Watching(TERM="dumb")
    await asyncio.to_thread(watching.read_until, lambda text: text.count("per minute") >= 2)
    assert await asyncio.to_thread(watching.end, b"q") == 0
    assert "\x1b" not in watching.said


async def test_watching_survives_a_restart_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path / "home"))
    async with running_servers(tmp_path / "home") as servers:
        await servers.migrate()
        servers.endpoints().save(tmp_path / "home")
        watching = Watching()
        await asyncio.to_thread(watching.read_until, lambda text: "per minute" in text)
        await servers.postgres.stop()
        await asyncio.to_thread(watching.read_until, lambda text: "does not answer" in text)
        await servers.postgres.start()
        await asyncio.to_thread(watching.read_until, lambda text: "per minute" in text)
        assert await asyncio.to_thread(watching.end, b"q") == 0


async def test_drained_is_what_was_received_before(
    stack: Stack, home: Path, sluice: Sluice
) -> None:
    """What comes later is not waited for; what waits for its next attempt is done with."""
    assert (await sluice("drain")).code == 0
    await stack.receive(*(changed(f"sub_{number}") for number in range(20)))
    await stack.fetch(
        "UPDATE work SET attempts = 1, due_at = now() + interval '1 hour'"
        " WHERE id = (SELECT min(id) FROM work)"
    )
    waiting = asyncio.ensure_future(sluice("drain", "--timeout", "60s", "--json"))
    await asyncio.sleep(2)
    assert not waiting.done()
    await stack.fetch("UPDATE work SET received_at = received_at")
    first = await stack.value("SELECT max(id) FROM work")
    await stack.receive(changed("sub_later"))
    await stack.fetch("DELETE FROM work WHERE due_at IS NULL AND id <= $1", first)
    said = await waiting
    assert said.code == 0
    assert said.json["drained"] is True
    assert [(one["source"], one["ready"], one["waiting"]) for one in said.json["left"]] == [
        ("stripe", 0, 1)
    ]


async def test_a_drain_that_gives_up_says_what_is_left(
    stack: Stack, home: Path, sluice: Sluice
) -> None:
    await stack.configure({"stripe": True, "other": True})
    await stack.receive(changed())
    await stack.receive(changed("sub_2"), source="other")
    said = await sluice("drain", "--timeout", "1s")
    assert said.code == 1
    assert "stripe" in said.out
    assert "other" in said.out
    assert "2 are left" in said.err
    assert (await sluice("drain", "--timeout", "1s", "--source", "nobody")).code == 3
    for wrong in ("10", "0s", "1d", "99h", ""):
        assert (await sluice("drain", "--timeout", wrong)).code == 2
    # Nobody applies what a paused source has sent: there is nothing to wait for.
    await stack.fetch("UPDATE sources SET paused_at = now(), paused_by = 'x'")
    paused = await asyncio.wait_for(sluice("drain", "--json"), 20)
    assert paused.code == 1
    assert "sluice sources resume" in (await sluice("drain")).err
    assert all(one["isPaused"] for one in paused.json["left"])
    await stack.fetch("UPDATE sources SET paused_at = NULL, paused_by = NULL")
    await stack.drain()
    assert (await sluice("drain")).code == 0


async def test_a_bar_is_drawn_while_it_drains(stack: Stack, home: Path) -> None:
    await stack.receive(changed())
    code, said = await asyncio.to_thread(at_a_terminal, "drain", "--timeout", "2s")
    assert code == 1
    assert "events to settle" in said
    ran = await asyncio.to_thread(in_a_pipe, "drain", "--timeout", "1s")
    assert "events to settle" not in ran.stdout + ran.stderr
