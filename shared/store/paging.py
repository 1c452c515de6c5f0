"""Keyset pages: a cursor is the sort key of the last row seen, and opaque to whoever carries it."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

Key = TypeVar("Key")
Row = TypeVar("Row")

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 500


class CursorError(ValueError):
    """The cursor is not one of this list's."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as JSON-ready dicts; `next` is the cursor of the page after, None on the last."""

    items: list[dict[str, Any]]
    next: str | None


def encode_cursor(*key: object) -> str:
    """Times must come as ISO text: a cursor holds JSON."""
    packed = json.dumps(key, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_cursor(cursor: str, read: Callable[..., Key]) -> Key:
    """
    Hand the key's parts to `read`.

    Raises:
        CursorError: the text is no cursor, or `read` refuses its parts.
    """
    try:
        packed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return read(*json.loads(packed))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise CursorError("not a cursor of this list") from error


def row_number(number: object) -> int:
    """A cursor's only part, where a list goes by the rows' own numbers."""
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError("no row's number")
    return number


def page_of(
    rows: Sequence[Row],
    limit: int,
    show: Callable[[Row], dict[str, Any]],
    key_of: Callable[[Row], tuple[object, ...]],
) -> Page:
    """A page from up to `limit + 1` rows: the one too many says that there is more."""
    kept = rows[:limit]
    more = len(rows) > limit
    return Page(
        items=[show(row) for row in kept],
        next=encode_cursor(*key_of(kept[-1])) if more else None,
    )


def iso(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, with "Z"; None stays None."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
