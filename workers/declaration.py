"""
What `sluice apply FILE` reads: sources and plans declared in TOML.

Pure but for `resolve_secret`, which reads the environment or a file. Whatever is not understood is
an error that names its key path; nothing is guessed and nothing is ignored.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.domain.catalog import DEFAULT_GRACE_S, UNLIMITED, FeatureValue
from shared.domain.events import is_storable
from shared.providers.base import Provider

_SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_ADDRESS = re.compile(
    r"https?://([A-Za-z0-9.-]{1,128}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]{0,100})?"
)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_GRACE_S = 10 * 366 * 86_400
_LARGEST_RANK = 2**31 - 1
#: Every JSON reader holds whole numbers up to here exactly.
_LARGEST_NUMBER = 2**53 - 1


class DeclarationError(Exception):
    """The file cannot be applied. The message names the key path, or the line."""


@dataclass(frozen=True, slots=True)
class DeclaredSource:
    """
    One `[sources.NAME]`. `secrets` and `api_key` are as written: "env:NAME", "file:PATH" or the
    secret. `api_base` is None where the provider's own address is meant.
    """

    name: str
    provider: str
    secrets: tuple[str, ...] = field(repr=False)
    livemode: bool | None = None
    tenant: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None


@dataclass(frozen=True, slots=True)
class DeclaredPlan:
    """One `[plans.NAME]`. `products` are "PROVIDER:ID" or "SOURCE:ID"."""

    name: str
    products: tuple[str, ...]
    features: Mapping[str, FeatureValue]
    grace_s: int = DEFAULT_GRACE_S
    rank: int = 0

    def document(self) -> dict[str, Any]:
        """The plan as the catalog stores it."""
        return {
            "products": list(self.products),
            "features": dict(self.features),
            "graceS": self.grace_s,
            "rank": self.rank,
        }


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole file. `mode` is None where the file does not say."""

    mode: str | None
    sources: Mapping[str, DeclaredSource]
    plans: Mapping[str, DeclaredPlan]


def read_declaration(content: bytes, providers: Mapping[str, Provider]) -> Declaration:
    """
    Read a file's bytes.

    Raises:
        DeclarationError: it is not TOML, or says something that is not understood.
    """
    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DeclarationError(f"not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"not TOML: {error}") from None
    _only(document, "", {"mode", "sources", "plans"})
    mode = document.get("mode")
    if mode not in (None, "live", "test"):
        raise DeclarationError(f'mode: {mode!r} is neither "live" nor "test"')
    sources = _table(document, "", "sources")
    plans = _table(document, "", "plans")
    return Declaration(
        mode=mode,
        sources={
            name: _source(name, _table(sources, "sources", name), providers) for name in sources
        },
        plans={name: _plan(name, _table(plans, "plans", name)) for name in plans},
    )


def duration_s(text: str) -> int:
    """
    Seconds of "90s", "30m", "12h", "7d", "2w" or "0".

    Raises:
        ValueError: it is none of these.
    """
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{text!r} is not a duration; write "90s", "30m", "12h", "7d", "2w" or "0"'
        )
    return int(match[1]) * _UNIT_S[match[2]]


def resolve_secret(declared: str, path: str, environ: Mapping[str, str], beside: Path) -> str:
    """
    The secret behind "env:NAME", "file:PATH" (relative to `beside`), or the text itself.

    Raises:
        DeclarationError: naming the key path and what could not be read, never a secret.
    """
    kind, _, rest = declared.partition(":")
    if kind == "env":
        if rest not in environ:
            raise DeclarationError(f"{path}: the environment variable {rest} is not set")
        secret = environ[rest]
    elif kind == "file":
        try:
            secret = (beside / rest).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise DeclarationError(f"{path}: cannot read {rest}: {reason}") from None
    else:
        secret = declared
    # A file ends in a newline, and a pasted variable often too. No provider's secret does.
    secret = secret.strip()
    if not secret:
        where = f" ({declared})" if kind in ("env", "file") else ""
        raise DeclarationError(
            f"{path}{where} is empty: an empty secret is one anybody can sign with"
        )
    if not (secret.isascii() and secret.isprintable()):
        raise DeclarationError(f"{path} holds characters that no secret has: is it an example's?")
    return secret


def _source(
    name: str, table: Mapping[str, Any], providers: Mapping[str, Provider]
) -> DeclaredSource:
    path = f"sources.{name}"
    if not _SOURCE_NAME.fullmatch(name):
        raise DeclarationError(
            f"{path}: a source's name is part of its URL: a-z, 0-9 and -, at most 63 characters"
        )
    known_keys = {"provider", "secrets", "livemode", "tenant", "settings", "api_key", "api_base"}
    _only(table, path, known_keys)
    known = ", ".join(sorted(providers))
    provider = table.get("provider")
    if provider is None:
        raise DeclarationError(f"{path}.provider is missing; known providers: {known}")
    if not isinstance(provider, str) or provider not in providers:
        raise DeclarationError(f"{path}.provider: unknown provider {provider!r}; known: {known}")
    if name in providers and name != provider:
        raise DeclarationError(
            f"{path}: named like the provider {name}, which it is not: {name}:ID would be ambiguous"
        )
    return DeclaredSource(
        name=name,
        provider=provider,
        secrets=_secrets(table, path, providers[provider]),
        livemode=_livemode(table, path, providers[provider]),
        tenant=_tenant(table, path),
        settings=_settings(table, path),
        api_key=_api_key(table, path),
        api_base=_api_base(table, path),
    )


def _secrets(table: Mapping[str, Any], path: str, provider: Provider) -> tuple[str, ...]:
    declared = table.get("secrets")
    if not isinstance(declared, list) or not declared:
        raise DeclarationError(
            f'{path}.secrets must list at least one of "env:NAME", "file:PATH" or a literal'
            f" ({provider.secret_hint})"
        )
    for index, secret in enumerate(declared):
        if not isinstance(secret, str) or not secret.strip():
            raise DeclarationError(f"{path}.secrets[{index}] must be text, and not empty")
    return tuple(declared)


def _livemode(table: Mapping[str, Any], path: str, provider: Provider) -> bool | None:
    livemode = table.get("livemode")
    if provider.has_livemode:
        if not isinstance(livemode, bool):
            raise DeclarationError(
                f"{path}.livemode must be true or false: {provider.name} has a live and a test mode"
            )
        return livemode
    if livemode is not None:
        raise DeclarationError(f"{path}.livemode: {provider.name} has no such notion; leave it out")
    return None


def _tenant(table: Mapping[str, Any], path: str) -> str | None:
    tenant = table.get("tenant")
    if tenant is not None and not (isinstance(tenant, str) and is_storable(tenant)):
        raise DeclarationError(f"{path}.tenant must be text of 1 to 255 bytes")
    return tenant


def _settings(table: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    settings = _table(table, path, "settings")
    for name, value in settings.items():
        if not isinstance(value, bool | int | str):
            raise DeclarationError(f"{path}.settings.{name} must be true, false, a number or text")
    return settings


def _api_key(table: Mapping[str, Any], path: str) -> str | None:
    key = table.get("api_key")
    if key is not None and not (isinstance(key, str) and key.strip()):
        raise DeclarationError(f'{path}.api_key must be "env:NAME", "file:PATH" or a literal')
    return key


def _api_base(table: Mapping[str, Any], path: str) -> str | None:
    base = table.get("api_base")
    if base is None:
        return None
    if "api_key" not in table:
        raise DeclarationError(f"{path}.api_base: without an api_key nobody is asked there")
    if not isinstance(base, str) or not _ADDRESS.fullmatch(base):
        raise DeclarationError(
            f'{path}.api_base must be an address like "https://api.stripe.com":'
            " http or https, no user, query or fragment"
        )
    return base.rstrip("/")


def _plan(name: str, table: Mapping[str, Any]) -> DeclaredPlan:
    path = f"plans.{name}"
    if not _NAME.fullmatch(name):
        raise DeclarationError(f"{path}: a plan's name has letters, digits, _ . and - only")
    _only(table, path, {"products", "features", "grace", "rank"})
    products = table.get("products")
    if not isinstance(products, list) or not products:
        raise DeclarationError(f'{path}.products must list at least one, like "stripe:prod_123"')
    for index, product in enumerate(products):
        owner, _, ref = product.partition(":") if isinstance(product, str) else ("", "", "")
        if not owner or not ref.strip():
            raise DeclarationError(
                f'{path}.products[{index}]: {product!r} is not "PROVIDER:ID" or "SOURCE:ID"'
            )
    features = _table(table, path, "features")
    if not features:
        raise DeclarationError(f"{path}.features must name at least one feature")
    rank = table.get("rank", 0)
    if not isinstance(rank, int) or isinstance(rank, bool) or abs(rank) > _LARGEST_RANK:
        raise DeclarationError(f"{path}.rank must be a whole number")
    return DeclaredPlan(
        name=name,
        products=tuple(dict.fromkeys(products)),
        features={key: _feature(f"{path}.features", key, value) for key, value in features.items()},
        grace_s=_grace(table, path),
        rank=rank,
    )


def _feature(path: str, name: str, value: Any) -> FeatureValue:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{path}.{name}: a feature's name has letters, digits, _ . and - only"
        )
    if isinstance(value, bool) or (isinstance(value, str) and value.strip()):
        return value
    if isinstance(value, int | float):
        if math.isfinite(value) and 0 <= value <= _LARGEST_NUMBER:
            return value
        raise DeclarationError(
            f'{path}.{name}: {value} is not a limit; 0 or more, and "{UNLIMITED}" for no limit'
        )
    raise DeclarationError(f"{path}.{name} must be true, false, a number or text")


def _grace(table: Mapping[str, Any], path: str) -> int:
    grace = table.get("grace")
    if grace is None:
        return DEFAULT_GRACE_S
    if grace == 0 and not isinstance(grace, bool):
        return 0
    if not isinstance(grace, str):
        raise DeclarationError(f'{path}.grace needs a unit, like "7d"')
    try:
        seconds = duration_s(grace)
    except ValueError as error:
        raise DeclarationError(f"{path}.grace: {error}") from None
    if seconds > _LONGEST_GRACE_S:
        raise DeclarationError(f"{path}.grace: {grace} is more than ten years")
    return seconds


def _table(parent: Mapping[str, Any], path: str, name: str) -> Mapping[str, Any]:
    value = parent.get(name, {})
    if not isinstance(value, dict):
        raise DeclarationError(f"{_join(path, name)} must be a table")
    return value


def _only(table: Mapping[str, Any], path: str, known: set[str]) -> None:
    for name in table:
        if name not in known:
            raise DeclarationError(
                f"{_join(path, name)}: unknown key; known here: {', '.join(sorted(known))}"
            )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
