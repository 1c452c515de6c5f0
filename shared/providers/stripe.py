"""
Stripe, v1 snapshot events.

Signature: `Stripe-Signature: t=<unix s>,v1=<hex>[,v1=<hex>…]`, HMAC-SHA256 over "<t>.<body>", keyed
with the UTF-8 bytes of the whole secret, its `whsec_` included. Event ids are stable over
automatic retries and manual resends; `pending_webhooks` moves between them. `created` is in
seconds, and delivery is not ordered.
Source: docs.stripe.com/webhooks, docs.stripe.com/api/events, and the stripe SDK (read 2026-11).
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from shared.domain.commands import Command, Ignore, Observe, Shape
from shared.domain.events import Headers, Identity, is_storable
from shared.domain.states import Item, ObjectState
from shared.providers.base import PayloadError, SignatureError, header

_LATEST_S = 250_000_000_000  # what a datetime can still hold


class Stripe:
    """See `shared.providers.base.Provider`."""

    name = "stripe"
    has_livemode = True
    secret_hint = "whsec_… of the endpoint, Developers → Webhooks"  # noqa: S105 - a hint, no secret
    settings: Mapping[str, tuple[str, ...]] = {
        "grants_from": ("subscriptions", "summary"),
        "disputes": ("hold", "keep"),
        "fraud_warnings": ("hold", "keep"),
        "voided_collection": ("keep", "revoke"),
    }

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`. The window is two-sided; the SDK's own bounds only the past."""
        signature = header(headers, "stripe-signature")
        if signature is None:
            raise SignatureError("missing_signature")
        timestamp = _timestamp(signature)
        matched = None
        for index, secret in enumerate(secrets):
            if _matches(body, signature, secret) and matched is None:
                matched = index
        if matched is None:
            raise SignatureError("wrong_signature")
        age_s = int(now.timestamp()) - timestamp
        if age_s > tolerance_s:
            raise SignatureError("timestamp_too_old")
        if age_s < -tolerance_s:
            raise SignatureError("timestamp_in_future")
        return matched

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """See `Provider.identify`."""
        try:
            event = _decode_head(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"not a Stripe event: {error}") from None
        for text in (event.id, event.type, *([event.account] if event.account else ())):
            if not is_storable(text):
                raise PayloadError("id, type or account is too long or holds a NUL")
        named = event.data.object if event.data is not None else event.related_object
        subject = event.id
        if named is not None and named.id and (kind := named.object or named.type):
            candidate = f"{kind}/{named.id}"
            subject = candidate if is_storable(candidate) else subject
        return Identity(
            event_id=event.id,
            event_type=event.type,
            subject=subject,
            occurred_at=_moment(event.created),
            account=event.account or "",
            livemode=event.livemode,
        )

    def translate(self, event_type: str, body: bytes) -> Sequence[Command]:
        """See `Provider.translate`."""
        build = _BUILDERS.get(event_type)
        if build is None:
            return (Ignore("unknown_type"),)
        try:
            return (build(_decode_event(body)),)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"{event_type}: {error}") from None

    def same_event(self, first: bytes, second: bytes) -> bool:
        """See `Provider.same_event`. `pending_webhooks` counts the endpoints not yet done."""
        if first == second:
            return True
        try:
            bodies = [msgspec.json.decode(body) for body in (first, second)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        for content in bodies:
            if not isinstance(content, dict):
                return False
            content.pop("pending_webhooks", None)
        return bool(bodies[0] == bodies[1])

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        from stripe import WebhookSignature

        value = WebhookSignature.generate_signature_header(
            body.decode(), secret, int(now.timestamp())
        )
        return (("stripe-signature", value),)


def _timestamp(signature: str) -> int:
    for entry in signature.split(","):
        name, _, value = entry.partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            return int(value)
    raise SignatureError("malformed_signature")


def _matches(body: bytes, signature: str, secret: str) -> bool:
    # The import is slow, and only the gateway verifies.
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _matches_bytes(body, signature, secret)
    try:
        # No tolerance: the SDK would read the clock, and would look at the past only.
        WebhookSignature.verify_header(text, signature, secret, None)
    except SignatureVerificationError:
        return False
    except (TypeError, ValueError):
        # Non-ASCII in a signature, or a lone surrogate: whatever it is, it does not match.
        return False
    return True


def _matches_bytes(body: bytes, signature: str, secret: str) -> bool:
    """The same check over bytes, for what the SDK cannot decode."""
    signed = b"%d.%b" % (_timestamp(signature), body)
    expected = hmac.new(secret.encode(), signed, sha256).hexdigest().encode()
    given = [entry.partition("=")[2] for entry in signature.split(",") if entry.startswith("v1=")]
    # All of them are compared, whichever matches.
    same = [hmac.compare_digest(expected, value.encode("latin-1", "replace")) for value in given]
    return any(same)


# What receipt reads ---------------------------------------------------------------------------


class _Named(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    type: str | None = None


class _HeadData(msgspec.Struct):
    object: _Named


class _Head(msgspec.Struct):
    id: str
    type: str
    created: int | float | str
    livemode: bool
    account: str | None = None
    data: _HeadData | None = None
    related_object: _Named | None = None  # of a v2 thin event


_decode_head = msgspec.json.Decoder(_Head).decode


def _moment(created: int | float | str) -> datetime:
    try:
        if isinstance(created, str):
            moment = datetime.fromisoformat(created)
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        if 0 <= created <= _LATEST_S:
            return datetime.fromtimestamp(0, UTC) + timedelta(seconds=created)
    except (ValueError, OverflowError):
        pass
    raise PayloadError("`created` is no time")


# What translation reads -----------------------------------------------------------------------


class _EventData(msgspec.Struct):
    object: msgspec.Raw
    previous_attributes: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    id: str
    type: str
    created: int
    data: _EventData


class _Reference(msgspec.Struct):
    id: str


class _Price(msgspec.Struct):
    id: str
    product: str | _Reference | None = None


class _Item(msgspec.Struct):
    id: str | None = None
    quantity: int | None = None
    price: _Price | None = None
    plan: _Price | None = None  # before prices, and still beside them
    current_period_end: int | None = None  # here since API version 2025-03-31.basil


class _Items(msgspec.Struct):
    data: list[_Item] = []


class _Subscription(msgspec.Struct):
    id: str
    status: str
    customer: str | _Reference
    items: _Items | None = None
    plan: _Price | None = None
    quantity: int | None = None
    current_period_end: int | None = None  # here before basil
    cancel_at: int | None = None
    cancel_at_period_end: bool | None = None
    start_date: int | None = None
    metadata: dict[str, Any] | None = None

    def state(self) -> ObjectState:
        lines = list(self.items.data) if self.items is not None else []
        if not lines and self.plan is not None:
            lines = [_Item(quantity=self.quantity, plan=self.plan)]
        return ObjectState(
            status=self.status,
            customer=_id_of(self.customer),
            tenant=_tenant_in(self.metadata),
            items=tuple(sorted((_item(line) for line in lines), key=_item_order)),
            ends_at=self._scheduled_end(lines),
            started_at=self.start_date,
        )

    def _scheduled_end(self, lines: Sequence[_Item]) -> int | None:
        # Flexible billing sets `cancel_at` alone; an absent one has been seen as 0.
        if self.cancel_at:
            return self.cancel_at
        if not self.cancel_at_period_end:
            return None
        ends = [line.current_period_end for line in lines if line.current_period_end]
        return max(ends) if ends else self.current_period_end


class _Customer(msgspec.Struct):
    id: str
    metadata: dict[str, Any] | None = None

    def state(self) -> ObjectState:
        return ObjectState("present", customer=self.id, tenant=_tenant_in(self.metadata))


class _Session(msgspec.Struct):
    id: str
    customer: str | _Reference | None = None
    client_reference_id: str | None = None
    metadata: dict[str, Any] | None = None

    def state(self) -> ObjectState:
        return ObjectState(
            "complete",
            customer=_id_of(self.customer) if self.customer else None,
            tenant=_tenant_in(self.metadata),
            reference=_storable(self.client_reference_id),
        )


_Snapshot = _Subscription | _Customer | _Session
_decode_event = msgspec.json.Decoder(_Event).decode


def _observe(event: _Event, kind: str, model: type[_Snapshot], shape: Shape) -> Observe:
    snapshot = msgspec.json.decode(event.data.object, type=model)
    if not is_storable(snapshot.id):
        raise PayloadError("the object's id is too long or holds a NUL")
    after = snapshot.state()
    if after.customer is not None and not is_storable(after.customer):
        raise PayloadError("the customer's id is too long or holds a NUL")
    before = None
    previous = event.data.previous_attributes
    if shape == "edge":
        before = _state_before(event, model, previous or {}, after)
        shape = "point" if before is None else "edge"
    return Observe(kind, snapshot.id, event.created, shape, before, after)


def _state_before(
    event: _Event, model: type[_Snapshot], previous: Mapping[str, Any], after: ObjectState
) -> ObjectState | None:
    """The state that an `updated` event left, or None where it does not say."""
    if not previous:
        return None
    if previous.keys().isdisjoint(model.__struct_fields__):
        return after
    current = msgspec.json.decode(event.data.object)
    try:
        return msgspec.convert(_overlay(current, previous), model).state()
    except msgspec.ValidationError:
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


def _id_of(reference: str | _Reference) -> str:
    return reference if isinstance(reference, str) else reference.id


def _storable(text: object) -> str | None:
    return text if isinstance(text, str) and is_storable(text) else None


def _tenant_in(metadata: Mapping[str, Any] | None) -> str | None:
    return _storable(metadata.get("tenant_id")) if metadata else None


def _item(line: _Item) -> Item:
    price = line.price or line.plan
    if price is None:
        return Item(refs=(), quantity=line.quantity or 1)
    refs = [price.id]
    if price.product is not None:
        refs.append(_id_of(price.product))
    return Item(tuple(refs), 1 if line.quantity is None else line.quantity)


def _item_order(item: Item) -> tuple[tuple[str, ...], int]:
    return (item.refs, item.quantity)


def _subscription(shape: Shape) -> Callable[[_Event], Command]:
    return lambda event: _observe(event, "subscription", _Subscription, shape)


def _ended(kind: str, model: type[_Snapshot], status: str) -> Callable[[_Event], Command]:
    """A `deleted` event: whatever the snapshot says, the object is gone."""

    def build(event: _Event) -> Command:
        seen = _observe(event, kind, model, "point")
        after = msgspec.structs.replace(seen.after, status=status)
        return msgspec.structs.replace(seen, after=after)

    return build


def _customer(shape: Shape) -> Callable[[_Event], Command]:
    return lambda event: _observe(event, "customer", _Customer, shape)


_BUILDERS: dict[str, Callable[[_Event], Command]] = {
    "customer.subscription.created": _subscription("arrival"),
    "customer.subscription.updated": _subscription("edge"),
    "customer.subscription.paused": _subscription("point"),
    "customer.subscription.resumed": _subscription("point"),
    "customer.subscription.pending_update_applied": _subscription("point"),
    "customer.subscription.pending_update_expired": _subscription("point"),
    "customer.subscription.trial_will_end": _subscription("point"),
    "customer.subscription.deleted": _ended("subscription", _Subscription, "canceled"),
    "customer.created": _customer("arrival"),
    "customer.updated": _customer("edge"),
    "customer.deleted": _ended("customer", _Customer, "deleted"),
    "checkout.session.completed": lambda event: _observe(
        event, "checkout.session", _Session, "arrival"
    ),
}
