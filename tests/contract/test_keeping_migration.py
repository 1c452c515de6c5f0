"""A populated inbox is migrated while processes of the version before go on writing and reading."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from shared import db, migrate
from shared.domain.events import new_tracking_id
from tests.support.stack import with_database
from workers.stack.servers import Servers

_numbers = count(1)
OURS = 27
#: As the version before wrote and read.
STORE = """
WITH fresh AS (
    INSERT INTO ledger (source_id, account, livemode, event_id, tracking_id, body_sha, received_at)
    VALUES (1, '', true, $1::uuid::text, $1, '', $2) RETURNING tracking_id
), kept AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                       subject, lane, secret, headers, body, trace_context)
    SELECT $2, tracking_id, 1, '', true, $1::uuid::text, 'x', 'x/1', 1, '0.1', '[]',
           convert_to(repeat('x', 800), 'UTF8'), '' FROM fresh
)
INSERT INTO work (tracking_id, received_at, lane) SELECT tracking_id, $2, 1 FROM fresh
"""
READ = "SELECT body FROM inbox WHERE received_at = $1 AND tracking_id = $2"
TENANT = "INSERT INTO tenants (tenant) VALUES ($1) ON CONFLICT DO NOTHING"


@pytest.fixture
async def before(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A database of the version before, with 20,000 events in it."""
    owner = servers.endpoints().database["owner"]
    name = f"keeping_{next(_numbers)}"
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"CREATE DATABASE {name}")
    endpoints = with_database(servers.endpoints(), name)
    every = migrate.available()
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        with monkeypatch.context() as patched:
            patched.setattr(migrate, "available", lambda: [m for m in every if m.number < OURS])
            await migrate.migrate(conn)
        await conn.execute(
            "INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id,"
            " event_type, subject, lane, secret, headers, body, trace_context)"
            " SELECT now(), gen_random_uuid(), 1, '', true, n::text, 'x', 'x/1', 1, '0.1', '[]',"
            " convert_to(repeat('x', 800), 'UTF8'), '' FROM generate_series(1, 20000) n"
        )
    yield endpoints
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_the_version_before_goes_on(before: Any) -> None:
    """What was prepared before is run throughout; nothing is rewritten, nobody waits for long."""
    stop, longest, stored = False, 0.0, 0
    loop = asyncio.get_running_loop()

    async def write() -> None:
        nonlocal longest, stored
        async with db.connect(before.database["gateway"], "gateway") as conn:
            while not stop:
                ours = new_tracking_id(datetime.now(UTC), secrets.token_bytes(10))
                began = loop.time()
                await conn.execute(STORE, ours, datetime.now(UTC))
                longest = max(longest, loop.time() - began)
                stored += 1

    async def work() -> None:
        nonlocal longest
        async with db.connect(before.database["worker"], "worker") as conn:
            while not stop:
                began = loop.time()
                async with conn.transaction():
                    row = await conn.fetchrow("SELECT tracking_id, received_at FROM work LIMIT 1")
                    if row is not None:
                        body = await conn.fetchval(READ, row["received_at"], row["tracking_id"])
                        assert len(body) == 800
                        await conn.execute("DELETE FROM work WHERE tracking_id = $1",
                                           row["tracking_id"])  # fmt: skip
                    await conn.execute(TENANT, f"t{stored}")
                longest = max(longest, loop.time() - began)
                await asyncio.sleep(0)

    files = "SELECT array_agg(pg_relation_filenode(inhrelid) ORDER BY 1) FROM pg_inherits" \
        " WHERE inhparent = 'inbox'::regclass"  # fmt: skip
    running = [asyncio.create_task(one()) for one in (write, write, work)]
    await asyncio.sleep(0.5)
    async with db.connect(before.database["owner"], "owner") as conn:
        were = await conn.fetchval(files)
        done = await migrate.migrate(conn)
        assert OURS in [one.number for one in done]
        at_migration = stored
        await asyncio.sleep(0.5)
        stop = True
        await asyncio.gather(*running)
        assert await conn.fetchval(files) == were
        assert await conn.fetchval("SELECT count(*) FROM inbox") == 20_000 + stored
        assert await conn.fetchval("SELECT make_inbox_partitions(14)") == 15
    assert stored > at_migration > 0
    assert longest < 5, "somebody waited for the migration"
