"""
Packages to begin with: `sluice new` renders the templates of this directory.

A template's name is its path in the new package; "PACKAGE" in it stands for the module's name.
They are files, so that what is generated can be read, and checked, as what it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Literal

Kind = Literal["provider", "handler"]

SUFFIX = ".template"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 24  # and every line of what is written fits
#: What Sluice, or a source of it, is called already.
_TAKEN = frozenset({"gateway", "workers", "shared", "sluice", "sluice-handlers"})


class ScaffoldError(Exception):
    """Nothing was written. The message says why."""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """A package that was written. `files` are relative to `directory`."""

    directory: Path
    distribution: str
    files: tuple[str, ...]


def write_package(kind: Kind, name: str, parent: Path, taken: frozenset[str]) -> Scaffold:
    """
    Write the package `sluice-NAME` into a new directory of `parent`.

    Raises:
        ScaffoldError: the name cannot be used, or is `taken`; something is there already; or it
            cannot be written.
    """
    words = _words(name, taken)
    directory = parent / words["distribution"]
    if directory.exists() or directory.is_symlink():
        raise ScaffoldError(f"{directory} exists already, and is left as it is")
    rendered = {
        path.replace("PACKAGE", words["package"]): Template(text).substitute(words)
        for path, text in _templates(kind).items()
    }
    try:
        for path, text in rendered.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ScaffoldError(f"{directory} cannot be written: {error.strerror}") from None
    return Scaffold(directory, words["distribution"], tuple(sorted(rendered)))


def _words(name: str, taken: frozenset[str]) -> Mapping[str, str]:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ScaffoldError(
            f"{name!r} is no name: a-z, 0-9 and single -, a letter first, at most {_LONGEST_NAME}"
        )
    if name in taken | _TAKEN:
        raise ScaffoldError(f"{name} is the name of something else; take another")
    return {
        "name": name,
        "snake": name.replace("-", "_"),
        "package": f"sluice_{name.replace('-', '_')}",
        "distribution": f"sluice-{name}",
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "UPPER": name.replace("-", "_").upper(),
    }


def _templates(kind: Kind) -> dict[str, str]:
    """Path in the new package → template."""
    found: dict[str, str] = {}

    def collect(place: Traversable, so_far: str) -> None:
        for one in place.iterdir():
            if one.is_dir():
                collect(one, f"{so_far}{one.name}/")
            elif one.name.endswith(SUFFIX):
                found[so_far + one.name.removesuffix(SUFFIX)] = one.read_text(encoding="utf-8")

    collect(files(__name__) / kind, "")
    return found
