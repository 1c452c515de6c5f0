"""What tenants hold, in memory and under their locks, and what replacing a grant changes."""

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from shared.db import Conn
from shared.domain.audit import changed_features
from shared.domain.entitlements import Entitlement, Grant, aggregate
from shared.domain.keys import ObjectKey
from shared.domain.turns import Turn
from shared.store import grants as grants_store
from workers.entries import Entry, FeatureChange
from workers.turning import tell_turns


class Holdings:
    """
    Grants of the tenants that a transaction has locked.

    `now` is when it had locked them: what is decided is decided as of then, even if the
    transaction began earlier and had to wait. `turns` is what the clock had changed until then.
    """

    now: datetime

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        #: tenant → object → its grants, objects of other customers and sources included
        self.held: dict[str, dict[int | ObjectKey, tuple[Grant, ...]]] = {}
        self.given: dict[int | ObjectKey, tuple[Grant, ...]] = {}
        self.changed: dict[int | ObjectKey, Entry] = {}
        self.had_grants: set[int] = set()

    async def lock(self, conn: Conn, tenants: Iterable[str]) -> dict[str, int]:
        """
        Lock the tenants, read what they hold, and tell the trail what the clock did to it.

        Returns the catalogs it was derived with.
        """
        names = set(tenants)
        self.held = {tenant: {} for tenant in names}
        self.given = {}
        if not names:
            return {}
        self.now, versions = await grants_store.lock_tenants(conn, names)
        read = await grants_store.read_grants(conn, names)
        self.turns = await tell_turns(conn, read, versions, self.now)
        for number, group in groupby(read, key=attrgetter("object_row")):
            self.given[number] = grants = tuple(one.grant for one in group)
            self.held[grants[0].tenant][number] = grants
            self.had_grants.add(number)
        return versions

    def of(self, entry: Entry) -> tuple[Grant, ...]:
        """What an object gives now."""
        return self.given.get(entry.reference, ())

    def give(self, entry: Entry, grants: tuple[Grant, ...]) -> list[FeatureChange]:
        """Replace an object's grants, and compare what the tenants concerned may use."""
        had = self.of(entry)
        if are_same(grants, had):
            return []
        reference = entry.reference
        concerned = dict.fromkeys(grant.tenant for grant in (*had[:1], *grants[:1]))
        features = {grant.feature for grant in (*had, *grants)}
        before = {tenant: self._entitled(tenant, features) for tenant in concerned}
        if had:
            self.held[had[0].tenant].pop(reference, None)
        if grants:
            self.held[grants[0].tenant][reference] = grants
        self.given[reference] = grants
        self.changed[reference] = entry
        changes = []
        for tenant in concerned:
            found = changed_features(before[tenant], self._entitled(tenant, features))
            changes += [FeatureChange(tenant, *change) for change in found]
        return changes

    async def save(
        self, conn: Conn, references: Mapping[int | ObjectKey, int], catalog_version: int
    ) -> None:
        """Write the replaced grants; `references` are the objects' ids by what they were under."""
        if not self.changed:
            return
        grants = {references[reference]: self.given[reference] for reference in self.changed}
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


def are_same(some: Sequence[Grant], others: Sequence[Grant]) -> bool:
    """Whether they are the same grants, the types of their values included."""
    return [grant.identity for grant in some] == [grant.identity for grant in others]
