"""
Generated cases of replays: events of several tenants and sources, applied under bugs that are then
mended or moved, and what operators did between.

A bug is a function of an event's id, so that a worker and a rehearsal meet the same one.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch
from uuid import UUID
from zlib import crc32

from shared import db
from shared.domain.commands import Ignore, Observe
from shared.domain.events import StoredEvent
from shared.domain.keys import CustomerKey
from shared.providers.base import PayloadError
from tests.support.acme import LICENCES, REPORTS, licence, remap, report
from tests.support.draw import live
from tests.support.life import Life
from tests.support.model import CATALOG
from tests.support.stack import Stack
from workers import handlers, settling
from workers.entries import NO_LOCKS, SetGrew
from workers.granting import give
from workers.merge import UnknownTenant, Unmergeable, merge
from workers.settling import TranslationFailed
from workers.sweep import derive_again

READ, APPLY = settling._commands_of, handlers.HANDLERS[Observe]
HOW = ["raise", "ignore", "unreadable", "handler"]


@dataclass
class Bugs:
    """Which share of events meets which bug; another `salt`, other events."""

    salt: int = 0
    shares: dict[str, float] = field(default_factory=dict)

    def of(self, event: StoredEvent) -> str | None:
        draw = crc32(f"{self.salt}/{event.event_id}".encode()) / 2**32
        for how, share in self.shares.items():
            if draw < share:
                return how
            draw -= share
        return None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        def read(provider: Any, event: StoredEvent, headers: Any) -> Any:
            how = self.of(event)
            if how == "raise":
                raise TranslationFailed("KeyError", "a bug")
            if how == "unreadable":
                raise PayloadError("a bug")
            return (Ignore("a_bug"),) if how == "ignore" else READ(provider, event, headers)

        async def observe(conn: Any, scope: Any, asked: Any) -> Any:
            answers = await APPLY(conn, scope, asked)
            if any(self.of(one.event) == "handler" for one in asked):
                raise ValueError("a bug, after everything was written")
            return answers

        patched = {**handlers.HANDLERS, Observe: observe}
        with (
            patch.object(settling, "_commands_of", read),
            patch.object(handlers, "HANDLERS", patched),
        ):
            yield


def drawn_bugs(rng: random.Random, probability: float) -> Bugs:
    if rng.random() > probability:
        return Bugs()
    how = rng.sample(HOW, rng.choice([1, 1, 2]))
    return Bugs(rng.randrange(10**6), {one: rng.choice([0.1, 0.3, 0.9]) / 2 for one in how})


@dataclass
class Case:
    """`name` begins the names of all its tenants, customers and things."""

    stack: Stack
    name: str
    rng: random.Random
    lives: list[Life]
    ids: list[UUID] = field(default_factory=list)

    @classmethod
    def draw(cls, stack: Stack, seed: int, number: int) -> "Case":
        rng = random.Random(f"rehearsal/{seed}/{number}")
        name = f"c{number}"
        lives = [live(seed, f"{name}x{nth}")[0] for nth in range(rng.choice([1, 2, 2]))]
        return cls(stack, name, rng, lives)

    @property
    def tenants(self) -> list[str]:
        return [tenant for life in self.lives for tenant in life.tenants]

    async def tell(self) -> None:
        """All events, in any order and under any bugs; what has not ended is dead by then."""
        rng = self.rng
        bodies = [(body, "stripe") for life in self.lives for body in life.told]
        bodies += [(body, "acme") for body in self._from_acme()]
        rng.shuffle(bodies)
        half = rng.randrange(len(bodies) + 1)
        for part in (bodies[:half], bodies[half:]):
            with drawn_bugs(rng, 0.6).at_work():
                for source in ("stripe", "acme"):
                    told = [body for body, of in part if of == source]
                    self.ids += await self.stack.apply(*told, source=source)
            if rng.random() < 0.5:
                await self.operate()

    def _from_acme(self) -> Iterator[bytes]:
        """A few licences and reports of the same tenants, and of some that nobody else has."""
        rng, name = self.rng, self.name
        tenants = [*self.tenants, f"{name}-other", None]
        for number in range(rng.randrange(8)):
            thing, updated = rng.randrange(2), rng.randrange(1, 5)
            if rng.random() < 0.5:
                yield licence(
                    f"{name}_{number}", updated, rng.choice(["live", "live", "grace", "stopped"]),
                    id=f"lic_{name}_{thing}", account=rng.choice([f"a_{name}", f"b_{name}", None]),
                    tenant=rng.choice(tenants), skus=[rng.choice(["pro", "basic"])],
                )  # fmt: skip
            else:
                yield report(
                    f"{name}_{number}", updated, id=f"rep_{name}_{thing}",
                    tenant=rng.choice(tenants),
                )  # fmt: skip

    async def operate(self) -> None:
        """What operators do: the catalog, links, merges, gifts, and mappings."""
        rng, stack = self.rng, self.stack
        for life in self.lives:
            for customer, tenant in life.operators.items():
                if rng.random() < 0.5:
                    await stack.link(
                        CustomerKey(stack.sources["stripe"], "", True, customer), tenant
                    )
            customers = [one.id for one in life.merchant.has.customers]
            if customers and rng.random() < 0.3:
                key = CustomerKey(stack.sources["stripe"], "", True, rng.choice(customers))
                await stack.link(key, rng.choice(self.tenants))
        if rng.random() < 0.3:
            await stack.configure(**drawn_catalog(rng))
            if rng.random() < 0.6:
                await self.derive_all()
        if rng.random() < 0.3:
            await remap(stack, *drawn_mapping(rng))
        async with db.connect(stack.endpoints.database["operator"], "operator") as conn:
            if rng.random() < 0.3:
                await merge_now(conn, *rng.sample([*self.tenants, f"{self.name}-other"], 2))
            if rng.random() < 0.2:
                async with conn.transaction():
                    tenant = rng.choice(self.tenants)
                    await give(conn, tenant, "seats", rng.choice([2, 50]), None, "operator:t", "x")

    async def derive_all(self) -> None:
        """As the sweep would, but not of other cases' tenants."""
        for tenant in await self._standing():
            await derive_again(self.stack.crew, tenant)

    async def entitlements(self) -> dict[tuple[str, str], str]:
        """(tenant, feature) → what the database says of it, of all tenants of the case."""
        found = {}
        for tenant in await self._standing():
            shown = await self.stack.tenant(tenant)
            for one in shown["entitlements"] if shown is not None else ():
                key = tenant, one["feature"]
                found[key] = json.dumps([one["value"], one["validUntil"]])
        return found

    async def _standing(self) -> list[str]:
        """The case's tenants, but for those merged into others, whom their names now mean."""
        rows = await self.stack.fetch(
            "SELECT tenant FROM tenants WHERE merged_into IS NULL"
            " AND (starts_with(tenant, $1) OR tenant = $2)",
            self.name + "x",
            self.name + "-other",
        )
        return [row["tenant"] for row in rows]


async def merge_now(conn: Any, tenant: str, into: str) -> None:
    more = NO_LOCKS
    while True:
        try:
            async with conn.transaction():
                await merge(conn, tenant, into, "operator:test", "test", more)
            return
        except SetGrew as grew:
            more = grew.locks
        except (UnknownTenant, Unmergeable):
            return


def drawn_catalog(rng: random.Random) -> dict[str, Any]:
    """The lives' catalog, a little otherwise; what acme sells is in it too."""
    catalog = deepcopy(CATALOG)
    plans = catalog["plans"]
    plans["sold"] = {"products": ["acme:pro"], "features": {"seats": 7, "sso": True}, "graceS": 0}
    for plan in plans.values():
        if rng.random() < 0.3:
            for feature, value in plan["features"].items():
                if isinstance(value, int) and not isinstance(value, bool):
                    plan["features"][feature] = value + rng.choice([0, 1, 5])
    if rng.random() < 0.3:
        plans.pop(rng.choice(sorted(plans)))
    return catalog


def drawn_mapping(rng: random.Random) -> Sequence[Any]:
    licences, reports = deepcopy(LICENCES), deepcopy(REPORTS)
    match rng.randrange(6):
        case 0:
            licences["object"].pop("customer")
        case 1:
            licences["object"]["id"] = "data.account"
        case 2:
            return (licences,)
        case 3:
            return (reports,)
        case 4:
            reports["record"]["id"] = "data.tenant"
    return licences, reports
