"""
Real servers for every test: one Postgres and one Valkey a session, one fresh database a test.

A server that does not come up fails the tests that need it; nothing is skipped.
"""

from collections.abc import AsyncIterator
from itertools import count

import pytest

from shared import db, migrate
from shared.settings import Endpoints
from tests.support.stack import Stack, with_database
from workers.stack.servers import Servers, running_servers

_numbers = count(1)


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    """The session's servers, migrated, with logins for all roles."""
    async with running_servers(tmp_path_factory.mktemp("stack") / "home") as running:
        await running.migrate()
        async with db.connect(running.postgres.url(), "owner") as conn:
            await conn.execute("CREATE DATABASE blank")
        blank = with_database(running.endpoints(), "blank")
        async with db.connect(blank.database["owner"], "owner") as conn:
            await migrate.migrate(conn)
        yield running


@pytest.fixture
async def endpoints(servers: Servers) -> AsyncIterator[Endpoints]:
    """Where a fresh, migrated database of this test's own is; dropped afterwards."""
    name = f"test_{next(_numbers)}"
    owner = servers.endpoints().database["owner"]
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"CREATE DATABASE {name} TEMPLATE blank")
    yield with_database(servers.endpoints(), name)
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def stack(endpoints: Endpoints) -> AsyncIterator[Stack]:
    """A fresh database with the source `stripe` and the plans of `tests.support.stack.PLANS`."""
    async with Stack.open(endpoints) as opened:
        await opened.configure()
        yield opened
