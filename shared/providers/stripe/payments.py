"""
The objects around a payment: what it was for, and what speaks against it.

They name each other by reference, and which of them does depends on the API version: before
2025-03-31.basil an invoice named its charge, payment intent and subscription, and a charge its
invoice; since then an invoice has `payments` (listed only where they are expanded) and a `parent`,
and `invoice_payment.paid` says which payment was for which invoice.
Source: docs.stripe.com/api and the stripe SDK's typed classes (read 2026-11).
"""

import msgspec

from shared.domain.states import CHARGE_KIND, INVOICE_KIND, SUBSCRIPTION_KIND, ObjectState
from shared.providers.stripe.fields import Amount, Page, Reference, Seconds, id_of, refs_of

_INTENT_KIND = "payment_intent"
#: Where Stripe gives no status: one that nobody knows.
ABSENT = "absent"


class _SubscriptionNamed(msgspec.Struct):
    subscription: Reference | None = None


class _InvoiceParent(msgspec.Struct):
    subscription_details: _SubscriptionNamed | None = None


class _LineParent(msgspec.Struct):
    subscription_item_details: _SubscriptionNamed | None = None
    invoice_item_details: _SubscriptionNamed | None = None


class _InvoiceLine(msgspec.Struct):
    subscription: Reference | None = None  # before basil
    parent: _LineParent | None = None

    def named(self) -> list[Reference | None]:
        parent = self.parent or _LineParent()
        details = (parent.subscription_item_details, parent.invoice_item_details)
        return [self.subscription, *(one.subscription for one in details if one is not None)]


class _Payment(msgspec.Struct):
    payment_intent: Reference | None = None
    charge: Reference | None = None


class InvoicePayment(msgspec.Struct):
    """See docs.stripe.com/api/invoice-payment/object."""

    id: str
    status: str
    invoice: Reference
    payment: _Payment
    amount_paid: Amount | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return ObjectState(
            status=self.status,
            amount=self.amount_paid,
            refs=refs_of(
                (INVOICE_KIND, self.invoice),
                (_INTENT_KIND, self.payment.payment_intent),
                (CHARGE_KIND, self.payment.charge),
            ),
        )


class _ListedPayment(msgspec.Struct):
    payment: _Payment | None = None


class Invoice(msgspec.Struct):
    """See docs.stripe.com/api/invoices/object. Its status may be null."""

    id: str
    status: str | None = None
    customer: Reference | None = None
    created: Seconds | None = None
    amount_due: Amount | None = None
    subscription: Reference | None = None  # before basil
    parent: _InvoiceParent | None = None
    lines: Page[_InvoiceLine] | None = None
    charge: Reference | None = None  # before basil
    payment_intent: Reference | None = None  # before basil
    payments: Page[_ListedPayment] | None = None

    def state(self) -> ObjectState:
        """
        Its state now. `amount` is what was due: unlike what was paid, being paid does not move
        it, so that the snapshots of one second can be put in order.
        """
        listed = self.payments.data if self.payments is not None else []
        payments = [one.payment for one in listed if one.payment is not None]
        return ObjectState(
            status=self.status or ABSENT,
            customer=id_of(self.customer) if self.customer else None,
            amount=self.amount_due,
            started_at=self.created,
            refs=refs_of(
                (CHARGE_KIND, self.charge),
                (_INTENT_KIND, self.payment_intent),
                *((SUBSCRIPTION_KIND, one) for one in self._subscriptions()),
                *((CHARGE_KIND, one.charge) for one in payments),
                *((_INTENT_KIND, one.payment_intent) for one in payments),
            ),
        )

    def before(self, status: str) -> ObjectState:
        """Its state with `status`, before it was charged."""
        return msgspec.structs.replace(self, status=status, charge=None, payments=None).state()

    def _subscriptions(self) -> list[Reference | None]:
        details = self.parent.subscription_details if self.parent is not None else None
        named = self.subscription or (details.subscription if details is not None else None)
        if named is not None:
            return [named]
        lines = self.lines.data if self.lines is not None else []
        return [one for line in lines for one in line.named()]


class Charge(msgspec.Struct):
    """See docs.stripe.com/api/charges/object."""

    id: str
    status: str
    amount: Amount
    customer: Reference | None = None
    amount_captured: Amount | None = None
    amount_refunded: Amount | None = None
    captured: bool | None = None
    refunded: bool | None = None
    invoice: Reference | None = None  # before basil
    payment_intent: Reference | None = None

    def state(self) -> ObjectState:
        """
        Its state now. `amount` is what was captured, once that was done.

        Stripe counts the uncaptured rest of an authorization as refunded: it is no refund of
        what was paid.
        """
        charged, refunded = self.amount, self.amount_refunded or 0
        if self.captured and self.amount_captured:
            charged = self.amount_captured
            refunded = max(0, refunded - (self.amount - charged))
        return ObjectState(
            status=self.status,
            customer=id_of(self.customer) if self.customer else None,
            amount=charged,
            refunded=charged if self.refunded else refunded,
            refs=refs_of((INVOICE_KIND, self.invoice), (_INTENT_KIND, self.payment_intent)),
        )


class _Against(msgspec.Struct):
    id: str
    amount: Amount
    status: str | None = None  # of a refund it may be null
    charge: Reference | None = None
    payment_intent: Reference | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return ObjectState(
            status=self.status or ABSENT,
            amount=self.amount,
            refs=refs_of((CHARGE_KIND, self.charge), (_INTENT_KIND, self.payment_intent)),
        )


class Refund(_Against):
    """See docs.stripe.com/api/refunds/object."""


class Dispute(_Against):
    """See docs.stripe.com/api/disputes/object."""


class FraudWarning(msgspec.Struct):
    """See docs.stripe.com/api/radar/early_fraud_warnings/object."""

    id: str
    actionable: bool
    charge: Reference | None = None
    payment_intent: Reference | None = None

    def state(self) -> ObjectState:
        """Its state now. Once disputed or fully refunded it is not actionable any more."""
        return ObjectState(
            status="actionable" if self.actionable else "not_actionable",
            refs=refs_of((CHARGE_KIND, self.charge), (_INTENT_KIND, self.payment_intent)),
        )
