"""
What receipt reads of an event.

The body has no id of the event: it is the message's, `svix-id`, which stays the same over retries,
resends and replays, as does the body. Nor does it say whether the instance is a production one.
Source: clerk/clerk-docs, docs/guides/development/webhooks/overview.mdx, docs.svix.com/receiving,
and clerk/openapi-specs, webhooks/2025-04-15.yml (read 2026-11).
"""

from datetime import UTC, datetime, timedelta

import msgspec

from shared.domain.events import Headers, Identity, is_storable
from shared.domain.states import (
    MEMBERSHIP_KIND,
    ORGANIZATION_KIND,
    SUBSCRIPTION_ITEM_KIND,
    USER_KIND,
)
from shared.providers.base import PayloadError
from shared.providers.clerk.fields import Milliseconds, timestamp_of
from shared.providers.signing.standard_webhooks import SVIX, message_id

#: What a type begins with, and the kind of object that it tells of. `data.object` is no guide: an
#: item has been seen as "subscription_item" and as "commerce_subscription_item".
KINDS = {
    "user": USER_KIND,
    "organization": ORGANIZATION_KIND,
    "organizationMembership": MEMBERSHIP_KIND,
    "subscriptionItem": SUBSCRIPTION_ITEM_KIND,
}


class _Named(msgspec.Struct):
    id: str | None = None


class _Event(msgspec.Struct):
    type: str
    timestamp: Milliseconds | None = None
    data: _Named | None = None


_decode = msgspec.json.Decoder(_Event).decode


def identify(headers: Headers, body: bytes, livemode: bool) -> Identity:
    """
    See `Provider.identify`.

    The account stays empty. `instance_id` would be one, and says nothing that the source does not:
    an endpoint's secret belongs to one instance. In the key it would part what older events, which
    lack it, say of the same objects, and every operator's link would need it.
    """
    try:
        event = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a Clerk event: {error}") from None
    event_id = message_id(headers, SVIX)
    if event_id is None:
        raise PayloadError("no svix-id, which is the event's id")
    if not (is_storable(event_id) and is_storable(event.type)):
        raise PayloadError("id or type is too long or holds a NUL")
    at = None
    if event.timestamp is not None:
        milliseconds = timestamp_of(event.timestamp)
        at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    return Identity(event_id, event.type, _subject_of(event) or event_id, at, livemode=livemode)


def _subject_of(event: _Event) -> str | None:
    kind = KINDS.get(event.type.partition(".")[0])
    named = event.data.id if event.data is not None else None
    if kind is None or not named:
        return None
    subject = f"{kind}/{named}"
    return subject if is_storable(subject) else None
