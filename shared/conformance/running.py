"""A whole stack in a process of its own, as `sluice up` starts it: sent to, killed, and asked."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared import db
from shared.conformance.processes import (
    CLI,
    command_of,
    descendants,
    free_port,
    ready_line,
    sluice,
    started,
)
from shared.domain.events import Headers
from shared.providers.base import Provider
from shared.settings import Endpoints, Settings

_ANSWER_TIMEOUT_S = 5.0
_PAUSE_S = 0.1
_SENDERS = 8


class RunningStack:
    """`sluice up` with everything below it. `environ` is what finds it."""

    def __init__(self, process: "subprocess.Popen[str]", environ: Mapping[str, str]) -> None:
        self.process = process
        self.environ = dict(environ)
        self.port = int(environ["SLUICE_PORT"])
        self.endpoints = Endpoints.find(Settings(home=Path(environ["SLUICE_HOME"])))

    def pids(self, what: str) -> list[int]:
        """The stack's processes whose command line holds `what`."""
        return [pid for pid in descendants(self.process.pid) if what in command_of(pid)]

    def kill(self, what: str, number: int = signal.SIGKILL) -> int:
        """Signal them all; how many there were."""
        pids = self.pids(what)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(pids)

    def kill_one(self, what: str, rng: random.Random) -> int:
        """SIGKILL one of them; how many that were: 0 or 1."""
        pids = self.pids(what)
        if not pids:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
        return 1

    async def cli(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `sluice` on it."""
        return await asyncio.to_thread(sluice, *argv, **self.environ)

    async def value(self, query: str, *args: Any) -> Any:
        """The first column of a query's first row, asked as the database's owner."""
        async with db.connect(self.endpoints.database["owner"], "owner") as conn:
            return await conn.fetchval(query, *args)


@contextlib.asynccontextmanager
async def running_stack(
    directory: Path, configuration: str, **environ: str
) -> AsyncIterator[RunningStack]:
    """
    A stack whose state lies in `directory`, with this TOML applied. Its log is `directory/log`.

    Raises:
        AssertionError: it does not start, or the configuration is refused; with what was said.
    """
    environ = {
        "SLUICE_HOME": str(directory / "home"),
        "SLUICE_PORT": str(free_port()),
        "SLUICE_RETRY_BASE_S": "0.2",
        **environ,
    }
    log = directory / "log"
    with (
        log.open("w") as errors,
        started(*CLI, "up", "--json", stderr=errors, **environ) as process,
    ):
        try:
            await ready_line(process)
        except AssertionError as error:
            raise AssertionError(f"{error}{log.read_text()[-4000:]}") from None
        file = directory / "sluice.toml"
        file.write_text(configuration)
        applied = await asyncio.to_thread(sluice, "apply", str(file), "--yes", **environ)
        assert applied.returncode == 0, f"the configuration is refused:\n{applied.stderr}"
        yield RunningStack(process, environ)


async def post(port: int, source: str, headers: Headers, body: bytes) -> str:
    """Send one signed event; returns the status, "closed", or the name of what went wrong."""
    lines = [f"POST /api/v1/webhooks/{source} HTTP/1.1", "host: x", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    request = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1")
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request + body)
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    return answer[9:12].decode() if answer else "closed"


@dataclass(frozen=True, slots=True)
class Sending:
    """An event on its way to a source; `headers` are those that the signature does not have."""

    source: str
    provider: Provider
    secret: str
    body: bytes
    headers: Headers = ()

    async def to(self, port: int) -> str:
        """Sign it now, and send it; see `post`."""
        signature = self.provider.sign(self.body, self.secret, datetime.now(UTC))
        named = {name for name, _ in signature}
        others = tuple(one for one in self.headers if one[0] not in named)
        return await post(port, self.source, (*signature, *others), self.body)


@dataclass
class Sent:
    """How many requests there were, and every answer but 200 by its status."""

    requests: int = 0
    other: dict[str, int] = field(default_factory=dict)


async def send_all(
    port: int, sendings: Sequence[Sending], *, within_s: float, deadline_s: float
) -> Sent:
    """
    Send all of them, spread over `within_s`, and each again until it is acknowledged, as a
    provider would.

    Raises:
        AssertionError: one is not acknowledged within `deadline_s`.
    """
    sent = Sent()
    begun_s = time.monotonic()
    slots = asyncio.Semaphore(_SENDERS)

    async def deliver(number: int, one: Sending) -> None:
        await asyncio.sleep(within_s * number / max(len(sendings), 1))
        while True:
            async with slots:
                sent.requests += 1
                status = await one.to(port)
            if status == "200":
                return
            sent.other[status] = sent.other.get(status, 0) + 1
            late = time.monotonic() - begun_s > deadline_s
            assert not late, f"{one.source}: not acknowledged, but {status}: {one.body[:200]!r}"
            await asyncio.sleep(_PAUSE_S)

    await asyncio.gather(*(deliver(number, one) for number, one in enumerate(sendings)))
    return sent
