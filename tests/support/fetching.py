"""What the tests of fetching share: a source with a key, objects that want, and a fetcher."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from shared.sealing import API_KEY_SLOT, KeyRing
from shared.store import source_keys
from shared.store.source_keys import SourceKey
from tests.support.stack import Stack
from tests.support.stripe_api import StripeServer
from tests.support.stripe_events import event, subscription
from workers.crew import Crew
from workers.fetching.fetch import Fetching
from workers.fetching.pacing import Pace

#: As in production, but for what a test would wait for.
PACE = Pace(settle_s=0, within_s=5, rate=1000, burst=1000)

ADD_OBJECT = """
INSERT INTO objects (source_id, account, livemode, kind, object_id, register, wants)
VALUES ($1, $2, $3, $4, $5, '{}', 'hint') RETURNING id
"""


@dataclass
class Scene:
    """A database with the source `stripe`, and the API that its key is for."""

    stack: Stack
    api: StripeServer
    woken: list[int] = field(default_factory=list)

    @property
    def keys(self) -> KeyRing:
        return KeyRing.parse(self.stack.endpoints.secret_key)

    async def set_key(
        self,
        key: str | None = "sk_live_1",
        *,
        source: str = "stripe",
        base: str | None = None,
        keys: KeyRing | None = None,
    ) -> int:
        """What `sluice apply` does; returns the configuration's version."""
        source_id, address = self.stack.sources[source], base or self.api.url
        async with self.stack.owner.transaction() as conn:
            version: int = await conn.fetchval(
                "INSERT INTO configuration (version, actor, mode)"
                " SELECT max(version) + 1, 'test', 'live' FROM configuration RETURNING version"
            )
            if key is None:
                await source_keys.delete_key(conn, source_id)
            else:
                sealed = (keys or self.keys).seal(
                    key, source=source, slot=API_KEY_SLOT, version=version, address=address
                )
                await source_keys.put_key(conn, source_id, SourceKey(version, sealed, address))
        await self.learn(self.stack.crew)
        return version

    async def learn(self, crew: Crew) -> None:
        """What the sweep does once a second."""
        async with crew.db.connection() as conn:
            await crew.surroundings.refresh(conn)

    async def want(
        self,
        number: str = "sub_1",
        *,
        kind: str = "subscription",
        account: str = "",
        livemode: bool = True,
        source: str = "stripe",
    ) -> int:
        """An object that wants to be fetched; its id."""
        source_id = self.stack.sources[source]
        row: int = await self.stack.value(ADD_OBJECT, source_id, account, livemode, kind, number)
        return row

    async def see(self) -> None:
        """The same for sub_1, an object that an event has told of."""
        body = event("customer.subscription.created", subscription(tenant="acme"))
        await self.stack.apply(body)
        await self.execute("UPDATE objects SET wants = 'order'")

    def fetching(
        self, crew: Crew | None = None, *, keys: KeyRing | None = None, **pace: Any
    ) -> Fetching:
        """A process's fetching. It is driven by `look`, or run."""
        return Fetching(
            crew or self.stack.crew,
            keys or self.keys,
            self.woken.extend,
            replace(PACE, **pace),
        )

    async def execute(self, query: str, *args: Any) -> None:
        async with self.stack.owner.connection() as conn:
            await conn.execute(query, *args)

    async def make_due(self) -> None:
        """As if the time until the next attempt had passed."""
        await self.execute("UPDATE fetches SET due_at = now() - interval '1 s'")

    async def pass_claims(self) -> None:
        """As if a minute had passed, and whoever claimed had died."""
        await self.execute(
            "UPDATE fetches SET claimed_until = now() WHERE claimed_until IS NOT NULL"
        )

    async def pass_wait(self) -> None:
        """As if the breaker had been open for long enough."""
        await self.execute("UPDATE fetch_budgets SET open_until = now()")

    async def row(self, number: str = "sub_1") -> dict[str, Any]:
        """The fetches row of an object, with `wait_s` until it is due."""
        (row,) = await self.stack.fetch(
            "SELECT f.*, extract(epoch FROM f.due_at - now())::float8 AS wait_s"
            " FROM fetches f JOIN objects o ON o.id = f.object WHERE o.object_id = $1",
            number,
        )
        return dict(row)

    async def budget(self) -> dict[str, Any]:
        (row,) = await self.stack.fetch(
            "SELECT *, extract(epoch FROM open_until - now())::float8 AS wait_s FROM fetch_budgets"
        )
        return dict(row)

    async def events(self) -> list[Any]:
        """The answers in the inbox, in the order of their numbers."""
        return await self.stack.fetch(
            "SELECT i.*, l.body_sha FROM inbox i JOIN ledger l USING (tracking_id)"
            " WHERE i.event_type = 'sluice.fetched' ORDER BY length(i.event_id), i.event_id"
        )


async def look(*fetchings: Fetching, times: int = 1) -> None:
    """Turns of these processes at the same time, and everything that they begin."""
    for _ in range(times):
        await asyncio.gather(*(fetching.turn() for fetching in fetchings))
        await asyncio.gather(*(fetching.finish() for fetching in fetchings))


@asynccontextmanager
async def running(fetchings: Iterable[Fetching]) -> AsyncIterator[None]:
    """As worker processes do it; stopped as they are stopped."""
    tasks = [asyncio.create_task(fetching.run()) for fetching in fetchings]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait for an async condition."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)
