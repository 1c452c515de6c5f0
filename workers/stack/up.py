"""
`sluice up`: everything on one machine, in the foreground, until it is told to stop.

Servers that the environment names are used; those it does not name are embedded ones. All that
is kept between runs lies in `SLUICE_HOME`.
"""

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from shared import db, migrate
from shared.sealing import KeyRing
from shared.settings import ROLES, Endpoints, Settings
from shared.store.partitions import make_partitions
from shared.store.sources import read_seals
from workers.stack import processes
from workers.stack.embedded import Server
from workers.stack.home import Home, claimed, is_port_free
from workers.stack.postgres import PostgresServer, give_logins
from workers.stack.spawn import ChildFailed
from workers.stack.supervisor import Supervisor
from workers.stack.valkey import ValkeyServer

READY_TIMEOUT_S = 60.0
#: A process that has ended so often before the stack was ready will not become ready.
DEATHS_BEFORE_READY = 3

MAKE_KEY = "export SLUICE_SECRET_KEY=$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"


class UpError(Exception):
    """The stack cannot be started. The message says what to do."""


@dataclass(frozen=True)
class Ready:
    """What a started stack has to say."""

    url: str
    home: Path
    database: str  # "embedded" or "SLUICE_DATABASE_URL"
    redis: str  # "embedded" or "SLUICE_REDIS_URL"
    first_event: str  # the command line that sends one

    def __str__(self) -> str:
        return (
            f"Sluice is ready on {self.url}, its state is in {self.home};"
            f" send a first event from another terminal: {self.first_event}"
        )


async def up(settings: Settings, report: Callable[[Ready], None]) -> None:
    """
    Run the stack until SIGINT, SIGTERM or SIGHUP; `report` is called once, when it is ready.

    Raises:
        HomeInUseError: a stack runs in this home already.
        HomeError, BinariesError, ServerError, ChildFailed, SealingError, UpError: with what to do.
        Exception: whatever the database said (`shared.db.is_platform_fault`), or a migration.
    """
    with claimed(settings.home) as home:
        # Now, before anything is started, and said in the words of the setting.
        if not is_port_free(settings.host, settings.port):
            raise UpError(
                f"{settings.host}:{settings.port} is in use or not ours to take; choose another"
                f" port: export SLUICE_PORT={settings.port + 1}"
            )
        supervisor = Supervisor(hang_after_s=settings.hang_after_s)
        servers: list[Server] = []
        try:
            await supervisor.supervise(_start(settings, home, supervisor, servers, report))
        finally:
            for server in servers:
                server.close()


async def migrate_database(url: str) -> list[migrate.Migration]:
    """Apply what is pending and make the partitions ahead; returns what was applied."""
    async with db.connect(url, "owner", name="sluice migrate") as conn:
        done = await migrate.migrate(conn)
        await make_partitions(conn)
        return done


async def http_status(host: str, port: int, path: str) -> int:
    """
    GET `path` from our own gateway; returns the status.

    Raises:
        OSError: nobody answers there (TimeoutError: not within 2 s).
    """
    async with asyncio.timeout(2):
        reader, writer = await asyncio.open_connection(_reachable(host), port)
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n".encode()
            )
            words = (await reader.readline()).split()
        finally:
            writer.close()
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError("no HTTP answer")
    return int(words[1])


def http_url(settings: Settings) -> str:
    """Where clients on this machine find the gateway."""
    host = _reachable(settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def _start(
    settings: Settings,
    home: Home,
    supervisor: Supervisor,
    servers: list[Server],
    report: Callable[[Ready], None],
) -> None:
    endpoints = await _start_servers(settings, home, supervisor, servers)
    endpoints.save(home.path)
    first = settings.admin_port + 1 if settings.admin_port else 0
    for child in processes.fleet(settings, endpoints, first_admin_port=first):
        await supervisor.start(child)
    await supervisor.start(processes.gateway(settings, endpoints))
    # No worker is needed to receive an event; but one that cannot start should be said at once.
    await _until_ready(settings, supervisor)
    report(
        Ready(
            url=endpoints.http,
            home=home.path,
            database="SLUICE_DATABASE_URL" if settings.database_url else "embedded",
            redis="SLUICE_REDIS_URL" if settings.redis_url else "embedded",
            first_event=_first_event(),
        )
    )


async def _start_servers(
    settings: Settings, home: Home, supervisor: Supervisor, servers: list[Server]
) -> Endpoints:
    postgres = valkey = None
    if settings.database_url is None:
        postgres = PostgresServer(home, with_key=settings.secret_key is None)
        servers.append(postgres)
    elif settings.secret_key is None:
        raise UpError(
            "SLUICE_DATABASE_URL is set, so SLUICE_SECRET_KEY, which seals the secrets in that"
            f" database, has to be set too. Make one, and keep it: {MAKE_KEY}"
        )
    if settings.redis_url is None:
        valkey = ValkeyServer(home)
        servers.append(valkey)
    await asyncio.gather(*(server.prepare() for server in servers))
    # Before anything runs on it: a database whose key is gone must not be started.
    key = _plain(settings.secret_key) or home.secret_key()
    keys = KeyRing.parse(key)
    await asyncio.gather(*(server.start_with(supervisor.start) for server in servers))

    owner = postgres.url() if postgres else _plain(settings.database_url)
    await migrate_database(owner)
    async with db.connect(owner, "owner") as conn:
        keys.check(await read_seals(conn))
    if postgres is not None:
        await give_logins(postgres)
        database = postgres.urls()
    else:
        database = dict.fromkeys(ROLES, owner)
    if settings.reader_database_url is not None:
        database["reader"] = _plain(settings.reader_database_url)
    return Endpoints(
        database=database,
        redis=valkey.url() if valkey else _plain(settings.redis_url),
        secret_key=key,
        http=http_url(settings),
    )


async def _until_ready(settings: Settings, supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_TIMEOUT_S
    status = 0
    while loop.time() < deadline:
        try:
            status = await http_status(settings.host, settings.port, "/readyz")
        except OSError:
            status = 0
        if status == 200 and all(supervisor.is_heard(name) for name in supervisor.deaths):
            return
        for name, deaths in supervisor.deaths.items():
            if deaths >= DEATHS_BEFORE_READY:
                raise ChildFailed(f"{name} ended {deaths} times; what it said is above")
        await asyncio.sleep(0.05)
    raise UpError(
        f"the gateway was not ready after {READY_TIMEOUT_S:g} s (GET /readyz answered"
        f" {status or 'nothing'}); what it said is above"
    )


def _reachable(host: str) -> str:
    everywhere = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound
    return everywhere.get(host, host)


def _plain(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _first_event() -> str:
    words = [own_command(), "demo"]
    if "SLUICE_HOME" in os.environ:
        words.insert(0, f"SLUICE_HOME={shlex.quote(os.path.abspath(os.environ['SLUICE_HOME']))}")
    return " ".join(words)


def own_command() -> str:
    """How `sluice` is called from here, as short as it works."""
    program = Path(os.path.abspath(sys.argv[0]))
    if program.name != "sluice":
        return f"{sys.executable} -m workers.cli"
    found = shutil.which("sluice")
    if found is not None and Path(found) == program:
        return "sluice"
    if program.is_relative_to(Path.cwd()):
        return str(program.relative_to(Path.cwd()))
    return str(program)
