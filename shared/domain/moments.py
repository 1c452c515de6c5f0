"""A moment as a person writes it, and as a person reads it. Always UTC."""

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(
    r"([0-9]{1,8}) ?(s|m|h|d|w|seconds?|minutes?|hours?|days?|weeks?)( ago)?", re.IGNORECASE
)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
#: A locale's names would make the answer depend on the machine that gives it.
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


class MomentError(ValueError):
    """The text names no moment."""


def read_moment(text: str) -> datetime | timedelta:
    """
    A time (RFC 3339; without an offset it is UTC), the beginning of a day ("2026-11-14"), or how
    long ago ("48h", "2 days ago").

    Raises:
        MomentError: it is none of these.
    """
    text = text.strip()
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return timedelta(seconds=int(ago[1]) * _UNIT_S[ago[2][0].lower()])
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MomentError(
            f"{text[:40]!r} is not a time; write 2026-11-14T09:30:00Z, 2026-11-14, 48h or 2d"
        ) from None


def moment_before(now: datetime, moment: datetime | timedelta) -> datetime:
    """
    The moment itself, or that long before `now`.

    Raises:
        MomentError: it lies before all calendars.
    """
    if isinstance(moment, datetime):
        return moment
    try:
        return now - moment
    except OverflowError:
        raise MomentError(f"{moment} is too long ago") from None


def written(moment: datetime) -> str:
    """As in "14 Nov 2026 09:30 UTC"."""
    moment = moment.astimezone(UTC)
    day = f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    return f"{day} {moment:%H:%M} UTC"


def span(seconds: int) -> str:
    """In the largest unit that it is whole in, as an adjective: "7-day", "36-hour"."""
    for size, name in _UNITS:
        if seconds % size == 0:
            return f"{seconds // size}-{name}"
    raise AssertionError("every whole number is whole in seconds")
