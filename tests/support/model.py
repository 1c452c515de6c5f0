"""
The independent model: what tenants may use, read off the true state of a merchant's objects.

It knows no events, no registers and no code under test; it is the status table of the design,
written a second time over another representation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.stripe_objects import (
    DAY_S,
    Belongings,
    Customer,
    Payment,
    Session,
    Subscription,
    price_of,
)

Value = bool | int | float | str
#: What a tenant may use: feature → value.
Features = dict[str, Value]

CATALOG: dict[str, Any] = {
    "plans": {
        "free": {
            "products": ["stripe:prod_free"],
            "features": {"api_calls": 10, "tier": "free"},
            "graceS": 0,
            "rank": 0,
        },
        "basic": {
            "products": ["stripe:prod_basic"],
            "features": {"api_calls": 100, "tier": "basic"},
            "graceS": 7 * DAY_S,
            "rank": 1,
        },
        # "basic" would win by its letters, "pro" wins by its rank.
        "pro": {
            "products": ["stripe:prod_pro", "stripe:prod_bundle"],
            "features": {"api_calls": 1000, "sso": True, "tier": "a-pro"},
            "graceS": 400 * DAY_S,
            "rank": 2,
        },
        "team": {
            "products": ["stripe:price_team"],
            "features": {"seats": 1, "api_calls": 50},
            "graceS": 30 * DAY_S,
        },
        "extra": {
            "products": ["stripe:prod_extra", "stripe:prod_bundle"],
            "features": {"seats": 5, "exports": True},
            "graceS": 0,
        },
        "ent": {
            "products": ["stripe:prod_ent"],
            "features": {"api_calls": "unlimited", "seats": "unlimited", "tier": "ent"},
            "graceS": 90 * DAY_S,
            "rank": 3,
        },
        "pass": {
            "products": ["stripe:plink_pass"],
            "features": {"exports": True, "storage": 50},
        },
        "week": {
            "products": ["stripe:plink_week"],
            "features": {"events": True, "storage": 80},
            "lastsS": 7 * DAY_S,
        },
        "book": {"products": [], "features": {"book": True, "storage": 20.5}},
    },
    "features": {"seats": {"combine": "sum"}},
}

OPEN_DISPUTES = frozenset(
    {"warning_needs_response", "warning_under_review", "needs_response", "under_review"}
)


@dataclass(frozen=True)
class Given:
    """What one object gives of one feature by one plan, `quantity` times."""

    feature: str
    value: Value
    rank: int
    quantity: int


@dataclass(frozen=True)
class Model:
    """A merchant's objects, what operators linked (customer id → tenant), and the catalog."""

    has: Belongings
    operators: Mapping[str, str]
    catalog: Mapping[str, Any]

    def features(self, now_s: int) -> dict[str, Features]:
        """Tenant → feature → value. A tenant that may use nothing is absent."""
        given: dict[str, list[Given]] = {}
        for subscription in self.has.subscriptions:
            tenant = self.tenant_of(subscription.tenant, subscription.customer)
            if tenant is not None:
                given.setdefault(tenant, []).extend(self.of_subscription(subscription, now_s))
        for session in self.has.sessions:
            tenant = self.tenant_of(session.tenant, session.customer)
            if session.customer is None and tenant is None:
                tenant = session.reference
            if tenant is not None:
                given.setdefault(tenant, []).extend(self.of_purchase(session, now_s))
        return {tenant: self.combined(parts) for tenant, parts in given.items() if parts}

    # Whose it is ---------------------------------------------------------------------------------

    def tenant_of(self, own: str | None, customer: Customer | None) -> str | None:
        """None where nothing says it, or the buyer said two things at once."""
        if customer is None:
            return own
        for tenant in (self.operators.get(customer.id), own, customer.tenant):
            if tenant is not None:
                return tenant
        said = self.said_by_buyer(customer)
        return said.pop() if len(said) == 1 else None

    def said_by_buyer(self, customer: Customer) -> set[str]:
        """The references of the customer's earliest completed sessions: of one second."""
        completed = [
            (session.completed_at, session.reference)
            for session in self.has.sessions
            if session.customer is customer
            and session.completed_at is not None
            and session.reference is not None
        ]
        earliest = min((at for at, _ in completed), default=None)
        return {reference for at, reference in completed if at == earliest}

    # What it gives -------------------------------------------------------------------------------

    def of_subscription(self, one: Subscription, now_s: int) -> Iterator[Given]:
        if one.status not in ("trialing", "active", "past_due"):
            return
        if _has_ended(one, now_s) or self.is_held(one):
            return
        for item in one.items:
            for plan in self.plans_of(item.product):
                grace_s = plan["graceS"]
                if one.status == "past_due":
                    assert one.past_due_since is not None
                    if now_s >= one.past_due_since + grace_s:
                        continue
                for feature, value in plan["features"].items():
                    yield Given(feature, value, plan.get("rank", 0), item.quantity)

    def plans_of(self, product: str) -> list[Mapping[str, Any]]:
        keys = {f"stripe:{product}", f"stripe:{price_of(product)}"}
        return [plan for plan in self.catalog["plans"].values() if keys & set(plan["products"])]

    def of_purchase(self, one: Session, now_s: int) -> Iterator[Given]:
        if one.mode != "payment" or one.paid_at is None or one.status != "complete":
            return
        if one.payment is not None and self.is_taken_back(one.payment):
            return
        if one.plan is not None:
            plans = [self.catalog["plans"][one.plan]]
        else:
            plans = [
                plan
                for plan in self.catalog["plans"].values()
                if f"stripe:{one.link}" in plan["products"]
            ]
        for plan in plans:
            if "lastsS" in plan and now_s >= one.paid_at + plan["lastsS"]:
                continue
            for feature, value in plan["features"].items():
                yield Given(feature, value, plan.get("rank", 0), 1)

    # What speaks against it ----------------------------------------------------------------------

    def is_contested(self, payment: Payment) -> bool:
        """Whether a dispute or a warning about the payment is open."""
        return any(
            dispute.payment is payment and dispute.status in OPEN_DISPUTES
            for dispute in self.has.disputes
        ) or any(
            warning.payment is payment and warning.is_actionable for warning in self.has.warnings
        )

    def is_lost(self, payment: Payment) -> bool:
        return any(
            dispute.payment is payment and dispute.status == "lost" for dispute in self.has.disputes
        )

    def is_taken_back(self, payment: Payment) -> bool:
        """Whether a purchase's payment is contested, or nothing of it is left."""
        refunded = sum(
            refund.amount
            for refund in self.has.refunds
            if refund.payment is payment and refund.status not in ("failed", "canceled")
        )
        is_refunded = refunded >= payment.amount
        return self.is_contested(payment) or self.is_lost(payment) or is_refunded

    def is_held(self, one: Subscription) -> bool:
        """Whether a payment of its invoices is contested, or was lost and not paid for since."""
        paid = [
            invoice
            for invoice in self.has.invoices
            if invoice.subscription is one and invoice.payment is not None
        ]
        newest_paid = max((invoice.created for invoice in paid), default=0)
        return any(
            self.is_contested(invoice.payment)
            or (self.is_lost(invoice.payment) and invoice.created == newest_paid)
            for invoice in paid
            if invoice.payment is not None
        )

    # What it comes to ----------------------------------------------------------------------------

    def combined(self, given: list[Given]) -> Features:
        by_feature: dict[str, list[Given]] = {}
        for one in given:
            by_feature.setdefault(one.feature, []).append(one)
        return {
            feature: self._value(feature, parts) for feature, parts in sorted(by_feature.items())
        }

    def _value(self, feature: str, parts: list[Given]) -> Value:
        values = [part.value for part in parts]
        if "unlimited" in values:
            return "unlimited"
        if any(isinstance(value, str) for value in values):
            return max(parts, key=lambda part: part.rank).value
        if all(isinstance(value, bool) for value in values):
            return any(values)
        numbers = [(part.value, part.quantity) for part in parts if not isinstance(part.value, str)]
        if self.catalog.get("features", {}).get(feature, {}).get("combine") == "sum":
            return sum(value * quantity for value, quantity in numbers)
        return max(value for value, _ in numbers)


def _has_ended(one: Subscription, now_s: int) -> bool:
    """Whether a scheduled end has passed that no event has told of yet."""
    end = one.cancel_at
    if end is None and one.ends_with_period:
        end = one.period_end
    if end is not None and now_s >= end:
        return True
    pays = one.has_payment_method or one.customer.has_payment_method
    return (
        one.status == "trialing"
        and one.trial_end is not None
        and one.without_method in ("cancel", "pause")
        and not pays
        and now_s >= one.trial_end
    )
