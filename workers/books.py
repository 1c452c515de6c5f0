"""
Customers, objects, tenants and grants of one transaction, in memory.

Three steps under the lock order of `shared.store.objects`: lock the customers and read what they
stand on; fold and link in memory, which tells whose tenants are concerned; lock those, read their
grants and the catalog, and decide. What is decided is written at the end, set-based.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec

from shared.db import Conn
from shared.domain.audit import changed_features
from shared.domain.commands import Observe
from shared.domain.entitlements import (
    Catalog,
    Entitlement,
    Grant,
    Links,
    aggregate,
    decide,
    earliest_references,
    resolve_tenant,
)
from shared.domain.outcomes import Outcome
from shared.domain.register import NOTHING, Observation, Register, fold
from shared.domain.states import (
    CUSTOMER_KIND,
    LINKING_KINDS,
    SESSION_KIND,
    digest_of,
    encode_state,
)
from shared.store import grants as grants_store
from shared.store import objects
from shared.store.objects import CustomerKey, NewObservation, ObjectKey, StoredObject
from workers.surroundings import Surroundings


class SetGrew(Exception):
    """An object turned out to belong to a customer that was not locked: roll back, start larger."""

    def __init__(self, customers: frozenset[CustomerKey]) -> None:
        super().__init__("the set of customers grew")
        self.customers = customers


class FeatureChange(msgspec.Struct, frozen=True):
    """One tenant's entitlement to one feature, before and after."""

    tenant: str
    feature: str
    action: str
    before: Entitlement | None
    after: Entitlement | None


@dataclass(slots=True)
class Answer:
    """What became of one observation. `outcome` is a step-0 word of the audit trail."""

    outcome: Outcome
    tenant: str | None
    subject: str
    code: str | None
    changes: list[FeatureChange]
    catalog_version: int


class Sighted(msgspec.Struct, frozen=True):
    """An observation that came with an event. `replayed`: an earlier run's is to be replaced."""

    key: ObjectKey
    tracking_id: UUID
    event_id: str
    command: Observe
    replayed: bool

    @property
    def customer(self) -> CustomerKey | None:
        """Whose lock the observed object needs."""
        named = self.command.after.customer
        return CustomerKey(*self.key[:3], named) if named is not None else None


@dataclass(slots=True)
class Entry:
    """An object in memory, beside what its row said."""

    stored: StoredObject
    observations: dict[str, tuple[UUID, Observation]] = field(default_factory=dict)
    is_dirty: bool = False

    @property
    def reference(self) -> int | ObjectKey:
        """What its grants are kept under: its id, or its key until it has one."""
        return self.stored.id or self.stored.key


@dataclass(frozen=True, slots=True)
class Step:
    """What one event leaves to be decided: objects with their registers and links at that point."""

    entry: Entry | None
    superseded: bool
    affected: tuple[tuple[Entry, Register, Links], ...]


class Books:
    """Customers, objects, tenants and grants of one transaction, in memory."""

    def __init__(self, surroundings: Surroundings, now: datetime) -> None:
        self.surroundings = surroundings
        self.now = now
        self.catalog = Catalog(0, {})
        self.operator_links: dict[CustomerKey, str | None] = {}
        self.entries: dict[ObjectKey, Entry] = {}
        self.by_customer: dict[CustomerKey, list[Entry]] = {}
        self.added: list[NewObservation] = []
        #: tenant → object → its grants, objects of other customers and sources included
        self.held: dict[str, dict[int | ObjectKey, tuple[Grant, ...]]] = {}
        self.given: dict[int | ObjectKey, tuple[Grant, ...]] = {}
        self.changed: dict[int | ObjectKey, Entry] = {}
        self.had_grants: set[int] = set()

    async def load(
        self,
        conn: Conn,
        customers: Iterable[CustomerKey],
        keys: Iterable[ObjectKey],
        whole: Container[CustomerKey],
    ) -> None:
        """Lock the customers, then read their links, the objects at `keys`, and what these saw."""
        self.operator_links = await objects.lock_customers(conn, customers)
        keys = set(keys)
        for stored in await objects.read_objects(conn, self.operator_links, whole, keys):
            self._enter(Entry(stored))
        grown = {
            entry.stored.owner for entry in self.entries.values() if entry.stored.owner is not None
        } - self.operator_links.keys()
        if grown:
            raise SetGrew(frozenset(self.operator_links.keys() | grown))
        ids = [self.entries[key].stored.id for key in keys if key in self.entries]
        if ids:
            seen = await objects.read_observations(conn, ids)
            for key in keys & self.entries.keys():
                entry = self.entries[key]
                entry.observations = seen.get(entry.stored.id, {})

    def sight(self, one: Sighted) -> Step:
        """Fold an observation into its object, and find out what that bears on."""
        others = self.forget(one.event_id, one.tracking_id, but=one.key) if one.replayed else []
        entry = self.entries.get(one.key)
        before = entry.stored.register if entry is not None and entry.observations else None
        command = one.command
        observation = Observation(
            one.event_id,
            command.version,
            command.shape,
            digest_of(encode_state(command.before)) if command.before is not None else None,
            digest_of(encode_state(command.after)),
            command.after,
        )
        if entry is None:
            empty = Register(command.version)
            entry = Entry(StoredObject(0, one.key, None, None, empty, None))
            self.entries[one.key] = entry
        entry.observations[one.event_id] = (one.tracking_id, observation)
        self.added.append(NewObservation(one.key, observation, one.tracking_id))
        links_before = self._links(entry.stored.owner)
        self._fold(entry)
        superseded = entry.stored.register == before and (
            command.version < entry.stored.register.version or entry.stored.register.terminal
        )
        affected = [entry, *others]
        customer = entry.stored.owner
        is_link = one.key.kind in LINKING_KINDS or others
        if is_link and customer is not None and self._links(customer) != links_before:
            affected += self.by_customer[customer]
        return Step(entry, superseded, self._at_this_point(affected))

    def take_back(self, event_id: str, tracking_id: UUID) -> Step:
        """Undo what an earlier run of an event observed, without another observation for it."""
        without = self.forget(event_id, tracking_id)
        owners = {entry.stored.owner for entry in without if entry.stored.owner is not None}
        related = [entry for owner in owners for entry in self.by_customer.get(owner, ())]
        return Step(None, False, self._at_this_point([*without, *related]))

    def forget(self, event_id: str, tracking_id: UUID, but: ObjectKey | None = None) -> list[Entry]:
        """Remove an earlier run's observation; returns the objects it leaves, except `but`."""
        without = []
        for entry in self.entries.values():
            seen = entry.observations.get(event_id)
            if seen is None or seen[0] != tracking_id:
                continue
            del entry.observations[event_id]
            if entry.stored.key != but:
                self._fold(entry)
                without.append(entry)
        return without

    def derive_again(self, entries: Iterable[Entry]) -> Step:
        """A step that only decides again, with registers as they are."""
        return Step(None, False, self._at_this_point(entries))

    async def lock_tenants(
        self, conn: Conn, steps: Iterable[Step], named: Iterable[str] = ()
    ) -> dict[str, int]:
        """
        Lock every tenant that any step concerns; then read the catalog and their grants.

        Returns the catalog versions that the tenants' grants were derived with.
        """
        tenants = set(named)
        for step in steps:
            for entry, register, links in step.affected:
                resolved, _ = resolve_tenant(register.newest.tenant, links)
                tenants.update(
                    tenant for tenant in (resolved, entry.stored.tenant) if tenant is not None
                )
        versions = await grants_store.lock_tenants(conn, tenants)
        self.catalog = await self.surroundings.catalog(conn)
        self.held = {tenant: {} for tenant in tenants}
        read = await grants_store.read_grants(conn, tenants) if tenants else {}
        self.given = dict(read.items())
        for reference, grants in self.given.items():
            self.held[grants[0].tenant][reference] = grants
        self.had_grants = set(read)
        return versions

    def answer(self, step: Step) -> Answer:
        """Decide a step that an event caused."""
        assert step.entry is not None
        stood = [(entry.stored.tenant, entry.stored.parked) for entry, _, _ in step.affected]
        granted = [self.given.get(entry.reference, ()) for entry, _, _ in step.affected]
        changes = self.decide(step)
        own = step.entry.stored
        moved = any(
            was != (entry.stored.tenant, entry.stored.parked)
            or not _are_same(had, self.given.get(entry.reference, ()))
            for was, had, (entry, _, _) in zip(stood, granted, step.affected, strict=True)
        )
        if changes or (moved and own.parked is None):
            outcome: Outcome = "applied"
        elif own.parked is not None:
            outcome = "parked"
        else:
            outcome = "superseded" if step.superseded else "unchanged"
        return Answer(
            outcome,
            own.tenant,
            f"{own.key.kind}/{own.key.object_id}",
            own.parked,
            changes,
            self.catalog.version,
        )

    def decide(self, step: Step) -> list[FeatureChange]:
        """Decide every object of a step, and say what that changed for which tenant."""
        changes = []
        for entry, register, links in step.affected:
            stored = entry.stored
            origin = self.surroundings.origin(stored.key.source_id, stored.key.livemode)
            tenant, verdict = decide(stored.key.kind, register, links, origin, self.catalog)
            if (tenant, verdict.parked) != (stored.tenant, stored.parked):
                stored.tenant, stored.parked = tenant, verdict.parked
                entry.is_dirty = True
            if not _are_same(verdict.grants, self.given.get(entry.reference, ())):
                changes += self._give(entry, verdict.grants)
        return changes

    async def save(self, conn: Conn, sighted: Sequence[Sighted]) -> None:
        """Write what changed: objects, observations, grants."""
        dirty = [entry.stored for entry in self.entries.values() if entry.is_dirty]
        new = [stored for stored in dirty if not stored.id]
        old = [stored for stored in dirty if stored.id]
        references = {entry.stored.key: entry.reference for entry in self.changed.values()}
        if new:
            await objects.add_objects(conn, new, self.now)
        if old:
            await objects.save_objects(conn, old)
        if self.added:
            ids = {one.key: self.entries[one.key].stored.id for one in sighted}
            await objects.add_observations(conn, self.added, ids)
        grants = {
            self.entries[key].stored.id: self.given[reference]
            for key, reference in references.items()
        }
        had_some = sorted(grants.keys() & self.had_grants)
        await grants_store.replace_grants(conn, grants, had_some, self.catalog.version)

    def _enter(self, entry: Entry) -> None:
        self.entries[entry.stored.key] = entry
        customer = entry.stored.owner
        if customer is not None:
            self.by_customer.setdefault(customer, []).append(entry)

    def _fold(self, entry: Entry) -> None:
        stored = entry.stored
        provider = self.surroundings.source(stored.key.source_id).provider
        seen = (observation for _, observation in entry.observations.values())
        register = fold(provider, stored.key.kind, seen) if entry.observations else NOTHING
        if register != stored.register or not stored.id:
            stored.register = register
            entry.is_dirty = True
        named = register.newest.customer
        if named is None or named == stored.customer:
            return
        if stored.owner is not None:
            self.by_customer[stored.owner].remove(entry)
        stored.owner = CustomerKey(*stored.key[:3], named)
        self.by_customer.setdefault(stored.owner, []).append(entry)
        entry.is_dirty = True

    def _links(self, customer: CustomerKey | None) -> Links:
        if customer is None:
            return Links()
        own = None
        sessions = []
        for entry in self.by_customer.get(customer, ()):
            if entry.stored.key.kind == CUSTOMER_KIND:
                own = entry.stored.register.newest.tenant
            elif entry.stored.key.kind == SESSION_KIND:
                sessions.append(entry.stored.register)
        references = earliest_references(sessions) if sessions else frozenset()
        return Links(self.operator_links.get(customer), own, references)

    def _at_this_point(self, entries: Iterable[Entry]) -> tuple[tuple[Entry, Register, Links], ...]:
        links: dict[CustomerKey | None, Links] = {}
        found: dict[ObjectKey, tuple[Entry, Register, Links]] = {}
        for entry in entries:
            customer = entry.stored.owner
            if customer not in links:
                links[customer] = self._links(customer)
            found[entry.stored.key] = (entry, entry.stored.register, links[customer])
        return tuple(found.values())

    def _give(self, entry: Entry, grants: tuple[Grant, ...]) -> list[FeatureChange]:
        """Replace an object's grants, and compare what the tenants concerned may use."""
        reference = entry.reference
        had = self.given.get(reference, ())
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

    def _entitled(self, tenant: str, features: Container[str]) -> dict[str, Entitlement]:
        held: Mapping[int | ObjectKey, tuple[Grant, ...]] = self.held[tenant]
        bearing = [
            grant for grants in held.values() for grant in grants if grant.feature in features
        ]
        return aggregate(bearing, self.now)


def _are_same(some: Sequence[Grant], others: Sequence[Grant]) -> bool:
    return [grant.identity for grant in some] == [grant.identity for grant in others]
