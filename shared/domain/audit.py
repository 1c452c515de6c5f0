"""
The audit trail's records and how they are chained.

A chain is a sequence of records, each of which holds the hash of the one before. The hash covers
the stored bytes of every column, each with its length in front, so that no two records share one.
Contents (before, after, reason) enter only as salted digests: they can be erased, and the chain
still verifies.
"""

import hashlib
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import msgspec

from shared.domain.entitlements import Entitlement

Cause = Literal["event", "end", "catalog", "operator", "reconcile"]
CAUSES: tuple[str, ...] = get_args(Cause)
Label = Literal["before", "after", "reason"]

#: The hash before the first record of every chain.
GENESIS = bytes(32)

#: Of which actions a tenant is shown the contents: its own values, no name or number of others.
OWN_CONTENTS = frozenset(
    {
        "entitlement.granted", "entitlement.changed", "entitlement.revoked",
        "record.imported", "record.changed", "record.removed",
        "records.reprocessed",
    }
)  # fmt: skip


def actor_for_tenant(actor: str) -> str:
    """Who acted, as a tenant is told: of operators and tokens not which."""
    kind, _, _ = actor.partition(":")
    return kind if kind in ("operator", "token") else actor


def subject_for_tenant(subject: str) -> str:
    """What it is about, as a tenant is told: a gift's name is the number of a row."""
    return "" if subject.startswith("manual/") else subject


class Draft(msgspec.Struct, frozen=True):
    """A record to be written. Contents are JSON (before, after) or plain text (reason)."""

    chain: str
    cause: Cause
    cause_id: str
    run: int
    tenant: str
    step: int
    action: str
    actor: str
    source: str = ""
    subject: str = ""
    feature: str = ""
    catalog_version: int = 0
    before: bytes | None = None
    after: bytes | None = None
    reason: bytes | None = None


class Record(NamedTuple):
    """A chained row, without its place and hashes. `xid` is the transaction that wrote it."""

    chain: str
    position: int
    cause: str
    cause_id: str
    run: int
    tenant: str
    step: int
    action: str
    actor: str
    source: str
    subject: str
    feature: str
    catalog_version: int
    xid: int
    at: datetime
    before_digest: bytes | None
    after_digest: bytes | None
    reason_digest: bytes | None


def record_hash(previous_hash: bytes, record: Record) -> bytes:
    """SHA-256 over the previous hash and each field behind its length; absent is not empty."""
    r = record
    at = r.at.isoformat(timespec="microseconds")
    # One literal: this runs for every record that is ever written.
    text = (
        f"{len(r.chain)}:{r.chain}{r.position}:{len(r.cause)}:{r.cause}{len(r.cause_id)}:{r.cause_id}"
        f"{r.run}:{len(r.tenant)}:{r.tenant}{r.step}:{len(r.action)}:{r.action}{len(r.actor)}:{r.actor}"
        f"{len(r.source)}:{r.source}{len(r.subject)}:{r.subject}{len(r.feature)}:{r.feature}"
        f"{r.catalog_version}:{r.xid}:{len(at)}:{at}"
    )
    hashed = hashlib.sha256(previous_hash)
    hashed.update(b"%d:" % len(text))
    hashed.update(text.encode())
    for digest in (r.before_digest, r.after_digest, r.reason_digest):
        hashed.update(b"-" if digest is None else b"%d:%b" % (len(digest), digest))
    return hashed.digest()


def content_digest(salt: bytes, label: Label, content: bytes | None) -> bytes | None:
    """The salted digest that the chained row keeps of a content; None of an absent one."""
    if content is None:
        return None
    return hashlib.sha256(salt + label.encode() + b":" + content).digest()


def content_of(entitlement: Entitlement | None) -> bytes | None:
    """An entitlement as the audit trail keeps it: {"value", "validUntil"}, None where absent."""
    if entitlement is None:
        return None
    return msgspec.json.encode(
        {"value": entitlement.value, "validUntil": entitlement.valid_until}, order="deterministic"
    )


def changed_features(
    before: dict[str, Entitlement], after: dict[str, Entitlement]
) -> list[tuple[str, str, Entitlement | None, Entitlement | None]]:
    """(feature, action, before, after) of every feature whose entitlement differs, by name."""
    changes = []
    for feature in sorted(before.keys() | after.keys()):
        old, new = before.get(feature), after.get(feature)
        if old == new and (old is None or new is None or type(old.value) is type(new.value)):
            continue
        if old is None:
            action = "entitlement.granted"
        elif new is None:
            action = "entitlement.revoked"
        else:
            action = "entitlement.changed"
        changes.append((feature, action, old, new))
    return changes
