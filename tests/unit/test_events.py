"""Tracking ids, lanes, and what may be stored."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.domain.events import (
    is_storable,
    lane_number,
    new_tracking_id,
    received_at_of,
    unreadable_identity,
)


def test_a_tracking_id_is_a_uuid7_that_holds_its_millisecond() -> None:
    now = datetime(2026, 11, 21, 8, 33, 0, 123_000, tzinfo=UTC)
    tracking_id = new_tracking_id(now, bytes(range(10)))
    assert (tracking_id.version, tracking_id.variant) == (7, "specified in RFC 4122")
    assert received_at_of(tracking_id) == now
    later = new_tracking_id(now + timedelta(milliseconds=1), bytes(10))
    assert later > tracking_id


def test_nobodys_uuid_is_out_of_range() -> None:
    assert received_at_of(UUID(int=(1 << 128) - 1)).year == 9999


def test_lanes_are_stable_and_even() -> None:
    assert lane_number("subscription/sub_1") == lane_number("subscription/sub_1")
    counts = Counter(lane_number(f"subscription/sub_{number}") for number in range(16_000))
    assert len(counts) == 16
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_what_an_index_cannot_hold_is_not_storable() -> None:
    assert is_storable("evt_1")
    for text in ("", "a\0b", "x" * 256, "é" * 128, "\ud800"):
        assert not is_storable(text)
    assert is_storable(unreadable_identity(b"\xff").event_id)
