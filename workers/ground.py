"""
On which ground settled events would meet if they were applied again: customers, joints, tenants and
records, and which events have none in common and can be looked at one by one.

What is found is a good guess from what stands there now, read without a lock. Who then applies them
is told what was missing (`workers.watched.Outgrown`), and has it joined.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
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
_KINDS = (CUSTOMER, JOINT, TENANT, RECORD, OBJECT)
#: How often payments are followed from one to the next; what lies further is found when applying.
_MOST_STEPS = 5
_AT_ONCE = 1000

Asked = Sequence[tuple[StoredEvent, Sequence[Command]]]


class Ground:
    """
    Nodes, and which of them are connected. The `events` places are nodes too; who is on nobody's
    ground has one of its own. A piece is known by the number of one of its nodes, its root.

    All events of a plan stand on it, so a node is a number, and a key is held once.
    """

    def __init__(self, events: int) -> None:
        #: An event's number is its place; those of all others come behind.
        self._events = events
        self._numbers: dict[str, dict[Any, int]] = {kind: {} for kind in _KINDS}
        #: What the others are, by number less `events`.
        self._kinds = bytearray()
        self._keys: list[Any] = []
        self._parents = array("q", range(events))
        #: The next node of the same piece, in a ring.
        self._next = array("q", range(events))
        #: How many nodes a root's piece has. 0: an event that is not on the ground.
        self._sizes = array("q", bytes(8 * events))

    def root(self, node: Node) -> int:
        """The root of all that this one is connected with."""
        number, parents = self._number(node), self._parents
        while (parent := parents[number]) != number:
            parents[number] = number = parents[parent]
        return number

    def connect(self, some: Node, *others: Node) -> int:
        """Connect them; returns the root of all."""
        root = self.root(some)
        for other in others:
            joined = self.root(other)
            if joined == root:
                continue
            if self._sizes[joined] > self._sizes[root]:
                root, joined = joined, root
            self._parents[joined] = root
            self._sizes[root] += self._sizes[joined]
            # Two rings are one when one node of each has the other's next.
            ring = self._next
            ring[root], ring[joined] = ring[joined], ring[root]
        return root

    def roots(self) -> Iterator[int]:
        """One for each piece of the ground."""
        for number, parent in enumerate(self._parents):
            if parent == number and self._sizes[number]:
                yield number

    def keys(self, kind: str) -> list[Any]:
        """The keys of all nodes of a kind but of events."""
        return list(self._numbers[kind])

    def locked(self, root: int) -> frozenset[Node]:
        """What of it has rows to be locked."""
        others = (number - self._events for number in self._members(root) if number >= self._events)
        nodes = ((_KINDS[self._kinds[one]], self._keys[one]) for one in others)
        return frozenset(node for node in nodes if node[0] != OBJECT)

    def places(self, root: int) -> list[int]:
        """The events on it, by their place."""
        return sorted(number for number in self._members(root) if number < self._events)

    def tenants(self, root: int) -> list[str]:
        """The tenants on it."""
        return [key for kind, key in self.locked(root) if kind == TENANT and isinstance(key, str)]

    def forget_objects(self) -> None:
        """What they have connected stays connected, but nothing more can be by them."""
        self._numbers[OBJECT] = {}

    def _number(self, node: Node) -> int:
        kind, key = node
        if kind == EVENT:
            assert isinstance(key, int)
            self._sizes[key] = self._sizes[key] or 1
            return key
        if kind == OBJECT:
            # Nobody asks which they are. Two that had one hash would be looked at together.
            key = hash(key)
        numbers = self._numbers[kind]
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(self._parents)
            self._kinds.append(_KINDS.index(kind))
            self._keys.append(None if kind == OBJECT else key)
            self._parents.append(number)
            self._next.append(number)
            self._sizes.append(1)
        return number

    def _members(self, root: int) -> Iterator[int]:
        number = root
        while True:
            yield number
            number = self._next[number]
            if number == root:
                return


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
    customers = ground.keys(CUSTOMER)
    for first in range(0, len(customers), _AT_ONCE):
        for customer, tenant in await tenants_of(conn, customers[first : first + _AT_ONCE]):
            ground.connect((CUSTOMER, customer), (TENANT, tenant))
    kept = ground.keys(RECORD)
    for first in range(0, len(kept), _AT_ONCE):
        for record, tenant in await tenants_of_records(conn, kept[first : first + _AT_ONCE]):
            ground.connect((RECORD, record), (TENANT, tenant))
    names = sorted(ground.keys(TENANT))
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
