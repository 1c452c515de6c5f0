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
    What matters of an object, in the provider's own words and clock. Times are unix seconds.

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


class Standing(StrEnum):
    """The provider-neutral meaning of a status."""

    TRIAL = "trial"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PENDING = "pending"
    NEVER_STARTED = "never_started"
    PAUSED = "paused"
    ENDED = "ended"
    PRESENT = "present"  # an object that can carry links and grants nothing


Access = Literal["grant", "grace", "none"]

#: Whether a standing gives access. `grace` gives it until the grace period after the first
#: failure of the unbroken run is over.
ACCESS: dict[Standing, Access] = {
    Standing.TRIAL: "grant",
    Standing.ACTIVE: "grant",
    Standing.PAST_DUE: "grace",
    Standing.UNPAID: "none",
    Standing.PENDING: "none",
    Standing.NEVER_STARTED: "none",
    Standing.PAUSED: "none",
    Standing.ENDED: "none",
    Standing.PRESENT: "none",
}

#: No later snapshot brings an object back from these.
TERMINAL = frozenset({Standing.NEVER_STARTED, Standing.ENDED})

#: The status table: (provider, kind) → status → standing. What is not here is unknown, and an
#: unknown status neither grants nor revokes.
STANDINGS: dict[tuple[str, str], dict[str, Standing]] = {
    ("stripe", "subscription"): {
        "trialing": Standing.TRIAL,
        "active": Standing.ACTIVE,
        "past_due": Standing.PAST_DUE,
        "unpaid": Standing.UNPAID,
        "incomplete": Standing.PENDING,
        "incomplete_expired": Standing.NEVER_STARTED,
        "paused": Standing.PAUSED,
        "canceled": Standing.ENDED,
    },
    ("stripe", "customer"): {"present": Standing.PRESENT, "deleted": Standing.ENDED},
    ("stripe", "checkout.session"): {"complete": Standing.PRESENT},
}

#: Which family of objects grants, per provider; the others carry links and confirm.
GRANTING_KINDS: dict[str, frozenset[str]] = {"stripe": frozenset({"subscription"})}

#: The kind of object that *is* the customer, and the kind whose references link it.
CUSTOMER_KIND = "customer"
SESSION_KIND = "checkout.session"
LINKING_KINDS = frozenset({CUSTOMER_KIND, SESSION_KIND})

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
