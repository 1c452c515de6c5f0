"""
What receipt reads of an event, and what tells two events under one id apart.

Two generations: v1 snapshots carry the object, v2 thin events only name it. Event ids are stable
over automatic retries and manual resends; `pending_webhooks` moves between them.
Source: docs.stripe.com/api/events, docs.stripe.com/api/v2/core/events, and the stripe SDK's
`_event.py` and `v2/core/_event.py` (read 2026-11).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from shared.domain.events import Identity, is_storable
from shared.domain.states import ACCOUNT_KIND, SUMMARY_KIND
from shared.providers.base import PayloadError
from shared.providers.stripe.fields import LATEST_S


class _Named(msgspec.Struct):
    id: str | None = None
    object: str | None = None
    type: str | None = None
    customer: Any = None


class _Data(msgspec.Struct):
    object: _Named


class _Event(msgspec.Struct):
    id: str
    type: str
    created: int | float | str
    livemode: bool
    account: str | None = None
    context: str | None = None
    data: _Data | None = None
    related_object: _Named | None = None  # of a thin event


_decode = msgspec.json.Decoder(_Event).decode


def identify(body: bytes) -> Identity:
    """See `Provider.identify`."""
    try:
        event = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"not a Stripe event: {error}") from None
    account = _account_of(event)
    for text in (event.id, event.type, *([account] if account else ())):
        if not is_storable(text):
            raise PayloadError("id, type or account is too long or holds a NUL")
    return Identity(
        event_id=event.id,
        event_type=event.type,
        subject=_subject_of(event) or event.id,
        occurred_at=moment_of(event.created),
        account=account,
        livemode=event.livemode,
    )


def is_same_event(first: bytes, second: bytes) -> bool:
    """
    See `Provider.same_event`. `pending_webhooks` counts the endpoints not yet done.

    An endpoint may have its events rendered in a version of its own; the API gives them in the one
    that the account had when they were made, whatever is asked for. So of two versions only what
    no rendering changes is compared: all but `data`, and in that which object it is of.
    Source: docs.stripe.com/api/events/list, docs.stripe.com/webhooks/versioning (read 2026-11).
    """
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
    if bodies[0].get("api_version") != bodies[1].get("api_version"):
        bodies = [_unrendered(content) for content in bodies]
    return bool(bodies[0] == bodies[1])


def _unrendered(content: dict[str, Any]) -> dict[str, Any]:
    """What an event is in every version of the API."""
    fixed = ("id", "object", "type", "created", "livemode", "account", "context")
    data = content.get("data")
    named = data.get("object") if isinstance(data, dict) else None
    return {
        **{name: content.get(name) for name in fixed},
        "of": [named.get(name) for name in ("object", "id")] if isinstance(named, dict) else None,
    }


def moment_of(created: int | float | str) -> datetime:
    """
    Aware UTC of unix seconds, or of the ISO 8601 text of a thin event.

    Raises:
        PayloadError: it is neither, or out of what a datetime holds.
    """
    try:
        if isinstance(created, str):
            moment = datetime.fromisoformat(created)
            # A zone may take the first and the last day out of what a datetime holds.
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if 0 <= created <= LATEST_S:
            return datetime.fromtimestamp(0, UTC) + timedelta(seconds=created)
    except (ValueError, OverflowError):
        pass
    raise PayloadError("`created` is no time")


def _account_of(event: _Event) -> str:
    """
    The connected account, or "". A thin event says it in `context`, whose last part it is where
    an organization receives: "org_…/acct_…".
    """
    if event.account:
        return event.account
    if event.data is not None or not event.context:
        return ""
    last = event.context.rpartition("/")[2]
    return last if last.startswith("acct_") else ""


def _subject_of(event: _Event) -> str | None:
    named = event.data.object if event.data is not None else event.related_object
    if named is None:
        return None
    kind, number = named.object or named.type, named.id
    if kind == SUMMARY_KIND:
        # It has no id: there is one for each customer.
        number = named.customer if isinstance(named.customer, str) else None
    elif kind == "application" and event.account:
        # What changed is the account that is connected to it.
        kind, number = ACCOUNT_KIND, event.account
    if not kind or not number:
        return None
    subject = f"{kind}/{number}"
    return subject if is_storable(subject) else None
