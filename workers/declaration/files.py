"""Files of JSON that a source's tables name: what is in them is applied, and not their name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from workers.declaration.tables import DeclarationError, KeyPath, leaves_of

_LARGEST_BYTES = 1 << 20


def with_files(
    tables: Mapping[str, Any], path: KeyPath, places: Iterable[tuple[str, ...]], beside: Path
) -> dict[str, Any]:
    """
    The tables at `path`, with the content of each file that is named at one of `places`; a name is
    relative to `beside`.

    Raises:
        DeclarationError: a file cannot be read, or is no JSON that can be stored.
    """
    found = dict(tables)
    for place in places:
        found = _replaced(found, place, path, beside)
    return found


def _replaced(
    table: dict[str, Any], place: tuple[str, ...], path: KeyPath, beside: Path
) -> dict[str, Any]:
    name, *inner = place
    value, here = table.get(name), (*path, name)
    if inner:
        # What is no table there is the provider's to complain of.
        if not isinstance(value, dict):
            return table
        return {**table, name: _replaced(value, tuple(inner), here, beside)}
    return {**table, name: _read(value, here, beside)} if isinstance(value, str) else table


def _read(name: str, path: KeyPath, beside: Path) -> Any:
    try:
        content = (beside / name).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise DeclarationError(path, f"cannot read {name}: {reason}") from None
    if len(content) > _LARGEST_BYTES:
        raise DeclarationError(path, f"{name} is larger than 1 MiB")
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = str(error).removeprefix("JSON is malformed: ")
        raise DeclarationError(path, f"{name} is not JSON: {problem}") from None
    if any("\0" in str(one) for leaf in leaves_of(document, ()) for one in (*leaf[0], leaf[1])):
        raise DeclarationError(path, f"{name} holds a NUL, which cannot be stored")
    return document
