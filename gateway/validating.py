"""What is said of a pushed document before it is acknowledged: its form, what its rows violate."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any

from gateway.envelope import Detail, Refusal
from gateway.spooling import SMALL_BYTES
from shared.domain.events import Headers
from shared.encodings import ENCODINGS, EncodingError, TooLargeError, decoder_for
from shared.providers.base import PayloadError, header
from shared.providers.sender.documents import read_document
from shared.providers.sender.formats import MEDIA_TYPES, format_of, parameter_of
from shared.providers.sender.ingestion import Ingestion
from shared.providers.sender.schemas import Schema, Violation

#: Nobody reads more, and an answer has to end.
MOST_DETAILS = 1000
_LONGEST_POINTER = 2000
#: What takes longer is acknowledged, as what is larger is: the import looks at every row again.
_WITHIN_S = 5.0
_PIECE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Form:
    """What a document is written in, one of `FORMATS`, and how that is encoded."""

    format: str
    encoding: str | None


def read_form(headers: Headers, ingestion: Ingestion) -> Form:
    """
    Raises:
        Refusal: the source takes no such documents, or nothing says what it is.
    """
    content_type = header(headers, "content-type") or ""
    found = format_of(content_type)
    if found not in ingestion.formats:
        taken = [MEDIA_TYPES[name][0] for name in MEDIA_TYPES if name in ingestion.formats]
        raise Refusal(
            "unsupported_media_type", f"Content-Type: this source takes {', '.join(taken)}."
        )
    assert found is not None
    charset = parameter_of(content_type, "charset")
    if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal("unsupported_media_type", "Content-Type: the charset has to be utf-8.")
    if found == "multipart" and not parameter_of(content_type, "boundary"):
        raise Refusal("malformed_request", "Content-Type: multipart/form-data needs a boundary.")
    encodings = [value for name, value in headers if name == "content-encoding"]
    encoding = ", ".join(encodings).strip().lower() or None
    try:
        decoder_for(encoding, 0)
    except EncodingError:
        known = ", ".join(ENCODINGS)
        raise Refusal("unsupported_media_type", f"Content-Encoding: one of {known}.") from None
    return Form(found, encoding)


def check_document(body: bytes, form: Form, ingestion: Ingestion) -> None:
    """
    Look at the rows of a document that is small enough, as it came and decoded. Takes long: call
    it in a thread.

    Raises:
        Refusal: it is damaged, no JSON, or has rows that do not fit the schema.
    """
    text = _decoded(body, form.encoding, ingestion.largest_bytes)
    if text is None:
        return
    try:
        document = read_document((), text)
    except PayloadError as error:
        raise Refusal("malformed_request", _sentence(error)) from None
    try:
        rows = ingestion.rows_of(document)
    except PayloadError as error:
        raise _invalid([Detail("", str(error))]) from None
    if ingestion.schema is None:
        return
    found = list(islice(_violations(rows, ingestion.schema), MOST_DETAILS))
    if found:
        places = _Places(document, rows)
        raise _invalid([places.detail(*one) for one in found])


def _violations(rows: Sequence[Any], schema: Schema) -> Iterator[tuple[int, Any, Violation]]:
    until_s = monotonic() + _WITHIN_S
    for number, row in enumerate(rows):
        if monotonic() > until_s:
            return
        for violation in schema.violations(row):
            yield number, row, violation


def _decoded(body: bytes, encoding: str | None, largest_bytes: int) -> bytes | None:
    """The document; None where it is not small any more. All of it is decoded even then."""
    decoder = decoder_for(encoding, largest_bytes)
    kept: list[bytes] = []
    size = 0
    try:
        for at in range(0, len(body), _PIECE_BYTES):
            piece = decoder.feed(body[at : at + _PIECE_BYTES])
            size += len(piece)
            if size > SMALL_BYTES:
                kept.clear()
            else:
                kept.append(piece)
        kept.append(decoder.finish())
    except TooLargeError as error:
        raise Refusal(
            "body_too_large", f"The decoded body is {error}: {largest_bytes} bytes at most."
        ) from None
    except EncodingError as error:
        raise Refusal("malformed_request", f"Content-Encoding: the body is {error}.") from None
    return None if size > SMALL_BYTES else b"".join(kept)


class _Places:
    """
    Where rows stand in their document. An expression may find them anywhere, and knows no places:
    an object is known again by being the same one.
    """

    def __init__(self, document: Any, rows: Sequence[Any]) -> None:
        self._document = document
        # Steps, and a pointer for who is asked for: those of all places under one long key would
        # take all memory there is.
        self._steps = {inner: (outer, step) for outer, step, inner in _steps(document)}
        self._rows = self._pointer_to(rows)

    def detail(self, number: int, row: Any, violation: Violation) -> Detail:
        pointer, message = violation
        above = self._pointer_to(row) if self._rows is None else f"{self._rows}/{number}"
        if above is not None and len(above) + len(pointer) <= _LONGEST_POINTER:
            return Detail(f"{above}{pointer}", message)
        # What an expression has made itself stands nowhere.
        at = f", {pointer}" if pointer and len(pointer) <= _LONGEST_POINTER else ""
        return Detail("", f"row {number + 1}{at}: {message}")

    def _pointer_to(self, value: Any) -> str | None:
        """Where it stands in the document; None where it does not."""
        steps: list[str] = []
        at = id(value)
        while at in self._steps:
            at, step = self._steps[at]
            steps.append(str(step).replace("~", "~0").replace("/", "~1"))
        if at != id(self._document):
            return None
        return "".join(f"/{step}" for step in reversed(steps))


def _steps(document: Any) -> Iterator[tuple[int, str | int, int]]:
    """Of every array and object in a document: which one it is in, where, and which one it is."""
    waiting: list[Any] = [document]
    while waiting:
        outer = waiting.pop()
        if isinstance(outer, dict):
            entries: Iterable[tuple[str | int, Any]] = outer.items()
        elif isinstance(outer, list):
            entries = enumerate(outer)
        else:
            continue
        for step, inner in entries:
            if isinstance(inner, dict | list):
                yield id(outer), step, id(inner)
                waiting.append(inner)


def _invalid(details: list[Detail]) -> Refusal:
    first = "The first " if len(details) == MOST_DETAILS else ""
    many = f"{first}{len(details)} violations" if len(details) > 1 else "1 violation"
    return Refusal("invalid_body", f"The document is not what the source takes: {many}.",
                   details=details)  # fmt: skip


def _sentence(error: PayloadError) -> str:
    text = str(error).encode("utf-8", "backslashreplace").decode()
    return f"{text[:1].upper()}{text[1:500]}."
