"""
What speaks against what an object gives: refunds, disputes and fraud warnings of its payments.

They name a charge or a payment intent, and so do the purchase, the invoice and whatever else tells
which payment was for what; an id that several objects name joins them. Nothing of this is stored:
an object is held while any open dispute joins it, and released by the same rule that held it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shared.domain.register import Register
from shared.domain.standings import ACCESS, Standing, standing_of
from shared.domain.states import (
    ADVERSE_KINDS,
    CHARGE_KIND,
    CUSTOMER_KIND,
    DISPUTE_KIND,
    INVOICE_KIND,
    ORDER_KIND,
    REFUND_KIND,
    SESSION_KIND,
    SUBSCRIPTION_KIND,
)

#: Where the way from a payment ends: what it was paid for.
_BOUGHT_KINDS = frozenset({SUBSCRIPTION_KIND, SESSION_KIND, ORDER_KIND})
#: Others name them, or they stand under no other lock.
_JOINTS = frozenset({INVOICE_KIND, CHARGE_KIND, SESSION_KIND, ORDER_KIND})
#: They tell themselves how much of them was refunded.
_TOLD_KINDS = frozenset({CHARGE_KIND, ORDER_KIND})
#: Without one of these there are no circumstances, but for what one of those says was refunded.
BEARING_KINDS = ADVERSE_KINDS | {CUSTOMER_KIND}
#: What a refund, dispute or warning must stand at to matter to others.
SPEAKS_AGAINST = frozenset({Standing.CONTESTED, Standing.LOST, Standing.REFUNDED})


class Policy(msgspec.Struct, frozen=True):
    """What a source's settings leave to its operator; the first value is the default."""

    grants_from: str = "subscriptions"  # or what else `FAMILIES` has for the provider
    disputes: str = "hold"  # or "keep": an open dispute takes nothing away
    fraud_warnings: str = "hold"  # or "keep"
    voided_collection: str = "keep"  # or "revoke": a subscription whose invoices are voided
    refunds: str = "whole"  # or "flagged": an order ends with a refund that says so, and no other

    @classmethod
    def read(cls, settings: Mapping[str, object]) -> "Policy":
        """From a source's settings; what they do not name has its default."""
        return msgspec.convert(dict(settings), cls)


DEFAULT_POLICY = Policy()


class Seen(NamedTuple):
    """An object as far as payments concern it."""

    kind: str
    object_id: str
    register: Register

    @property
    def name(self) -> str:
        """As others refer to it."""
        return f"{self.kind}/{self.object_id}"


class Circumstances(msgspec.Struct, frozen=True):
    """
    What bears on an object besides its own state. Names are "kind/id".

    `holds` are open disputes and warnings, `reversals` what took its payment back. `bought` is
    what a refund, dispute or warning leads to: empty where no payment is known yet. `is_lapsed`:
    the customer has subscriptions and none gives access. `customer_pays`: with a default method.
    """

    holds: tuple[str, ...] = ()
    reversals: tuple[str, ...] = ()
    bought: tuple[str, ...] = ()
    is_lapsed: bool = False
    customer_pays: bool = False


NO_CIRCUMSTANCES = Circumstances()


def joints_of(kind: str, object_id: str, refs: Collection[str]) -> tuple[str, ...]:
    """
    The ids by which an object joins others.

    A subscription is none: its invoices have its customer, under whose lock they are found. A
    session is one by itself: a guest's, that cost nothing, has no other lock to stand under.
    """
    if not refs and kind not in _JOINTS:
        return ()  # most objects, and often asked
    named = {ref for ref in refs if not ref.startswith(f"{SUBSCRIPTION_KIND}/")}
    if kind in _JOINTS:
        named.add(f"{kind}/{object_id}")
    return tuple(sorted(named))


def is_adverse(provider: str, seen: Seen) -> bool:
    """Whether the object may speak against others."""
    if seen.kind in _TOLD_KINDS:
        return bool(seen.register.newest.refunded)
    return seen.kind in ADVERSE_KINDS and _standing(provider, seen) in SPEAKS_AGAINST


def circumstances(
    provider: str, policy: Policy, objects: Sequence[Seen]
) -> dict[str, Circumstances]:
    """By name, the circumstances of each of these: all that one customer or one payment has."""
    pays = any(
        seen.kind == CUSTOMER_KIND and seen.register.newest.has_payment_method for seen in objects
    )
    holds: dict[str, set[str]] = defaultdict(set)
    reversals: dict[str, set[str]] = defaultdict(set)
    bought_with: dict[str, tuple[str, ...]] = {}
    if any(seen.kind in ADVERSE_KINDS or is_adverse(provider, seen) for seen in objects):
        payments = _Payments(provider, objects)
        for seen in objects:
            if seen.kind not in ADVERSE_KINDS:
                continue
            bought = payments.bought_with(seen)
            bought_with[seen.name] = tuple(sorted(bought))
            if _holds(provider, policy, seen):
                for name in bought:
                    holds[name].add(seen.name)
        for seen in objects:
            if seen.kind in _BOUGHT_KINDS:
                reversals[seen.name] = payments.reversals_of(seen, policy)
    lapsed = _is_lapsed(provider, objects, holds, reversals)
    return {
        seen.name: Circumstances(
            tuple(sorted(holds[seen.name])),
            tuple(sorted(reversals[seen.name])),
            bought_with.get(seen.name, ()),
            lapsed,
            pays,
        )
        for seen in objects
    }


def _holds(provider: str, policy: Policy, seen: Seen) -> bool:
    if _standing(provider, seen) is not Standing.CONTESTED:
        return False
    return (policy.disputes if seen.kind == DISPUTE_KIND else policy.fraud_warnings) == "hold"


def _is_lapsed(
    provider: str,
    objects: Iterable[Seen],
    holds: Mapping[str, set[str]],
    reversals: Mapping[str, set[str]],
) -> bool:
    subscriptions = [seen for seen in objects if seen.kind == SUBSCRIPTION_KIND]
    return bool(subscriptions) and not any(
        (standing := _standing(provider, seen)) is not None
        and ACCESS[standing] != "none"
        and not holds.get(seen.name)
        and not reversals.get(seen.name)
        for seen in subscriptions
    )


def _standing(provider: str, seen: Seen) -> Standing | None:
    return standing_of(provider, seen.kind, seen.register.newest.status)


class _Payments:
    """Objects joined by the ids that they name."""

    def __init__(self, provider: str, objects: Iterable[Seen]) -> None:
        self.provider = provider
        self.by_name = {seen.name: seen for seen in objects}
        self.naming: dict[str, set[str]] = defaultdict(set)
        for seen in self.by_name.values():
            for ref in seen.register.newest.refs:
                self.naming[ref].add(seen.name)

    def reach(self, start: str) -> set[str]:
        """Everything joined with `start`; the way ends at what was bought."""
        reached = {start}
        ahead = [start]
        while ahead:
            name = ahead.pop()
            kind = name.partition("/")[0]
            if kind in _BOUGHT_KINDS and name != start:
                continue
            seen = self.by_name.get(name)
            near = set(self.naming.get(name, ()))
            if seen is not None:
                near.update(seen.register.newest.refs)
            new = near - reached
            reached |= new
            ahead += new
        return reached

    def bought_with(self, adverse: Seen) -> set[str]:
        """The purchases and subscriptions that its payment was for, as far as they were seen."""
        return {
            name
            for name in self.reach(adverse.name)
            if (seen := self.by_name.get(name)) is not None and self._was_bought(seen)
        }

    def reversals_of(self, bought: Seen, policy: Policy) -> set[str]:
        """What took back the payment of a purchase, or of a subscription's last paid invoice."""
        if bought.kind == SESSION_KIND:
            return self._of_purchase(bought)
        if bought.kind == ORDER_KIND:
            return self._of_order(bought, policy)
        return {
            dispute.name
            for dispute in self._standing_at(DISPUTE_KIND, Standing.LOST, self.by_name)
            if bought.name in (reached := self.reach(dispute.name))
            and not self._paid_since(bought, reached)
        }

    def _of_purchase(self, bought: Seen) -> set[str]:
        reached = self.reach(bought.name) if self._was_bought(bought) else set()
        refunds = self._standing_at(REFUND_KIND, Standing.REFUNDED, reached)
        lost = self._standing_at(DISPUTE_KIND, Standing.LOST, reached)
        charges = self._standing_at(CHARGE_KIND, Standing.PAID, reached)
        refunded = _total(refunds)
        told = sum(self._told_by(charge, reached) for charge in charges)
        price = _total(charges) if charges else bought.register.newest.amount or 0
        # A dispute's amount may differ from the charge's by what the currency did meanwhile.
        reversals = {dispute.name for dispute in lost}
        if 0 < price <= max(refunded, told):
            by_charge = [charge for charge in charges if told > refunded]
            reversals |= {seen.name for seen in (*refunds, *by_charge)}
        return reversals

    def _of_order(self, bought: Seen, policy: Policy) -> set[str]:
        reached = self.reach(bought.name)
        refunds = self._standing_at(REFUND_KIND, Standing.REFUNDED, reached)
        reversals = {seen.name for seen in refunds if seen.register.newest.revokes}
        refunded = max(_total(refunds), self._told_by(bought, reached))
        if policy.refunds == "whole" and 0 < (bought.register.newest.amount or 0) <= refunded:
            reversals |= {seen.name for seen in refunds} or {bought.name}
        return reversals

    def _told_by(self, charge: Seen, reached: Iterable[str]) -> int:
        """What a charge or order says was refunded, without what failed since it said so."""
        failed = [
            refund
            for refund in self._standing_at(REFUND_KIND, Standing.RELEASED, reached)
            if refund.register.version >= charge.register.version
        ]
        return max(0, (charge.register.newest.refunded or 0) - _total(failed))

    def _paid_since(self, subscription: Seen, reached: Iterable[str]) -> bool:
        """Whether an invoice newer than the disputed ones has been paid."""
        disputed = [
            invoice.register.newest.started_at or 0
            for name in reached
            if (invoice := self.by_name.get(name)) is not None and invoice.kind == INVOICE_KIND
        ]
        return any(
            subscription.name in invoice.register.newest.refs
            and (invoice.register.newest.started_at or 0) > max(disputed, default=0)
            for invoice in self._standing_at(INVOICE_KIND, Standing.PAID, self.by_name)
        )

    def _standing_at(self, kind: str, standing: Standing, names: Iterable[str]) -> list[Seen]:
        found = (self.by_name.get(name) for name in names)
        return [
            seen
            for seen in found
            if seen is not None and seen.kind == kind and _standing(self.provider, seen) is standing
        ]

    def _was_bought(self, seen: Seen) -> bool:
        """Not a session that only links, as the one of a subscription."""
        return seen.kind in _BOUGHT_KINDS and _standing(self.provider, seen) is not Standing.PRESENT


def _total(seen: Iterable[Seen]) -> int:
    return sum(one.register.newest.amount or 0 for one in seen)
