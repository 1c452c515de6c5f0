"""
A merchant at Stripe: what it does to its objects, and the events that Stripe tells of it.

Independent of the code under test, and pure: a merchant is driven by its own random numbers and
an integer clock in seconds, which moves only when it is told to. `told` holds the events in the
order in which they happened; ids say nothing of it, and many share a second.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.lives import difference
from tests.support.stripe_events import event
from tests.support.stripe_objects import (
    DAY_S,
    Belongings,
    Customer,
    Dispute,
    FraudWarning,
    Generation,
    Invoice,
    InvoicePayment,
    Item,
    Payment,
    Refund,
    Session,
    Subscription,
    Thing,
)

#: Seen on these too, in events that Stripe sent, not only on `*.updated`.
CARRY_PREVIOUS = frozenset({"charge.dispute.closed", "charge.refunded"})


class Merchant:
    """One merchant's account, seen through one endpoint of an API generation."""

    def __init__(
        self,
        rng: random.Random,
        name: str,
        clock: int,
        *,
        generation: Generation = Generation.BASIL,
        livemode: bool = True,
    ) -> None:
        self.rng = rng
        self.name = name
        self.clock = clock
        self.generation = generation
        self.livemode = livemode
        self.has = Belongings()
        self.told: list[bytes] = []
        #: Types that the endpoint is not subscribed to.
        self.deaf: frozenset[str] = frozenset()
        self.names_previous = True
        self.names_intent = True
        self._numbers: dict[str, int] = {}

    # Telling -------------------------------------------------------------------------------------

    def tell(self, kind: str, thing: Thing, previous: dict[str, Any] | None = None) -> None:
        """Send an event of a thing as it is now."""
        if kind in self.deaf:
            return
        self.told.append(
            event(
                kind,
                thing.shape(self.generation),
                created=self.clock,
                event_id=f"evt_{self.rng.randrange(10**14):014d}",
                previous=previous,
                livemode=self.livemode,
                api_version=self.generation.value,
            )
        )

    @contextmanager
    def changing(self, thing: Thing, *kinds: str) -> Iterator[None]:
        """Change a thing and tell of it; what only says that it changed is silent where not."""
        before = thing.shape(self.generation)
        yield
        previous = difference(thing.shape(self.generation), before)
        for kind in kinds:
            if kind.endswith(".updated"):
                if previous:
                    self.tell(kind, thing, previous)
            elif kind in CARRY_PREVIOUS and self.names_previous:
                self.tell(kind, thing, previous)
            else:
                self.tell(kind, thing)

    def _new(self, prefix: str) -> dict[str, Any]:
        number = self._numbers[prefix] = self._numbers.get(prefix, 0) + 1
        name = f"{prefix}_{self.name}_{number}"
        return {"id": name, "created": self.clock, "livemode": self.livemode}

    # Customers -----------------------------------------------------------------------------------

    def customer(self, *, told: bool = True, **fields: Any) -> Customer:
        one = Customer(**self._new("cus"), **fields)
        self.has.customers.append(one)
        if told:
            self.tell("customer.created", one)
        return one

    def update_customer(self, one: Customer, **fields: Any) -> None:
        with self.changing(one, "customer.updated"):
            _set(one, fields)

    def delete_customer(self, one: Customer) -> None:
        """Its subscriptions end with it."""
        for subscription in self.has.subscriptions:
            if subscription.customer is one:
                self.end(subscription)
        one.is_deleted = True
        self.tell("customer.deleted", one)

    # Subscriptions -------------------------------------------------------------------------------

    def subscribe(
        self, customer: Customer, items: list[tuple[str, int]], **fields: Any
    ) -> Subscription:
        one = Subscription(**self._new("sub"), customer=customer, items=[], **fields)
        one.period_end = one.period_end or self.clock + 30 * DAY_S
        one.items = [self.item(product, quantity) for product, quantity in items]
        if one.status == "past_due":
            one.past_due_since = self.clock
        self.has.subscriptions.append(one)
        if not one.starts_unseen:
            self.tell("customer.subscription.created", one)
        return one

    def item(self, product: str, quantity: int = 1) -> Item:
        return Item(self._new("si")["id"], product, quantity)

    def change(self, one: Subscription, *also: str, **fields: Any) -> None:
        """Change a subscription's fields; `also` are further types told of the same change."""
        if one.status == "canceled":
            return
        status = fields.get("status", one.status)
        if status == "past_due" and one.status != "past_due":
            # Nobody pays and fails again within one second.
            self.clock += one.left_past_due_at == self.clock
            one.past_due_since = self.clock
        elif status != "past_due" and one.status == "past_due":
            one.past_due_since, one.left_past_due_at = None, self.clock
        with self.changing(one, "customer.subscription.updated", *also):
            _set(one, fields)

    def end(self, one: Subscription) -> None:
        if one.status in ("canceled", "incomplete_expired"):
            return
        one.status, one.ended_at, one.past_due_since = "canceled", self.clock, None
        self.tell("customer.subscription.deleted", one)

    # Invoices ------------------------------------------------------------------------------------

    def bill(self, one: Subscription) -> Invoice:
        """A new invoice, finalized; never two of one subscription in one second."""
        if any(i.subscription is one and i.created == self.clock for i in self.has.invoices):
            self.clock += 1
        invoice = Invoice(**self._new("in"), subscription=one, amount=1000)
        self.has.invoices.append(invoice)
        self.tell("invoice.created", invoice)
        with self.changing(invoice, "invoice.finalized", "invoice.updated"):
            invoice.status = "open"
        self.change(one, latest_invoice=invoice.id)
        return invoice

    def fail(self, invoice: Invoice) -> None:
        with self.changing(invoice, "invoice.updated", "invoice.payment_failed"):
            invoice.attempts += 1

    def pay(self, invoice: Invoice) -> Payment:
        customer = invoice.subscription.customer
        payment = self._payment(invoice.amount, customer=customer, invoice=invoice)
        types = ("invoice.updated", "invoice.paid", "invoice.payment_succeeded")
        with self.changing(invoice, *types):
            invoice.status, invoice.payment = "paid", payment
            invoice.attempts += 1
        if self.generation is Generation.BASIL:
            join = InvoicePayment(**self._new("inpay"), invoice=invoice, payment=payment)
            self.tell("invoice_payment.paid", join)
        return payment

    def close(self, invoice: Invoice, status: str) -> None:
        """It will not be paid: "void" or "uncollectible"."""
        kind = "invoice.voided" if status == "void" else "invoice.marked_uncollectible"
        with self.changing(invoice, "invoice.updated", kind):
            invoice.status = status

    def _payment(self, amount: int, **fields: Any) -> Payment:
        new = self._new("pi")
        payment = Payment(**new, charge=new["id"].replace("pi_", "ch_"), amount=amount, **fields)
        self.tell("charge.succeeded", payment)
        return payment

    def charge(self, amount: int) -> Payment:
        """A payment for something that is not sold here."""
        return self._payment(amount)

    # Checkout ------------------------------------------------------------------------------------

    def open_session(self, mode: str, **fields: Any) -> Session:
        one = Session(**self._new("cs"), mode=mode, **fields)
        self.has.sessions.append(one)
        return one

    def complete(self, one: Session, payment_status: str = "paid") -> None:
        """The buyer is through. A delayed payment ("unpaid") is still to come."""
        one.status, one.payment_status, one.completed_at = "complete", payment_status, self.clock
        if payment_status == "no_payment_required":
            one.amount = 0
        elif one.mode == "payment":
            one.payment = self._payment(one.amount, customer=one.customer)
        if payment_status != "unpaid":
            one.paid_at = self.clock
        self.tell("checkout.session.completed", one)

    def settle(self, one: Session, *, succeeds: bool) -> None:
        """What became of a delayed payment."""
        if succeeds:
            one.payment_status, one.paid_at = "paid", self.clock
        outcome = "succeeded" if succeeds else "failed"
        self.tell(f"checkout.session.async_payment_{outcome}", one)

    def expire(self, one: Session) -> None:
        one.status = "expired"
        self.tell("checkout.session.expired", one)

    # What speaks against a payment ---------------------------------------------------------------

    def refund(self, payment: Payment, amount: int, status: str = "succeeded") -> Refund:
        one = Refund(**self._adverse("re", payment), amount=amount, status=status)
        self.has.refunds.append(one)
        self.tell("refund.created", one)
        with self.changing(payment, "charge.refunded"):
            payment.refunded += amount
        return one

    def move_refund(self, one: Refund, status: str, *, tells_charge: bool = True) -> None:
        """A refund goes on, or fails; then the charge's account may go back, or stay stale."""
        failed = ("refund.failed",) if status == "failed" else ()
        with self.changing(one, "refund.updated", "charge.refund.updated", *failed):
            one.status = status
        if status in ("failed", "canceled") and tells_charge:
            with self.changing(one.payment, "charge.updated"):
                one.payment.refunded -= one.amount

    def dispute(self, payment: Payment, status: str, amount: int | None = None) -> Dispute:
        amount = payment.amount if amount is None else amount
        one = Dispute(**self._adverse("dp", payment), amount=amount, status=status)
        self.has.disputes.append(one)
        self.tell("charge.dispute.created", one)
        if not status.startswith("warning"):
            self.tell("charge.dispute.funds_withdrawn", one)
        return one

    def move_dispute(self, one: Dispute, status: str) -> None:
        with self.changing(one, "charge.dispute.updated"):
            one.status = status

    def close_dispute(self, one: Dispute, status: str) -> None:
        with self.changing(one, "charge.dispute.closed"):
            one.status = status
        if status == "won":
            self.tell("charge.dispute.funds_reinstated", one)

    def warn(self, payment: Payment) -> FraudWarning:
        one = FraudWarning(**self._adverse("issfr", payment))
        self.has.warnings.append(one)
        self.tell("radar.early_fraud_warning.created", one)
        return one

    def settle_warning(self, one: FraudWarning) -> None:
        with self.changing(one, "radar.early_fraud_warning.updated"):
            one.is_actionable = False

    def _adverse(self, prefix: str, payment: Payment) -> dict[str, Any]:
        return {**self._new(prefix), "payment": payment, "names_intent": self.names_intent}


def _set(thing: Thing, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if not hasattr(thing, name):
            raise AttributeError(name)
        setattr(thing, name, value)
