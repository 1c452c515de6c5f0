"""
What an apply would change for whom, before it is written.

Whose entitlements could change is found in one pass over the objects, without a lock. These
tenants are then derived by the same code as afterwards by the sweep, each in a transaction of its
own that is rolled back: its locks last as long as one tenant takes, and none is held while
somebody thinks about what is shown. It tells of now: an event that comes before the sweep is not
in it.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shared.db import Conn, is_lock_timeout
from shared.domain.catalog import DEFAULT_GRACE_S, Catalog, Origin
from shared.domain.entitlements import Entitlement
from shared.domain.register import Register
from shared.domain.states import ObjectState
from shared.providers import providers
from shared.store import audit, catalogs, manual_grants
from shared.store.configuration import Stored
from shared.store.paging import iso
from shared.store.source_rows import SourceRow, read_sources
from workers.declaration import COMBINES, Declaration
from workers.difference import Difference, is_told_otherwise
from workers.entitle import derive_tenant
from workers.entries import NO_LOCKS, FeatureChange, SetGrew, net_changes
from workers.surroundings import Surroundings

LISTED = 20
_TRIES = 4

#: Told how far it is: what is done, and of how many; None while it is being found out who is
#: concerned, and objects are counted.
Report = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What would change. `changes` are those of the first `LISTED` tenants by name, `tenants` and
    `actions` count all; `busy` tenants could not be looked at, because somebody held their rows.
    """

    changes: tuple[FeatureChange, ...] = ()
    listed: int = 0
    tenants: int = 0
    looked_at: int = 0
    busy: int = 0
    actions: Mapping[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "tenants": self.tenants,
            "listed": self.listed,
            "lookedAt": self.looked_at,
            "busy": self.busy,
            "actions": dict(self.actions),
            "changes": [
                {
                    "tenant": change.tenant,
                    "feature": change.feature,
                    "action": change.action,
                    "before": _shown(change.before),
                    "after": _shown(change.after),
                }
                for change in self.changes
            ],
        }


async def preview(
    conn: Conn,
    stored: Stored,
    declared: Declaration,
    found: Difference,
    report: Report = lambda done, total: None,
) -> Preview:
    """
    What the tenants' entitlements would be, and are not now. `conn` is in no transaction.

    `found` is what `compare` says of `stored` and `declared`; where it derives nothing again,
    nothing changes.
    """
    if not found.derives_again:
        return Preview()
    rows = {row.id: row for row in await read_sources(conn)}
    document = {"plans": stored.plans, "features": stored.features}
    before = Supposed(stored.version, stored.mode, rows)
    after = Supposed(
        stored.version + 1,
        found.mode,
        {number: _supposed_row(row, declared, found) for number, row in rows.items()},
        {found.catalog_version: Catalog.read(found.catalog_version, found.catalog)},
    )
    concern = Concern.between(document, found.catalog, _told_otherwise(stored, declared))
    tenants = {tenant async for tenant in catalogs.tenants_behind(conn, stored.catalog_version)}
    tenants |= await manual_grants.tenants_given(conn, _combined_otherwise(document, found.catalog))
    seen = 0
    async for owned in catalogs.owned_objects(conn):
        seen += len(owned)
        report(seen, None)
        tenants |= {
            one.tenant
            for one in owned
            if concern.is_with(
                one.source_id,
                before.origin(one.source_id, one.livemode),
                after.origin(one.source_id, one.livemode),
                one.register,
            )
        }
    return await _derive_all(conn, after, sorted(tenants), report)


class Supposed(Surroundings):
    """What would hold. Asked, it reads nothing."""

    async def refresh(self, conn: Conn) -> bool:
        """Nothing changes what is supposed."""
        del conn
        return False

    async def catalog(self, conn: Conn) -> Catalog:
        """The one catalog there would be."""
        del conn
        (catalog,) = self._catalogs.values()
        return catalog


def _supposed_row(row: SourceRow, declared: Declaration, found: Difference) -> SourceRow:
    source = declared.sources.get(row.name)
    if source is not None:
        return replace(
            row,
            provider=source.provider,
            livemode=source.livemode,
            is_removed=False,
            settings=source.settings,
        )
    gone = {one.name for one in found.changes if (one.kind, one.action) == ("source", "removed")}
    return replace(row, is_removed=row.is_removed or row.name in gone)


def _told_otherwise(stored: Stored, declared: Declaration) -> frozenset[int]:
    """The sources, by id, that would be told to grant otherwise."""
    return frozenset(
        old.id
        for name, source in declared.sources.items()
        if (old := stored.sources.get(name)) is not None
        and is_told_otherwise(old, source, providers()[source.provider])
    )


@dataclass(frozen=True, slots=True)
class Concern:
    """
    Which objects two catalogs may give other things: a superset, cheap to tell.

    `plans` are the names of those that mean something else, `products` the catalog's keys that
    lead to other plans or to such ones, `sources` the ids of those that grant otherwise.
    """

    plans: frozenset[str]
    products: frozenset[str]
    sources: frozenset[int]

    @classmethod
    def between(
        cls, before: Mapping[str, Any], after: Mapping[str, Any], sources: frozenset[int]
    ) -> "Concern":
        """Of two catalog documents."""
        old, new = _meanings(before), _meanings(after)
        plans = frozenset(
            name for name in old.keys() | new.keys() if old.get(name) != new.get(name)
        )
        sold, sells = _plans_by_product(before), _plans_by_product(after)
        products = frozenset(
            product
            for product in sold.keys() | sells.keys()
            if sold.get(product) != sells.get(product) or plans & sells.get(product, frozenset())
        )
        return cls(plans, products, sources)

    def is_with(self, source_id: int, before: Origin, after: Origin, register: Register) -> bool:
        """Whether an object of this register may give something else."""
        if source_id in self.sources or before != after:
            return True
        owners = (after.source, after.provider)
        return any(self._names(sighting.state, owners) for sighting in register.sightings)

    def _names(self, state: ObjectState, owners: tuple[str, str]) -> bool:
        if state.plan in self.plans:
            return True
        refs = [ref for item in state.items for ref in item.refs]
        if state.offer is not None:
            refs.append(state.offer)
        return any(f"{owner}:{ref}" in self.products for ref in refs for owner in owners)


def _combined_otherwise(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The features that two catalog documents combine in different ways."""
    old, new = (
        {name: entry.get("combine", "max") for name, entry in document["features"].items()}
        for document in (before, after)
    )
    return [
        name
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "max") != new.get(name, "max")
    ]


def _meanings(document: Mapping[str, Any]) -> dict[str, str]:
    """What each plan gives, and how it adds up with others; as text, since True equals 1."""
    features = document["features"]
    return {
        name: json.dumps(
            [
                {"graceS": DEFAULT_GRACE_S, "rank": 0, **plan, "products": None},
                {
                    feature: features.get(feature, {}).get("combine", COMBINES[0])
                    for feature in plan["features"]
                },
            ],
            sort_keys=True,
        )
        for name, plan in document["plans"].items()
    }


def _plans_by_product(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for name, plan in document["plans"].items():
        for product in plan["products"]:
            found.setdefault(product, set()).add(name)
    return {product: frozenset(names) for product, names in found.items()}


async def _derive_all(
    conn: Conn, after: Surroundings, tenants: list[str], report: Report
) -> Preview:
    changes: list[FeatureChange] = []
    actions: Counter[str] = Counter()
    changed = listed = busy = 0
    for done, tenant in enumerate(tenants):
        report(done, len(tenants))
        found = await _derive_and_roll_back(conn, after, tenant)
        if found is None:
            busy += 1
            continue
        net = net_changes(found)
        actions.update(change.action for change in net)
        changed += bool(net)
        if net and listed < LISTED:
            listed += 1
            changes += net
    report(len(tenants), len(tenants))
    return Preview(tuple(changes), listed, changed, len(tenants), busy, actions)


class _Derived(Exception):
    """Rolls a transaction back that has told what it would change."""

    def __init__(self, changes: list[FeatureChange]) -> None:
        super().__init__("nothing of this is written")
        self.changes = changes


async def _derive_and_roll_back(
    conn: Conn, after: Surroundings, tenant: str
) -> list[FeatureChange] | None:
    """What deriving the tenant would change; None where somebody else held its rows each time."""
    more = NO_LOCKS
    tries = 0
    while tries < _TRIES:
        try:
            async with conn.transaction():
                await catalogs.wait_briefly(conn)
                now, _ = await audit.moment(conn)
                changes, _ = await derive_tenant(conn, after, now, tenant, more)
                raise _Derived(changes)
        except _Derived as derived:
            return derived.changes
        except SetGrew as grew:
            more = grew.locks
        except Exception as error:
            # Lost to a worker, which is in the right: it does something.
            if not is_lock_timeout(error) and getattr(error, "sqlstate", None) != "40P01":
                raise
            tries += 1
            await asyncio.sleep(random.uniform(0.05, 0.2) * tries)  # noqa: S311 - jitter
    return None


def _shown(entitlement: Entitlement | None) -> dict[str, Any] | None:
    if entitlement is None:
        return None
    return {"value": entitlement.value, "validUntil": iso(entitlement.valid_until)}
