"""
Objects that bear on each other: a customer's, or without one those that a payment joins.

What deciding must know of an object besides its own register comes from these. Whoever decides
under locks keeps them in `workers.neighbours`; whoever only reads, in a `Neighbourhood`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from shared.domain.catalog import Catalog, Origin
from shared.domain.keys import CustomerKey, JointKey, ObjectKey
from shared.domain.payments import Circumstances, circumstances, joints_of
from shared.domain.register import Register, Seen
from shared.domain.verdicts import NO_ALIASES, Aliases, Links, Verdict, decide, links_of

Thing = TypeVar("Thing")


def joined_with(
    start: Thing,
    joints: Callable[[Thing], Iterable[JointKey]],
    by_joint: Mapping[JointKey, Sequence[Thing]],
) -> list[Thing]:
    """Everything that joins `start`, however far: itself first, each once."""
    found = {id(start): start}
    ahead = list(joints(start))
    passed = set(ahead)
    while ahead:
        for near in by_joint.get(ahead.pop(), ()):
            if id(near) not in found:
                found[id(near)] = near
                further = set(joints(near)) - passed
                passed |= further
                ahead += further
    return list(found.values())


class Neighbour(msgspec.Struct, frozen=True):
    """An object: its row's id, the customer it belongs to, and its register."""

    id: int
    key: ObjectKey
    owner: CustomerKey | None
    register: Register

    @property
    def seen(self) -> Seen:
        """As its payments see it."""
        return Seen(self.key.kind, self.key.object_id, self.register)

    @property
    def joints(self) -> tuple[JointKey, ...]:
        """By what it joins others."""
        names = joints_of(self.key.kind, self.key.object_id, self.register.newest.refs)
        return tuple(JointKey(*self.key[:3], name) for name in names)


class Situation(msgspec.Struct, frozen=True):
    """An object, what it was decided by, and what was decided."""

    neighbour: Neighbour
    origin: Origin
    links: Links
    around: Circumstances
    tenant: str | None
    verdict: Verdict

    @property
    def key(self) -> ObjectKey:
        """The object's."""
        return self.neighbour.key

    @property
    def register(self) -> Register:
        """The object's."""
        return self.neighbour.register


class Neighbourhood:
    """
    Objects with all that bears on them. One without an owner gets the one that its register, or
    what it joins, names.
    """

    def __init__(self, neighbours: Iterable[Neighbour]) -> None:
        named = [_owned(one, _named_by(one)) for one in neighbours]
        joined = _by_joint(named) if any(one.owner is None for one in named) else {}
        self.neighbours = [_owned(one, _owner_by(one, joined)) for one in named]
        self.by_joint = _by_joint(self.neighbours) if joined else {}
        self.by_customer: dict[CustomerKey, list[Neighbour]] = defaultdict(list)
        for one in self.neighbours:
            if one.owner is not None:
                self.by_customer[one.owner].append(one)

    def decide(
        self,
        operator_links: Mapping[CustomerKey, str | None],
        origin_of: Callable[[ObjectKey], Origin],
        catalog: Catalog,
        aliases: Aliases = NO_ALIASES,
    ) -> dict[ObjectKey, Situation]:
        """Every object's situation. `operator_links` has every customer that has one."""
        decided: dict[ObjectKey, Situation] = {}
        for one in self.neighbours:
            if one.key not in decided:
                group = self._group(one)
                seen = [near.seen for near in group]
                origin = origin_of(one.key)
                around = circumstances(origin.provider, origin.policy, seen)
                # A customer's objects have their links in common; what has none stands alone.
                shared = None
                if one.owner is not None:
                    shared = links_of(one.seen, seen, operator_links.get(one.owner))
                for near in group:
                    links = shared or links_of(near.seen, None, None)
                    bearing = around[near.key.name]
                    tenant, verdict = decide(
                        near.key.kind, near.register, links, origin, catalog, bearing, aliases
                    )
                    decided[near.key] = Situation(near, origin, links, bearing, tenant, verdict)
        return decided

    def _group(self, one: Neighbour) -> list[Neighbour]:
        if one.owner is not None:
            return self.by_customer[one.owner]
        return joined_with(one, lambda near: near.joints, self.by_joint)


def _by_joint(neighbours: Iterable[Neighbour]) -> dict[JointKey, list[Neighbour]]:
    found: dict[JointKey, list[Neighbour]] = defaultdict(list)
    for one in neighbours:
        for joint in one.joints:
            found[joint].append(one)
    return found


def _owned(one: Neighbour, owner: CustomerKey | None) -> Neighbour:
    if one.owner is not None or owner is None:
        return one
    return msgspec.structs.replace(one, owner=owner)


def _named_by(one: Neighbour) -> CustomerKey | None:
    named = one.register.newest.customer
    return None if named is None else CustomerKey(*one.key[:3], named)


def _owner_by(
    one: Neighbour, by_joint: Mapping[JointKey, Sequence[Neighbour]]
) -> CustomerKey | None:
    """To whom an object belongs that names no customer itself: whom what it joins names."""
    if one.owner is not None:
        return None
    joined = joined_with(one, lambda near: near.joints, by_joint)
    named = (_named_by(near) for near in joined)
    return min((owner for owner in named if owner is not None), default=None)
