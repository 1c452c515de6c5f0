"""
What receipt reads of a sender's event: `[sources.NAME.event]`.

Each key is a `Location`. What names an event must be there; what it is about may be missing.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from shared.domain.events import Headers, Identity, is_storable
from shared.providers.base import ConfigurationError, PayloadError
from shared.providers.sender.documents import read_document
from shared.providers.sender.expressions import Location
from shared.providers.sender.tables import Table

PATH = ("event",)

#: How `occurred_at` is written: ISO 8601, or unix seconds, milliseconds or microseconds.
UNITS = ("iso", "s", "ms", "us")

_KEYS = ("id", "type", "subject", "account", "occurred_at", "occurred_at_unit")
_UNTYPED = "event"
_EPOCH = datetime.fromtimestamp(0, UTC)
_UNIT_US = {"s": 1_000_000, "ms": 1000, "us": 1}
_LATEST_US = 253_402_300_799_999_999
_LARGEST_INTEGER = 10**18
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identities:
    """Where a source's events say who they are; None where nothing says so."""

    id: Location | None = None
    type: Location | None = None
    subject: Location | None = None
    account: Location | None = None
    occurred_at: Location | None = None
    unit: str = UNITS[0]

    @classmethod
    def read(cls, table: object) -> "Identities":
        """
        Raises:
            ConfigurationError: the table says something that is not understood.
        """
        read = Table({} if table is None else table, PATH, _KEYS)
        found = {
            name: Location(value, read.at(name))
            for name in _KEYS[:-1]
            if (value := read.get(name)) is not None
        }
        unit = read.choice("occurred_at_unit", UNITS)
        if read.get("occurred_at_unit") is not None and "occurred_at" not in found:
            raise ConfigurationError(read.at("occurred_at_unit"), "is of no `occurred_at`")
        return cls(**found, unit=unit)

    @property
    def id_header(self) -> str | None:
        """The header that has the event's id, in lower case."""
        return self.id.header if self.id is not None else None

    def identify(self, headers: Headers, body: bytes, message_id: str | None) -> Identity:
        """
        See `Provider.identify`. `message_id` is the id where the source names no other; without
        one it is the body's digest.
        """
        locations = (self.id, self.type, self.subject, self.account, self.occurred_at)
        needs_document = any(one is not None and one.header is None for one in locations)
        document = read_document(headers, body) if needs_document else None

        def text_at(name: str, location: Location | None, otherwise: str | None) -> str:
            found = location.find(headers, document) if location is not None else None
            if found is None or found == "":
                if otherwise is None:
                    where = "" if location is None else f" ({location.text})"
                    raise PayloadError(f"there is no event.{name}{where}")
                return otherwise
            text = text_of(found)
            if text is None or not is_storable(text):
                raise PayloadError(f"event.{name} is no text of 1 to 255 bytes, and no number")
            return text

        unnamed = message_id or f"sha256:{sha256(body).hexdigest()}"
        event_id = text_at("id", self.id, unnamed if self.id is None else None)
        return Identity(
            event_id=event_id,
            event_type=text_at("type", self.type, _UNTYPED if self.type is None else None),
            subject=text_at("subject", self.subject, event_id),
            occurred_at=self._moment(headers, document),
            account=text_at("account", self.account, ""),
        )

    def signed_headers(self, body: bytes) -> Headers:
        """The headers that an event of this source would name itself by."""
        named = (
            (self.id, sha256(body).hexdigest()[:32]),
            (self.type, _UNTYPED),
        )
        return tuple(
            (location.header, value)
            for location, value in named
            if location is not None and location.header is not None
        )

    def _moment(self, headers: Headers, document: Any) -> datetime | None:
        found = self.occurred_at.find(headers, document) if self.occurred_at is not None else None
        return None if found is None else moment_of(found, self.unit)


def text_of(found: Any) -> str | None:
    """Text, or a whole number as text; None of anything else."""
    if isinstance(found, str):
        return found
    is_whole = isinstance(found, int) and not isinstance(found, bool)
    return str(found) if is_whole and abs(found) < _LARGEST_INTEGER else None


def moment_of(found: Any, unit: str) -> datetime:
    """
    Aware UTC of what was found, to the microsecond; a time without a zone is UTC.

    Raises:
        PayloadError: it is no time in this unit, or none that a datetime holds.
    """
    try:
        if unit == "iso":
            moment = datetime.fromisoformat(found)
            if moment.tzinfo is None:
                return moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC)
        since_us = _number_of(found) * _UNIT_US[unit]
        if 0 <= since_us <= _LATEST_US:
            return _EPOCH + timedelta(microseconds=round(since_us))
    except (TypeError, ValueError, OverflowError):
        pass
    raise PayloadError(f"event.occurred_at is no time in the unit {unit!r}")


def _number_of(found: Any) -> int | float:
    if isinstance(found, str):
        if not _NUMBER.fullmatch(found):
            raise ValueError(found)
        return float(found) if "." in found else int(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(found)
    return found
