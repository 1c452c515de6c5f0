"""
What receipt needs of a delivery: whose it is, and which event of which object.

Polar signs as Standard Webhooks say, but with the bytes of the whole secret as the key, whatever
its prefix; its SDK also tries the key that Standard Webhooks would read out of it, and so do we.
`webhook-id` is one for each event, endpoint and type, and stays over retries and redeliveries of
up to 90 days. The body of a redelivery is the stored one.
Source: polarsource/polar, `server/polar/webhook/tasks.py`, `docs/integrate/webhooks`, and
polar-sdk 1.0.2, `polar/webhooks.py` (read 2026-11).
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from shared.domain.events import Headers, Identity, is_storable
from shared.domain.states import (
    BENEFIT_GRANT_KIND,
    CUSTOMER_KIND,
    ORDER_KIND,
    REFUND_KIND,
    STATE_KIND,
    SUBSCRIPTION_KIND,
)
from shared.providers.base import PayloadError, SignatureError
from shared.providers.signing import standard_webhooks
from shared.providers.signing.standard_webhooks import Key

_SECRET_PREFIX = "whsec_"  # noqa: S105 - of a secret, no secret
_STATE_CHANGED = "customer.state_changed"

#: By what their events' types begin with, the kinds that are observed.
_KINDS = {
    "subscription": SUBSCRIPTION_KIND,
    "order": ORDER_KIND,
    "benefit_grant": BENEFIT_GRANT_KIND,
    "customer": CUSTOMER_KIND,
    "refund": REFUND_KIND,
}


class _Event(msgspec.Struct):
    type: str
    timestamp: datetime | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Event).decode
_decode_named = msgspec.json.Decoder(_Named).decode


def verify(
    headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
) -> int:
    """See `Provider.verify`."""
    message = standard_webhooks.message_id(headers)
    if message is not None and not message.isascii():
        # The SDK would sign other bytes for it than came.
        raise SignatureError("malformed_signature")
    keys = [keys_of(secret) for secret in secrets]
    return standard_webhooks.verify(headers, body, keys, now, tolerance_s)


def keys_of(secret: str) -> tuple[Key, ...]:
    """The keys that a secret may stand for, Polar's own first. An empty one stands for none."""
    if not secret:
        return ()
    whole = secret.encode()
    encoded = secret.removeprefix(_SECRET_PREFIX)
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    return tuple(Key("v1", key) for key in dict.fromkeys((whole, decoded)) if key)


def sign(body: bytes, secret: str, now: datetime) -> Headers:
    """See `Provider.sign`. The event's id is made of its body."""
    message = str(UUID(bytes=hashlib.sha256(body).digest()[:16], version=4))
    return standard_webhooks.sign(body, secret.encode(), message, now)


def identify(headers: Headers, body: bytes, livemode: bool) -> Identity:
    """See `Provider.identify`."""
    event_id = standard_webhooks.message_id(headers)
    try:
        event = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a Polar event: {error}") from None
    if event_id is None or not is_storable(event_id) or not is_storable(event.type):
        raise PayloadError("the id or the type is missing, too long or holds a NUL")
    return Identity(
        event_id=event_id,
        event_type=event.type,
        subject=_subject_of(event) or event_id,
        occurred_at=None if event.timestamp is None else in_utc(event.timestamp),
        livemode=livemode,
    )


def in_utc(moment: datetime) -> datetime:
    """
    Aware UTC. Polar says where its times are; one that does not is UTC.

    Raises:
        PayloadError: no datetime holds it in UTC.
    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PayloadError("a time that no calendar has") from None


def _subject_of(event: _Event) -> str | None:
    kind = _KINDS.get(event.type.partition(".")[0])
    if event.type == _STATE_CHANGED:
        kind = STATE_KIND  # whose id is the customer's
    if kind is None:
        return None
    try:
        number = _decode_named(event.data).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # the event is kept, and found unreadable when it is translated
    subject = f"{kind}/{number}"
    return subject if number and is_storable(subject) else None
