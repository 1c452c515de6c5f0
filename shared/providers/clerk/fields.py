"""
What the models of Clerk's objects have in common: times, ids, and their version.

Times are unix milliseconds. The samples of the published description have the event's own
`timestamp` in seconds, so that is read either way; no time of either kind can be the other's.
Source: clerk/openapi-specs, webhooks/2025-04-15.yml, and clerk/clerk-docs,
docs/guides/development/webhooks/overview.mdx (read 2026-11).
"""

from typing import Annotated

import msgspec

from shared.domain.events import is_storable
from shared.providers.base import PayloadError

LATEST_MS = 250_000_000_000_000  # what a datetime can still hold
_FIRST_MS = 100_000_000_000  # 1973 in milliseconds, the year 5138 in seconds

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
#: Of a period that never ends: none, and from older versions a negative one.
MaybeMilliseconds = Annotated[int, msgspec.Meta(ge=-LATEST_MS, le=LATEST_MS)]


def timestamp_of(told: int) -> int:
    """The event's `timestamp` in milliseconds."""
    return told if told >= _FIRST_MS else told * 1000


def version_of(updated_at: int | None, timestamp: int | None) -> int:
    """
    Unix microseconds of the object's last change; of an object that does not say, of the event's.

    Of two events that tell of one millisecond, the one that was made later is the newer: the
    digits below a millisecond hold by how much.

    Raises:
        PayloadError: neither is told.
    """
    if updated_at is None:
        if timestamp is None:
            raise PayloadError("neither the object nor the event says when")
        return timestamp_of(timestamp) * 1000
    later = timestamp_of(timestamp) - updated_at if timestamp is not None else 0
    return updated_at * 1000 + min(max(later, 0), 999)


def checked(what: str, text: str | None) -> str:
    """
    An id that an object cannot do without.

    Raises:
        PayloadError: there is none, or none that an index holds.
    """
    if text is None or not is_storable(text):
        raise PayloadError(f"{what} is missing, too long or holds a NUL")
    return text


def storable(text: str | None) -> str | None:
    """The text, or None where it is empty or none that an index holds."""
    return text if text is not None and is_storable(text) else None
