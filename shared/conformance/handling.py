"""
A bench for handlers: a fresh database, and one handler at a time in a real transaction on it.

    async def test_it_counts(sluice_bench: Bench) -> None:
        await sluice_bench.execute(SCHEMA)
        handled = await sluice_bench.handle(Usage(), UsageReport(license="lic_1", units=3))
        assert handled.result.outcome == "applied"
        assert await sluice_bench.value("SELECT sum(units) FROM beacon.usage") == 3
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from shared import db
from shared.domain.commands import Extension
from shared.plugin import Event, Handler, Result

C = TypeVar("C", bound=Extension)

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Handled:
    """
    What a handler did, and what it sent: (key or None, payload) in order. It is committed; the
    messages are not sent.
    """

    result: Result
    messages: tuple[tuple[str | None, Any], ...]


class Bench:
    """A database of one test's own. `urls` are where each role finds it."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = urls

    async def execute(self, query: str) -> None:
        """Run SQL as the owner, several statements if need be."""
        async with db.connect(self.urls["owner"], "owner") as conn:
            await conn.execute(query)

    async def value(self, query: str, *args: Any) -> Any:
        """The first column of a query's first row, asked as the owner."""
        async with db.connect(self.urls["owner"], "owner") as conn:
            return await conn.fetchval(query, *args)

    async def handle(self, handler: Handler[C], command: C, event: Event | None = None) -> Handled:
        """
        Have a handler apply a command as a worker does: in its role, and not for longer than
        `timeout_s`. What it did is committed.

        Raises:
            Exception: what the handler raised; then nothing of what it did is left.
        """
        from workers.extensions.running import HandlerFailed, run

        async with (
            db.connect(self.urls["worker"], "worker") as conn,
            conn.transaction(),
        ):
            now = await conn.fetchval("SELECT now()")
            try:
                result, sent = await run(conn, handler, event or made_event(), command, now)
            except HandlerFailed as failed:
                if failed.__cause__ is None:
                    raise
                raise failed.__cause__ from None
        return Handled(result, tuple((key, json.loads(payload)) for key, payload in sent))


def made_event(event_type: str = "entitlement.granted", body: Any = None, **fields: Any) -> Event:
    """
    An event as a handler is given it. `body` is its JSON document, or bytes; `fields` are those
    of `Event`.
    """
    number = next(_numbers)
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    provider, _, _ = event_type.partition(".")
    given: dict[str, Any] = {
        "tracking_id": UUID(int=number),
        "source": "test",
        "provider": "sluice" if provider == "entitlement" else "test",
        "event_id": f"evt_{number}",
        "subject": f"test/{number}",
        "account": "",
        "livemode": True,
        "received_at": datetime(2026, 11, 21, 12, tzinfo=UTC),
        "occurred_at": datetime(2026, 11, 21, 11, tzinfo=UTC),
        "headers": (),
        "run": 1,
    }
    return Event(event_type=event_type, body=content, **{**given, **fields})


@contextmanager
def benched(servers: Mapping[str, str]) -> Iterator[Bench]:
    """A bench for as long as the block lasts."""
    name = f"bench_{next(_numbers)}"
    _as_owner(servers, f"CREATE DATABASE {name} TEMPLATE sluice")
    try:
        yield Bench(
            {
                role: urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
                for role, url in servers.items()
            }
        )
    finally:
        _as_owner(servers, f"DROP DATABASE {name} WITH (FORCE)")


def _as_owner(servers: Mapping[str, str], statement: str) -> None:
    """In a thread, for the test may have an event loop of its own."""
    url = urlunsplit(urlsplit(servers["owner"])._replace(path="/postgres"))

    async def run() -> None:
        async with db.connect(url, "owner") as conn:
            await conn.execute(statement)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result()
