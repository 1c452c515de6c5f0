"""`sluice status`: what is wrong, and where to look, on one screen."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import DEPENDENCY_DOWN, FAILURE, USAGE, CommandError, write_json
from workers.cli.output import JsonOption, plain
from workers.cli.screen import screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.settings import Endpoints
    from workers.overview import Doorbell, Overview

EVERY_S = 2.0
#: What does not answer in time is said not to.
_POSTGRES_S = 6.0
_REDIS_S = 1.0


def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 2 s, until q or Ctrl-C.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="End with 1 unless all is well: for cron.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Say what is wrong, and where to look, on one screen.

    Ends with 0 whenever it could be told; with 7 while Postgres does not answer.
    """
    if watch and check:
        raise CommandError("--watch and --check exclude each other", USAGE)
    if watch and not as_json and not sys.stdout.isatty():
        raise CommandError("--watch needs a terminal, or --json for a line each time", USAGE)
    from shared.settings import Settings
    from workers.cli.run import find_endpoints

    endpoints = find_endpoints(Settings.read())
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(endpoints, as_json=as_json))
        return

    async def once() -> "Overview":
        async with _looking(endpoints) as look:
            return await look()

    found = asyncio.run(once())
    if as_json:
        from workers.overview import shown

        write_json(shown(found))
    else:
        from workers.cli.terminal import console

        out = console()
        out.print(screen(found, out.width, None))
    if found.looked is None:
        raise typer.Exit(DEPENDENCY_DOWN)
    if check and found.verdict != "ok":
        raise typer.Exit(FAILURE)


@asynccontextmanager
async def _looking(
    endpoints: "Endpoints",
) -> "AsyncGenerator[Callable[[], Awaitable[Overview]]]":
    """Yields a function that looks; its connection is opened again when it has been lost."""
    from shared import db
    from shared.store.status import SESSION, Looked
    from shared.store.status import look as look_inside
    from workers.overview import overview

    url = endpoints.database["operator"]
    line = db.Line(url, "operator", name="sluice-status", settings=SESSION)

    async def inside() -> Looked | str:
        try:
            async with line.use(timeout_s=_POSTGRES_S) as conn:
                return await look_inside(conn)
        except db.Unreachable as error:
            return str(error)
        except Exception as error:
            if not db.is_platform_fault(error) or db.is_missing_table(error):
                raise
            return f"{type(error).__name__}: {error}".removesuffix(": ")

    async def look() -> "Overview":
        found, bell = await asyncio.gather(inside(), _ask(endpoints.redis))
        at = datetime.now(UTC)
        if isinstance(found, str):
            return overview(at, None, plain(found), bell)
        return overview(found.now, found, None, bell)

    try:
        yield look
    finally:
        await line.close()


async def _ask(url: str) -> "Doorbell":
    from shared.queue import QUEUE_NAME
    from workers.overview import Doorbell
    from workers.stack.embedded import ServerError
    from workers.stack.valkey import ask

    if not url:
        return Doorbell("SLUICE_REDIS_URL is not set", None)
    try:
        waiting = await ask(url, "ZCARD", QUEUE_NAME, timeout_s=_REDIS_S)
    except (OSError, ServerError) as error:
        return Doorbell(plain(str(error) or type(error).__name__), None)
    return Doorbell(None, waiting if isinstance(waiting, int) else None)


async def _watch(endpoints: "Endpoints", *, as_json: bool) -> None:
    from workers.overview import shown

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with _looking(endpoints) as look:
        with _keys(over), _drawing() if not as_json else contextlib.nullcontext(None) as draw:
            while not over.is_set():
                found = await look()
                if draw is not None:
                    draw(found)
                else:
                    sys.stdout.write(json.dumps(shown(found), default=str) + "\n")
                    sys.stdout.flush()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), EVERY_S)


@contextmanager
def _drawing() -> "Iterator[Callable[[Overview], None]]":
    """
    Yields a function that puts an overview on the terminal, in place of the one before. The last
    one stays there afterwards.
    """
    from rich.live import Live

    from workers.cli.terminal import console

    out = console()
    if out.is_dumb_terminal:
        # Nothing can be drawn over: one after the other.
        yield lambda found: out.print(screen(found, out.width, out.height), "")
        return
    last: Any = None
    with Live(console=out, screen=True, auto_refresh=False) as live:

        def draw(found: "Overview") -> None:
            nonlocal last
            last = found
            live.update(screen(found, out.width, out.height), refresh=True)

        yield draw
    if last is not None:
        out.print(screen(last, out.width, None))


@contextmanager
def _keys(over: asyncio.Event) -> Iterator[None]:
    """Sets `over` when somebody types q. What else is typed is neither echoed nor heard."""
    if not sys.stdin.isatty():
        yield
        return
    import os
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def heard() -> None:
        if os.read(terminal, 64)[:1] in {b"q", b"Q", b""}:
            over.set()

    tty.setcbreak(terminal)
    loop.add_reader(terminal, heard)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
