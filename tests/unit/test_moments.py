"""Moments as people write and read them."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.moments import MomentError, moment_before, read_moment, span, written


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-14T09:30:00Z", datetime(2026, 11, 14, 9, 30, tzinfo=UTC)),
        ("2026-11-14T09:30:00.25+02:00", datetime(2026, 11, 14, 7, 30, 0, 250_000, tzinfo=UTC)),
        (" 2026-11-14 09:30 ", datetime(2026, 11, 14, 9, 30, tzinfo=UTC)),
        ("2026-11-14", datetime(2026, 11, 14, tzinfo=UTC)),
        ("48h", timedelta(hours=48)),
        ("2 days ago", timedelta(days=2)),
        ("1 week", timedelta(weeks=1)),
        ("90S AGO", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
    ],
)
def test_what_a_person_may_write(text: str, moment: datetime | timedelta) -> None:
    assert read_moment(text) == moment


@pytest.mark.parametrize(
    "text",
    ["", "soon", "yesterday", "48", "-2d", "2026-13-01", "2026-11-14T09:30:00 02:00", "ago", "٤h",
     "0001-01-01T00:00:00+10:00", "9" * 10 + "w", "h" * 9000],
)  # fmt: skip
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(MomentError) as raised:
        read_moment(text)
    assert "2026-11-14T09:30:00Z" in str(raised.value)
    assert len(str(raised.value)) < 200


def test_long_ago_is_counted_from_now() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert moment_before(now, timedelta(hours=48)) == datetime(2026, 11, 19, 12, tzinfo=UTC)
    assert moment_before(now, now) is now
    with pytest.raises(MomentError):
        moment_before(now, read_moment("99999999w"))


def test_what_a_person_reads() -> None:
    assert written(datetime.fromisoformat("2026-03-05T01:02:59+02:00")) == "4 Mar 2026 23:02 UTC"
    assert [span(seconds) for seconds in (604_800, 129_600, 5400, 61)] == [
        "7-day",
        "36-hour",
        "90-minute",
        "61-second",
    ]
