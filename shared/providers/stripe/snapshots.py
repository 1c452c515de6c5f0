"""
What a snapshot says: the state of its object when the event was made, and the state before.

Snapshots have no version but `created`, in whole seconds, and delivery is not ordered. What puts
the snapshots of one second in order (`shared.domain.register`) is the state before: `updated`
events tell it in `previous_attributes`, and some types by their name alone.
Source: docs.stripe.com/api/events/object and the stripe SDK's `_event.py` (read 2026-11). The
documents promise `previous_attributes` for `*.updated` only; payloads of `charge.refunded` and
`charge.dispute.closed` have them too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shared.domain.commands import Command, Observe, Shape
from shared.domain.events import is_storable
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
    WARNING_KIND,
    ObjectState,
)
from shared.providers.base import PayloadError
from shared.providers.stripe.fields import Seconds
from shared.providers.stripe.objects import Account, Customer, Session, Subscription, Summary
from shared.providers.stripe.payments import (
    Charge,
    Dispute,
    FraudWarning,
    Invoice,
    InvoicePayment,
    Refund,
)

Snapshot = (
    Account
    | Charge
    | Customer
    | Dispute
    | FraudWarning
    | Invoice
    | InvoicePayment
    | Refund
    | Session
    | Subscription
    | Summary
)

#: The kinds of object that are observed, by Stripe's own name for them.
MODELS: dict[str, type[Snapshot]] = {
    ACCOUNT_KIND: Account,
    CHARGE_KIND: Charge,
    CUSTOMER_KIND: Customer,
    DISPUTE_KIND: Dispute,
    INVOICE_KIND: Invoice,
    INVOICE_PAYMENT_KIND: InvoicePayment,
    REFUND_KIND: Refund,
    SESSION_KIND: Session,
    SUBSCRIPTION_KIND: Subscription,
    SUMMARY_KIND: Summary,
    WARNING_KIND: FraudWarning,
}


class _Data(msgspec.Struct):
    object: msgspec.Raw
    previous_attributes: dict[str, Any] | None = None


class Event(msgspec.Struct):
    """See docs.stripe.com/api/events/object."""

    id: str
    type: str
    created: Seconds
    data: _Data
    account: str | None = None


Builder = Callable[[Event], Command]
#: Reads one state from a snapshot.
Reading = Callable[[Any], ObjectState]

decode_event = msgspec.json.Decoder(Event).decode


def now(snapshot: Snapshot) -> ObjectState:
    """The state that the snapshot shows."""
    return snapshot.state()


def snapshot(kind: str, shape: Shape, after: Reading = now) -> Builder:
    """An edge comes from where `previous_attributes` says; where they do not, it is a point."""
    model = MODELS[kind]

    def build(event: Event) -> Command:
        content = msgspec.json.decode(event.data.object, type=model)
        state = after(content)
        before = _state_before(event, model, state) if shape == "edge" else None
        seen: Shape = "point" if shape == "edge" and before is None else shape
        return observe(kind, content.id, event.created, seen, before, state)

    return build


def step(kind: str, before: Reading, after: Reading = now) -> Builder:
    """An edge whose type alone says where it comes from."""
    model = MODELS[kind]

    def build(event: Event) -> Command:
        content = msgspec.json.decode(event.data.object, type=model)
        return observe(kind, content.id, event.created, "edge", before(content), after(content))

    return build


def account_step(before: str, after: str) -> Builder:
    """The snapshot is the application's; the account that it is connected to is the event's."""

    def build(event: Event) -> Command:
        if event.account is None:
            raise PayloadError("no account")
        states = ObjectState(before), ObjectState(after)
        return observe(ACCOUNT_KIND, event.account, event.created, "edge", *states)

    return build


def observe(
    kind: str,
    object_id: str,
    version: int,
    shape: Shape,
    before: ObjectState | None,
    after: ObjectState,
    *,
    ceiling: int | None = None,
    number: int | None = None,
) -> Observe:
    """
    The command, once what an object cannot do without has been seen to fit an index.

    Raises:
        PayloadError: it does not.
    """
    if not is_storable(object_id):
        raise PayloadError("the object's id is empty, too long or holds a NUL")
    if not is_storable(after.status):
        raise PayloadError("the object's status is empty, too long or holds a NUL")
    if after.customer is not None and not is_storable(after.customer):
        raise PayloadError("the customer's id is empty, too long or holds a NUL")
    return Observe(kind, object_id, version, shape, before, after, ceiling, number)


def gone(status: str) -> Reading:
    """Of a `deleted` event: whatever the snapshot says, the object is gone."""
    return lambda content: msgspec.structs.replace(content.state(), status=status)


def _state_before(event: Event, model: type[Snapshot], after: ObjectState) -> ObjectState | None:
    """The state that the event left, or None where it does not say."""
    previous = event.data.previous_attributes
    if not previous:
        return None
    if previous.keys().isdisjoint(model.__struct_fields__):
        return after
    current = msgspec.json.decode(event.data.object)
    try:
        return msgspec.convert(_overlay(current, previous), model).state()
    except (msgspec.ValidationError, PayloadError):
        # The snapshot itself was read: losing its order is better than losing it.
        return None


def _overlay(current: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes are merged by key, arrays replaced whole, and null means that the key was absent."""
    merged = dict(current)
    for key, value in previous.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _overlay(merged[key], value)
        else:
            merged[key] = value
    return merged
