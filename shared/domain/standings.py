"""
What a provider's status means for access: the one status table.

A status is kept as the provider's own word and read through `STANDINGS` each time it matters, so
that a word this version learns tomorrow counts for what was observed yesterday.
"""

from enum import StrEnum
from typing import Literal

from shared.domain.states import (
    ACCOUNT_KIND,
    BENEFIT_GRANT_KIND,
    CHARGE_KIND,
    CUSTOMER_KIND,
    DISPUTE_KIND,
    INVOICE_KIND,
    INVOICE_PAYMENT_KIND,
    MEMBERSHIP_KIND,
    ORDER_KIND,
    ORGANIZATION_KIND,
    REFUND_KIND,
    SESSION_KIND,
    STATE_KIND,
    SUBSCRIPTION_ITEM_KIND,
    SUBSCRIPTION_KIND,
    SUMMARY_KIND,
    USER_KIND,
    WARNING_KIND,
)


class Standing(StrEnum):
    """The provider-neutral meaning of a status."""

    TRIAL = "trial"
    ACTIVE = "active"
    ENDING = "ending"  # cancelled, and paid for until its end
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PENDING = "pending"
    NEVER_STARTED = "never_started"
    PAUSED = "paused"
    ENDED = "ended"
    PAID = "paid"  # once, for good
    REFUNDED = "refunded"
    CONTESTED = "contested"  # an open dispute or fraud warning: holds what it joins
    LOST = "lost"  # a dispute that took the money back
    RELEASED = "released"  # a dispute, warning or refund that came to nothing
    PRESENT = "present"  # an object that carries links or joins payments, and grants nothing


Access = Literal["grant", "grace", "until_end", "none"]

#: Whether a standing gives access. `grace` gives it until the grace period after the first
#: failure of the unbroken run is over, `until_end` until the end that the object names.
ACCESS: dict[Standing, Access] = {
    Standing.TRIAL: "grant",
    Standing.ACTIVE: "grant",
    Standing.ENDING: "until_end",
    Standing.PAST_DUE: "grace",
    Standing.UNPAID: "none",
    Standing.PENDING: "none",
    Standing.NEVER_STARTED: "none",
    Standing.PAUSED: "none",
    Standing.ENDED: "none",
    Standing.PAID: "grant",
    Standing.REFUNDED: "none",
    Standing.CONTESTED: "none",
    Standing.LOST: "none",
    Standing.RELEASED: "none",
    Standing.PRESENT: "none",
}

#: No later snapshot brings an object back from these, but for the kinds that are REVIVABLE.
TERMINAL = frozenset({Standing.NEVER_STARTED, Standing.ENDED})

#: The status table: (provider, kind) → status → standing. What is not here is unknown, and an
#: unknown status neither grants nor revokes.
STANDINGS: dict[tuple[str, str], dict[str, Standing]] = {
    ("stripe", SUBSCRIPTION_KIND): {
        "trialing": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "past_due": Standing.PAST_DUE,
        "unpaid": Standing.UNPAID,
        "incomplete": Standing.PENDING,
        "incomplete_expired": Standing.NEVER_STARTED,
        "paused": Standing.PAUSED,
        "canceled": Standing.ENDED,
    },
    # A purchase has its payment status, any other session `complete`.
    ("stripe", SESSION_KIND): {
        "paid": Standing.PAID,
        "no_payment_required": Standing.PAID,
        "unpaid": Standing.PENDING,
        "open": Standing.PENDING,
        "async_payment_failed": Standing.NEVER_STARTED,
        "expired": Standing.NEVER_STARTED,
        "complete": Standing.PRESENT,
    },
    ("stripe", SUMMARY_KIND): {"current": Standing.ACTIVE},
    ("stripe", CUSTOMER_KIND): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    ("stripe", ACCOUNT_KIND): {"present": Standing.PRESENT, "deauthorized": Standing.PRESENT},
    ("stripe", INVOICE_KIND): {
        "draft": Standing.PRESENT,
        "open": Standing.PRESENT,
        "paid": Standing.PAID,
        "uncollectible": Standing.PRESENT,
        "void": Standing.PRESENT,
    },
    ("stripe", INVOICE_PAYMENT_KIND): {
        "open": Standing.PRESENT,
        "paid": Standing.PAID,
        "canceled": Standing.PRESENT,
    },
    ("stripe", CHARGE_KIND): {
        "pending": Standing.PRESENT,
        "succeeded": Standing.PAID,
        "failed": Standing.PRESENT,
    },
    ("stripe", REFUND_KIND): {
        "pending": Standing.REFUNDED,
        "requires_action": Standing.REFUNDED,
        "succeeded": Standing.REFUNDED,
        "failed": Standing.RELEASED,
        "canceled": Standing.RELEASED,
    },
    ("stripe", DISPUTE_KIND): {
        "warning_needs_response": Standing.CONTESTED,
        "warning_under_review": Standing.CONTESTED,
        "needs_response": Standing.CONTESTED,
        "under_review": Standing.CONTESTED,
        "warning_closed": Standing.RELEASED,
        "prevented": Standing.RELEASED,
        "charge_refunded": Standing.RELEASED,
        "won": Standing.RELEASED,
        "lost": Standing.LOST,
        "appeal_needs_response": Standing.LOST,  # the money stays away until it is won
        "appeal_under_review": Standing.LOST,
    },
    ("stripe", WARNING_KIND): {
        "actionable": Standing.CONTESTED,
        "not_actionable": Standing.RELEASED,
    },
    ("clerk", SUBSCRIPTION_ITEM_KIND): {
        "free_trial": Standing.TRIAL,  # Clerk's word is `active`, beside `is_free_trial`
        "active": Standing.ACTIVE,
        "canceled": Standing.ENDING,
        "past_due": Standing.PAST_DUE,
        "incomplete": Standing.PENDING,
        "upcoming": Standing.PENDING,
        "abandoned": Standing.NEVER_STARTED,
        "ended": Standing.ENDED,
        "expired": Standing.ENDED,
    },
    ("clerk", USER_KIND): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    ("clerk", ORGANIZATION_KIND): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    ("clerk", MEMBERSHIP_KIND): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    # "deleted" is ours, of what Polar says that there is none of (any more).
    ("polar", SUBSCRIPTION_KIND): {
        "trialing": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "past_due": Standing.PAST_DUE,
        "unpaid": Standing.UNPAID,
        "incomplete": Standing.PENDING,
        "incomplete_expired": Standing.NEVER_STARTED,
        "paused": Standing.PAUSED,
        "canceled": Standing.ENDED,
        "deleted": Standing.ENDED,
    },
    # What refunds take back, `shared.domain.payments` says by the source's policy.
    ("polar", ORDER_KIND): {
        "draft": Standing.PENDING,
        "pending": Standing.PENDING,
        "paid": Standing.PAID,
        "partially_refunded": Standing.PAID,
        "refunded": Standing.PAID,
        "void": Standing.NEVER_STARTED,
        "deleted": Standing.ENDED,
    },
    ("polar", REFUND_KIND): {
        "pending": Standing.REFUNDED,
        "succeeded": Standing.REFUNDED,
        "failed": Standing.RELEASED,
        "canceled": Standing.RELEASED,
        "deleted": Standing.RELEASED,
    },
    # Two flags at Polar: `is_granted`, `is_revoked`.
    ("polar", BENEFIT_GRANT_KIND): {
        "granted": Standing.ACTIVE,
        "pending": Standing.PENDING,
        "revoked": Standing.ENDED,
        "deleted": Standing.ENDED,
    },
    ("polar", STATE_KIND): {"current": Standing.ACTIVE, "deleted": Standing.ENDED},
    ("polar", CUSTOMER_KIND): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    # Read ahead of their adapters: the words are documented, the table is one.
    ("paddle", SUBSCRIPTION_KIND): {
        "trialing": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "past_due": Standing.PAST_DUE,
        "paused": Standing.PAUSED,
        "canceled": Standing.ENDED,
    },
    ("lemon-squeezy", SUBSCRIPTION_KIND): {
        "on_trial": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "past_due": Standing.PAST_DUE,
        "unpaid": Standing.UNPAID,
        "paused": Standing.ENDING,
        "cancelled": Standing.ENDING,
        "expired": Standing.ENDED,
    },
    ("chargebee", SUBSCRIPTION_KIND): {
        "future": Standing.PENDING,
        "in_trial": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "non_renewing": Standing.ENDING,
        "paused": Standing.PAUSED,
        "cancelled": Standing.ENDED,
    },
}

#: Which families of objects can grant, per provider, by what `grants_from` calls them. The others
#: carry links and join payments.
FAMILIES: dict[str, dict[str, frozenset[str]]] = {
    "stripe": {
        "subscriptions": frozenset({SUBSCRIPTION_KIND, SESSION_KIND}),
        "summary": frozenset({SUMMARY_KIND}),
    },
    "clerk": {"subscriptions": frozenset({SUBSCRIPTION_ITEM_KIND})},
    "polar": {
        "subscriptions": frozenset({SUBSCRIPTION_KIND, ORDER_KIND}),
        "benefits": frozenset({BENEFIT_GRANT_KIND}),
        "state": frozenset({STATE_KIND}),
    },
}


#: The families of a provider that FAMILIES does not name.
NEUTRAL_FAMILIES: dict[str, frozenset[str]] = {
    "subscriptions": frozenset({SUBSCRIPTION_KIND, ORDER_KIND}),
}

#: Providers with words of their own. All others speak in standings: "active", "past_due" …
_WORDED = frozenset(provider for provider, _ in STANDINGS)
_NEUTRAL = {standing.value: standing for standing in Standing}

#: Kinds whose version key tells what is newest, so that an end need not be for good.
REVIVABLE = frozenset(
    ("polar", kind)
    for kind in (SUBSCRIPTION_KIND, ORDER_KIND, REFUND_KIND, BENEFIT_GRANT_KIND, STATE_KIND)
) | {("clerk", SUBSCRIPTION_ITEM_KIND)}  # the default plan's ends and begins under one id


def has_words(provider: str) -> bool:
    """Whether the provider has words of its own: one of many senders' has none."""
    return provider in _WORDED


def standing_of(provider: str, kind: str, status: str) -> Standing | None:
    """The standing of a status, or None where this version does not know it."""
    if provider in _WORDED:
        return STANDINGS.get((provider, kind), {}).get(status)
    return _NEUTRAL.get(status)


def families_of(provider: str) -> dict[str, frozenset[str]]:
    """Which families of a provider's objects can grant, by what `grants_from` calls them."""
    return FAMILIES.get(provider, NEUTRAL_FAMILIES)


def is_for_good(provider: str, kind: str, status: str) -> bool:
    """Whether no later snapshot brings an object back from this status."""
    if (provider, kind) in REVIVABLE or (provider not in _WORDED and kind != CUSTOMER_KIND):
        return False
    return standing_of(provider, kind, status) in TERMINAL


def has_versions(provider: str) -> bool:
    """
    Whether versions are the objects' own, in microseconds. Stripe's are the seconds in which its
    events were made; see `shared.domain.commands.Observe`.
    """
    return provider != "stripe"


def seconds_of(provider: str, version: int) -> int:
    """A version as unix seconds."""
    return version // 1_000_000 if has_versions(provider) else version


def microseconds_of(provider: str, version: int) -> int:
    """A version as unix microseconds, in which those of several providers can be compared."""
    return version if has_versions(provider) else version * 1_000_000
