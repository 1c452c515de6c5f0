"""
The objects that grant, link or sum up, each as its states need it.

Several generations of payloads are read alike. Since API version 2025-03-31.basil a period's end
is on the items, before it was on the subscription; with flexible billing the portal sets
`cancel_at` alone; lists inside an event end after ten entries, and a session's lines are never
in one. Source: docs.stripe.com/api and the stripe SDK's typed classes (read 2026-11).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from shared.domain.states import Item, ObjectState
from shared.providers.base import PayloadError
from shared.providers.stripe.fields import (
    Amount,
    Line,
    Page,
    Price,
    Quantity,
    Reference,
    Seconds,
    id_of,
    in_order,
    items_of,
    named_in,
    refs_of,
    storable,
)

#: Keys of the metadata that Sluice reads.
TENANT_KEY = "tenant_id"
PLAN_KEY = "sluice_plan"


class _PauseCollection(msgspec.Struct):
    behavior: str | None = None
    resumes_at: Seconds | None = None


class _EndBehavior(msgspec.Struct):
    missing_payment_method: str | None = None


class _TrialSettings(msgspec.Struct):
    end_behavior: _EndBehavior | None = None


class Subscription(msgspec.Struct):
    """See docs.stripe.com/api/subscriptions/object."""

    id: str
    status: str
    customer: Reference
    items: Page[Line] | None = None
    plan: Price | None = None  # of a subscription to one plan, before items
    quantity: Quantity | None = None
    current_period_end: Seconds | None = None  # here before basil
    cancel_at: Seconds | None = None
    cancel_at_period_end: bool | None = None
    start_date: Seconds | None = None
    metadata: dict[str, Any] | None = None
    pause_collection: _PauseCollection | None = None
    trial_end: Seconds | None = None
    trial_settings: _TrialSettings | None = None
    default_payment_method: Reference | None = None
    default_source: Reference | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        lines = list(self.items.data) if self.items is not None else []
        if not lines and self.plan is not None:
            lines = [Line(quantity=self.quantity, plan=self.plan)]
        paused = self.pause_collection
        return ObjectState(
            status=self.status,
            customer=id_of(self.customer),
            tenant=named_in(self.metadata, TENANT_KEY),
            items=items_of(lines),
            ends_at=self._scheduled_end(lines),
            started_at=self.start_date,
            is_partial=self.items is not None and bool(self.items.has_more),
            collection=storable(paused.behavior) if paused is not None else None,
            resumes_at=paused.resumes_at if paused is not None else None,
            lapses_at=self._lapse(),
            period_ends_at=min(_ends_of(lines), default=self.current_period_end),
        )

    def _scheduled_end(self, lines: Sequence[Line]) -> int | None:
        # Flexible billing sets `cancel_at` alone; an absent one has been seen as 0.
        if self.cancel_at:
            return self.cancel_at
        if not self.cancel_at_period_end:
            return None
        return max(_ends_of(lines), default=self.current_period_end)

    def _lapse(self) -> int | None:
        """When its trial ends for want of something to pay from; the customer may have it."""
        if self.status != "trialing" or self.default_payment_method or self.default_source:
            return None
        settings = self.trial_settings
        behavior = settings.end_behavior if settings is not None else None
        if behavior is None or behavior.missing_payment_method not in ("cancel", "pause"):
            return None
        return self.trial_end


def _ends_of(lines: Sequence[Line]) -> list[int]:
    """Of the periods of the items, which need not be the same."""
    return [line.current_period_end for line in lines if line.current_period_end]


class _InvoiceSettings(msgspec.Struct):
    default_payment_method: Reference | None = None


class Customer(msgspec.Struct):
    """See docs.stripe.com/api/customers/object; a fetch of a deleted one says `deleted`."""

    id: str
    metadata: dict[str, Any] | None = None
    invoice_settings: _InvoiceSettings | None = None
    default_source: Reference | None = None
    deleted: bool | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        settings = self.invoice_settings
        method = settings.default_payment_method if settings is not None else None
        return ObjectState(
            status="deleted" if self.deleted else "present",
            customer=self.id,
            tenant=named_in(self.metadata, TENANT_KEY),
            has_payment_method=bool(method or self.default_source),
        )


class Session(msgspec.Struct):
    """See docs.stripe.com/api/checkout/sessions/object. In mode payment it is a purchase."""

    id: str
    customer: Reference | None = None
    client_reference_id: str | None = None
    metadata: dict[str, Any] | None = None
    created: Seconds | None = None
    mode: str | None = None
    status: str | None = None
    payment_status: str | None = None
    amount_total: Amount | None = None
    payment_intent: Reference | None = None
    invoice: Reference | None = None
    payment_link: Reference | None = None
    line_items: Page[Line] | None = None

    def state(self) -> ObjectState:
        """
        Its state now: a purchase has its payment status, another completed session "complete".

        Raises:
            PayloadError: a purchase that does not say whether it was paid.
        """
        if self.status in ("open", "expired"):
            return self.ended(self.status)
        if self.mode != "payment":
            return self._state("complete", reference=storable(self.client_reference_id))
        if self.payment_status is None:
            raise PayloadError("a session in mode payment has no payment_status")
        plan = named_in(self.metadata, PLAN_KEY)
        lines = self.line_items
        state = self._state(self.payment_status, reference=storable(self.client_reference_id))
        return msgspec.structs.replace(
            state,
            refs=refs_of(("payment_intent", self.payment_intent), ("invoice", self.invoice)),
            plan=plan,
            offer=storable(id_of(self.payment_link)) if self.payment_link is not None else None,
            amount=self.amount_total,
            items=items_of(lines.data) if lines is not None else (),
            is_partial=plan is None and (lines is None or bool(lines.has_more)),
        )

    def unpaid(self) -> ObjectState:
        """Its state while a delayed payment was on its way."""
        return msgspec.structs.replace(self, payment_status="unpaid").state()

    def ended(self, status: str) -> ObjectState:
        """Its state where it was never completed: it links nobody and sells nothing."""
        return self._state(status, reference=None)

    def failed(self, status: str) -> ObjectState:
        """Its state where it was completed and never paid: it sells nothing, and still links."""
        return self._state(status, reference=storable(self.client_reference_id))

    def _state(self, status: str, reference: str | None) -> ObjectState:
        return ObjectState(
            status=status,
            customer=id_of(self.customer) if self.customer else None,
            tenant=named_in(self.metadata, TENANT_KEY),
            reference=reference,
            started_at=self.created,
        )


class _Entitlement(msgspec.Struct):
    feature: Reference
    lookup_key: str | None = None


class Summary(msgspec.Struct):
    """
    All that a customer is entitled to: docs.stripe.com/billing/entitlements. It has no id of its
    own, and inside an event it ends after ten entries.
    """

    customer: str
    entitlements: Page[_Entitlement]

    @property
    def id(self) -> str:
        """The customer's: it has one summary."""
        return self.customer

    def state(self) -> ObjectState:
        """Its state now."""
        items = (
            Item(tuple(filter(None, (storable(id_of(one.feature)), storable(one.lookup_key)))))
            for one in self.entitlements.data
        )
        return ObjectState(
            status="current",
            customer=self.customer,
            items=in_order(items),
            is_partial=bool(self.entitlements.has_more),
        )


class Account(msgspec.Struct):
    """A connected account: docs.stripe.com/api/accounts/object."""

    id: str
    deleted: bool | None = None

    def state(self) -> ObjectState:
        """Whether it is connected; a deleted one is not."""
        return ObjectState("deauthorized" if self.deleted else "present")
