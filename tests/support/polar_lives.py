"""
Shops at Polar: what becomes of their objects, the events that tell of it, and who may use what.

Independent of the code under test. A clock of microseconds moves with every change; an object's
`modified_at` is the clock when it changed. `features` is the independent model: it reads the
objects as they are in the end, and no event.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.domain.events import Headers
from tests.support import polar_payloads as payloads
from tests.support.polar_payloads import DAY_US, US, event, headers_of, iso, uuid_of

Features = dict[str, int | bool]

PRICE = 5000
GRACE_S = {"pro": 7 * 86_400, "basic": 0, "team": 30 * 86_400}
#: Product or benefit → what one of it gives. Seats are added up.
GIVES: dict[str, Features] = {
    "pro": {"api_calls": 1000, "sso": True},
    "basic": {"api_calls": 10},
    "team": {"seats": 1, "api_calls": 50},
    "book": {"book": True},
    "course": {"course": True, "seats": 2},
    "sso-benefit": {"sso": True},
    "seat-benefit": {"seats": 3},
    "book-benefit": {"book": True},
}
CATALOG: dict[str, Any] = {
    "plans": {
        name: {
            "products": [f"polar:{uuid_of(name)}"],
            "features": features,
            "graceS": GRACE_S.get(name, 0),
        }
        for name, features in GIVES.items()
    },
    "features": {"seats": {"combine": "sum"}},
}
PRODUCTS = ("pro", "basic", "team")
ONCE = ("book", "course")
BENEFITS = ("sso-benefit", "seat-benefit", "book-benefit")


@dataclass
class Buyer:
    name: str
    created_us: int
    modified_us: int | None = None
    external_id: str | None = None
    named: str | None = None  # in its metadata
    deleted_us: int | None = None

    @property
    def tenant(self) -> str | None:
        return self.named or self.external_id

    def shown(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {} if self.named is None else {"tenant_id": self.named}
        external_id = self.external_id
        if self.deleted_us is not None:
            metadata["__external_id"], external_id = external_id, None
        return payloads.customer(
            self.name,
            external_id=external_id,
            created_us=self.created_us,
            modified_us=self.modified_us,
            deleted_at=iso(self.deleted_us),
            metadata=metadata,
        )


@dataclass
class Subscribed:
    name: str
    buyer: Buyer
    product: str
    status: str
    created_us: int
    ends_us: int  # of the period
    modified_us: int | None = None
    named: str | None = None
    seats: int | None = None
    is_canceling: bool = False
    is_pausing: bool = False
    past_due_us: int | None = None

    def shown(self) -> dict[str, Any]:
        return payloads.subscription(
            self.name,
            of=self.buyer.shown(),
            to=self.product,
            status=self.status,
            created_us=self.created_us,
            modified_us=self.modified_us,
            current_period_end=iso(self.ends_us),
            cancel_at_period_end=self.is_canceling,
            ends_at=iso(self.ends_us) if self.is_canceling else None,
            pause_at_period_end=self.is_pausing,
            past_due_at=iso(self.past_due_us),
            seats=self.seats,
            metadata={} if self.named is None else {"tenant_id": self.named},
        )


@dataclass
class PaidBack:
    name: str
    amount: int
    revokes: bool
    created_us: int
    status: str = "pending"
    modified_us: int | None = None


@dataclass
class Ordered:
    name: str
    buyer: Buyer
    product: str
    created_us: int
    subscription: str | None = None
    status: str = "pending"
    modified_us: int | None = None
    refunds: list[PaidBack] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        back = sum(one.amount for one in self.refunds if one.status == "succeeded")
        status = self.status
        if back:
            status = "refunded" if back >= PRICE else "partially_refunded"
        return payloads.order(
            self.name,
            of=self.buyer.shown(),
            to=self.product,
            status=status,
            subscription_name=self.subscription,
            refunded=back,
            created_us=self.created_us,
            modified_us=self.modified_us,
        )


@dataclass
class Granted:
    name: str
    buyer: Buyer
    benefit: str
    created_us: int
    is_granted: bool = False
    is_revoked: bool = False
    modified_us: int | None = None

    def shown(self) -> dict[str, Any]:
        return payloads.benefit_grant(
            self.name,
            of=self.buyer.shown(),
            to=self.benefit,
            granted=self.is_granted,
            revoked=self.is_revoked,
            created_us=self.created_us,
            modified_us=self.modified_us,
        )


Told = tuple[Headers, bytes]


class Shop:
    """One life: a few buyers and what they have, told event by event."""

    def __init__(self, seed: str, name: str, now_us: int) -> None:
        self.rng = random.Random(seed)
        self.name = name
        self.now_us = now_us
        self.clock_us = now_us - self.rng.choice((2, 10, 25, 60, 120)) * DAY_US
        self.told: list[Told] = []
        #: By what it shows, the newest event of each object.
        self.newest: dict[str, int] = {}
        self.buyers: list[Buyer] = []
        self.subscriptions: list[Subscribed] = []
        self.orders: list[Ordered] = []
        self.grants: list[Granted] = []

    @property
    def tenants(self) -> list[str]:
        return [f"{self.name}-{letter}" for letter in "abc"]

    def live(self) -> "Shop":
        """Everything that happens."""
        for _ in range(self.rng.choice((1, 1, 2))):
            self._new_buyer()
        for _ in range(self.rng.randrange(4, 22)):
            self._wait()
            self.rng.choice(self._steps())()
        if self.rng.random() < 0.15:
            self._delete(self.rng.choice(self.buyers))
        return self

    # What happens -------------------------------------------------------------------------------

    def _steps(self) -> list[Callable[[], None]]:
        steps: list[Callable[[], None]] = [self._link, self._buy, self._grant]
        if len(self.subscriptions) < 3:
            steps += [self._subscribe] * 2
        if self.subscriptions:
            steps += [self._move_subscription] * 5 + [self._renewal_order]
        if self.orders:
            steps += [self._move_order] * 3
        if self.grants:
            steps += [self._move_grant] * 3
        return steps

    def _wait(self) -> None:
        left_us = self.now_us - self.clock_us
        longest_us = self.rng.choice((2, 900, US, 3600 * US, 5 * DAY_US, 20 * DAY_US))
        self.clock_us += self.rng.randrange(1, min(longest_us, left_us // 6) + 1)

    def _tell(self, kind: str, data: dict[str, Any], thing: str) -> None:
        self.newest[thing] = len(self.told)
        number = f"{self.name}/{len(self.told)}"
        self.told.append((headers_of(number), event(kind, data, self.clock_us)))

    def _new_buyer(self) -> None:
        buyer = Buyer(f"{self.name} buyer {len(self.buyers)}", self.clock_us)
        if self.rng.random() < 0.5:
            buyer.external_id = self.rng.choice(self.tenants)
        self.buyers.append(buyer)
        self._tell("customer.created", buyer.shown(), buyer.name)

    def _link(self) -> None:
        """An external id is set once; metadata may be changed."""
        buyer = self.rng.choice(self.buyers)
        if buyer.external_id is None:
            buyer.external_id = self.rng.choice(self.tenants)
        elif self.rng.random() < 0.2:
            buyer.named = self.rng.choice([None, *self.tenants])
        buyer.modified_us = self.clock_us
        self._tell("customer.updated", buyer.shown(), buyer.name)

    def _subscribe(self) -> None:
        one = Subscribed(
            name=f"{self.name} subscription {len(self.subscriptions)}",
            buyer=self.rng.choice(self.buyers),
            product=self.rng.choice(PRODUCTS),
            status=self.rng.choice(("incomplete", "trialing", "active")),
            created_us=self.clock_us,
            ends_us=self.clock_us + 30 * DAY_US,
            named=self.rng.choice([None, None, None, *self.tenants]),
        )
        one.seats = self.rng.randrange(1, 9) if one.product == "team" else None
        self.subscriptions.append(one)
        self._tell("subscription.created", one.shown(), one.name)

    def _move_subscription(self) -> None:
        one = self.rng.choice(self.subscriptions)
        if one.status in ("canceled", "incomplete_expired"):
            return
        name, change = self.rng.choice(list(self._moves_of(one)))
        change(one)
        one.modified_us = self.clock_us
        kinds = ["updated", *([name] if name is not None else ())]
        self.rng.shuffle(kinds)
        for kind in kinds:
            self._tell(f"subscription.{kind}", one.shown(), one.name)
            self.clock_us += self.rng.randrange(3)

    def _moves_of(
        self, one: Subscribed
    ) -> Iterator[tuple[str | None, Callable[[Subscribed], None]]]:
        if one.status == "incomplete":
            yield "active", _activate
            yield None, _expire
            return
        if one.status == "paused":
            yield "resumed", self._resume
            yield "revoked", _revoke
            return
        if one.status == "unpaid":
            yield "revoked", _revoke
            yield "active", _activate
            return
        if one.status == "past_due":
            yield "active", _activate
            yield "past_due", lambda _: None  # another attempt failed
            yield "revoked", _give_up
            yield "revoked", _revoke
        else:
            for _ in range(3):
                yield "past_due", self._fail
            yield "cycled", self._cycle
            yield "paused", _pause
        yield ("uncanceled" if one.is_canceling else "canceled"), _turn_cancellation
        yield None, _turn_pausing
        yield None, self._change
        yield "revoked", _revoke

    def _fail(self, one: Subscribed) -> None:
        one.status, one.past_due_us = "past_due", self.clock_us - self.rng.randrange(20 * DAY_US)

    def _cycle(self, one: Subscribed) -> None:
        one.status, one.ends_us = "active", self.clock_us + 30 * DAY_US

    def _resume(self, one: Subscribed) -> None:
        _activate(one)
        self._cycle(one)

    def _change(self, one: Subscribed) -> None:
        one.product = self.rng.choice(PRODUCTS)
        one.seats = self.rng.randrange(1, 9) if one.product == "team" else None

    def _buy(self) -> None:
        one = Ordered(
            name=f"{self.name} order {len(self.orders)}",
            buyer=self.rng.choice(self.buyers),
            product=self.rng.choice(ONCE),
            created_us=self.clock_us,
            status=self.rng.choice(("pending", "paid")),
        )
        self.orders.append(one)
        self._tell("order.created", one.shown(), one.name)

    def _renewal_order(self) -> None:
        """Of a subscription: whatever becomes of it, access follows the subscription."""
        of = self.rng.choice(self.subscriptions)
        one = Ordered(
            name=f"{self.name} order {len(self.orders)}",
            buyer=of.buyer,
            product=of.product,
            created_us=self.clock_us,
            subscription=of.name,
            status=self.rng.choice(("pending", "paid")),
        )
        self.orders.append(one)
        self._tell("order.created", one.shown(), one.name)

    def _move_order(self) -> None:
        one = self.rng.choice(self.orders)
        if one.status == "pending":
            one.status = self.rng.choice(("paid", "paid", "paid", "void"))
            one.modified_us = self.clock_us
            self._tell("order.updated", one.shown(), one.name)
            if one.status == "paid":
                self._tell("order.paid", one.shown(), one.name)
            return
        if one.status != "paid":
            return
        waiting = [back for back in one.refunds if back.status == "pending"]
        done = [back for back in one.refunds if back.status == "succeeded"]
        left = PRICE - sum(back.amount for back in waiting + done)
        if waiting:
            self._settle(one, waiting[0], self.rng.choice(("succeeded", "succeeded", "failed")))
        elif done and self.rng.random() < 0.3:
            self._settle(one, self.rng.choice(done), "failed")
        elif left:
            self._refund(one, self.rng.choice((left, left, min(left, 1000))))

    def _refund(self, one: Ordered, amount: int) -> None:
        flagged = one.subscription is None and self.rng.random() < 0.4
        name = f"{one.name} refund {len(one.refunds)}"
        back = PaidBack(name, amount, flagged, self.clock_us)
        one.refunds.append(back)
        self._tell("refund.created", self._shown(one, back), back.name)
        if self.rng.random() < 0.7:
            self.clock_us += 1
            self._settle(one, back, "succeeded")

    def _settle(self, one: Ordered, back: PaidBack, status: str) -> None:
        back.status, back.modified_us = status, self.clock_us
        self._tell("refund.updated", self._shown(one, back), back.name)
        self.clock_us += 1
        one.modified_us = self.clock_us
        self._tell("order.updated", one.shown(), one.name)
        if status == "succeeded":
            self._tell("order.refunded", one.shown(), one.name)

    def _shown(self, one: Ordered, back: PaidBack) -> dict[str, Any]:
        return payloads.refund(
            back.name,
            of=one.buyer.shown(),
            order_name=one.name,
            status=back.status,
            amount=back.amount,
            revokes=back.revokes,
            created_us=back.created_us,
            modified_us=back.modified_us,
            subscription_id=None if one.subscription is None else uuid_of(one.subscription),
        )

    def _grant(self) -> None:
        one = Granted(
            name=f"{self.name} grant {len(self.grants)}",
            buyer=self.rng.choice(self.buyers),
            benefit=self.rng.choice(BENEFITS),
            created_us=self.clock_us,
            is_granted=self.rng.random() < 0.7,
        )
        self.grants.append(one)
        self._tell("benefit_grant.created", one.shown(), one.name)
        self._sum_up(one.buyer)

    def _move_grant(self) -> None:
        one = self.rng.choice(self.grants)
        if one.is_granted and self.rng.random() < 0.6:
            self._revoke_grant(one)
            return
        kind = "cycled" if one.is_granted else "updated"
        one.is_granted, one.is_revoked, one.modified_us = True, False, self.clock_us
        self._tell(f"benefit_grant.{kind}", one.shown(), one.name)
        self._sum_up(one.buyer)

    def _revoke_grant(self, one: Granted) -> None:
        one.is_granted, one.is_revoked, one.modified_us = False, True, self.clock_us
        self._tell("benefit_grant.revoked", one.shown(), one.name)
        self._sum_up(one.buyer)

    def _sum_up(self, buyer: Buyer) -> None:
        self.clock_us += 1
        held = tuple(one.benefit for one in self.grants if one.buyer is buyer and one.is_granted)
        state = payloads.customer_state(buyer.shown(), held)
        self._tell("customer.state_changed", state, f"state of {buyer.name}")

    def _delete(self, buyer: Buyer) -> None:
        for one in self.subscriptions:
            if one.buyer is buyer and one.status != "canceled":
                self._wait()
                _revoke(one)
                one.modified_us = self.clock_us
                self._tell("subscription.revoked", one.shown(), one.name)
        for grant in self.grants:
            if grant.buyer is buyer and grant.is_granted:
                self._wait()
                self._revoke_grant(grant)
        self._wait()
        buyer.modified_us = buyer.deleted_us = self.clock_us
        self._tell("customer.deleted", buyer.shown(), buyer.name)

    # The model ----------------------------------------------------------------------------------

    def features(self, family: str, refunds: str) -> dict[str, Features]:
        """Tenant → feature → value, by what grants and how refunds count."""
        given: dict[str, list[tuple[str, int]]] = {tenant: [] for tenant in self.tenants}
        if family == "subscriptions":
            for subscription in self.subscriptions:
                tenant = subscription.named or subscription.buyer.tenant
                if tenant is not None and self._gives(subscription):
                    given[tenant].append((subscription.product, subscription.seats or 1))
            for order in self.orders:
                tenant = order.buyer.tenant
                if tenant is not None and _is_kept(order, refunds):
                    given[tenant].append((order.product, 1))
        else:
            for grant in self.grants:
                if grant.buyer.tenant is not None and grant.is_granted:
                    given[grant.buyer.tenant].append((grant.benefit, 1))
        return {tenant: _combined(parts) for tenant, parts in given.items()}

    def _gives(self, one: Subscribed) -> bool:
        if one.status not in ("trialing", "active", "past_due"):
            return False
        ends_s = [one.ends_us // US] if one.is_canceling or one.is_pausing else []
        if one.status == "past_due":
            assert one.past_due_us is not None
            ends_s.append(one.past_due_us // US + GRACE_S[one.product])
        return all(self.now_us // US < end for end in ends_s)


def _is_kept(order: Ordered, refunds: str) -> bool:
    if order.status != "paid" or order.subscription is not None:
        return False
    held = [back for back in order.refunds if back.status in ("pending", "succeeded")]
    is_whole = refunds == "whole" and sum(back.amount for back in held) >= PRICE
    return not is_whole and not any(back.revokes for back in held)


def _combined(parts: list[tuple[str, int]]) -> Features:
    found: Features = {}
    for name, quantity in parts:
        for feature, value in GIVES[name].items():
            if feature == "seats":
                found[feature] = found.get(feature, 0) + value * quantity
            else:
                found[feature] = max(found.get(feature, False), value)
    return found


def _activate(one: Subscribed) -> None:
    one.status, one.past_due_us = "active", None


def _expire(one: Subscribed) -> None:
    one.status = "incomplete_expired"


def _revoke(one: Subscribed) -> None:
    one.status = "canceled"


def _give_up(one: Subscribed) -> None:
    one.status = "unpaid"


def _pause(one: Subscribed) -> None:
    one.status, one.is_pausing = "paused", False


def _turn_cancellation(one: Subscribed) -> None:
    one.is_canceling = not one.is_canceling


def _turn_pausing(one: Subscribed) -> None:
    one.is_pausing = not one.is_pausing
