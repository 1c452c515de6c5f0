"""
A record as a bundle has it, and whether what it tells is told in it.

The chained fields are all there, or the hash could not be checked. Of contents everything is held
back that is not known to be about the tenant alone: a record's contents have one salt, and who has
that can try the names of others against the digest of what was held back. So all of them are told,
or none.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.domain.audit import OWN_CONTENTS
from shared.store.disputes import Told

#: Actions of operators that say what they gave a tenant, and name nobody else.
_GIVEN = frozenset({"grant.given", "grant.revoked", "event.replayed"})
#: A manifest lists what one chunk of an import changed for one tenant, and no row of another.
_MANIFESTS = frozenset({"records.imported"})
#: Those that say whose something was before or is now.
_NAMING = frozenset({"customer.linked", "tenant.merged", "tenant.absorbed"})


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked for. `names` are all of the tenant's; times are aware, None where open."""

    tenant: str
    names: tuple[str, ...]
    since: datetime | None = None
    until: datetime | None = None
    with_reasons: bool = False

    def has(self, at: datetime) -> bool:
        """Whether it is in the time that is asked for."""
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def is_told(told: Told, scope: Scope, shared: Collection[str]) -> bool:
    """Whether its contents are the tenant's to see. `shared` are events that concern others too."""
    record = told.record
    by_person = record.actor.partition(":")[0] in ("operator", "token")
    if record.reason_digest is not None and by_person and not scope.with_reasons:
        return False
    if record.action in OWN_CONTENTS | _MANIFESTS:
        # Nothing but the tenant's own values, wherever they come from.
        return record.tenant in scope.names
    if record.action in _NAMING:
        return all(_names_only(content, scope.names) for content in told.contents[:2])
    if record.action in _GIVEN:
        return record.tenant in scope.names or record.action == "event.replayed"
    if record.action.startswith("event."):
        return record.cause_id not in shared
    return False


def _names_only(content: bytes | None, names: Collection[str]) -> bool:
    if content is None:
        return True
    try:
        said = json.loads(content)
        named = {said[key] for key in ("tenant", "into") if said.get(key) is not None}
        named.update(said.get("names", ()))
        return named <= {*names} and said.keys() <= {"tenant", "into", "names"}
    except (ValueError, TypeError, AttributeError):
        return False


def names_others(told: Told, scope: Scope) -> bool:
    """Whether a chained field is another tenant's name: whose derivation had this found."""
    _, colon, tenant = told.record.cause_id.partition(":")
    return told.record.cause == "catalog" and bool(colon) and tenant not in scope.names


def hidden_line(told: Told) -> dict[str, Any]:
    """Of a record that cannot be shown: that it is there, and its hash, which the next one has."""
    place = {"chain": told.record.chain, "position": told.record.position}
    return {**place, "hash": told.hash.hex(), "contentState": "hidden"}


def line_of(told: Told, scope: Scope, shared: Collection[str]) -> dict[str, Any]:
    """A line of `records.ndjson`. The time is written as it was hashed."""
    record = told.record
    digests = (record.before_digest, record.after_digest, record.reason_digest)
    content = None
    if not any(digests):
        state = "none"
    elif told.salt is None:
        state = "erased"
    elif not scope.has(record.at):
        state = "not asked for"
    elif not is_told(told, scope, shared):
        state = "held back"
    else:
        state = "told"
        before, after, reason = (
            None if one is None else one.decode(errors="replace") for one in told.contents
        )
        content = {"salt": told.salt.hex(), "before": before, "after": after, "reason": reason}
    before_digest, after_digest, reason_digest = (
        None if one is None else one.hex() for one in digests
    )
    return {
        "chain": record.chain,
        "position": record.position,
        "cause": record.cause,
        "causeId": record.cause_id,
        "run": record.run,
        "tenant": record.tenant,
        "step": record.step,
        "action": record.action,
        "actor": record.actor,
        "source": record.source,
        "subject": record.subject,
        "feature": record.feature,
        "catalogVersion": record.catalog_version,
        "xid": record.xid,
        "at": record.at.isoformat(timespec="microseconds"),
        "before": before_digest,
        "after": after_digest,
        "reason": reason_digest,
        "previousHash": told.previous_hash.hex(),
        "hash": told.hash.hex(),
        "contentState": state,
        "content": content,
    }
