"""
What each type of event asks for.

Each carries its object as it was when the event was made; `user.deleted` and
`organization.deleted` its id alone. What a status changed to is told by items only:
`subscription.updated` is not sent for it, and `subscription.active` for the free plan too.
Source: clerk/openapi-specs, webhooks/2025-04-15.yml, and clerk/clerk-docs,
docs/guides/development/webhooks/billing.mdx (read 2026-11).
"""

from collections.abc import Callable, Sequence

import msgspec

from shared.domain.commands import Command, Ignore, Observe
from shared.domain.states import (
    MEMBERSHIP_KIND,
    ORGANIZATION_KIND,
    SUBSCRIPTION_ITEM_KIND,
    USER_KIND,
    ObjectState,
)
from shared.providers.base import PayloadError
from shared.providers.clerk.fields import Milliseconds, checked, version_of
from shared.providers.clerk.objects import (
    DELETED,
    Deleted,
    Membership,
    Organization,
    SubscriptionItem,
    User,
    organization_state,
    user_state,
)

#: What an endpoint must be sent. The other types of users and organizations are understood, and
#: change nothing: a tenant exists from its first member or payment on.
DECIDING = (
    "user.deleted",
    "organization.created",
    "organization.deleted",
    "organizationMembership.created",
    "organizationMembership.updated",
    "organizationMembership.deleted",
    "subscriptionItem.created",
    "subscriptionItem.updated",
    "subscriptionItem.active",
    "subscriptionItem.canceled",
    "subscriptionItem.upcoming",
    "subscriptionItem.ended",
    "subscriptionItem.expired",
    "subscriptionItem.abandoned",
    "subscriptionItem.incomplete",
    "subscriptionItem.pastDue",
)

#: Why the types that begin so ask for nothing.
_IGNORED = {
    "subscription": "items_tell",
    "paymentAttempt": "items_tell",
    "session": "session_only",
    "email": "message_only",
    "sms": "message_only",
    "organizationInvitation": "not_a_member_yet",
    "organizationDomain": "no_access_change",
    "waitlistEntry": "not_a_member_yet",
    "role": "roles_are_theirs",
    "permission": "roles_are_theirs",
}


class _Event(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: Milliseconds | None = None


_decode = msgspec.json.Decoder(_Event).decode

Builder = Callable[[_Event], Command]


def translate(event_type: str, body: bytes) -> Sequence[Command]:
    """See `Provider.translate`."""
    try:
        # A fetch's answer has no type, and is refused: nothing is fetched from Clerk.
        event = _decode(body)
        build = BUILDERS.get(event_type)
        if build is None:
            return (Ignore(_IGNORED.get(event_type.partition(".")[0], "unknown_type")),)
        return (build(event),)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, PayloadError) as error:
        raise PayloadError(f"{event_type}: {error}") from None


def _snapshot(
    kind: str, model: type[User | Organization | Membership | SubscriptionItem]
) -> Builder:
    decode = msgspec.json.Decoder(model).decode

    def build(event: _Event) -> Command:
        content = decode(event.data)
        version = version_of(content.updated_at, event.timestamp)
        return _observe(kind, content.id, version, content.state())

    return build


def _tombstone(kind: str, state: Callable[[str], ObjectState]) -> Builder:
    decode = msgspec.json.Decoder(Deleted).decode

    def build(event: _Event) -> Command:
        object_id = checked("the object's id", decode(event.data).id)
        return _observe(kind, object_id, version_of(None, event.timestamp), state(object_id))

    return build


def _left(event: _Event) -> Command:
    """A membership that ended comes whole, as it was: its `updated_at` is of before."""
    membership = msgspec.json.decode(event.data, type=Membership)
    version = version_of(None, event.timestamp)
    return _observe(MEMBERSHIP_KIND, membership.id, version, membership.ended())


def _observe(kind: str, object_id: str, version: int, state: ObjectState) -> Observe:
    return Observe(kind, checked("the object's id", object_id), version, "point", None, state)


_user = _snapshot(USER_KIND, User)
_organization = _snapshot(ORGANIZATION_KIND, Organization)
_membership = _snapshot(MEMBERSHIP_KIND, Membership)
_item = _snapshot(SUBSCRIPTION_ITEM_KIND, SubscriptionItem)

#: The types whose object is observed, and how.
BUILDERS: dict[str, Builder] = {
    "user.created": _user,
    "user.updated": _user,
    "user.deleted": _tombstone(USER_KIND, lambda _: user_state(DELETED)),
    "organization.created": _organization,
    "organization.updated": _organization,
    "organization.deleted": _tombstone(
        ORGANIZATION_KIND, lambda organization: organization_state(DELETED, organization)
    ),
    "organizationMembership.created": _membership,
    "organizationMembership.updated": _membership,
    "organizationMembership.deleted": _left,
    "subscriptionItem.created": _item,
    "subscriptionItem.updated": _item,
    "subscriptionItem.active": _item,
    "subscriptionItem.canceled": _item,
    "subscriptionItem.upcoming": _item,
    "subscriptionItem.ended": _item,
    "subscriptionItem.expired": _item,
    "subscriptionItem.abandoned": _item,
    "subscriptionItem.incomplete": _item,
    "subscriptionItem.pastDue": _item,
    "subscriptionItem.past_due": _item,  # as it was called until August 2025
    "subscriptionItem.freeTrialEnding": _item,
}
