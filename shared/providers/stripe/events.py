"""
What each type of event asks for.

A v1 event carries a snapshot of its object; a v2 thin event only says which object changed, and
when, in milliseconds; a fetch's answer is the object as it is.
Source: docs.stripe.com/api/events/types, docs.stripe.com/event-destinations and the stripe SDK's
`v2/core/_event.py` (read 2026-11).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from shared.domain.commands import Command, Ignore
from shared.domain.events import FETCHED
from shared.domain.states import (
    ACCOUNT_KIND,
    CHARGE_KIND,
    CUSTOMER_KIND,
    DISPUTE_KIND,
    INVOICE_KIND,
    INVOICE_PAYMENT_KIND,
    REFUND_KIND,
    SESSION_KIND,
    SUBSCRIPTION_KIND,
    SUMMARY_KIND,
    UNOBSERVED,
    WARNING_KIND,
    ObjectState,
)
from shared.providers.base import PayloadError
from shared.providers.stripe.fields import Seconds
from shared.providers.stripe.objects import Session
from shared.providers.stripe.payments import Invoice
from shared.providers.stripe.receipt import moment_of
from shared.providers.stripe.snapshots import (
    MODELS,
    Builder,
    account_step,
    decode_event,
    gone,
    observe,
    snapshot,
    step,
)

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "grants_from": ("subscriptions", "summary"),
    "disputes": ("hold", "keep"),
    "fraud_warnings": ("hold", "keep"),
    "voided_collection": ("keep", "revoke"),
}

_SUMMARY_UPDATED = "entitlements.active_entitlement_summary.updated"

#: What changes access, or leads from what does to whom or what it concerns. Every other type
#: says what one of these says too, or nothing that counts.
_DECIDING = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "invoice.paid",
    "invoice_payment.paid",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "radar.early_fraud_warning.created",
    "radar.early_fraud_warning.updated",
)

_NO_ACCESS_CHANGE = frozenset(
    {
        "charge.failed",
        "charge.pending",
        "invoice.upcoming",  # of an invoice that does not exist yet, so without an id
    }
)


def event_types(settings: Mapping[str, Any]) -> Sequence[str]:
    """See `Provider.event_types`."""
    if settings.get("grants_from") == "summary":
        return (*_DECIDING, _SUMMARY_UPDATED)
    return _DECIDING


def translate(event_type: str, body: bytes) -> Sequence[Command]:
    """See `Provider.translate`."""
    try:
        return (_command(event_type, body),)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, PayloadError) as error:
        raise PayloadError(f"{event_type}: {error}") from None


def _command(event_type: str, body: bytes) -> Command:
    if event_type == FETCHED:
        return _answer(body)
    build = BUILDERS.get(event_type)
    if build is not None:
        return build(decode_event(body))
    if event_type.startswith(("v1.", "v2.")):
        return _hint(event_type, body)
    return Ignore(_ignored(event_type) or "unknown_type")


def _ignored(event_type: str) -> str | None:
    """Why a snapshot's type asks for nothing although it is known."""
    if event_type.startswith(("product.", "price.", "plan.", "entitlements.feature.")):
        return "catalog_is_ours"
    if event_type in _NO_ACCESS_CHANGE or event_type.startswith("subscription_schedule."):
        return "no_access_change"
    return None


# Snapshots ------------------------------------------------------------------------------------


def _open(invoice: Invoice) -> ObjectState:
    return invoice.before("open")


#: The types whose snapshot is observed, and how.
BUILDERS: dict[str, Builder] = {
    "customer.subscription.created": snapshot(SUBSCRIPTION_KIND, "arrival"),
    "customer.subscription.updated": snapshot(SUBSCRIPTION_KIND, "edge"),
    # Points: an `updated` may tell of the same change, and an edge must not count twice.
    "customer.subscription.paused": snapshot(SUBSCRIPTION_KIND, "point"),
    "customer.subscription.resumed": snapshot(SUBSCRIPTION_KIND, "point"),
    "customer.subscription.pending_update_applied": snapshot(SUBSCRIPTION_KIND, "point"),
    "customer.subscription.pending_update_expired": snapshot(SUBSCRIPTION_KIND, "point"),
    "customer.subscription.trial_will_end": snapshot(SUBSCRIPTION_KIND, "point"),
    "customer.subscription.deleted": snapshot(SUBSCRIPTION_KIND, "point", gone("canceled")),
    "customer.created": snapshot(CUSTOMER_KIND, "arrival"),
    "customer.updated": snapshot(CUSTOMER_KIND, "edge"),
    "customer.deleted": snapshot(CUSTOMER_KIND, "point", gone("deleted")),
    "checkout.session.completed": snapshot(SESSION_KIND, "arrival"),
    # A delayed payment completes unpaid first, and then comes to one of these two.
    "checkout.session.async_payment_succeeded": step(SESSION_KIND, Session.unpaid),
    "checkout.session.async_payment_failed": step(
        SESSION_KIND, Session.unpaid, lambda session: session.failed("async_payment_failed")
    ),
    "checkout.session.expired": snapshot(
        SESSION_KIND, "point", lambda session: session.ended("expired")
    ),
    # One is told for each change, with the list before: several in a second are a walk.
    _SUMMARY_UPDATED: snapshot(SUMMARY_KIND, "edge"),
    # An invoice is finalized and paid within one second, and goes one way only.
    "invoice.finalized": step(INVOICE_KIND, lambda invoice: invoice.before("draft")),
    "invoice.updated": snapshot(INVOICE_KIND, "edge"),
    "invoice.paid": step(INVOICE_KIND, _open),
    "invoice.payment_succeeded": step(INVOICE_KIND, _open),
    "invoice.payment_failed": step(INVOICE_KIND, _open),
    "invoice.payment_action_required": step(INVOICE_KIND, _open),
    "invoice.overdue": snapshot(INVOICE_KIND, "point"),
    "invoice.voided": snapshot(INVOICE_KIND, "point"),
    "invoice.marked_uncollectible": snapshot(INVOICE_KIND, "point"),
    "invoice_payment.paid": snapshot(INVOICE_PAYMENT_KIND, "point"),
    "charge.succeeded": snapshot(CHARGE_KIND, "arrival"),
    "charge.captured": snapshot(CHARGE_KIND, "edge"),
    "charge.updated": snapshot(CHARGE_KIND, "edge"),
    "charge.refunded": snapshot(CHARGE_KIND, "edge"),
    "refund.created": snapshot(REFUND_KIND, "arrival"),
    "refund.updated": snapshot(REFUND_KIND, "edge"),
    "charge.refund.updated": snapshot(REFUND_KIND, "edge"),
    "refund.failed": snapshot(REFUND_KIND, "edge"),
    "charge.dispute.created": snapshot(DISPUTE_KIND, "arrival"),
    "charge.dispute.updated": snapshot(DISPUTE_KIND, "edge"),
    "charge.dispute.closed": snapshot(DISPUTE_KIND, "edge"),
    "charge.dispute.funds_withdrawn": snapshot(DISPUTE_KIND, "edge"),
    "charge.dispute.funds_reinstated": snapshot(DISPUTE_KIND, "edge"),
    "radar.early_fraud_warning.created": snapshot(WARNING_KIND, "arrival"),
    "radar.early_fraud_warning.updated": snapshot(WARNING_KIND, "edge"),
    "account.updated": snapshot(ACCOUNT_KIND, "edge"),
    "account.application.authorized": account_step("deauthorized", "present"),
    "account.application.deauthorized": account_step("present", "deauthorized"),
}


# Thin events ----------------------------------------------------------------------------------


class _Related(msgspec.Struct):
    type: str
    id: str | None = None


class _ThinEvent(msgspec.Struct):
    created: int | float | str | None = None
    object: str | None = None
    related_object: _Related | None = None


_decode_thin = msgspec.json.Decoder(_ThinEvent).decode


def _hint(event_type: str, body: bytes) -> Command:
    """That the object changed, at the latest when the event was made."""
    event = _decode_thin(body)
    if event.object != "v2.core.event" or event.created is None:
        return Ignore("unknown_type")
    if event_type == "v2.core.event_destination.ping":
        return Ignore("ping")
    code = _ignored(event_type.removeprefix("v1."))
    if code is not None:
        return Ignore(code)
    related = event.related_object
    if related is None or related.id is None:
        return Ignore("names_no_object")
    if related.type not in MODELS:
        return Ignore("unknown_type")
    second = int(moment_of(event.created).timestamp() // 1)
    return observe(related.type, related.id, second, "hint", None, ObjectState(UNOBSERVED))


# Fetches --------------------------------------------------------------------------------------


class _Fetched(msgspec.Struct):
    kind: str
    id: str
    number: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    floor: Seconds
    ceiling: Seconds
    result: msgspec.Raw


_decode_fetched = msgspec.json.Decoder(_Fetched).decode


def _answer(body: bytes) -> Command:
    """The object as it was between `floor` and `ceiling`."""
    fetched = _decode_fetched(body)
    model = MODELS.get(fetched.kind)
    if model is None:
        raise PayloadError(f"nobody fetches {fetched.kind!r}")
    content = msgspec.json.decode(fetched.result, type=model)
    if content.id != fetched.id:
        raise PayloadError("the answer is another object")
    return observe(
        fetched.kind,
        content.id,
        fetched.floor,
        "fetch",
        None,
        content.state(),
        ceiling=fetched.ceiling,
        number=fetched.number,
    )
