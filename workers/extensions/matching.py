"""Which records of the audit trail a handler listens to. Pure."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from shared.domain.events import OWN_PROVIDER, OWN_SOURCES
from shared.store.handlers import AuditRecord

#: What became of an event that handlers hear of. A dead one is not over.
_OVER = frozenset(
    f"event.{outcome}" for outcome in ("applied", "unchanged", "superseded", "parked", "ignored")
)
_CHANGED = frozenset({"entitlement.granted", "entitlement.changed", "entitlement.revoked"})


def is_event(record: AuditRecord) -> bool:
    """Whether it says what became of an event. Nobody hears of Sluice's own."""
    return (
        record.cause == "event"
        and record.step == 0
        and record.action in _OVER
        and record.source != ""
        and record.source not in OWN_SOURCES
    )


def is_change(record: AuditRecord) -> bool:
    """Whether it tells of an entitlement that changed, whatever the cause."""
    return record.step > 0 and record.action in _CHANGED


def listens(patterns: Iterable[str], provider: str, event_type: str) -> bool:
    """Whether one of the patterns, "PROVIDER:TYPE", fits."""
    # What Sluice fetched comes under the provider's name, and in a shape of Sluice's own.
    is_own = event_type.startswith(f"{OWN_PROVIDER}.")
    if is_own and provider != OWN_PROVIDER:
        return False
    return any(fnmatchcase(f"{provider}:{event_type}", pattern) for pattern in patterns)


def may_listen(patterns: Sequence[str], provider: str) -> bool:
    """Whether one of the patterns could fit some type of that provider."""
    return any(fnmatchcase(provider, pattern.partition(":")[0]) for pattern in patterns)
