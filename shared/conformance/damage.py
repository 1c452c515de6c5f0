"""
Bodies that no provider sends, made of one that it does: each value replaced, each key left out,
and texts that are no JSON or no text.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

from shared.conformance.fixtures import compact

#: What is put in the place of each value.
INSTEAD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**31, 2**53, 2**63, 10**30, 1e308, "", "x", "0", "\0", "a\0", "\ud800",
    "x" * 300, "\u00e9\u2028", "9999-99-99T99:99:99Z",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-21T12:00:00",
    [], [None], {}, {"id": 1},
)  # fmt: skip

#: What JSON writers are known to say, and its definition does not allow, or nobody can hold.
RAW_INSTEAD = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800\\ud800"', b'"\\u0000"')

_MARK = "\u0001mark\u0001"
_DEEP = 100_000


def damaged(body: bytes) -> Iterator[bytes]:
    """All of them, in one order. A body that is no JSON is damaged as text only."""
    yield from _texts(body)
    try:
        document = json.loads(body)
    except ValueError:
        return
    instead = [compact(one) for one in INSTEAD]
    yield from instead
    for path in paths(document):
        # Written once for each place, and cut there: that is what takes the time.
        before, after = compact(_replaced(document, path, _MARK)).split(compact(_MARK))
        yield from (before + raw + after for raw in (*instead, *RAW_INSTEAD))
        if isinstance(path[-1], str):
            key = compact(path[-1])
            without = before.removesuffix(key + b":")
            if without.endswith(b","):
                yield without[:-1] + after
            else:
                yield without + after.removeprefix(b",")
            # The key twice: readers differ on which of them counts.
            yield without + key + b":null," + key + b":1" + after


def paths(document: Any, so_far: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where something lies inside a document, at any depth."""
    found = [so_far] if so_far else []
    keys: Any = ()
    if isinstance(document, dict):
        keys = document.keys()
    elif isinstance(document, list):
        keys = range(len(document))
    for key in keys:
        found += paths(document[key], (*so_far, key))
    return found


def _texts(body: bytes) -> Iterator[bytes]:
    yield from (
        b"",
        b" ",
        b"\0",
        b"null",
        b"[]",
        b"{}",
        b'""',
        b"0",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
    )
    yield from (body[: len(body) * part // 8] for part in range(1, 8))
    yield body[:-1]
    yield body + b"}"
    yield body + body
    yield b"\xef\xbb\xbf" + body
    yield body.replace(b":", b":\xff", 1)
    yield body.decode("utf-8", "replace").encode("utf-16")
    yield b"[" * _DEEP
    yield b'{"a":' * _DEEP
    yield body[:-1] + b',"deep":' + b"[" * _DEEP + b"]" * _DEEP + b"}"


def _replaced(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed, at, last = _opened(document, path)
    at[last] = value
    return changed


def _opened(document: Any, path: tuple[str | int, ...]) -> tuple[Any, Any, str | int]:
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    return changed, at, path[-1]
