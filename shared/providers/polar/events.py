"""
What each type of event asks for.

An event carries its object whole, as it was when the event was made, and with it the customer.
Their version is `modified_at`, in microseconds since 1970; it is null until the first change, and
then `created_at` says the same. The object and the customer are observed each with its own
version, so that a customer's link is as new as the newest event that shows the customer, and an
old event that shows a customer without one cannot unlink. A customer's state has no version: the
event's `timestamp` is when it was summed up. The benefit grants that a state lists are observed as
well, each with its own version, and its subscriptions hinted at; what gives access and is not
among its `refs`, is asked for. Types say nothing that the object does not say better:
`subscription.canceled` is of an active subscription that will end.

A fetch's answer (`sluice.fetched`) has in `result` what the API's GET of the object gave, as it
came, or null where the API says that there is no such object (404):

    kind            GET                          observed as a fetch, with `number`
    subscription    /v1/subscriptions/{id}       version = ceiling = its `modified_at`
    order           /v1/orders/{id}              the same
    refund          (from the list) /v1/refunds  the same
    benefit_grant   (from the list)              the same
    customer        /v1/customers/{id}           the same
    customer_state  /v1/customers/{id}/state     floor to ceiling, in µs; `id` is the customer's
    any, null       404                          floor to ceiling, in µs, status "deleted"

`floor` and `ceiling` are unix seconds of the provider's clock; the floor is observed beside the
version, since a fetch knows an object until then, however long ago it changed. The fold places a
fetch after the snapshots of its version: so of several snapshots with one `modified_at` and
different contents, which are ambiguous, it is what the fetch says that holds, and a snapshot with
a newer `modified_at` replaces it. The customer inside an answer is observed as in an event.
Source: polarsource/polar, `docs/integrate/webhooks/events.mdx`, `server/polar/refund/service.py`,
`server/polar/webhook/service.py`, `docs/openapi`, and polar-sdk 1.0.2 (read 2026-11).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from shared.domain.commands import Command, Ignore, Observe, Shape
from shared.domain.events import FETCHED, is_storable
from shared.domain.states import (
    BENEFIT_GRANT_KIND,
    CUSTOMER_KIND,
    ORDER_KIND,
    REFUND_KIND,
    STATE_KIND,
    SUBSCRIPTION_KIND,
    UNOBSERVED,
    ObjectState,
)
from shared.providers.base import PayloadError
from shared.providers.polar.objects import (
    DELETED,
    BenefitGrant,
    Customer,
    CustomerState,
    Order,
    Refund,
    Subscription,
    microseconds,
)

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "grants_from": ("subscriptions", "benefits", "state"),
    "refunds": ("whole", "flagged"),
}

_LINKING = ("customer.created", "customer.updated", "customer.deleted")

#: By `grants_from`, what changes access. `subscription.cycled` only says that a period began.
_DECIDING = {
    "subscriptions": (
        "subscription.created",
        "subscription.updated",
        "subscription.active",
        "subscription.canceled",
        "subscription.uncanceled",
        "subscription.past_due",
        "subscription.paused",
        "subscription.resumed",
        "subscription.revoked",
        "subscription.migrated",
        "order.created",
        "order.updated",
        "order.paid",
        "order.refunded",
        "refund.created",
        "refund.updated",
    ),
    "benefits": (
        "benefit_grant.created",
        "benefit_grant.updated",
        "benefit_grant.revoked",
    ),
    "state": ("customer.state_changed",),
}

_STATE_CHANGED = "customer.state_changed"

#: The types whose object is observed.
OBSERVED: dict[str, str] = {
    "subscription.created": SUBSCRIPTION_KIND,
    "subscription.updated": SUBSCRIPTION_KIND,
    "subscription.active": SUBSCRIPTION_KIND,
    "subscription.canceled": SUBSCRIPTION_KIND,
    "subscription.uncanceled": SUBSCRIPTION_KIND,
    "subscription.cycled": SUBSCRIPTION_KIND,
    "subscription.past_due": SUBSCRIPTION_KIND,
    "subscription.paused": SUBSCRIPTION_KIND,
    "subscription.resumed": SUBSCRIPTION_KIND,
    "subscription.revoked": SUBSCRIPTION_KIND,
    "subscription.migrated": SUBSCRIPTION_KIND,
    "order.created": ORDER_KIND,
    "order.updated": ORDER_KIND,
    "order.paid": ORDER_KIND,
    "order.refunded": ORDER_KIND,
    "refund.created": REFUND_KIND,
    "refund.updated": REFUND_KIND,
    "benefit_grant.created": BENEFIT_GRANT_KIND,
    "benefit_grant.updated": BENEFIT_GRANT_KIND,
    "benefit_grant.cycled": BENEFIT_GRANT_KIND,
    "benefit_grant.revoked": BENEFIT_GRANT_KIND,
    "customer.created": CUSTOMER_KIND,
    "customer.updated": CUSTOMER_KIND,
    "customer.deleted": CUSTOMER_KIND,
    _STATE_CHANGED: STATE_KIND,
}

#: Why types of these families ask for nothing although they are known.
IGNORED: dict[str, str] = {
    "checkout": "checkout_is_no_payment",  # whatever its status: the order or subscription tells
    "product": "catalog_is_ours",
    "benefit": "catalog_is_ours",
    "discount": "catalog_is_ours",
    "organization": "no_access_change",
    "customer_seat": "seat_is_no_tenant",  # whoever sits there has benefit grants of their own
    "member": "member_is_no_tenant",
}

_Model = Subscription | Order | Refund | BenefitGrant | Customer | CustomerState
_MODELS: dict[str, type[_Model]] = {
    SUBSCRIPTION_KIND: Subscription,
    ORDER_KIND: Order,
    REFUND_KIND: Refund,
    BENEFIT_GRANT_KIND: BenefitGrant,
    CUSTOMER_KIND: Customer,
    STATE_KIND: CustomerState,
}


class _Event(msgspec.Struct):
    data: msgspec.Raw
    timestamp: datetime | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


def event_types(settings: Mapping[str, Any]) -> Sequence[str]:
    """See `Provider.event_types`."""
    return (*_DECIDING[settings.get("grants_from", "subscriptions")], *_LINKING)


def translate(event_type: str, body: bytes) -> Sequence[Command]:
    """See `Provider.translate`."""
    try:
        return _commands(event_type, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, PayloadError) as error:
        raise PayloadError(f"{event_type}: {error}") from None


def _commands(event_type: str, body: bytes) -> Sequence[Command]:
    if event_type == FETCHED:
        return _answer(body)
    kind = OBSERVED.get(event_type)
    if kind is None:
        return (Ignore(IGNORED.get(event_type.partition(".")[0], "unknown_type")),)
    event = _decode_event(body)
    content = msgspec.json.decode(event.data, type=_MODELS[kind])
    version = content.version
    if kind == STATE_KIND:
        if event.timestamp is None:
            raise PayloadError("no `timestamp`, and nothing else tells when this was so")
        version = microseconds(event.timestamp)
    observed = _observe(kind, content.id, version, "point", content.state())
    return (observed, *_customer_of(content), *_listed_in(content))


def _listed_in(content: _Model) -> Sequence[Command]:
    """
    What a customer's state lists, each with its own version. Of a subscription it leaves out what
    decides when it ends: that there is one of this version is no more than a hint.
    """
    if not isinstance(content, CustomerState):
        return ()
    unobserved = ObjectState(UNOBSERVED, customer=content.id)
    return [
        *(
            _observe(SUBSCRIPTION_KIND, one.id, one.version, "hint", unobserved)
            for one in content.active_subscriptions
        ),
        *(
            _observe(BENEFIT_GRANT_KIND, one.id, one.version, "point", one.state())
            for one in content.grants()
        ),
    ]


def _customer_of(content: _Model) -> Sequence[Command]:
    """
    The customer that came with an object. One who is nobody's yet says nothing by that: it may
    be an old event, and a link that was made is never taken back.
    """
    customer: Customer | None = None
    if isinstance(content, CustomerState):
        customer = content
    elif isinstance(content, Subscription | Order | BenefitGrant):
        customer = content.customer
    if customer is None:
        return ()
    state = customer.link()
    if state.tenant is None and state.status != DELETED:
        return ()
    return (_observe(CUSTOMER_KIND, customer.id, customer.version, "point", state),)


class _Fetched(msgspec.Struct):
    kind: str
    id: str
    number: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    floor: Annotated[int, msgspec.Meta(ge=0, le=250_000_000_000)]
    ceiling: Annotated[int, msgspec.Meta(ge=0, le=250_000_000_000)]
    result: msgspec.Raw


_decode_fetched = msgspec.json.Decoder(_Fetched).decode


def _answer(body: bytes) -> Sequence[Command]:
    fetched = _decode_fetched(body)
    model = _MODELS.get(fetched.kind)
    if model is None:
        raise PayloadError(f"nobody fetches {fetched.kind!r}")
    asked_from, asked_until = fetched.floor * 1_000_000, fetched.ceiling * 1_000_000
    content = msgspec.json.decode(fetched.result, type=model | None)
    if content is None:
        customer = fetched.id if fetched.kind in (CUSTOMER_KIND, STATE_KIND) else None
        state = ObjectState(DELETED, customer=customer)
        span = asked_from, asked_until
    elif content.id != fetched.id:
        raise PayloadError("the answer is another object")
    else:
        state = content.state()
        is_summed_up = fetched.kind == STATE_KIND
        span = (asked_from, asked_until) if is_summed_up else (content.version,) * 2
    observed = _observe(
        fetched.kind, fetched.id, span[0], "fetch", state, ceiling=span[1], number=fetched.number,
        floor=asked_from,
    )  # fmt: skip
    if content is None:
        return (observed,)
    return (observed, *_customer_of(content), *_listed_in(content))


def _observe(
    kind: str,
    object_id: str,
    version: int,
    shape: Shape,
    state: ObjectState,
    *,
    ceiling: int | None = None,
    number: int | None = None,
    floor: int | None = None,
) -> Observe:
    for name, text in (("id", object_id), ("status", state.status), ("customer", state.customer)):
        if text is not None and not is_storable(text):
            raise PayloadError(f"the object's {name} is empty, too long or holds a NUL")
    return Observe(kind, object_id, version, shape, None, state, ceiling, number, floor)
