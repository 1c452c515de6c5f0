"""When a signature counts."""

from datetime import UTC, datetime

from shared.providers.base import SignatureError


def check_window(signed_at_s: int, now: datetime, tolerance_s: int) -> None:
    """
    Raises:
        SignatureError: it was signed too long ago, or will be. The window has two sides.
    """
    age_s = int(now.timestamp()) - signed_at_s
    if age_s > tolerance_s:
        raise SignatureError("timestamp_too_old")
    if age_s < -tolerance_s:
        raise SignatureError("timestamp_in_future")


def moment_of(seconds: int) -> datetime | None:
    """Unix seconds in aware UTC; None beyond what can be."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
