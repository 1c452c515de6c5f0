"""Which objects bear on which, in memory: those of one customer, those that join one payment."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from shared.domain.catalog import Origin
from shared.domain.keys import CustomerKey, JointKey, ObjectKey
from shared.domain.payments import (
    BEARING_KINDS,
    NO_CIRCUMSTANCES,
    Circumstances,
    circumstances,
)
from shared.domain.situations import joined_with
from shared.domain.verdicts import Links, links_of
from workers.entries import Entry


class Neighbours:
    """The objects of a transaction, by customer and by joint."""

    def __init__(self, origin_of: Callable[[int, bool], Origin]) -> None:
        self._origin_of = origin_of
        self.operator_links: dict[CustomerKey, str | None] = {}
        self._by_customer: dict[CustomerKey, list[Entry]] = defaultdict(list)
        self._by_joint: dict[JointKey, list[Entry]] = defaultdict(list)

    def enter(self, entry: Entry) -> None:
        """Put an object where its row says that it belongs."""
        if entry.stored.owner is not None:
            self._by_customer[entry.stored.owner].append(entry)
        for joint in entry.stored.joints:
            self._by_joint[joint].append(entry)

    def move(
        self, entry: Entry, joined: Iterable[JointKey]
    ) -> list[tuple[Entry, CustomerKey | None]]:
        """
        Put an object where its new register says that it belongs; it `joined` these before.

        What names no customer belongs to the one that its payment's other objects name. Returns
        the others whose owner that changed, with the former one.
        """
        self._belong(entry, _named_by(entry))
        before, now = set(joined), set(entry.stored.joints)
        if not before and not now:
            return []
        for joint in before - now:
            self._by_joint[joint].remove(entry)
        for joint in now - before:
            self._by_joint[joint].append(entry)
        moved: list[tuple[Entry, CustomerKey | None]] = []
        if now:
            component = self.component(entry)
            named = {owner for near in component if (owner := _named_by(near)) is not None}
            for near in component if named else ():
                former = near.stored.owner
                self._belong(near, _named_by(near) or min(named))
                if near is not entry and near.stored.owner != former:
                    moved.append((near, former))
        return moved

    def of(self, customer: CustomerKey | None) -> list[Entry]:
        """A customer's objects, as far as they were read."""
        return list(self._by_customer.get(customer, ())) if customer is not None else []

    def component(self, entry: Entry) -> list[Entry]:
        """Everything that joins the object, itself included."""
        return joined_with(entry, lambda near: near.stored.joints, self._by_joint)

    def group(self, entry: Entry) -> list[Entry]:
        """All that can bear on the object: its customer's objects, or what its payment joins."""
        if entry.stored.owner is not None:
            return self.of(entry.stored.owner)
        return self.component(entry)

    def links_of(self, entry: Entry) -> Links:
        """Who the object may belong to, by what it and its customer's other objects say now."""
        customer = entry.stored.owner
        if customer is None:
            return links_of(entry.seen, None, None)
        near = [other.seen for other in self._by_customer.get(customer, ())]
        return links_of(entry.seen, near, self.operator_links.get(customer))

    def circumstances_of(self, entry: Entry) -> dict[ObjectKey, Circumstances]:
        """What bears on the object now, and on those that it was looked at with."""
        near_by = self.group(entry)
        key = entry.stored.key
        origin = self._origin_of(key.source_id, key.livemode)
        if origin.policy.grants_from != "summary" and not any(
            near.stored.key.kind in BEARING_KINDS or near.stored.adverse for near in near_by
        ):
            return {key: NO_CIRCUMSTANCES}
        group = {near.stored.key: near for near in (entry, *near_by)}
        seen = [near.seen for near in group.values()]
        by_name = circumstances(origin.provider, origin.policy, seen)
        return {near: by_name[near.name] for near in group}

    def _belong(self, entry: Entry, customer: CustomerKey | None) -> None:
        stored = entry.stored
        if customer is None or stored.owner == customer:
            return
        if stored.owner is not None:
            self._by_customer[stored.owner].remove(entry)
        stored.owner = customer
        self._by_customer[customer].append(entry)
        entry.is_dirty = True


def _named_by(entry: Entry) -> CustomerKey | None:
    named = entry.stored.register.newest.customer
    return None if named is None else CustomerKey(*entry.stored.key[:3], named)
