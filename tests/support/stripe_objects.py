"""
What a merchant has at Stripe: the truth of each object, and how an API generation shows it.

Fields are the truth, `shape` is what an event carries. What a payment paid for, when a purchase
was paid and since when a subscription is past due are fields that no single event shows.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DAY_S = 86_400


class Generation(StrEnum):
    """The API version of an endpoint. Basil took payments off invoices."""

    BASIL = "2025-03-31.basil"
    OLDER = "2022-11-15"


@dataclass
class Thing(ABC):
    """One object. `livemode` is its own, `created` is in unix seconds."""

    id: str
    created: int
    livemode: bool

    KIND = ""

    def shape(self, generation: Generation) -> dict[str, Any]:
        """As an event of that API generation carries it."""
        return {
            "id": self.id,
            "object": self.KIND,
            "created": self.created,
            "livemode": self.livemode,
            **self.own(generation),
        }

    @abstractmethod
    def own(self, generation: Generation) -> dict[str, Any]:
        """What its kind has besides."""


@dataclass
class Customer(Thing):
    tenant: str | None = None
    has_payment_method: bool = False
    is_deleted: bool = False

    KIND = "customer"

    def own(self, generation: Generation) -> dict[str, Any]:
        method = f"pm_{self.id}" if self.has_payment_method else None
        return {
            "default_source": None,
            "email": f"{self.id}@example.com",
            "invoice_settings": {"default_payment_method": method, "footer": None},
            "metadata": {} if self.tenant is None else {"tenant_id": self.tenant},
        }


@dataclass
class Item:
    id: str
    product: str
    quantity: int = 1


@dataclass
class Subscription(Thing):
    customer: Customer
    items: list[Item]
    status: str = "active"
    tenant: str | None = None
    cancel_at: int | None = None
    ends_with_period: bool = False
    period_end: int = 0
    trial_end: int | None = None
    without_method: str = "create_invoice"  # what a trial's end does then
    has_payment_method: bool = False
    collection: str | None = None  # how it is paused
    latest_invoice: str | None = None
    ended_at: int | None = None
    # No event says these.
    past_due_since: int | None = None
    left_past_due_at: int | None = None
    starts_unseen: bool = False

    KIND = "subscription"

    def own(self, generation: Generation) -> dict[str, Any]:
        is_basil = generation is Generation.BASIL
        period = {
            "current_period_end": self.period_end,
            "current_period_start": self.period_end - 30 * DAY_S,
        }
        pause = None
        if self.collection is not None:
            pause = {"behavior": self.collection, "resumes_at": None}
        return {
            "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.ends_with_period,
            "collection_method": "charge_automatically",
            "customer": self.customer.id,
            "default_payment_method": f"pm_{self.id}" if self.has_payment_method else None,
            "default_source": None,
            "ended_at": self.ended_at,
            "items": {
                "object": "list",
                "data": [self._item(item, period if is_basil else {}) for item in self.items],
                "has_more": False,
                "total_count": len(self.items),
            },
            "latest_invoice": self.latest_invoice,
            "metadata": {} if self.tenant is None else {"tenant_id": self.tenant},
            "pause_collection": pause,
            "start_date": self.created,
            "status": self.status,
            "trial_end": self.trial_end,
            "trial_settings": {"end_behavior": {"missing_payment_method": self.without_method}},
            **({} if is_basil else period),
        }

    def _item(self, item: Item, period: dict[str, int]) -> dict[str, Any]:
        return {
            "id": item.id,
            "object": "subscription_item",
            "metadata": {},
            "price": {
                "id": price_of(item.product),
                "object": "price",
                "product": item.product,
                "recurring": {"interval": "month", "usage_type": "licensed"},
                "unit_amount": 1000,
            },
            "quantity": item.quantity,
            "subscription": self.id,
            **period,
        }


def price_of(product: str) -> str:
    return product.replace("prod_", "price_")


@dataclass
class Payment(Thing):
    """A payment intent with its one charge; `shape` shows the charge."""

    charge: str
    amount: int
    customer: Customer | None = None
    invoice: "Invoice | None" = None
    refunded: int = 0  # by the charge's own account

    KIND = "charge"

    def shape(self, generation: Generation) -> dict[str, Any]:
        return {**super().shape(generation), "id": self.charge}

    def own(self, generation: Generation) -> dict[str, Any]:
        shown = {
            "amount": self.amount,
            "amount_captured": self.amount,
            "amount_refunded": self.refunded,
            "captured": True,
            "currency": "eur",
            "customer": self.customer.id if self.customer is not None else None,
            "metadata": {},
            "paid": True,
            "payment_intent": self.id,
            "refunded": self.refunded >= self.amount,
            "status": "succeeded",
        }
        if generation is Generation.OLDER:
            shown["invoice"] = self.invoice.id if self.invoice is not None else None
        return shown


@dataclass
class Invoice(Thing):
    subscription: Subscription
    amount: int
    status: str = "draft"
    payment: Payment | None = None
    attempts: int = 0

    KIND = "invoice"

    def own(self, generation: Generation) -> dict[str, Any]:
        paid = self.amount if self.status == "paid" else 0
        shown = {
            "amount_due": self.amount,
            "amount_paid": paid,
            "attempt_count": self.attempts,
            "billing_reason": "subscription_cycle",
            "currency": "eur",
            "customer": self.subscription.customer.id,
            "lines": {"object": "list", "data": [], "has_more": False},
            "metadata": {},
            "status": self.status,
        }
        if generation is Generation.BASIL:
            details = {"metadata": {}, "subscription": self.subscription.id}
            shown["parent"] = {
                "quote_details": None,
                "subscription_details": details,
                "type": "subscription_details",
            }
        else:
            shown["charge"] = self.payment.charge if self.payment is not None else None
            shown["payment_intent"] = self.payment.id if self.payment is not None else None
            shown["paid"] = self.status == "paid"
            shown["subscription"] = self.subscription.id
        return shown


@dataclass
class InvoicePayment(Thing):
    invoice: Invoice
    payment: Payment

    KIND = "invoice_payment"

    def own(self, generation: Generation) -> dict[str, Any]:
        return {
            "amount_paid": self.payment.amount,
            "amount_requested": self.payment.amount,
            "currency": "eur",
            "invoice": self.invoice.id,
            "is_default": True,
            "payment": {"payment_intent": self.payment.id, "type": "payment_intent"},
            "status": "paid",
            "status_transitions": {"canceled_at": None, "paid_at": self.created},
        }


@dataclass
class Session(Thing):
    mode: str  # payment | subscription
    customer: Customer | None = None
    status: str = "open"
    payment_status: str = "unpaid"
    reference: str | None = None
    tenant: str | None = None
    plan: str | None = None
    link: str | None = None
    amount: int = 0
    payment: Payment | None = None
    subscription: Subscription | None = None
    # No snapshot says these.
    completed_at: int | None = None
    paid_at: int | None = None

    KIND = "checkout.session"

    def own(self, generation: Generation) -> dict[str, Any]:
        metadata = {"tenant_id": self.tenant, "sluice_plan": self.plan}
        return {
            "amount_total": self.amount,
            "client_reference_id": self.reference,
            "currency": "eur",
            "customer": self.customer.id if self.customer is not None else None,
            "customer_details": {"email": "buyer@example.com"},
            "expires_at": self.created + DAY_S,
            "metadata": {key: value for key, value in metadata.items() if value is not None},
            "mode": self.mode,
            "payment_intent": self.payment.id if self.payment is not None else None,
            "payment_link": self.link,
            "payment_status": self.payment_status,
            "status": self.status,
            "subscription": self.subscription.id if self.subscription is not None else None,
        }


@dataclass
class Adverse(Thing):
    """What speaks against a payment. Old ones name the charge alone."""

    payment: Payment
    names_intent: bool = True

    def joins(self) -> dict[str, Any]:
        intent = self.payment.id if self.names_intent else None
        return {"charge": self.payment.charge, "payment_intent": intent}


@dataclass
class Refund(Adverse):
    amount: int = 0
    status: str = "succeeded"

    KIND = "refund"

    def own(self, generation: Generation) -> dict[str, Any]:
        failure = "lost_or_stolen_card" if self.status == "failed" else None
        return {
            **self.joins(),
            "amount": self.amount,
            "currency": "eur",
            "failure_reason": failure,
            "metadata": {},
            "reason": "requested_by_customer",
            "status": self.status,
        }


@dataclass
class Dispute(Adverse):
    amount: int = 0
    status: str = "needs_response"

    KIND = "dispute"

    def own(self, generation: Generation) -> dict[str, Any]:
        return {
            **self.joins(),
            "amount": self.amount,
            "currency": "eur",
            "evidence_details": {"due_by": self.created + 7 * DAY_S, "has_evidence": False},
            "is_charge_refundable": self.status.startswith("warning"),
            "metadata": {},
            "reason": "fraudulent",
            "status": self.status,
        }


@dataclass
class FraudWarning(Adverse):
    is_actionable: bool = True

    KIND = "radar.early_fraud_warning"

    def own(self, generation: Generation) -> dict[str, Any]:
        return {
            **self.joins(),
            "actionable": self.is_actionable,
            "fraud_type": "made_with_stolen_card",
        }


@dataclass
class Belongings:
    """Everything that a merchant has, as it truly is."""

    customers: list[Customer] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    disputes: list[Dispute] = field(default_factory=list)
    warnings: list[FraudWarning] = field(default_factory=list)
