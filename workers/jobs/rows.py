"""What a body that was pushed comes to, row by row."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

#: Of a line, or of an element of an array, as it is written. A row is kept up to 256 KiB.
LONGEST_ROW_BYTES = 1 << 20


class Damaged(Exception):
    """The body cannot be read any further; what came before is right. `code` is for lists."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Problem(NamedTuple):
    """Why a row was not taken: a code for lists, a JSON pointer into it, and a text."""

    code: str
    pointer: str
    message: str


class Row(NamedTuple):
    """
    One row. `line` is where it begins, or, of a document, its number; both count from 1.

    `encoded` is JSON that nobody has looked at yet. One with a `problem` has no value.
    """

    line: int
    value: Any = None
    encoded: bytes | None = None
    problem: Problem | None = None


def unread(line: int, code: str, message: str) -> Row:
    """A row that cannot be read."""
    return Row(line, problem=Problem(code, "", message))


class Reader(Protocol):
    """
    Cuts a body into rows, however it is cut itself.

    Its rows are made while they are asked for. Made with the `place` where another one was, it goes
    on there: `offset` bytes of the body are to be left out then.
    """

    def feed(self, data: bytes) -> Iterator[Row]:
        """
        The rows that end in the next bytes.

        Raises:
            Damaged: see there; while the rows are asked for.
        """
        ...

    def finish(self) -> Iterator[Row]:
        """
        The rows that the end of the body ends.

        Raises:
            Damaged: see there.
        """
        ...

    @property
    def place(self) -> Mapping[str, Any]:
        """Behind the last row that was asked for, as JSON: "offset", "line" and its own."""
        ...
