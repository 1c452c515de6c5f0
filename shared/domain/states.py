"""
The normalised state of a provider object, and what its status means for access.

A status is kept as the provider's own word and read through `STANDINGS` each time it matters, so
that a word this version learns tomorrow counts for what was observed yesterday.
"""

import hashlib
from enum import StrEnum
from typing import Literal

import msgspec


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a subscription. `refs` are the catalog keys it may be known by, best first."""

    refs: tuple[str, ...]
    quantity: int = 1


class ObjectState(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What matters of an object, in the provider's own words and clock. Times are unix seconds,
    amounts the currency's minor units.

    `tenant` is the tenant that the object itself names, `reference` one that the buyer could
    write. A field added later needs a default: absent and default have the same digest.
    """

    status: str
    customer: str | None = None
    tenant: str | None = None
    reference: str | None = None
    items: tuple[Item, ...] = ()
    ends_at: int | None = None  # scheduled, not passed
    started_at: int | None = None
    refs: tuple[str, ...] = ()  # "kind/id" of the other objects it names, sorted
    plan: str | None = None  # a plan of the catalog that the object itself names
    offer: str | None = None  # what a purchase was made through: its payment link
    is_partial: bool = False  # `items` is known not to be the whole list
    amount: int | None = None  # that was charged, refunded or disputed
    refunded: int | None = None  # of `amount`, by a charge's own account
    collection: str | None = None  # how payment collection is paused: "void", "keep_as_draft" …
    resumes_at: int | None = None  # when it is collected again
    lapses_at: int | None = None  # a trial's end, where nothing is set to pay from then on
    has_payment_method: bool = False  # of a customer: there is a default one


#: The status of an object of which only hints came: that it changed, not what it is.
UNOBSERVED = "unobserved"


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

#: No later snapshot brings an object back from these.
TERMINAL = frozenset({Standing.NEVER_STARTED, Standing.ENDED})

SUBSCRIPTION_KIND = "subscription"
#: The kind of object that *is* the customer, and the kind whose references link it.
CUSTOMER_KIND = "customer"
SESSION_KIND = "checkout.session"
LINKING_KINDS = frozenset({CUSTOMER_KIND, SESSION_KIND})
INVOICE_KIND = "invoice"
CHARGE_KIND = "charge"
INVOICE_PAYMENT_KIND = "invoice_payment"
REFUND_KIND = "refund"
DISPUTE_KIND = "dispute"
WARNING_KIND = "radar.early_fraud_warning"
SUMMARY_KIND = "entitlements.active_entitlement_summary"
ACCOUNT_KIND = "account"
#: What speaks against a payment, and what leads from it to the objects that it paid for.
ADVERSE_KINDS = frozenset({REFUND_KIND, DISPUTE_KIND, WARNING_KIND})
PAYMENT_KINDS = ADVERSE_KINDS | {INVOICE_KIND, CHARGE_KIND, INVOICE_PAYMENT_KIND}

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
    },
    ("stripe", WARNING_KIND): {
        "actionable": Standing.CONTESTED,
        "not_actionable": Standing.RELEASED,
    },
}

#: Which families of objects can grant, per provider, by what `grants_from` calls them. The others
#: carry links and join payments.
FAMILIES: dict[str, dict[str, frozenset[str]]] = {
    "stripe": {
        "subscriptions": frozenset({SUBSCRIPTION_KIND, SESSION_KIND}),
        "summary": frozenset({SUMMARY_KIND}),
    },
}

_encode = msgspec.json.Encoder(order="deterministic").encode


def standing_of(provider: str, kind: str, status: str) -> Standing | None:
    """The standing of a status, or None where this version does not know it."""
    return STANDINGS.get((provider, kind), {}).get(status)


def encode_state(state: ObjectState) -> bytes:
    """The stored form: JSON, one for each state."""
    return _encode(state)


def digest_of(encoded: bytes) -> int:
    """A signed 64-bit digest of a stored state; equal states have equal digests."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), signed=True)
