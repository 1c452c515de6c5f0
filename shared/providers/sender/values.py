"""
What is found in a document, read as an id, a word, a time or JSON; anything else is refused.

A `Wanted` is one key of a mapping: where its value lies, and how an error names it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from shared.domain.events import LONGEST_ID_BYTES, Headers, is_storable
from shared.providers.base import ConfigurationError, PayloadError
from shared.providers.sender.expressions import Location, is_true
from shared.providers.sender.tables import Path

#: Of one value that is kept as JSON.
LARGEST_JSON_BYTES = 262_144
_DEEPEST_JSON = 64
_MOST_JSON_VALUES = 100_000
_BEYOND_INTEGERS = 2**63

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = 253_402_300_800_000_000  # of the year 9999
_MICROSECOND = timedelta(microseconds=1)
#: How far a sender's clock, or the zone that it leaves out, may be ahead of ours.
_AHEAD = timedelta(days=1)
_TOO_FAR_AHEAD = "lies more than a day after its receipt, and cannot say what is the newest"
#: 2000 to 2200, in seconds since 1970. Within it the size of a number tells its unit: no second
#: looks like a millisecond, and no counter, no "20261101" and no "20261101120000" like either.
_FIRST_S, _LAST_S = 946_684_800, 7_258_118_400
_UNITS_PER_S = (1, 1_000, 1_000_000, 1_000_000_000)
_NUMBER = re.compile(r"\d{9,20}(\.\d{1,9})?", re.ASCII)

_encode = msgspec.json.Encoder(order="deterministic").encode


class Document(NamedTuple):
    """An event as a mapping sees it: its headers, its body as JSON says it, when it came."""

    headers: Headers
    body: Any
    received_at: datetime | None = None


class Wanted:
    """
    One key of a mapping, as its table at `path` declares it.

    Everything that reads raises `PayloadError`, which names the key and its expression.

    Raises:
        ConfigurationError: it is neither "header:NAME" nor a JMESPath expression.
    """

    def __init__(self, table: Mapping[str, Any], key: str, path: Path) -> None:
        if key not in table:
            raise ConfigurationError((*path, key), "is missing")
        self.text = table[key]
        self.name = _shown((*path, key))
        self._location = Location(self.text, (*path, key))

    @classmethod
    def optional(cls, table: Mapping[str, Any], key: str, path: Path) -> "Wanted | None":
        """None where the table does not name it."""
        return cls(table, key, path) if key in table else None

    def find(self, document: Document) -> Any:
        """What lies there; None where there is nothing."""
        try:
            return self._location.find(document.headers, document.body)
        except PayloadError as error:
            raise PayloadError(f"{self.name}: {error}") from None

    def is_true(self, document: Document) -> bool:
        """See `shared.providers.sender.expressions.is_true`."""
        return is_true(self.find(document))

    def text_in(self, document: Document) -> str | None:
        """An id. Whole numbers count as text, and "" as nothing."""
        found = self.find(document)
        return None if found is None or found == "" else self.checked_text(found)

    def needed_text_in(self, document: Document) -> str:
        """An id that must be there."""
        text = self.text_in(document)
        if text is None:
            raise self.wrong("found nothing")
        return text

    def word_in(self, document: Document) -> str:
        """A status, which must be there: a text, a whole number, or "true" and "false"."""
        found = self.find(document)
        if isinstance(found, bool):
            return str(found).lower()
        if found is None or found == "":
            raise self.wrong("found nothing")
        return self.checked_text(found)

    def microseconds_in(self, document: Document) -> int | None:
        """A time, in unix microseconds. "" counts as nothing."""
        found = self.find(document)
        if found is None or found == "":
            return None
        if isinstance(found, str) and not _NUMBER.fullmatch(found):
            return self._from_calendar(found)
        if isinstance(found, str):
            found = float(found) if "." in found else int(found)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self.wrong(f"a time is wanted, and there is {_kind_of(found)}")
        for units in _UNITS_PER_S:
            if _FIRST_S * units <= found < _LAST_S * units:
                return _scaled(found, units)
        raise self.wrong(
            "a number is a time if it lies between the years 2000 and 2200 in seconds,"
            " milliseconds, microseconds or nanoseconds since 1970"
        )

    def seconds_in(self, document: Document) -> int | None:
        """A time, in unix seconds."""
        microseconds = self.microseconds_in(document)
        return None if microseconds is None else microseconds // 1_000_000

    def json_in(self, document: Document) -> Any:
        """A value that JSON holds, and Postgres too."""
        found = self.find(document)
        self._check_json(found)
        return found

    def checked_text(self, found: Any) -> str:
        """What was found, where it is an id."""
        if isinstance(found, int) and not isinstance(found, bool):
            self._check_json(found)
            return str(found)
        if not isinstance(found, str):
            raise self.wrong(f"a text is wanted, and there is {_kind_of(found)}")
        if not is_storable(found):
            raise self.wrong(
                f"cannot be stored: a text has 1 to {LONGEST_ID_BYTES} bytes of UTF-8, without NUL"
            )
        return found

    def wrong(self, problem: str) -> PayloadError:
        """The problem, behind the key and its expression."""
        return PayloadError(f"{self.name} ({self.text}): {problem}")

    def _from_calendar(self, text: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            microseconds = (moment - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError):
            microseconds = -1
        if not 0 <= microseconds < _END:
            raise self.wrong("neither a time in ISO 8601, from 1970 on, nor a number")
        return microseconds

    def _check_json(self, value: Any) -> None:
        problem = problem_with_json(value)
        if problem is not None:
            raise self.wrong(problem)


def version_in(
    wanted: Wanted | None, document: Document, occurred_at: datetime | None, of: Wanted
) -> int:
    """
    What says which state of a thing is the newer one, in unix microseconds: what the mapping names,
    or else when the event says that it happened. `of` is the key of the thing's id.

    One from the future would outdate, for good and without a word, all that is sent until then.

    Raises:
        PayloadError: the event says neither, or a time that has not come yet.
    """
    latest = None
    if document.received_at is not None:
        latest = (document.received_at + _AHEAD - _EPOCH) // _MICROSECOND
    if wanted is not None:
        version = wanted.microseconds_in(document)
        if version is None:
            raise wanted.wrong("found nothing")
        if latest is not None and version > latest:
            raise wanted.wrong(_TOO_FAR_AHEAD)
        return version
    if occurred_at is None:
        raise of.wrong(
            "nothing says which state of it is the newer one: the event has no time, and the"
            " mapping names no `version`"
        )
    version = (occurred_at - _EPOCH) // _MICROSECOND
    if latest is not None and version > latest:
        raise of.wrong(f"the event's time {_TOO_FAR_AHEAD}")
    return version


def problem_with_json(value: Any) -> str | None:
    """Why a value cannot be kept as JSON, here or in Postgres; None where it can."""
    # A million rows go through here: what is neither array nor object waits for no turn.
    waiting: list[tuple[Any, int]] = [([value], -1)]
    count = 0
    while waiting:
        one, depth = waiting.pop()
        insides = [one] if isinstance(one, list) else [one, one.values()]
        count += sum(map(len, insides))
        if (depth >= _DEEPEST_JSON and one) or count > _MOST_JSON_VALUES:
            return f"nested deeper than {_DEEPEST_JSON}, or more than {_MOST_JSON_VALUES} values"
        for inner in chain.from_iterable(insides):
            if isinstance(inner, dict | list):
                waiting.append((inner, depth + 1))
                continue
            problem = _wrong_with(inner)
            if problem is not None:
                return problem
    return None


def encode_json(value: Any, name: str) -> str:
    """
    A value that was checked, as JSON: one text for each value.

    Raises:
        PayloadError: it is too large; with `name` in front.
    """
    encoded = _encode(value)
    if len(encoded) > LARGEST_JSON_BYTES:
        raise PayloadError(f"{name}: larger than {LARGEST_JSON_BYTES} bytes as JSON")
    return encoded.decode()


def _scaled(found: int | float, units: int) -> int:
    """A number of units since 1970, in microseconds; whole ones without a rounding error."""
    if isinstance(found, int):
        return found * 1_000_000 // units
    return round(found * (1_000_000 / units))


def _wrong_with(value: Any) -> str | None:
    """Why a value that is neither array nor object cannot be kept."""
    if isinstance(value, str):
        return _wrong_with_text(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return "holds a number of more than 64 bits" if abs(value) >= _BEYOND_INTEGERS else None
    if isinstance(value, float):
        return None if isfinite(value) else "holds a number that is too large"
    return "is no value"  # but an expression, as `&a` is


def _wrong_with_text(text: str) -> str | None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair"
    return "holds a NUL" if "\0" in text else None


def _kind_of(found: Any) -> str:
    if isinstance(found, bool):
        return "true or false"
    if isinstance(found, int | float):
        return "a number"
    if isinstance(found, str):
        return "a text"
    return "an array" if isinstance(found, list) else "an object"


def _shown(path: Path) -> str:
    """As the file has it: mapping[0].object.status."""
    shown = ""
    for part in path:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
    return shown
