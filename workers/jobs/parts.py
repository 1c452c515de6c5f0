"""
`multipart/form-data`: each file that it carries is a body of its own, read by its own content type.

Source: RFC 7578 (read 2026-11). Fields of the form that are no files say nothing here. Lines count
on from file to file, so that each is one row's; messages name the file and its own line.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from workers.jobs.rows import Damaged, Problem, Reader, Row, unread

#: What reads a file, by its content type and its name; None where nothing does.
Open = Callable[[str, str, Mapping[str, Any]], Reader | None]

_PLAIN = ("", "binary", "8bit", "7bit")


def boundary_of(content_type: str) -> bytes:
    """
    What separates the parts.

    Raises:
        Damaged: the content type does not say.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise Damaged("bad_multipart", "the content type names no boundary")
    return bytes(boundary)


class PartRows:
    """See `workers.jobs.rows.Reader`. `open_file` makes what reads one file."""

    def __init__(self, boundary: bytes, open_file: Open, place: Mapping[str, Any]) -> None:
        self._open = open_file
        self._resumed = place
        # What the parser has met: a part's headers, data, or None at its end.
        self._events: list[dict[str, str] | bytes | None] = []
        self._headers: dict[str, str] = {}
        self._field = self._value = b""
        self._part = 0  # which one this is, from 1
        self._before: int = place.get("before", 0)  # lines of the files before
        self._inner: Reader | None = None
        self._skip_bytes = 0
        self._name = ""
        self._is_over = False
        self._parser = MultipartParser(boundary, self._callbacks())

    @property
    def place(self) -> Mapping[str, Any]:
        """See `Reader.place`: it is cut into its parts again, and those gone through left out."""
        if self._part < self._resumed.get("part", 0):
            return self._resumed
        inner = self._inner.place if self._inner is not None else {}
        line = self._before + inner.get("line", 0)
        return {
            "offset": 0,
            "line": line,
            "part": self._part,
            "before": self._before,
            "isRead": self._inner is None,
            "inner": dict(inner),
        }

    def feed(self, data: bytes) -> Iterator[Row]:
        """See `Reader.feed`."""
        problem = None
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            problem = Damaged("bad_multipart", f"the parts cannot be told apart: {error}")
        events, self._events = self._events, []
        for event in events:
            yield from self._rows_of(event)
        if problem is not None:
            raise problem

    def finish(self) -> Iterator[Row]:
        """See `Reader.finish`."""
        if not self._is_over:
            raise Damaged("bad_multipart", "the body ends within a part")
        return iter(())

    def _rows_of(self, event: dict[str, str] | bytes | None) -> Iterator[Row]:
        if isinstance(event, dict):
            self._begin_part(event)
            if self._inner is None and self._name and not self._is_done:
                self._before += 1
                yield unread(self._before, "unsupported_part", self._said("no format known here"))
        elif event is None:
            yield from self._end_part()
        elif self._inner is not None:
            skipped = event[self._skip_bytes :] if self._skip_bytes else event
            self._skip_bytes = max(0, self._skip_bytes - len(event))
            yield from self._of_file(self._inner, lambda reader: reader.feed(skipped))

    def _begin_part(self, headers: dict[str, str]) -> None:
        self._part += 1
        options = parse_options_header(headers.get("content-disposition", ""))[1]
        self._name = ""
        self._inner = None
        if b"filename" not in options and b"filename*" not in options:
            return
        self._name = options.get(b"filename", b"").decode("utf-8", "replace") or "a file"
        at: Mapping[str, Any] = {}
        if self._part == self._resumed.get("part"):
            at = self._resumed["inner"]
        if self._is_done:
            return
        if headers.get("content-transfer-encoding", "").lower() in _PLAIN:
            self._inner = self._open(headers.get("content-type", ""), self._name, at)
        self._skip_bytes = at.get("offset", 0)

    @property
    def _is_done(self) -> bool:
        """Whether the part was gone through before."""
        before: int = self._resumed.get("part", 0)
        return self._part < before or (self._part == before and self._resumed["isRead"])

    def _end_part(self) -> Iterator[Row]:
        if self._inner is not None:
            yield from self._of_file(self._inner, lambda reader: reader.finish())
        if self._inner is not None:
            self._before += self._inner.place.get("line", 0)
            self._inner = None

    def _of_file(self, reader: Reader, ask: Callable[[Reader], Iterator[Row]]) -> Iterator[Row]:
        """A file's rows; a file that is damaged ends there, and the next ones go on."""
        try:
            for row in ask(reader):
                problem = row.problem
                if problem is not None:
                    text = self._said(f"line {row.line}: {problem.message}")
                    problem = Problem(problem.code, problem.pointer, text)
                yield row._replace(line=self._before + row.line, problem=problem)
        except Damaged as error:
            self._before += reader.place.get("line", 0) + 1
            self._inner = None
            yield unread(self._before, error.code, self._said(str(error)))

    def _said(self, text: str) -> str:
        return f"{self._name[:100]}: {text}"

    def _callbacks(self) -> Any:
        def begin() -> None:
            self._headers = {}

        def field(data: bytes, start: int, end: int) -> None:
            self._field += data[start:end]

        def value(data: bytes, start: int, end: int) -> None:
            self._value += data[start:end]

        def header_end() -> None:
            name = self._field.decode("latin-1").lower()
            self._headers[name] = self._value.decode("latin-1").strip()
            self._field = self._value = b""

        def headers_end() -> None:
            self._events.append(self._headers)

        def data(content: bytes, start: int, end: int) -> None:
            self._events.append(content[start:end])

        def end() -> None:
            self._events.append(None)

        def over() -> None:
            self._is_over = True

        return {
            "on_part_begin": begin,
            "on_header_field": field,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_headers_finished": headers_end,
            "on_part_data": data,
            "on_part_end": end,
            "on_end": over,
        }
