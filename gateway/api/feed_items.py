"""
An audit record as the feed shows it, and what of it a tenant is shown: nothing of anybody else.

No number of a row or of a transaction, no chain, no other tenant's name, no operator's.
"""

import hmac
from datetime import datetime
from typing import Any

import msgspec

from shared.store.feed import FeedRecord

#: Whose contents a tenant is shown: they hold its own values, and no name of anybody else. Not the
#: manifests of imports: numbers of rows and of lines tell how many others have.
_OWN_CONTENTS = frozenset(
    {
        "entitlement.granted", "entitlement.changed", "entitlement.revoked",
        "record.imported", "record.changed", "record.removed", "records.reprocessed",
    }
)  # fmt: skip

_encode = msgspec.json.Encoder().encode


class Cause(msgspec.Struct, rename="camel"):
    """
    What a record was written for: an event (its tracking id), an operator's action, an end by the
    clock, a version of the catalog. A tenant's token is told the kind, and an event's id.
    """

    kind: str
    id: str | None
    run: int | None
    step: int | None


class FeedItem(msgspec.Struct, rename="camel"):
    """
    Something that happened. Of two changes of one tenant the one with the larger `position` took
    effect later, whatever their order in the feed.

    `before` and `after` are null where there was nothing, where it was erased (`isErased`), and
    where a tenant's token may not see them. `reason` is for operators and services.
    """

    id: str
    type: str
    at: datetime
    tenant: str | None
    source: str | None
    actor: str
    cause: Cause
    subject: str | None
    feature: str | None
    catalog_version: int
    position: int | None
    before: Any
    after: Any
    is_erased: bool
    reason: str | None


def shown(record: FeedRecord, salt: bytes, *, is_tenants: bool) -> FeedItem:
    """The record, or what a tenant may know of it; `salt` is what ids are made with."""
    sees = not is_tenants or record.action in _OWN_CONTENTS
    subject = record.subject
    if is_tenants and subject.startswith("manual/"):
        subject = ""  # it ends with the number of a row
    return FeedItem(
        id=_id_of(record, salt),
        type=record.action,
        at=record.at,
        tenant=record.tenant or None,
        source=record.source or None,
        actor="operator" if is_tenants and record.actor.startswith("operator:") else record.actor,
        cause=_cause_of(record, is_tenants=is_tenants),
        subject=subject or None,
        feature=record.feature or None,
        catalog_version=record.catalog_version,
        position=record.position,
        before=_decoded(record.before) if sees else None,
        after=_decoded(record.after) if sees else None,
        is_erased=record.is_erased and sees,
        reason=None
        if is_tenants or record.reason is None
        else record.reason.decode(errors="replace"),
    )


def _cause_of(record: FeedRecord, *, is_tenants: bool) -> Cause:
    if not is_tenants:
        return Cause(record.cause, record.cause_id, record.run, record.step)
    # An end is named by the number of a row, a derivation may be by another tenant, and steps are
    # counted over all tenants that an event concerns.
    return Cause(record.cause, record.cause_id if record.cause == "event" else None, None, None)


def _id_of(record: FeedRecord, salt: bytes) -> str:
    """32 hex digits of the record's key: the same for all, for ever, and of no other record."""
    key = [record.cause, record.cause_id, record.run, record.tenant, record.step]
    return hmac.digest(salt, _encode(key), "sha256")[:16].hex()


def _decoded(content: bytes | None) -> Any:
    if content is None:
        return None
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Shown as it lies there: `sluice audit verify` is who says that it was altered.
        return content.decode(errors="replace")
