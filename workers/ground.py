"""
On which ground settled events would meet if they were applied again: customers, joints, tenants and
records, and which events have none in common and can be looked at one by one.

What is found is a good guess from what stands there now, read without a lock. Who then applies them
is told what was missing (`workers.watched.Outgrown`), and has it joined.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.db import Conn
from shared.domain.commands import Command, ImportRecord, Observe
from shared.domain.events import StoredEvent
from shared.domain.keys import CustomerKey, JointKey, ObjectKey, RecordKey
from shared.store import grants, records
from shared.store.rehearsals import (
    Standing,
    joined_by,
    seen_by,
    standing_at,
    tenants_of,
    tenants_of_records,
)
from workers.entries import Sighted
from workers.watched import CUSTOMER, JOINT, RECORD, TENANT, Node

OBJECT, EVENT = "object", "event"
#: What there are no rows of to be locked.
_UNLOCKED = frozenset({OBJECT, EVENT})
#: How often payments are followed from one to the next; what lies further is found when applying.
_MOST_STEPS = 5
_AT_ONCE = 1000

Asked = Sequence[tuple[StoredEvent, Sequence[Command]]]


@dataclass(slots=True)
class Ground:
    """
    Nodes, and which of them are connected. `events` are nodes too; who is on nobody's ground has
    one of its own.
    """

    _parents: dict[Node, Node] = field(default_factory=dict)
    #: By root: everything connected with it.
    _members: dict[Node, list[Node]] = field(default_factory=dict)

    def root(self, node: Node) -> Node:
        """The node that stands for all that this one is connected with."""
        if node not in self._parents:
            self._parents[node] = node
            self._members[node] = [node]
        while (parent := self._parents[node]) != node:
            self._parents[node] = node = self._parents[parent]
        return node

    def connect(self, some: Node, *others: Node) -> Node:
        """Connect them; returns the root of all."""
        root = self.root(some)
        for other in others:
            joined = self.root(other)
            if joined == root:
                continue
            if len(self._members[joined]) > len(self._members[root]):
                root, joined = joined, root
            self._parents[joined] = root
            self._members[root] += self._members.pop(joined)
        return root

    def roots(self) -> list[Node]:
        """One for each piece of the ground."""
        return list(self._members)

    def locked(self, root: Node) -> frozenset[Node]:
        """What of it has rows to be locked."""
        return frozenset(node for node in self._members[root] if node[0] not in _UNLOCKED)

    def places(self, root: Node) -> list[int]:
        """The events on it, by their place."""
        return sorted(place for kind, place in self._members[root] if kind == EVENT)  # type: ignore[misc]

    def tenants(self, root: Node) -> list[str]:
        """The tenants on it."""
        return [str(name) for kind, name in self._members[root] if kind == TENANT]


async def sound(
    conn: Conn, ground: Ground, asked: Asked, events: Mapping[UUID, Node]
) -> dict[UUID, frozenset[type[Command]]]:
    """
    Connect events with what they ask for, and with what earlier runs of them saw or reported.
    `events` are the nodes of all that are looked at, those too that ask for nothing.

    Returns of those that take something back what they do not ask for any more.
    """
    for node in events.values():
        ground.root(node)
    standing, did = await _of_earlier_runs(conn, ground, events)
    keys: set[ObjectKey] = set()
    joints: set[JointKey] = {joint for one in standing for joint in one.joints}
    for event, commands in asked:
        at = events[event.tracking_id]
        for command in commands:
            if isinstance(command, Observe):
                sighted = _sighted(event, command)
                keys.add(sighted.key)
                joints |= sighted.locks.joints
                ground.connect(at, *_nodes_of(sighted))
            elif isinstance(command, ImportRecord):
                key = RecordKey(event.source_id, event.account, event.livemode, command.record_id)
                ground.connect(at, (RECORD, key), *_named(command.tenant))
    standing += await standing_at(conn, keys)
    await _follow_joints(conn, ground, standing, joints)
    asks = {event.tracking_id: {type(one) for one in commands} for event, commands in asked}
    taken = {one: frozenset(kinds - asks.get(one, set())) for one, kinds in did.items()}
    return {one: kinds for one, kinds in taken.items() if kinds}


async def _of_earlier_runs(
    conn: Conn, ground: Ground, events: Mapping[UUID, Node]
) -> tuple[list[Standing], dict[UUID, set[type[Command]]]]:
    """The objects that they saw, and which of the two each event did."""
    standing = []
    did: dict[UUID, set[type[Command]]] = {}
    for tracking_id, seen in await seen_by(conn, events):
        ground.connect(events[tracking_id], (OBJECT, seen.key))
        standing.append(seen)
        did.setdefault(tracking_id, set()).add(Observe)
    for tracking_id, reported in (await records.keys_of_events(conn, list(events))).items():
        ground.connect(events[tracking_id], *((RECORD, key) for key in reported))
        did.setdefault(tracking_id, set()).add(ImportRecord)
    return standing, did


async def _follow_joints(
    conn: Conn, ground: Ground, standing: Sequence[Standing], joints: set[JointKey]
) -> None:
    """Connect objects with whose they are and what they join, and with what joins that."""
    followed: set[JointKey] = set()
    joints = joints | {joint for one in standing for joint in one.joints}
    for _ in range(_MOST_STEPS):
        for one in standing:
            owner = () if one.owner is None else ((CUSTOMER, one.owner),)
            joined = ((JOINT, joint) for joint in one.joints)
            ground.connect((OBJECT, one.key), *owner, *joined, *_named(one.tenant))
            joints.update(one.joints)
        if joints <= followed:
            return
        standing = await joined_by(conn, joints - followed)
        followed |= joints


async def find_tenants(conn: Conn, ground: Ground) -> None:
    """Connect customers and records with their tenants, names of tenants with what they mean."""
    nodes = [node for root in ground.roots() for node in ground.locked(root)]
    customers = [key for kind, key in nodes if kind == CUSTOMER and isinstance(key, CustomerKey)]
    for first in range(0, len(customers), _AT_ONCE):
        for customer, tenant in await tenants_of(conn, customers[first : first + _AT_ONCE]):
            ground.connect((CUSTOMER, customer), (TENANT, tenant))
    kept = [key for kind, key in nodes if kind == RECORD and isinstance(key, RecordKey)]
    for first in range(0, len(kept), _AT_ONCE):
        for record, tenant in await tenants_of_records(conn, kept[first : first + _AT_ONCE]):
            ground.connect((RECORD, record), (TENANT, tenant))
    names = sorted({name for root in ground.roots() for name in ground.tenants(root)})
    for first in range(0, len(names), _AT_ONCE):
        aliases = await grants.read_aliases(conn, names[first : first + _AT_ONCE])
        for name, meant in aliases.items():
            ground.connect((TENANT, name), (TENANT, meant))


async def owners_among(conn: Conn, nodes: Iterable[Node]) -> frozenset[Node]:
    """Whose the customers among these are now: a piece has all tenants of its customers."""
    keys = [key for kind, key in nodes if kind == CUSTOMER and isinstance(key, CustomerKey)]
    return frozenset((TENANT, tenant) for _, tenant in await tenants_of(conn, keys))


def _sighted(event: StoredEvent, command: Observe) -> Sighted:
    origin = event.source_id, event.account, event.livemode
    key = ObjectKey(*origin, command.kind, command.object_id)
    return Sighted(key, event.tracking_id, event.event_id, command, replayed=True)


def _nodes_of(sighted: Sighted) -> Iterable[Node]:
    locks = sighted.locks
    yield (OBJECT, sighted.key)
    yield from ((CUSTOMER, one) for one in locks.customers)
    yield from ((JOINT, one) for one in locks.joints)
    yield from _named(sighted.command.after.tenant)


def _named(tenant: str | None) -> Iterable[Node]:
    return () if tenant is None else ((TENANT, tenant),)
