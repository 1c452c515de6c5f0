"""Drive the real thing from a test: configure, receive, drain, read."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from shared.db import Database
from shared.domain.events import (
    FETCHED,
    Headers,
    Identity,
    lane_number,
    new_tracking_id,
    unreadable_identity,
)
from shared.domain.keys import CustomerKey
from shared.domain.outcomes import RetryPolicy
from shared.providers.base import PayloadError, Provider
from shared.settings import Endpoints, Settings
from shared.store import audit, backlog, intake
from shared.store.intake import Delivery, Receipt
from shared.store.tenants import read_tenant
from workers.crew import Crew, enlisted
from workers.entitle import link_customer
from workers.entries import NO_LOCKS, SetGrew
from workers.process import Progress, visit

SECRET = "whsec_test"
PLANS = {
    "pro": {
        "products": ["stripe:prod_pro"],
        "features": {"seats": 10, "sso": True},
        "graceS": 7 * 86400,
    },
    "basic": {"products": ["stripe:prod_basic"], "features": {"seats": 1}, "graceS": 0},
}

ADD_SOURCE = "INSERT INTO sources (name, provider, livemode) VALUES ($1, $2, $3) RETURNING id"
ADD_LANES = "INSERT INTO lanes (source_id, number) SELECT $1, generate_series(0, 15)"


def with_database(endpoints: Endpoints, name: str) -> Endpoints:
    """The same servers, another database."""
    urls = {
        role: urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        for role, url in endpoints.database.items()
    }
    return replace(endpoints, database=urls)


@dataclass
class Stack:
    """One database with everything that a test does to it."""

    endpoints: Endpoints
    owner: Database
    gateway: Database
    crew: Crew
    sources: dict[str, int]

    @classmethod
    @asynccontextmanager
    async def open(cls, endpoints: Endpoints) -> AsyncIterator["Stack"]:
        owner = await Database.open(endpoints.database["owner"], "owner", size=4)
        gateway = await Database.open(endpoints.database["gateway"], "gateway", size=2)
        async with new_crew(endpoints, "test") as crew:
            try:
                yield cls(endpoints, owner, gateway, crew, {})
            finally:
                await owner.close()
                await gateway.close()

    async def configure(
        self,
        sources: Mapping[str, bool] | None = None,
        plans: Mapping[str, Any] | None = None,
        mode: str = "live",
        features: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Add sources (name → livemode) and a catalog version, as `sluice apply` would. `features`
        says how the values of some are combined: {"seats": {"combine": "sum"}}. Other providers
        than Stripe: `add_source` comes first.
        """
        async with self.owner.transaction() as conn:
            for name, livemode in (sources or {"stripe": True}).items():
                if name not in self.sources:
                    self.sources[name] = await conn.fetchval(ADD_SOURCE, name, "stripe", livemode)
                    await conn.execute(ADD_LANES, self.sources[name])
            await conn.execute(
                "INSERT INTO configuration (version, actor, mode)"
                " SELECT max(version) + 1, 'test', $1 FROM configuration",
                mode,
            )
            await conn.execute(
                "INSERT INTO catalogs (version, actor, document)"
                " SELECT max(version) + 1, 'test', $1 FROM catalogs",
                {"plans": plans if plans is not None else PLANS, "features": dict(features or {})},
            )
            await self.crew.surroundings.refresh(conn)

    async def add_source(
        self, name: str, provider: str, livemode: bool | None = None, **settings: Any
    ) -> None:
        """Add a source of any provider, with its settings and tables, as `sluice apply` would."""
        async with self.owner.transaction() as conn:
            self.sources[name] = source_id = await conn.fetchval(
                "INSERT INTO sources (name, provider, livemode, settings)"
                " VALUES ($1, $2, $3, $4) RETURNING id",
                name, provider, livemode, settings,
            )  # fmt: skip
            await conn.execute(ADD_LANES, source_id)
            await conn.execute(
                "INSERT INTO configuration (version, actor, mode)"
                " SELECT max(version) + 1, 'test', (SELECT mode FROM configuration"
                "   ORDER BY version DESC LIMIT 1) FROM configuration"
            )
            await self.crew.surroundings.refresh(conn)

    async def set(self, source: str = "stripe", **settings: str) -> None:
        """Change a source's settings, as `sluice apply` would."""
        async with self.owner.transaction() as conn:
            await conn.execute(
                "UPDATE sources SET settings = $2 WHERE id = $1", self.sources[source], settings
            )
            await conn.execute(
                "INSERT INTO configuration (version, actor, mode)"
                " SELECT max(version) + 1, 'test', 'live' FROM configuration"
            )
            await self.crew.surroundings.refresh(conn)

    async def link(self, customer: CustomerKey, tenant: str) -> None:
        """Make an operator's link, as `sluice tenants link` does."""
        more = NO_LOCKS
        while True:
            try:
                async with self.crew.db.transaction() as conn:
                    now, _ = await audit.moment(conn)
                    surroundings = self.crew.surroundings
                    await link_customer(
                        conn, surroundings, now, customer, tenant, "operator:test", more
                    )
                return
            except SetGrew as grew:
                more = grew.locks

    async def lanes(self, source: str = "stripe") -> list[int]:
        rows = await self.fetch("SELECT id FROM lanes WHERE source_id = $1 ORDER BY number",
                                self.sources[source])  # fmt: skip
        return [row["id"] for row in rows]

    async def receive(
        self, *bodies: bytes, source: str = "stripe", headers: Sequence[Headers] = ()
    ) -> list[Receipt]:
        """
        Store bodies as the gateway does once their signature is verified. `headers` are those of
        each, for providers that read them.
        """
        lanes = await self.lanes(source)
        source_id = self.sources[source]
        provider = self.crew.surroundings.provider(source_id)
        came = headers or [()] * len(bodies)
        deliveries = [
            _delivery(provider, body, carried, source_id, lanes)
            for body, carried in zip(bodies, came, strict=True)
        ]
        receipts: list[Receipt] = []
        async with self.gateway.connection() as conn:
            for first in range(0, len(deliveries), 500):
                receipts += await intake.record(conn, deliveries[first : first + 500])
        return receipts

    async def drain(self, crew: Crew | None = None) -> None:
        """Visit lanes until nothing is due."""
        await drain(crew or self.crew)

    async def apply(
        self, *bodies: bytes, source: str = "stripe", headers: Sequence[Headers] = ()
    ) -> list[UUID]:
        """Receive, and drain."""
        receipts = await self.receive(*bodies, source=source, headers=headers)
        await self.drain()
        return [receipt.tracking_id for receipt in receipts]

    async def tenant(self, tenant: str) -> dict[str, Any] | None:
        async with self.owner.connection() as conn:
            return await read_tenant(conn, tenant)

    async def features(self, tenant: str) -> dict[str, Any]:
        """feature → value of what the tenant may use now."""
        found = await self.tenant(tenant)
        given = found["entitlements"] if found is not None else []
        return {one["feature"]: one["value"] for one in given}

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        async with self.owner.connection() as conn:
            return await conn.fetch(query, *args)

    async def value(self, query: str, *args: Any) -> Any:
        async with self.owner.connection() as conn:
            return await conn.fetchval(query, *args)

    async def outcomes(self, ids: Iterable[UUID]) -> list[str]:
        """The outcome of each event's latest run, or "unfinished"."""
        rows = await self.fetch(
            "SELECT DISTINCT ON (tracking_id) tracking_id, outcome FROM settlements"
            " ORDER BY tracking_id, run DESC"
        )
        found = {row["tracking_id"]: row["outcome"] for row in rows}
        return [found.get(one, "unfinished") for one in ids]


@asynccontextmanager
async def new_crew(
    endpoints: Endpoints, name: str, *, retry: RetryPolicy | None = None, batch_size: int = 100
) -> AsyncIterator[Crew]:
    """Another worker's connections."""
    settings = Settings(worker_slots=6, batch_size=batch_size)
    async with enlisted(name, settings, endpoints) as crew:
        crew.retry = retry or RetryPolicy(4, 0.02, 0.1)
        yield crew


async def drain(crew: Crew, *, at_once: int = 4) -> None:
    """
    Visit lanes as a worker does, until nothing is due and nothing waits for its retry, but for what
    paused sources have sent.
    """
    while True:
        async with crew.db.connection() as conn:
            await crew.surroundings.refresh(conn)
            lanes = await backlog.lanes_with_due_work(conn)
            waiting = await conn.fetchval(
                "SELECT count(*) FROM work w JOIN lanes l ON l.id = w.lane"
                " JOIN sources s ON s.id = l.source_id WHERE NOT w.alone AND s.paused_at IS NULL"
            )
        if not lanes:
            if not waiting:
                return
            await asyncio.sleep(0.01)
        slots = asyncio.Semaphore(at_once)

        await asyncio.gather(*(_visit_all(crew, lane, slots) for lane in lanes))


async def _visit_all(crew: Crew, lane: int, slots: asyncio.Semaphore) -> None:
    async with slots:
        while await visit(crew, lane) is Progress.MORE:
            pass


def _answered(body: bytes) -> Identity | None:
    """The identity of a fetch's answer, which comes through no gateway."""
    if not body.startswith(b'{"object": "sluice.fetched"'):
        return None
    answer = json.loads(body)
    subject = f"{answer['kind']}/{answer['id']}"
    return Identity(f"sluice.fetch/{answer['number']}", FETCHED, subject, livemode=True)


def _delivery(
    provider: Provider, body: bytes, headers: Headers, source_id: int, lanes: list[int]
) -> Delivery:
    unreadable = None
    try:
        identity = _answered(body) or provider.identify(headers, body)
    except PayloadError as error:
        identity, unreadable = unreadable_identity(body), str(error)
    return Delivery(
        tracking_id=new_tracking_id(datetime.now(UTC), secrets.token_bytes(10)),
        source_id=source_id,
        lane=lanes[lane_number(identity.subject)],
        identity=identity,
        unreadable=unreadable,
        secret="0.1",
        headers=json.dumps(headers).encode(),
        body=body,
        body_sha=sha256(body).digest(),
        trace_context="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
