"""What tenants hold, in memory and under their locks, and what replacing a grant changes."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType

import msgspec

from shared.db import Conn
from shared.domain.audit import changed_features
from shared.domain.entitlements import Entitlement, Grant, aggregate, is_number
from shared.domain.keys import ObjectKey
from shared.domain.turns import Turn
from shared.domain.verdicts import ERASED
from shared.store import grants as grants_store
from shared.store.grants import LockedTenant
from workers.entries import NO_LOCKS, Entry, FeatureChange, SetGrew
from workers.turning import tell_turns

NO_IDS: Mapping[ObjectKey, int] = MappingProxyType({})


class TenantErased(Exception):
    """The tenant was erased."""


class Holdings:
    """
    Grants of the tenants that a transaction has locked.

    `now` is when it had locked them: what is decided is decided as of then, even if the
    transaction began earlier and had to wait. `turns` is what the clock had changed until then.
    """

    now: datetime

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.tenants: dict[str, LockedTenant] = {}
        #: tenant → object → its grants, objects of other customers and sources included
        self.held: dict[str, dict[int | ObjectKey, tuple[Grant, ...]]] = {}
        self.given: dict[int | ObjectKey, tuple[Grant, ...]] = {}
        self.changed: dict[int | ObjectKey, None] = {}
        self.had_grants: set[int] = set()

    async def lock_one(self, conn: Conn, tenant: str) -> str:
        """
        Lock a tenant, which exists from now on, or the one that it was merged into. Returns which.

        Raises:
            TenantErased: see there.
            SetGrew: begin again: it was merged meanwhile.
        """
        aliases = await grants_store.add_resolving(conn, [tenant])
        name = aliases.get(tenant, tenant)
        if name == ERASED:
            raise TenantErased(f"{tenant!r} was erased: nothing can be given to it any more")
        await self.lock(conn, {name})
        if self.tenants[name].merged_into is not None:
            raise SetGrew(NO_LOCKS)
        return name

    async def lock(self, conn: Conn, tenants: Iterable[str]) -> None:
        """Lock tenants, read what they hold, and tell the trail what the clock did to it."""
        names = set(tenants)
        self.held = {tenant: {} for tenant in names}
        self.given = {}
        if not names:
            return
        self.tenants = await grants_store.lock_tenants(conn, names)
        self.now = max(row.at for row in self.tenants.values())
        read = await grants_store.read_grants(conn, names)
        versions = {tenant: row.catalog_version for tenant, row in self.tenants.items()}
        self.turns = await tell_turns(conn, read, versions, self.now)
        for number, group in groupby(read, key=attrgetter("object_row")):
            self.given[number] = grants = tuple(one.grant for one in group)
            self.held[grants[0].tenant][number] = grants
            self.had_grants.add(number)

    def of(self, entry: Entry) -> tuple[Grant, ...]:
        """What an object gives now."""
        return self.given.get(entry.reference, ())

    def give(self, reference: int | ObjectKey, grants: tuple[Grant, ...]) -> list[FeatureChange]:
        """Replace an object's grants, and compare what the tenants concerned may use."""
        had = self.given.get(reference, ())
        if are_same(grants, had):
            return []
        concerned = dict.fromkeys(grant.tenant for grant in (*had[:1], *grants[:1]))
        features = {grant.feature for grant in (*had, *grants)}
        before = {tenant: self._entitled(tenant, features) for tenant in concerned}
        if had:
            self.held[had[0].tenant].pop(reference, None)
        if grants:
            self.held[grants[0].tenant][reference] = grants
        self.given[reference] = grants
        self.changed[reference] = None
        changes = []
        for tenant in concerned:
            found = changed_features(before[tenant], self._entitled(tenant, features))
            changes += [FeatureChange(tenant, *change) for change in found]
        return changes

    def follow(self, number: int, added: Container[str]) -> list[FeatureChange]:
        """What was given by hand stays; only whether it adds is the catalog's to say."""
        return self.give(number, tuple(_by_hand(self.given.get(number, ()), added)))

    def move(self, number: int, tenant: str, added: Container[str]) -> None:
        """What was given by hand to one tenant is now another's."""
        grants = _by_hand(self.given.get(number, ()), added)
        self.give(number, tuple(msgspec.structs.replace(grant, tenant=tenant) for grant in grants))

    def entitled(self, tenant: str) -> dict[str, Entitlement]:
        """What the tenant may use as things stand in memory."""
        return aggregate(
            [grant for grants in self.held[tenant].values() for grant in grants], self.now
        )

    def changes_since(self, tenant: str, before: dict[str, Entitlement]) -> list[FeatureChange]:
        """What the tenant may use otherwise than before."""
        found = changed_features(before, self.entitled(tenant))
        return [FeatureChange(tenant, *change) for change in found]

    async def save(
        self, conn: Conn, catalog_version: int, ids: Mapping[ObjectKey, int] = NO_IDS
    ) -> None:
        """Write the replaced grants; `ids` are those of objects that had none when they gave."""
        if not self.changed:
            return
        grants = {
            reference if isinstance(reference, int) else ids[reference]: self.given[reference]
            for reference in self.changed
        }
        had_some = sorted(grants.keys() & self.had_grants)
        await grants_store.replace_grants(conn, grants, had_some, catalog_version, self.now)

    def _entitled(self, tenant: str, features: Container[str]) -> dict[str, Entitlement]:
        bearing = [
            grant
            for grants in self.held[tenant].values()
            for grant in grants
            if grant.feature in features
        ]
        return aggregate(bearing, self.now)


def _by_hand(grants: Iterable[Grant], added: Container[str]) -> Iterator[Grant]:
    for grant in grants:
        adds = grant.feature in added and is_number(grant.value)
        yield msgspec.structs.replace(grant, adds=adds)


def are_same(some: Sequence[Grant], others: Sequence[Grant]) -> bool:
    """Whether they are the same grants, the types of their values included."""
    return [grant.identity for grant in some] == [grant.identity for grant in others]
