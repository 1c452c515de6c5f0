"""
JSON documents: an array element by element, anything else whole.

The standard library reads an element where it begins and says where it ends, so that only one has
to be in memory at a time.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from shared.providers.base import PayloadError
from workers.jobs.rows import LONGEST_ROW_BYTES, Damaged, Row

#: Of a document that has to be read whole, because an expression says where its rows are.
LARGEST_DOCUMENT_BYTES = 32 << 20

_BLANK = " \t\r\n"


def _integer(text: str) -> float:
    # A number of thousands of digits is not worth being made; the row is refused for it.
    return int(text) if len(text) <= 20 else inf


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_decoder = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)


class ArrayRows:
    """See `workers.jobs.rows.Reader`: of an array its elements, of anything else itself."""

    def __init__(self, place: Mapping[str, Any]) -> None:
        self._line: int = place.get("line", 0)
        #: What has to come next: the document, the first element or its end, an element, nothing.
        self._next: str = place.get("next", "document")
        self._read_bytes: int = place.get("offset", 0)
        self._undecoded = b""
        self._text = ""
        self._at = 0

    @property
    def place(self) -> Mapping[str, Any]:
        """See `Reader.place`; "next" is what has to come."""
        read_bytes = self._read_bytes + len(self._text[: self._at].encode())
        return {"offset": read_bytes, "line": self._line, "next": self._next}

    def feed(self, data: bytes) -> Iterator[Row]:
        """See `Reader.feed`."""
        is_damaged = self._decode(data)
        yield from self._rows(is_over=False)
        if is_damaged:
            raise Damaged("undecodable", f"{self._where}: it is not UTF-8")

    def finish(self) -> Iterator[Row]:
        """See `Reader.finish`."""
        yield from self._rows(is_over=True)
        if self._undecoded:
            raise Damaged("undecodable", f"{self._where}: it is not UTF-8")
        if self._next != "nothing":
            raise Damaged("damaged_document", f"{self._where}: the document ends early")

    @property
    def _where(self) -> str:
        return f"after row {self._line}"

    def _decode(self, data: bytes) -> bool:
        """Take the bytes in as text; whether that met something that is none."""
        self._read_bytes += len(self._text[: self._at].encode())
        data = self._undecoded + data
        self._undecoded = b""
        is_damaged = False
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text = data[: error.start].decode()
            is_damaged = error.reason != "unexpected end of data"
            self._undecoded = b"" if is_damaged else data[error.start :]
        self._text = self._text[self._at :] + text
        self._at = 0
        return is_damaged

    def _rows(self, *, is_over: bool) -> Iterator[Row]:
        while self._skip_blanks():
            if self._next == "nothing":
                raise Damaged("damaged_document", f"{self._where}: something follows its end")
            if self._next == "document":
                if self._text[self._at] == "\ufeff" and not self._read_bytes + self._at:
                    self._at += 1
                    continue
                if self._text[self._at] == "[":
                    self._at += 1
                    self._next = "first"
                    continue
            elif self._next == "first" and self._text[self._at] == "]":
                self._at += 1
                self._next = "nothing"
                continue
            row = self._element(is_over=is_over)
            if row is None:
                return
            yield row

    def _element(self, *, is_over: bool) -> Row | None:
        """The value that begins here; None while it, or what ends it, has not come yet."""
        problem = "is cut short, or is no JSON"
        end = len(self._text)
        try:
            value, after = _decoder.raw_decode(self._text, self._at)
            end = _behind_blanks(self._text, after)
        except RecursionError:
            raise Damaged("damaged_document", f"{self._where}: nested too deeply") from None
        except ValueError:
            after = None
        if end - self._at > LONGEST_ROW_BYTES:
            problem = f"is no JSON, or longer than {LONGEST_ROW_BYTES} bytes"
            raise Damaged("damaged_document", f"{self._where}: what follows {problem}")
        if self._next == "document":
            # Whatever it is, it is all there is.
            if not is_over:
                return None
            if after is None or end < len(self._text):
                raise Damaged("damaged_document", "the document is no JSON")
            self._at, self._next = end, "nothing"
        elif after is None or end == len(self._text):
            if not is_over:
                return None
            raise Damaged("damaged_document", f"{self._where}: what follows {problem}")
        elif self._text[end] in ",]":
            self._next = "element" if self._text[end] == "," else "nothing"
            self._at = end + 1
        else:
            raise Damaged("damaged_document", f"{self._where}: what follows {problem}")
        self._line += 1
        return Row(self._line, value)

    def _skip_blanks(self) -> bool:
        self._at = _behind_blanks(self._text, self._at)
        return self._at < len(self._text)


class WholeRows:
    """
    See `workers.jobs.rows.Reader`: a document whose rows `find` finds.

    Nothing is a row of one that is larger than `LARGEST_DOCUMENT_BYTES`.
    """

    def __init__(self, find: Callable[[Any], Sequence[Any]], place: Mapping[str, Any]) -> None:
        self._find = find
        self._line: int = place.get("line", 0)
        self._parts: list[bytes] = []
        self._size_bytes = 0

    @property
    def place(self) -> Mapping[str, Any]:
        """See `Reader.place`: the document is read again."""
        return {"offset": 0, "line": self._line}

    def feed(self, data: bytes) -> Iterator[Row]:
        """See `Reader.feed`."""
        self._size_bytes += len(data)
        if self._size_bytes > LARGEST_DOCUMENT_BYTES:
            limit = LARGEST_DOCUMENT_BYTES >> 20
            text = f"a document that `rows` looks into may have {limit} MiB; NDJSON has no limit"
            raise Damaged("document_too_large", text)
        self._parts.append(data)
        return iter(())

    def finish(self) -> Iterator[Row]:
        """See `Reader.finish`."""
        document, self._parts = b"".join(self._parts), []
        try:
            rows = self._find(_decoder.decode(document.decode("utf-8-sig")))
        except UnicodeDecodeError:
            raise Damaged("undecodable", "the document is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise Damaged("damaged_document", f"the document is no JSON: {error}") from None
        except PayloadError as error:
            raise Damaged("no_rows", str(error)) from None
        for number in range(self._line, len(rows)):
            self._line = number + 1
            yield Row(self._line, rows[number])


def _behind_blanks(text: str, at: int) -> int:
    end = len(text)
    while at < end and text[at] in _BLANK:
        at += 1
    return at
