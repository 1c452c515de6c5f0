"""Requests that are not the provider's, made of one that is, or nearly so."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from shared.domain.events import Headers


class Forgery(NamedTuple):
    """What is wrong with it, and the request."""

    what: str
    headers: Headers
    body: bytes


#: Values that no signature, time or id has.
GARBLED = (
    "", " ", ",", "=", ".", ":", "garbage", "null", "0", "-1", "1e3", "\0", "\u00e9\u00ff",
    "\u0661", "\ud800", "t=,v1=", "t=1", "v1=", "v1,", "v1, v1,", "v1,\u00e9", "Basic ",
    "Basic \u00ff", "Bearer ", "sha256=", "9" * 5000, "a" * 100_000, "," * 20_000, " " * 20_000,
    "v1," * 20_000, "t=1," * 20_000,
)  # fmt: skip


def changed_bodies(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The body with one bit, one byte or its length changed."""
    for place in sorted({0, len(body) // 3, len(body) // 2, len(body) - 1} & set(range(len(body)))):
        for bit in (0, 5, 7):
            flipped = bytes([body[place] ^ (1 << bit)])
            yield f"bit {bit} of byte {place} flipped", body[:place] + flipped + body[place + 1 :]
        yield f"byte {place} left out", body[:place] + body[place + 1 :]
    yield "a byte appended", body + b" "
    yield "a byte put in front", b"\n" + body
    if body:
        yield "no body", b""


def changed_headers(
    headers: Headers, body: bytes, signed: frozenset[str], *, with_digits: bool
) -> Iterator[Forgery]:
    """
    Each of the `signed` headers missing, or with a value that is not its own; `with_digits` its
    numbers too: a time that is none.
    """
    for place, (name, value) in enumerate(headers):
        if name not in signed:
            continue
        before, after = headers[:place], headers[place + 1 :]
        yield Forgery(f"{name} is missing", before + after, body)
        for wrong in _wrong(value, with_digits=with_digits):
            changed = (*before, (name, wrong), *after)
            yield Forgery(f"{name} is {wrong[:60]!r}", changed, body)
    yield Forgery("no headers", (), body)


def doubled_headers(headers: Headers, signed: frozenset[str]) -> Iterator[tuple[str, Headers]]:
    """Requests in which a header comes twice: the right one may be found, or not."""
    for name, value in headers:
        if name in signed:
            for wrong in ("", "garbage", _flipped(value, 0)):
                yield f"{name} again, in front", ((name, wrong), *headers)
                yield f"{name} again, behind", (*headers, (name, wrong))


def _wrong(value: str, *, with_digits: bool) -> Sequence[str]:
    # The last characters of base64 hold bits that nobody reads.
    places = sorted({0, len(value) // 4, len(value) // 2, len(value) * 3 // 4})
    found = [one for one in GARBLED if one != value]
    found += [_flipped(value, place) for place in places if place < len(value) - 4]
    found += [
        value[:place] + other + value[place + 1 :] for place in places for other in "\u00e9\0"
    ]
    found += [value[: len(value) // 2], value[::-1], "x" + value]
    if with_digits:
        for digits in ("x", "-1", "1.5", "\u0661", "9" * 5000, ""):
            found.append(re.sub(r"(?<![0-9A-Za-z+/])[0-9]{9,}(?![0-9A-Za-z+/])", digits, value))
    return [one for one in found if one.strip() != value.strip()]


def _flipped(value: str, place: int) -> str:
    other = "1" if value[place : place + 1] == "0" else "0"
    return value[:place] + other + value[place + 1 :]
