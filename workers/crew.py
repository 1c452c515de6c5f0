"""What the processes that apply events have in common: their connections, and their `main`."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from shared import telemetry
from shared.db import LOOKUPS_ONLY, Database
from shared.domain.outcomes import RetryPolicy
from shared.heartbeat import beat
from shared.providers import providers
from shared.settings import Endpoints, Settings, SettingsError
from workers.surroundings import Surroundings

log = logging.getLogger(__name__)


@dataclass
class Crew:
    """
    What the visits of one process share.

    `marks` is a pool of its own for the marks of visits: they are written while a lane is locked,
    and have to outlive the transaction that holds it. `extended` are the sources whose events run
    handlers of installed packages, as far as any was met; `missing` what was said of handlers that
    are not installed here.
    """

    name: str
    db: Database
    marks: Database
    retry: RetryPolicy
    batch_size: int = 100
    surroundings: Surroundings = field(default_factory=Surroundings)
    extended: set[int] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)


@asynccontextmanager
async def enlisted(name: str, settings: Settings, endpoints: Endpoints) -> AsyncGenerator[Crew]:
    """Open what a process needs to apply events, and close it."""
    url = endpoints.database["worker"]
    # The mark must be on disk only as surely as the crash it announces: a process's, not Postgres'.
    marks = {"synchronous_commit": "off"}
    title = f"sluice {name}"
    # Beside the visits: three for the sweep's duties, one for pruning, two for fetching, one each
    # for reconciling, pulling, following and checkpoints, two for sending.
    size = settings.worker_slots + 12
    db = await Database.open(url, "worker", name=title, size=size, settings=LOOKUPS_ONLY)
    marking = await Database.open(url, "worker", name=title, size=2, settings=marks)
    retry = RetryPolicy(settings.max_attempts, settings.retry_base_s, settings.retry_cap_s)
    try:
        yield Crew(name, db, marking, retry, settings.batch_size)
    finally:
        await db.close()
        await marking.close()


Job = Callable[[asyncio.Event, Crew, Settings, Endpoints], Awaitable[None]]


def run_process(
    job: Job,
    default_name: str,
    prepare: Callable[[], object],
    arguments: list[str] | None = None,
) -> int:
    """
    The `main` of every process that applies events: settings, signals, heartbeat, telemetry.

    `prepare` is called when there is a log, and before there is a loop.
    """
    parser = argparse.ArgumentParser(prog=default_name)
    parser.add_argument("--heartbeat-fd", type=int)
    parser.add_argument("--name", default=f"{default_name}-{socket.gethostname()}-{os.getpid()}")
    given = parser.parse_args(arguments)
    try:
        settings = Settings.read()
        endpoints = Endpoints.find(settings)
        finish = telemetry.set_up(
            default_name,
            log_level=settings.log_level,
            admin_host=settings.host,
            admin_port=settings.admin_port,
        )
    except (SettingsError, OSError) as error:
        sys.stderr.write(f"{default_name}: {error}\n")
        return 2

    # Before the heart beats: in the loop an import that takes long looks like a hang, and who works
    # alone would charge an event with it.
    providers()
    prepare()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        beating = None
        if given.heartbeat_fd is not None:
            beating = asyncio.create_task(beat(given.heartbeat_fd), name="heartbeat")
            beating.add_done_callback(lambda _: stop.set())
        async with enlisted(given.name, settings, endpoints) as crew:
            await _first_look(crew, stop)
            spare_the_collector()
            log.info("ready", extra={"worker": given.name})
            if not stop.is_set():
                await job(stop, crew, settings, endpoints)
        if beating is not None:
            beating.cancel()

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main())
    finally:
        finish()
    return 0


def spare_the_collector() -> None:
    """
    Let the garbage collector leave alone what lives as long as the process.

    A batch holds some ten thousand objects until it is committed. With the default of 700 the
    collector walks them, and all modules, again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _first_look(crew: Crew, stop: asyncio.Event) -> None:
    """Learn the configuration; Postgres may be a little later than we are."""
    while not stop.is_set():
        try:
            async with crew.db.connection() as conn:
                await crew.surroundings.refresh(conn)
            return
        except Exception as error:
            log.warning("waiting for Postgres", extra={"error": repr(error)})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
