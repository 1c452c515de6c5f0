"""Tokens over HTTP: how long one is known, when it stops, and that its use is noted."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from starlette.requests import Request

from gateway.api.tokens import Tokens
from gateway.limiting import Counters, Limits
from shared.db import Conn, Database
from shared.queue import Doorbell
from shared.store import tokens
from tests.gateway.conftest import Gateway, assert_envelope
from tests.gateway.test_api import add_token, get
from tests.support.stack import new_crew
from workers.fleet import work_until

ME = "/api/v1/users/me"


class Counting(Database):
    """Counts how often a connection is borrowed."""

    borrowed = 0

    def connection(self, *, timeout_s: float = 5.0) -> AbstractAsyncContextManager[Conn]:
        self.borrowed += 1
        return super().connection(timeout_s=timeout_s)


@pytest.mark.parametrize("scope", ["operator", "service", "tenant:acme"])
async def test_a_token_is_told_what_it_is(gateway: Gateway, scope: str) -> None:
    token = await add_token(gateway, scope, ends_in=timedelta(days=1))
    data = assert_envelope(await get(gateway, ME, token), 200, None)
    assert data["scope"] == scope
    assert data["tenant"] == ("acme" if scope == "tenant:acme" else None)
    assert data["createdAt"] < data["expiresAt"]
    assert data["lastUsedAt"] is None
    assert token not in str(data)


async def test_a_revoked_token_stops_within_a_second(gateway: Gateway) -> None:
    """It is asked for all the time, so the process knows it for as long as it may."""
    token = await add_token(gateway, "service")
    assert (await get(gateway, ME, token)).status_code == 200
    await gateway.owner.execute("UPDATE tokens SET revoked_at = now()")
    revoked_at = time.monotonic()
    while (await get(gateway, ME, token)).status_code == 200:
        assert time.monotonic() - revoked_at < 1.0
    assert_envelope(await get(gateway, ME, token), 401, "invalid_token")


async def test_an_expired_token_stops_within_a_second(gateway: Gateway) -> None:
    token = await add_token(gateway, "service", ends_in=timedelta(seconds=0.5))
    assert (await get(gateway, ME, token)).status_code == 200
    ends_at = time.monotonic() + 0.5
    while (await get(gateway, ME, token)).status_code == 200:
        assert time.monotonic() - ends_at < 1.0
        await asyncio.sleep(0.01)


async def test_a_known_token_is_not_looked_up_again(gateway: Gateway) -> None:
    """Thirty requests at once, and thirty after them, are one look-up; so is one a second later."""
    reader = await Counting.open(gateway.endpoints.database["reader"], "reader")
    known = Tokens(reader, Limits(Counters("")))
    token = await add_token(gateway, "service")
    headers = [(b"authorization", f"Bearer {token}".encode())]
    request = Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})
    found = await asyncio.gather(*(known.authenticate(request) for _ in range(30)))
    found += [await known.authenticate(request) for _ in range(30)]
    assert {one.scope for one in found} == {"service"}
    assert reader.borrowed == 1
    await asyncio.sleep(1)
    await known.authenticate(request)
    assert reader.borrowed == 2
    await reader.close()


async def test_who_was_let_in_a_moment_ago_is_while_the_database_is_away(gateway: Gateway) -> None:
    """What needs no database is answered; a second later nobody is known any more."""
    token = await add_token(gateway, "service")
    assert (await get(gateway, ME, token)).status_code == 200
    assert gateway.deps.api is not None
    await gateway.deps.api.reader.close()
    assert (await get(gateway, ME, token)).status_code == 200
    await asyncio.sleep(1)
    assert_envelope(await get(gateway, ME, token), 503, "store_unavailable")


async def test_a_use_is_noted_by_a_worker(gateway: Gateway) -> None:
    """From the request over Redis to the token's row, and back to whoever asks."""
    token = await add_token(gateway, "service")
    stop = asyncio.Event()
    async with new_crew(gateway.endpoints, "noting") as crew:
        working = asyncio.create_task(work_until(stop, crew, gateway.endpoints.redis, 2))
        await get(gateway, ME, token)
        async with asyncio.timeout(10):
            while await gateway.owner.fetchval("SELECT last_used_at FROM tokens") is None:
                await asyncio.sleep(0.05)
        age = await gateway.owner.fetchval(
            "SELECT extract(epoch FROM now() - last_used_at)::float8 FROM tokens"
        )
        assert 0 <= age < 10
        async with asyncio.timeout(3):
            while (await get(gateway, ME, token)).json()["data"]["lastUsedAt"] is None:
                await asyncio.sleep(0.05)
        stop.set()
        await working


async def test_the_last_use_stays_and_none_lies_ahead(gateway: Gateway) -> None:
    """Hints may be late, doubled or wrong."""
    await add_token(gateway, "service")
    row: Any = await gateway.owner.fetchrow("SELECT id FROM tokens")
    now = int(time.time())
    async with new_crew(gateway.endpoints, "noting") as crew, crew.db.connection() as conn:
        for at in (now - 50, now - 100, now + 10_000, now - 10):
            await tokens.note_use(conn, row["id"], at)
        await tokens.note_use(conn, uuid4(), now)
    used, is_past = await gateway.owner.fetchrow(
        "SELECT last_used_at, last_used_at BETWEEN now() - interval '5 s' AND now() FROM tokens"
    )
    assert is_past, used


async def test_without_redis_no_use_is_noted_and_nothing_fails() -> None:
    for url in ("", "redis://127.0.0.1:1/0"):
        doorbell = Doorbell(url)
        doorbell.note_use(uuid4(), 1)
        await doorbell.close()
        assert not doorbell._noting
