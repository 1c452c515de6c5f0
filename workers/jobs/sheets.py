"""
CSV: a row of names, and rows of as many values; each row is an object of texts.

Quoted as RFC 4180 has it, read by the standard library: a quoted value may hold newlines. In doubt
a row is refused, and not guessed.
"""

import csv
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from workers.jobs.lines import TOO_LONG, Lines
from workers.jobs.rows import LONGEST_ROW_BYTES, Damaged, Row, unread


class _NeedsMore(Exception):
    """The record goes on in bytes that have not come yet."""


class _Unreadable(Exception):
    """A line of the record is none that can be read. `code` is for lists."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class SheetRows:
    """
    See `workers.jobs.rows.Reader`. Blank lines are no rows.

    A record that cannot be read ends with the line that shows it, and the next one begins there.
    """

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._lines = Lines(place)
        self._place = dict(place)
        self._header: list[str] | None = place.get("header")
        self._waiting: deque[tuple[int, bytes | None, int]] = deque()
        self._taken: list[tuple[int, bytes | None, int]] = []
        self._taken_bytes = 0
        self._is_over = False
        # Ours is counted in bytes, and said with the row it is of.
        csv.field_size_limit(2 * LONGEST_ROW_BYTES)
        # Strict, or what stands behind a closing quote would be taken for a part of the value.
        self._records = csv.reader(self, strict=True)

    def feed(self, data: bytes) -> Iterator[Row]:
        """See `Reader.feed`."""
        self._waiting.extend(
            (self._lines.number, line, self._lines.offset) for line in self._lines.feed(data)
        )
        return self._rows()

    def finish(self) -> Iterator[Row]:
        """See `Reader.finish`."""
        self._waiting.extend(
            (self._lines.number, line, self._lines.offset) for line in self._lines.finish()
        )
        self._is_over = True
        return self._rows()

    @property
    def place(self) -> Mapping[str, Any]:
        """See `Reader.place`; "header" are the names."""
        return self._place

    def __iter__(self) -> "SheetRows":
        return self

    def __next__(self) -> str:
        """The next line of a record, for the standard library."""
        if not self._waiting:
            if self._is_over:
                raise StopIteration
            raise _NeedsMore
        self._taken.append(self._waiting.popleft())
        _, line, _ = self._taken[-1]
        if line is None:
            raise _Unreadable("row_too_long", TOO_LONG)
        # What ends it counts too, or a value of empty lines would have no end.
        self._taken_bytes += len(line) + 1
        if self._taken_bytes > LONGEST_ROW_BYTES:
            raise _Unreadable("row_too_long", f"longer than {LONGEST_ROW_BYTES} bytes in all")
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            raise _Unreadable("undecodable", "the line is not UTF-8") from None

    def _rows(self) -> Iterator[Row]:
        while True:
            self._taken.clear()
            self._taken_bytes = 0
            row: Row | None = None
            try:
                values = next(self._records)
            except _NeedsMore:
                self._waiting.extendleft(reversed(self._taken))
                return
            except StopIteration:
                return
            except _Unreadable as error:
                row = unread(self._first, error.code, str(error))
            except csv.Error as error:
                row = unread(self._first, "bad_csv", str(error))
            else:
                row = self._row(values)
            last, _, offset = self._taken[-1]
            self._place = {"offset": offset, "line": last, "header": self._header}
            if row is None:
                continue
            if self._header is None:
                assert row.problem is not None
                raise Damaged("bad_header", f"line {row.line}: {row.problem.message}")
            yield row

    @property
    def _first(self) -> int:
        return self._taken[0][0]

    def _row(self, values: list[str]) -> Row | None:
        if not values:
            return None
        if self._header is None:
            self._header = _names(values)
            return None
        if len(values) != len(self._header):
            text = f"{len(values)} values, and there are {len(self._header)} columns"
            return unread(self._first, "ragged_row", text)
        return Row(self._first, dict(zip(self._header, values, strict=True)))


def _names(values: list[str]) -> list[str]:
    names = [value.strip() for value in values]
    if "" in names:
        raise Damaged("bad_header", f"column {names.index('') + 1} has no name")
    for name in names:
        if names.count(name) > 1:
            raise Damaged("bad_header", f"two columns are called {name[:100]!r}")
    return names
