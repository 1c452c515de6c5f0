"""A whole file: its bytes, its tables, and the secrets that it points to."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.providers.base import Provider
from workers.declaration.lines import Lines
from workers.declaration.plans import DeclaredFeature, DeclaredPlan, read_feature, read_plan
from workers.declaration.sources import (
    DeclaredSource,
    bind,
    check_secret,
    read_source,
    resolve_secret,
)
from workers.declaration.tables import DeclarationError, only, table_at

_TOML_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole file. `mode` is None where the file does not say; `lines` are the file's."""

    mode: str | None
    sources: Mapping[str, DeclaredSource]
    plans: Mapping[str, DeclaredPlan]
    features: Mapping[str, DeclaredFeature] = field(default_factory=dict)
    lines: Lines = field(default_factory=Lines)


def read_declaration(
    content: bytes,
    providers: Mapping[str, Provider],
    file: str = "sluice.toml",
    beside: Path = Path(),
) -> Declaration:
    """
    Read a file's bytes; `file` is what messages call it. What it names is relative to `beside`.

    Whatever is not understood is an error; nothing is guessed and nothing is ignored.

    Raises:
        DeclarationError: it is not TOML, or says something that is not understood.
    """
    text = _decoded(content, file)
    document, lines = _parsed(text, file)
    with lines.naming():
        return _read(document, providers, lines, beside)


def resolve_secrets(
    declared: Declaration,
    environ: Mapping[str, str],
    beside: Path,
    providers: Mapping[str, Provider],
) -> dict[str, list[str]]:
    """
    The secrets of every source, by its name and in their order.

    Raises:
        DeclarationError: see `resolve_secret` and `check_secret`.
    """
    found: dict[str, list[str]] = {}
    with declared.lines.naming():
        for name, source in declared.sources.items():
            found[name] = []
            provider = bind(source, ("sources", name), providers[source.provider])
            for index, pointer in enumerate(source.secrets):
                path = ("sources", name, "secrets", index)
                secret = resolve_secret(pointer, path, environ, beside)
                check_secret(secret, path, provider)
                found[name].append(secret)
    return found


def resolve_api_keys(
    declared: Declaration, environ: Mapping[str, str], beside: Path
) -> dict[str, str]:
    """
    The API key of every source that has one, by its name.

    Raises:
        DeclarationError: see `resolve_secret`.
    """
    with declared.lines.naming():
        return {
            name: resolve_secret(source.api_key, ("sources", name, "api_key"), environ, beside)
            for name, source in declared.sources.items()
            if source.api_key is not None
        }


def _decoded(content: bytes, file: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DeclarationError((), "not UTF-8", f"{file}, line {line}") from None


def _parsed(text: str, file: str) -> tuple[Mapping[str, Any], Lines]:
    try:
        return tomllib.loads(text), Lines.of(file, text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = _TOML_PLACE.search(said)
        if at is None:
            raise DeclarationError((), f"not TOML: {said}", file) from None
        problem = f"not TOML: {said[: at.start()]} (column {at[2]})"
        raise DeclarationError((), problem, f"{file}, line {at[1]}") from None
    except RecursionError:
        raise DeclarationError((), "not readable: nested too deeply", file) from None


def _read(
    document: Mapping[str, Any], providers: Mapping[str, Provider], lines: Lines, beside: Path
) -> Declaration:
    only(document, (), {"mode", "sources", "plans", "features"})
    mode = document.get("mode")
    if mode not in (None, "live", "test"):
        raise DeclarationError(("mode",), f'{mode!r} is neither "live" nor "test"')
    sources, plans, features = (
        table_at(document, (name,)) for name in ("sources", "plans", "features")
    )
    return Declaration(
        mode=mode,
        sources={
            name: read_source(
                table_at(sources, ("sources", name)), ("sources", name), providers, beside
            )
            for name in sources
        },
        plans={
            name: read_plan(table_at(plans, ("plans", name)), ("plans", name)) for name in plans
        },
        features={
            name: read_feature(table_at(features, ("features", name)), ("features", name))
            for name in features
        },
        lines=lines,
    )
