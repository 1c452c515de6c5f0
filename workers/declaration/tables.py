"""
Tables that were read strictly: a key that nobody knows, or a value of another kind, is an error.

A key path is a tuple of the keys that lead to a value, a number for an element of an array. People
see it as they would write it: `plans."v1.pro".products[0]`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class DeclarationError(Exception):
    """
    The file cannot be applied: "sluice.toml, line 14: plans.pro.rank: must be a whole number".

    `place` is what comes before the key path; `Lines.naming` fills it in. A message holds no
    secret.
    """

    def __init__(self, path: KeyPath, problem: str, place: str = "") -> None:
        super().__init__(": ".join(part for part in (place, shown_path(path), problem) if part))
        self.path = path
        self.problem = problem
        self.place = place


def shown_path(path: KeyPath) -> str:
    """The path as a file would have it, on one line whatever the keys hold."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += f".{shown_key(part)}" if shown else shown_key(part)
    return shown


def shown_key(key: str) -> str:
    """A key as a file would have it: quoted where it has to be, control characters escaped."""
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=not key.isprintable())


def leaves_of(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """What is no table and no array, or an empty one, each with the path that leads to it."""
    pairs: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    is_leaf = True
    for key, inner in pairs:
        is_leaf = False
        yield from leaves_of(inner, (*path, key))
    if is_leaf:
        yield path, value


def table_at(parent: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    """
    The table at `path`, whose last key is one of `parent`; empty where there is none.

    Raises:
        DeclarationError: there is something else.
    """
    value = parent.get(str(path[-1]), {})
    if not isinstance(value, dict):
        raise DeclarationError(path, "must be a table")
    return value


def only(table: Mapping[str, Any], path: KeyPath, known: Iterable[str]) -> None:
    """
    Raises:
        DeclarationError: the table at `path` has a key that is not known there.
    """
    for name in table:
        if name not in known:
            raise DeclarationError(
                (*path, name), f"unknown key; known here: {', '.join(sorted(known))}"
            )
