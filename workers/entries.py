"""What a transaction that decides holds in memory, and what it says of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from shared.domain.audit import changed_features
from shared.domain.commands import Observe
from shared.domain.entitlements import Entitlement
from shared.domain.keys import CustomerKey, JointKey, ObjectKey
from shared.domain.outcomes import Outcome
from shared.domain.payments import Circumstances, joints_of
from shared.domain.register import Observation, Register, Seen
from shared.domain.states import digest_of
from shared.domain.verdicts import Aliases, Links, resolve_tenant
from shared.store.objects import StoredObject


@dataclass(frozen=True, slots=True)
class Locks:
    """
    Under what a transaction meets others: customers and joints. Of the `whole` customers all
    objects are read. `tenants` are those that it needs besides its objects' own: whoever locks
    tenants first locks them too.
    """

    customers: frozenset[CustomerKey] = frozenset()
    joints: frozenset[JointKey] = frozenset()
    whole: frozenset[CustomerKey] = frozenset()
    tenants: frozenset[str] = frozenset()

    def __or__(self, other: "Locks") -> "Locks":
        return Locks(
            self.customers | other.customers,
            self.joints | other.joints,
            self.whole | other.whole,
            self.tenants | other.tenants,
        )

    def __le__(self, other: "Locks") -> bool:
        return self.customers <= other.customers and self.joints <= other.joints


NO_LOCKS = Locks()


class SetGrew(Exception):
    """An object turned out to need more than what was locked: roll back, start with `locks`."""

    def __init__(self, locks: Locks) -> None:
        super().__init__("what has to be locked grew")
        self.locks = locks


class FeatureChange(msgspec.Struct, frozen=True):
    """One tenant's entitlement to one feature, before and after."""

    tenant: str
    feature: str
    action: str
    before: Entitlement | None
    after: Entitlement | None


def net_changes(changes: Iterable[FeatureChange]) -> list[FeatureChange]:
    """A tenant's several objects may change a feature one after the other: from first to last."""
    before: dict[str, dict[str, Entitlement | None]] = {}
    after: dict[str, dict[str, Entitlement | None]] = {}
    for change in changes:
        before.setdefault(change.tenant, {}).setdefault(change.feature, change.before)
        after.setdefault(change.tenant, {})[change.feature] = change.after
    net = []
    for tenant, had in before.items():
        found = changed_features(
            {feature: one for feature, one in had.items() if one is not None},
            {feature: one for feature, one in after[tenant].items() if one is not None},
        )
        net += [FeatureChange(tenant, *change) for change in found]
    return net


class Told(msgspec.Struct, frozen=True):
    """
    What else a tenant's chain is told, besides features. `before` and `after` are JSON. What
    concerns no tenant has the tenant "", and stands in the event's own chain; `source` is whose it
    is, "" where it is the event's.
    """

    tenant: str
    action: str
    subject: str
    before: bytes | None
    after: bytes | None
    source: str = ""


@dataclass(slots=True)
class Answer:
    """
    What became of one command. `outcome` is a step-0 word of the audit trail; `tenant` is locked.
    `concerns` is a tenant that is not: it is named, and the record is not chained to its others.
    `actor` asked for it, where it was not the provider, and `reason` is what they say why.
    """

    outcome: Outcome
    tenant: str | None
    subject: str
    code: str | None
    changes: list[FeatureChange]
    catalog_version: int
    told: list[Told] = field(default_factory=list)
    concerns: str | None = None
    actor: str | None = None
    reason: str | None = None


class Sighted(msgspec.Struct, frozen=True):
    """An observation that came with an event. `replayed`: an earlier run's is to be replaced."""

    key: ObjectKey
    tracking_id: UUID
    event_id: str
    command: Observe
    replayed: bool

    @property
    def locks(self) -> Locks:
        """What the observed object needs."""
        state = self.command.after
        owner = () if state.customer is None else (CustomerKey(*self.key[:3], state.customer),)
        names = joints_of(self.key.kind, self.key.object_id, state.refs)
        joints = (JointKey(*self.key[:3], name) for name in names)
        return Locks(frozenset(owner), frozenset(joints))

    @property
    def observation(self) -> Observation:
        """As it is kept and folded."""
        command = self.command
        return Observation(
            self.event_id,
            command.version,
            command.shape,
            digest_of(command.before) if command.before is not None else None,
            digest_of(command.after),
            command.after,
            command.ceiling,
            command.number,
            command.floor,
        )


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

    @property
    def seen(self) -> Seen:
        """As its payments see it."""
        return Seen(self.stored.key.kind, self.stored.key.object_id, self.stored.register)


@dataclass(frozen=True, slots=True)
class Case:
    """An object to be decided, as it stood at that point: its register, links and circumstances."""

    entry: Entry
    register: Register
    links: Links
    around: Circumstances
    #: What a refund, dispute or warning was paid for: it is that object's tenant whom it concerns.
    bought: "Case | None" = None

    @property
    def standing(self) -> "Case":
        """The case that says whom it concerns."""
        return self.bought or self

    def tenant(self, aliases: Aliases) -> str | None:
        """Whom it concerns; None where nothing says so, or too much."""
        return resolve_tenant(self.standing.register.newest.tenant, self.standing.links, aliases)[0]


@dataclass(frozen=True, slots=True)
class Step:
    """What one event leaves to be decided. `is_news`: it applies, whatever is decided."""

    entry: Entry | None
    superseded: bool
    cases: tuple[Case, ...]
    is_news: bool = False


def locks_of(entries: Iterable[Entry]) -> Locks:
    """What these objects are covered by: their customers; without one, their joints."""
    customers = set()
    joints: set[JointKey] = set()
    for entry in entries:
        if entry.stored.owner is not None:
            customers.add(entry.stored.owner)
        else:
            joints.update(entry.stored.joints)
    return Locks(frozenset(customers), frozenset(joints))
