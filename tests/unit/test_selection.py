"""What is said of events is understood, or refused: it never means all of them by mistake."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from shared.domain.selection import ALL, Selection, SelectionError, read_selection

ID = "019aa000-0000-7000-8000-000000000001"


def test_all_that_can_be_said() -> None:
    read = read_selection(
        {
            "source": "stripe", "type": "customer.*", "status": "dead", "outcome": "dead",
            "code": "attempts_exhausted", "tenant": "acme", "customer": "cus_1", "event": "evt_1",
            "attempts": 2, "since": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z",
            "trace": "0af7651916cd43dd8448eb211c80319c", "replay": ID, "conflicts": True,
            "ids": [ID],
        }
    )  # fmt: skip
    assert read.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert (read.replay, read.ids) == (UUID(ID), (UUID(ID),))
    assert not read.is_empty


def test_nothing_said_is_told_apart() -> None:
    assert read_selection({}) == ALL == Selection()
    assert ALL.is_empty
    assert not Selection(ids=()).is_empty


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sorce": "stripe"}, "sorce"),
        ({"source": ""}, "source"),
        ({"code": "a\0b"}, "code"),
        ({"type": "\ud800"}, "type"),
        ({"type": "*"}, "type"),
        ({"ids": []}, "ids"),
        ({"source": None, "status": "deed"}, "status"),
        ({"attempts": 0}, "attempts"),
        ({"since": "2026-11-01T00:00:00"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-02T00:00:00Z", "until": "2026-11-02T00:00:00Z"}, "until"),
        ({"replay": "x"}, "replay"),
        ({"ids": ["x"]}, "ids[0]"),
    ],
)
def test_what_is_not_understood_is_an_error(fields: dict[str, object], field: str) -> None:
    with pytest.raises(SelectionError) as raised:
        read_selection(fields)
    assert raised.value.field == field
