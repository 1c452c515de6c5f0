"""
The audit trail's records and how they are chained.

A chain is a sequence of records, each of which holds the hash of the one before. The hash covers
the stored bytes of every column, each with its length in front, so that no two records share one.
Contents (before, after, reason) enter only as salted digests: they can be erased, and the chain
still verifies.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.domain.entitlements import Entitlement

Cause = Literal["event", "end", "catalog", "operator", "reconcile"]
Label = Literal["before", "after", "reason"]

#: The hash before the first record of every chain.
GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class Draft:
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


@dataclass(frozen=True, slots=True)
class Record:
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
    texts = (
        record.chain,
        str(record.position),
        record.cause,
        record.cause_id,
        str(record.run),
        record.tenant,
        str(record.step),
        record.action,
        record.actor,
        record.source,
        record.subject,
        record.feature,
        str(record.catalog_version),
        str(record.xid),
        record.at.isoformat(timespec="microseconds"),
    )
    parts = [previous_hash]
    for text in texts:
        encoded = text.encode()
        parts.append(b"%d:%b" % (len(encoded), encoded))
    for digest in (record.before_digest, record.after_digest, record.reason_digest):
        parts.append(b"-" if digest is None else b"%d:%b" % (len(digest), digest))
    return hashlib.sha256(b"".join(parts)).digest()


def content_digest(salt: bytes, label: Label, content: bytes | None) -> bytes | None:
    """The salted digest that the chained row keeps of a content; None of an absent one."""
    if content is None:
        return None
    return hashlib.sha256(salt + label.encode() + b":" + content).digest()


def changed_features(
    before: dict[str, Entitlement], after: dict[str, Entitlement]
) -> list[tuple[str, str, Entitlement | None, Entitlement | None]]:
    """(feature, action, before, after) of every feature whose entitlement differs, by name."""
    changes = []
    for feature in sorted(before.keys() | after.keys()):
        old, new = before.get(feature), after.get(feature)
        if old == new:
            continue
        if old is None:
            action = "entitlement.granted"
        elif new is None:
            action = "entitlement.revoked"
        else:
            action = "entitlement.changed"
        changes.append((feature, action, old, new))
    return changes
