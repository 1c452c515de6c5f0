"""
Customers, objects, tenants and grants of one transaction, in memory.

Three steps under the lock order of `shared.store.customers`: lock the customers and joints and read
what stands on them; fold, link and join in memory, which tells whose tenants are concerned; lock
those, read their grants and the catalog, and decide. What is decided is written at the end,
set-based.
"""

from collections.abc import Container, Iterable
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain.catalog import Catalog, Origin
from shared.domain.keys import CustomerKey, ObjectKey
from shared.domain.outcomes import Outcome
from shared.domain.payments import Circumstances, is_adverse
from shared.domain.register import NOTHING, Register, fold
from shared.domain.states import (
    ADVERSE_KINDS,
    CUSTOMER_KIND,
    IDENTITY_KINDS,
    LINKING_KINDS,
    STATE_KIND,
)
from shared.domain.summaries import known_until
from shared.domain.verdicts import Links, decide
from shared.store import customers as customers_store
from shared.store import grants as grants_store
from shared.store import objects, observations
from shared.store.objects import StoredObject
from shared.store.observations import NewObservation
from workers.entries import (
    NO_LOCKS,
    Answer,
    Case,
    Entry,
    FeatureChange,
    Locks,
    SetGrew,
    Sighted,
    Step,
    locks_of,
    net_changes,
)
from workers.holdings import Holdings, are_same
from workers.neighbours import Neighbours
from workers.surroundings import Surroundings


class Books:
    """Customers, objects, tenants and grants of one transaction, in memory."""

    def __init__(self, surroundings: Surroundings, now: datetime) -> None:
        self.surroundings = surroundings
        self.now = now
        self.catalog = Catalog(0, {})
        self.locks = NO_LOCKS
        self.whole: set[CustomerKey] = set()
        self.aliases: dict[str, str] = {}
        self.entries: dict[ObjectKey, Entry] = {}
        self.near = Neighbours(surroundings.origin)
        self.added: list[NewObservation] = []
        self.told: set[tuple[UUID, ObjectKey]] = set()  # what each event has observed here
        self.holdings = Holdings()

    async def load(
        self,
        conn: Conn,
        locks: Locks,
        keys: Iterable[ObjectKey],
        whole: Container[CustomerKey],
    ) -> None:
        """
        Lock, then read the customers' links, the objects at `keys`, and what these saw.

        Raises:
            SetGrew: something that was found lies under a lock that we do not have.
        """
        self.locks = locks
        self.near.operator_links = await customers_store.lock_customers(conn, locks.customers)
        await customers_store.lock_joints(conn, locks.joints)
        keys = set(keys)
        self._enter(await objects.read_objects(conn, locks.customers, whole, keys))
        self._enter(await objects.read_objects_of_joints(conn, locks.joints))
        needed = locks_of(self.entries.values())
        if not needed <= locks:
            raise SetGrew(locks | needed)
        self.whole = {customer for customer in locks.customers if customer in whole}
        adverse = [entry.stored for entry in self.entries.values() if entry.stored.adverse]
        if adverse:
            # Rare: somebody's payment is spoken against, and whose, only the whole tells.
            owners = {stored.owner for stored in adverse if stored.owner is not None}
            is_open = any(stored.owner is None for stored in adverse)
            in_part = (locks.customers if is_open else owners) - self.whole
            self._enter(await objects.read_objects(conn, in_part, in_part, ()))
            self.whole |= in_part
        ids = [self.entries[key].stored.id for key in keys if key in self.entries]
        if ids:
            seen = await observations.read_observations(conn, ids)
            for key in keys & self.entries.keys():
                entry = self.entries[key]
                entry.observations = seen.get(entry.stored.id, {})

    def sight(self, one: Sighted) -> Step:
        """Fold an observation into its object, and find out what that bears on."""
        others = self.forget(one.event_id, one.tracking_id, but=one.key) if one.replayed else []
        entry = self.entries.get(one.key)
        before = entry.stored.register if entry is not None and entry.observations else None
        observation = one.observation
        command = one.command
        if entry is None:
            empty = Register(command.version)
            entry = Entry(StoredObject(0, one.key, None, None, empty, None))
            self.entries[one.key] = entry
        entry.observations[one.event_id] = (one.tracking_id, observation)
        self.told.add((one.tracking_id, one.key))
        self.added.append(NewObservation(one.key, observation, one.tracking_id))
        former, was_adverse = entry.stored.owner, entry.stored.adverse
        stood = self._bearing(entry)
        moved = [
            (near, was)
            for near, was in self._fold(entry)
            if near.stored.key.kind in LINKING_KINDS or near.stored.adverse
        ]
        register = entry.stored.register
        superseded = register == before and (
            command.version < register.version or register.terminal
        )
        affected = [entry, *others]
        if self._bearing(entry) != stood:
            moved.append((entry, former))
        elif (
            others
            or was_adverse
            or one.key.kind in ADVERSE_KINDS
            or any(near.stored.adverse for near in self.near.group(entry))
        ):
            affected += [*self.near.group(entry), *self.near.of(former)]
        affected += self._around(moved)
        is_news = one.key.kind in IDENTITY_KINDS and (
            before is None or before.newest != register.newest
        )
        return Step(entry, superseded, self._cases(affected), is_news)

    def take_back(self, event_id: str, tracking_id: UUID) -> Step:
        """Undo what an earlier run of an event observed, without another observation for it."""
        without = self.forget(event_id, tracking_id)
        related = [near for entry in without for near in self.near.group(entry)]
        return Step(None, False, self._cases([*without, *related]))

    def forget(self, event_id: str, tracking_id: UUID, but: ObjectKey | None = None) -> list[Entry]:
        """Remove an earlier run's observation; returns the objects it leaves, except `but`."""
        without = []
        for entry in self.entries.values():
            seen = entry.observations.get(event_id)
            if seen is None or seen[0] != tracking_id:
                continue
            if (tracking_id, entry.stored.key) in self.told:
                continue  # by another command of this run
            del entry.observations[event_id]
            if entry.stored.key != but:
                self._fold(entry)
                without.append(entry)
        return without

    def derive_again(self, entries: Iterable[Entry]) -> Step:
        """A step that only decides again, with registers as they are."""
        return Step(None, False, self._cases(entries))

    async def lock_tenants(
        self, conn: Conn, steps: Iterable[Step], named: Iterable[str] = ()
    ) -> None:
        """
        Lock every tenant that any step concerns, by the name that it goes by now, and those that
        are `named`; then read the catalog and their grants.

        Raises:
            SetGrew: one of them was merged meanwhile.
        """
        cases = [case for step in steps for case in step.cases]
        needed = {*named, *filter(None, (case.entry.stored.tenant for case in cases))}
        names = needed | self._resolved(cases)
        claims = {tenant for case in cases for tenant in case.standing.links.sessions}
        if names or claims:
            found = await grants_store.add_resolving(conn, names, claims)
            self.aliases = {**found, **self.aliases}
        resolved = self._resolved(cases)
        await self.holdings.lock(conn, needed | resolved)
        if any(self.holdings.tenants[tenant].merged_into is not None for tenant in resolved):
            raise SetGrew(self.locks)
        self.catalog = await self.surroundings.catalog(conn)

    def answer(self, step: Step) -> Answer:
        """Decide a step that an event caused."""
        assert step.entry is not None
        entries = [case.entry for case in step.cases]
        stood = [(entry.stored.tenant, entry.stored.parked) for entry in entries]
        granted = [self.holdings.of(entry) for entry in entries]
        changes = self.decide(step)
        own = step.entry.stored
        moved = step.is_news or any(
            was != (entry.stored.tenant, entry.stored.parked)
            or not are_same(had, self.holdings.of(entry))
            for was, had, entry in zip(stood, granted, entries, strict=True)
        )
        if changes or (moved and own.parked is None):
            outcome: Outcome = "applied"
        elif own.parked is not None:
            outcome = "parked"
        else:
            outcome = "superseded" if step.superseded else "unchanged"
        return Answer(outcome, own.tenant, own.key.name, own.parked, changes, self.catalog.version)

    def decide(self, step: Step) -> list[FeatureChange]:
        """Decide every object of a step, and say what that changed for which tenant."""
        changes = []
        for case in step.cases:
            stored = case.entry.stored
            tenant, verdict = decide(
                stored.key.kind,
                case.register,
                case.links,
                self._origin(stored.key),
                self.catalog,
                case.around,
                self.aliases,
            )
            if case.bought is not None:
                tenant = case.tenant(self.aliases)
            now = (tenant, verdict.parked, verdict.wants)
            if now != (stored.tenant, stored.parked, stored.wants):
                stored.tenant, stored.parked, stored.wants = now
                case.entry.is_dirty = True
            changes += self.holdings.give(case.entry.reference, verdict.grants)
        return net_changes(changes) if len(changes) > 1 else changes

    def _resolved(self, cases: Iterable[Case]) -> set[str]:
        """By the names that they go by now, as far as the aliases are known."""
        return set(filter(None, (case.tenant(self.aliases) for case in cases)))

    async def save(self, conn: Conn) -> None:
        """Write what changed: objects, observations, grants."""
        dirty = [entry.stored for entry in self.entries.values() if entry.is_dirty]
        new = [stored for stored in dirty if not stored.id]
        old = [stored for stored in dirty if stored.id]
        if new:
            await objects.add_objects(conn, new, self.now)
        if old:
            await objects.save_objects(conn, old)
        ids = {key: entry.stored.id for key, entry in self.entries.items()}
        if self.added:
            await observations.add_observations(conn, self.added, ids)
        await self.holdings.save(conn, self.catalog.version, ids)

    def _enter(self, found: Iterable[StoredObject]) -> None:
        for stored in found:
            if stored.key in self.entries:
                continue
            self.entries[stored.key] = Entry(stored)
            self.near.enter(self.entries[stored.key])

    def _around(self, moved: Iterable[tuple[Entry, CustomerKey | None]]) -> list[Entry]:
        """
        All on which these objects bear, where they are now and where they were.

        Raises:
            SetGrew: not all of their customers' objects have been read.
        """
        affected: list[Entry] = []
        needed: set[CustomerKey] = set()
        for entry, former in moved:
            affected += [entry, *self.near.group(entry), *self.near.of(former)]
            needed.update(filter(None, (entry.stored.owner, former)))
        if not needed <= self.whole:
            customers = frozenset(needed)
            raise SetGrew(self.locks | Locks(customers, whole=customers))
        return affected

    def _fold(self, entry: Entry) -> list[tuple[Entry, CustomerKey | None]]:
        """
        Fold again, and put the object to whom it then belongs and to what it joins.

        Returns the others that change hands by that, with their former owners.
        """
        stored = entry.stored
        provider = self.surroundings.source(stored.key.source_id).provider
        seen = (observation for _, observation in entry.observations.values())
        joined = () if stored.register.is_empty else stored.joints
        register = fold(provider, stored.key.kind, seen) if entry.observations else NOTHING
        if register != stored.register or not stored.id:
            stored.register = register
            stored.adverse = is_adverse(provider, entry.seen)
            entry.is_dirty = True
        return self.near.move(entry, joined)

    def _bearing(self, entry: Entry) -> object:
        """What others of the same customer stand on. Where it changes, so may they."""
        key, register = entry.stored.key, entry.stored.register
        if register.is_empty:
            return None
        if key.kind in LINKING_KINDS:
            pays = key.kind == CUSTOMER_KIND and register.newest.has_payment_method
            return entry.stored.owner, self.near.links_of(entry), pays
        if key.kind == STATE_KIND:
            return entry.stored.owner, register.newest.refs, known_until(register)
        if self._origin(key).policy.grants_from == "summary":
            return entry.stored.owner, register
        return None

    def _origin(self, key: ObjectKey) -> Origin:
        return self.surroundings.origin(key.source_id, key.livemode)

    def _cases(self, entries: Iterable[Entry]) -> tuple[Case, ...]:
        """Objects as they stand now: later events of the batch must not change what is decided."""
        links: dict[CustomerKey | None, Links] = {}
        around: dict[ObjectKey, Circumstances] = {}
        found: dict[ObjectKey, Case] = {}

        def case_of(entry: Entry) -> Case:
            key, customer = entry.stored.key, entry.stored.owner
            if customer is None or customer not in links:
                links[customer] = self.near.links_of(entry)
            if key not in around:
                around.update(self.near.circumstances_of(entry))
            return Case(entry, entry.stored.register, links[customer], around[key])

        for entry in entries:
            case = case_of(entry)
            bought = [
                self.entries[key]
                for name in case.around.bought
                if (key := _key_beside(entry.stored.key, name)) in self.entries
            ]
            if bought:
                case = Case(entry, case.register, case.links, case.around, case_of(bought[0]))
            found[entry.stored.key] = case
        return tuple(found.values())


def _key_beside(key: ObjectKey, name: str) -> ObjectKey:
    """The key of the object that one of the same account refers to by its name."""
    kind, _, object_id = name.partition("/")
    return ObjectKey(*key[:3], kind, object_id)
