"""
Both embedded servers together, without a supervisor: what tests and benchmarks run against.

    async with running_servers(home) as servers:
        await servers.migrate()
        async with db.connect(servers.postgres.url("worker"), "worker") as conn: ...
        await servers.postgres.kill()
        await servers.postgres.start()
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shared import db, migrate
from shared.settings import Endpoints
from workers.stack.home import Home, claimed
from workers.stack.postgres import PostgresServer, give_logins
from workers.stack.valkey import ValkeyServer


@dataclass(frozen=True)
class Servers:
    """Two running servers and the home they live in."""

    home: Home
    postgres: PostgresServer
    valkey: ValkeyServer

    async def migrate(self) -> None:
        """Bring the database "sluice" up to date and give the roles their logins."""
        async with db.connect(self.postgres.url(), "owner") as conn:
            await migrate.migrate(conn)
        await give_logins(self.postgres)

    def endpoints(self, http: str = "http://127.0.0.1:8400") -> Endpoints:
        """What `sluice up` would write into `endpoints.json`."""
        return Endpoints(
            database=self.postgres.urls(),
            redis=self.valkey.url(),
            secret_key=self.home.secret_key(),
            http=http,
        )


@asynccontextmanager
async def running_servers(path: Path) -> AsyncIterator[Servers]:
    """
    Run both servers in the home `path`, made if need be, and stop them on leaving.

    Raises:
        HomeError, BinariesError, ServerError, ChildFailed: with a line that mends it.
    """
    with claimed(path) as home:
        servers = Servers(home, PostgresServer(home), ValkeyServer(home))
        both = (servers.postgres, servers.valkey)
        try:
            await asyncio.gather(*(server.prepare() for server in both))
            await asyncio.gather(*(server.start_with(server.run) for server in both))
            yield servers
        finally:
            await asyncio.gather(*(server.stop() for server in both))
            for server in both:
                server.close()
