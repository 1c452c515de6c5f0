"""NDJSON: a JSON value in each line. Source: github.com/ndjson/ndjson-spec (read 2026-11)."""

from collections.abc import Iterator, Mapping
from typing import Any

from workers.jobs.rows import LONGEST_ROW_BYTES, Row, unread

BOM = b"\xef\xbb\xbf"
TOO_LONG = f"the line is longer than {LONGEST_ROW_BYTES} bytes"


class Lines:
    """Cuts bytes into lines. `number` and `offset` are of the end of the last one given."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self.number: int = place.get("line", 0)
        self.offset: int = place.get("offset", 0)
        self._tail = b""
        self._dropped_bytes = 0  # of a line that is too long already

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that end here, without what ends them; None is one that is too long."""
        data = self._tail + data
        self._tail = b""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = self._next(data[start:end], 1)
            start = end + 1
            yield line
        self._tail = data[start:]
        if len(self._tail) > LONGEST_ROW_BYTES:
            self._dropped_bytes += len(self._tail)
            self._tail = b""

    def finish(self) -> Iterator[bytes | None]:
        """A last line without an end."""
        if self._tail or self._dropped_bytes:
            tail, self._tail = self._tail, b""
            yield self._next(tail, 0)

    def _next(self, line: bytes, end_bytes: int) -> bytes | None:
        self.number += 1
        self.offset += self._dropped_bytes + len(line) + end_bytes
        is_too_long = self._dropped_bytes + len(line) > LONGEST_ROW_BYTES
        self._dropped_bytes = 0
        if is_too_long:
            return None
        return line.removeprefix(BOM) if self.number == 1 else line


class LineRows:
    """See `workers.jobs.rows.Reader`. Blank lines are no rows."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._lines = Lines(place)

    def feed(self, data: bytes) -> Iterator[Row]:
        """See `Reader.feed`."""
        return self._rows(self._lines.feed(data))

    def finish(self) -> Iterator[Row]:
        """See `Reader.finish`."""
        return self._rows(self._lines.finish())

    @property
    def place(self) -> Mapping[str, Any]:
        """See `Reader.place`."""
        return {"offset": self._lines.offset, "line": self._lines.number}

    def _rows(self, lines: Iterator[bytes | None]) -> Iterator[Row]:
        for line in lines:
            if line is None:
                yield unread(self._lines.number, "row_too_long", TOO_LONG)
            elif line and not line.isspace():
                yield Row(self._lines.number, None, line)
