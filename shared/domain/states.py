"""
The normalised state of a provider object.

A status is kept as the provider's own word; what it means, `shared.domain.standings` says.
"""

import hashlib

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
    write. A field added later needs a default: absent and default have the same digest. What is
    only shown is in no digest.
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
    past_due_at: int | None = None  # when the run of failed payments began, where the object says
    member: str | None = None  # of a membership: who is a member of its tenant
    role: str | None = None  # of a membership: as what
    is_default: bool = False  # the plan of whoever has no other: unmapped, it gives nothing
    revokes: bool = False  # of a refund: it takes back what was bought, however much it pays back
    period_ends_at: int | None = None  # when it is paid for again, or a trial is over; only shown
    pauses: bool = False  # `ends_at` begins a pause, and is no end; only shown


#: The status of an object of which only hints came: that it changed, not what it is.
UNOBSERVED = "unobserved"


SUBSCRIPTION_KIND = "subscription"
#: The kind of object that *is* the customer, and the kind whose references link it.
CUSTOMER_KIND = "customer"
SESSION_KIND = "checkout.session"
LINKING_KINDS = frozenset({CUSTOMER_KIND, SESSION_KIND})
ORDER_KIND = "order"
INVOICE_KIND = "invoice"
CHARGE_KIND = "charge"
INVOICE_PAYMENT_KIND = "invoice_payment"
REFUND_KIND = "refund"
DISPUTE_KIND = "dispute"
WARNING_KIND = "radar.early_fraud_warning"
SUMMARY_KIND = "entitlements.active_entitlement_summary"
ACCOUNT_KIND = "account"
#: Polar's: what a customer was given, and all that a customer has.
BENEFIT_GRANT_KIND = "benefit_grant"
STATE_KIND = "customer_state"
#: What is read of a customer whichever object of theirs is decided: all others depend on it.
COMMON_KINDS = LINKING_KINDS | {STATE_KIND}
#: Clerk's: who signs in, for whom, and what is paid for.
USER_KIND = "user"
ORGANIZATION_KIND = "organization"
MEMBERSHIP_KIND = "organization_membership"
SUBSCRIPTION_ITEM_KIND = "subscription_item"
#: What is news by itself, whether or not it changes anybody's access.
IDENTITY_KINDS = frozenset({USER_KIND, ORGANIZATION_KIND, MEMBERSHIP_KIND})
#: What speaks against a payment, and what leads from it to the objects that it paid for.
ADVERSE_KINDS = frozenset({REFUND_KIND, DISPUTE_KIND, WARNING_KIND})
PAYMENT_KINDS = ADVERSE_KINDS | {INVOICE_KIND, CHARGE_KIND, INVOICE_PAYMENT_KIND}

_encode = msgspec.json.Encoder(order="deterministic").encode


def encode_state(state: ObjectState) -> bytes:
    """The stored form: JSON, one for each state."""
    return _encode(state)


def digest_of(state: ObjectState) -> int:
    """
    A signed 64-bit digest of what decides in a state; equal states have equal digests.

    What is only shown is left out: observations that were kept before it was read must meet those
    of the same second that have it, and a renewal must lead nowhere.
    """
    if state.period_ends_at is not None or state.pauses:
        state = msgspec.structs.replace(state, period_ends_at=None, pauses=False)
    encoded = encode_state(state)
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), signed=True)
