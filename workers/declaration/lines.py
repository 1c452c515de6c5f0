"""
Where each key of a TOML document stands.

The standard library's reader keeps no positions. This finds them in a second pass, over text that
the reader has accepted: it only has to see where strings, arrays and tables end, and decides
nothing about what they mean. A library that keeps positions would be a second reader, with an
opinion of its own on what is TOML.
"""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from workers.declaration.tables import DeclarationError, KeyPath

# No possessive quantifiers: before 3.11.5 `re` does not match some of them.
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BASIC = r'"(?:[^"\\\n]|\\.)*"'
_LITERAL = r"'[^'\n]*'"
_KEY = re.compile(rf"{_BASIC}|{_LITERAL}|[A-Za-z0-9_-]+")
# The long strings first: an empty string is how they begin, and up to two quotes of their own
# may stand before the three that end them.
_SCALAR = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    rf"|{_BASIC}|{_LITERAL}"
    r"|[^,\]}\n#]+",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a file's keys, from 1. Without a file nothing has a place."""

    file: str = ""
    by_path: Mapping[KeyPath, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, file: str, text: str) -> "Lines":
        """
        Of text that `tomllib` accepts.

        Raises:
            RecursionError: it is nested too deeply.
        """
        scanner = _Scanner(text.replace("\r\n", "\n"))
        scanner.scan()
        return cls(file, scanner.lines)

    def line_of(self, path: KeyPath) -> int | None:
        """Where the key stands, or the table that lacks it; None where neither is in the file."""
        for length in range(len(path), 0, -1):
            line = self.by_path.get(path[:length])
            if line is not None:
                return line
        return None

    def place_of(self, path: KeyPath) -> str:
        """As "sluice.toml, line 14"; the file alone where nothing of the path is in it."""
        line = self.line_of(path)
        return self.file if line is None or not self.file else f"{self.file}, line {line}"

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Whatever is raised inside names its place."""
        try:
            yield
        except DeclarationError as error:
            if error.place:
                raise
            raise DeclarationError(error.path, error.problem, self.place_of(error.path)) from None


class _Scanner:
    """One pass over a document that is known to be right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [at for at, character in enumerate(text) if character == "\n"]
        #: How many elements an array of tables has so far.
        self._counts: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def scan(self) -> None:
        """Fill `lines`."""
        table: KeyPath = ()
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_GAP)

    def _header(self) -> KeyPath:
        line = self._line()
        is_element = self._text.startswith("[[", self._at)
        self._at += 2 if is_element else 1
        *parents, last = self._dotted()
        path: KeyPath = ()
        for key in parents:
            path += (key,)
            self.lines.setdefault(path, line)
            if path in self._counts:
                path += (self._counts[path] - 1,)
        path += (last,)
        self._at += 2 if is_element else 1
        if is_element:
            self.lines.setdefault(path, line)
            count = self._counts.get(path, 0)
            self._counts[path] = count + 1
            path += (count,)
        # A table that was only mentioned so far stands where its own header is.
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._dotted():
            path += (key,)
            self.lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opening = self._next()
        if opening not in ("[", "{"):
            self._skip(_SCALAR)
            return
        self._at += 1
        self._skip(_GAP)
        index = 0
        while self._next() not in ("]", "}"):
            if opening == "[":
                element = (*path, index)
                self.lines[element] = self._line()
                self._value(element)
            else:
                self._pair(path)
            self._skip(_GAP)
            if self._next() == ",":
                self._at += 1
                self._skip(_GAP)
            index += 1
        self._at += 1

    def _dotted(self) -> KeyPath:
        """The keys up to what ends them, which is the next character."""
        keys: list[str] = []
        while True:
            self._skip(_BLANK)
            written = self._skip(_KEY)
            keys.append(_unquoted(written))
            self._skip(_BLANK)
            if self._next() != ".":
                return tuple(keys)
            self._at += 1

    def _next(self) -> str:
        return self._text[self._at]

    def _line(self) -> int:
        return bisect_left(self._ends, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        # The text was accepted, so that what is looked for is there.
        assert found is not None
        self._at = found.end()
        return found[0]


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    value: str = tomllib.loads(f"key = {key}")["key"]
    return value
