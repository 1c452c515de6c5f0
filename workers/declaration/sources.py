"""Sources: `[sources.NAME]`, and the secrets that it points to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any

from shared.domain.events import OWN_SOURCES, is_storable
from shared.providers.base import ConfigurationError, Configured, Provider
from workers.declaration.files import with_files
from workers.declaration.tables import DeclarationError, KeyPath, leaves_of, only, table_at

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ADDRESS = re.compile(
    r"https?://([A-Za-z0-9.-]{1,128}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]{0,100})?"
)


@dataclass(frozen=True, slots=True)
class DeclaredSource:
    """
    One `[sources.NAME]`. `secrets` and `api_key` are as written: "env:NAME", "file:PATH" or the
    secret; `settings` are those that the file names, of `Provider.settings`, and the provider's own
    tables. `api_base` is None where the provider's own address is meant.
    """

    name: str
    provider: str
    secrets: tuple[str, ...] = field(repr=False)
    livemode: bool | None = None
    tenant: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None


_OWN_KEYS = ("provider", "secrets", "livemode", "tenant", "settings", "api_key", "api_base")


def resolve_secret(declared: str, path: KeyPath, environ: Mapping[str, str], beside: Path) -> str:
    """
    The secret behind "env:NAME", "file:PATH" (relative to `beside`), or the text itself.

    Raises:
        DeclarationError: naming the key path and what could not be read, never a secret.
    """
    kind, _, rest = declared.partition(":")
    if kind == "env":
        if rest not in environ:
            raise DeclarationError(path, f"the environment variable {rest} is not set")
        secret = environ[rest]
    elif kind == "file":
        try:
            secret = (beside / rest).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise DeclarationError(path, f"cannot read {rest}: {reason}") from None
    else:
        secret = declared
    # A file ends in a newline, and a pasted variable often too. No provider's secret does.
    secret = secret.strip()
    if not secret:
        what = f"{declared} is" if kind in ("env", "file") else "is"
        raise DeclarationError(path, f"{what} empty: an empty secret is one anybody can sign with")
    if not (secret.isascii() and secret.isprintable()):
        raise DeclarationError(path, "holds characters that no secret has: is it an example's?")
    return secret


def read_source(
    table: Mapping[str, Any], path: KeyPath, providers: Mapping[str, Provider], beside: Path
) -> DeclaredSource:
    """
    Files that it names are relative to `beside`.

    Raises:
        DeclarationError: the table at `path` says something that is not understood.
    """
    name = str(path[-1])
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            path, "a source's name is part of its URL: a-z, 0-9 and -, at most 63 characters"
        )
    if name in OWN_SOURCES:
        raise DeclarationError(path, "is the name of a source of Sluice's own; take another one")
    # First: which other keys there may be depends on it.
    known = ", ".join(sorted(providers))
    provider = table.get("provider")
    if provider is None:
        raise DeclarationError((*path, "provider"), f"is missing; known providers: {known}")
    if not isinstance(provider, str) or provider not in providers:
        raise DeclarationError(
            (*path, "provider"), f"unknown provider {provider!r}; known: {known}"
        )
    only(table, path, {*_OWN_KEYS, *_tables_of(table, providers)})
    if name in providers and name != provider:
        raise DeclarationError(
            path, f"named like the provider {name}, which it is not: {name}:ID would be ambiguous"
        )
    declared = DeclaredSource(
        name=name,
        provider=provider,
        secrets=_secrets(table, path, providers[provider]),
        livemode=_livemode(table, path, providers[provider]),
        tenant=_tenant(table, path),
        settings={
            **_settings(table, (*path, "settings"), providers[provider]),
            **_tables(table, path, providers[provider], beside),
        },
        api_key=_api_key(table, path),
        api_base=_api_base(table, path),
    )
    bind(declared, path, providers[provider])
    return declared


def bind(declared: DeclaredSource, path: KeyPath, provider: Provider) -> Provider:
    """
    The provider as the source has it configured.

    Raises:
        DeclarationError: what the source says is not understood; `path` leads to the source.
    """
    configured = Configured(declared.settings, declared.livemode, declared.tenant)
    try:
        return provider.for_source(configured)
    except ConfigurationError as error:
        raise DeclarationError((*path, *error.path), error.problem) from None


def check_secret(secret: str, path: KeyPath, provider: Provider) -> None:
    """
    Raises:
        DeclarationError: the resolved secret can be none of this provider; never says it.
    """
    try:
        provider.check_secret(secret)
    except ConfigurationError as error:
        raise DeclarationError(path, error.problem) from None


def _tables_of(table: Mapping[str, Any], providers: Mapping[str, Provider]) -> frozenset[str]:
    provider = providers.get(str(table.get("provider")))
    return provider.tables if provider is not None else frozenset()


def _tables(
    table: Mapping[str, Any], path: KeyPath, provider: Provider, beside: Path
) -> dict[str, Any]:
    """The provider's own tables, as they were written; what they say is its to judge."""
    written = {name: table[name] for name in sorted(provider.tables) if name in table}
    found = with_files(written, path, provider.files, beside)
    for name, value in found.items():
        for inner, leaf in leaves_of(value, (*path, name)):
            # They are stored as JSON, which has neither.
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise DeclarationError(inner, f"{leaf} is no number here")
            if isinstance(leaf, date | time):
                raise DeclarationError(inner, "times are written as text here: in quotes")
    return found


def _secrets(table: Mapping[str, Any], path: KeyPath, provider: Provider) -> tuple[str, ...]:
    declared = table.get("secrets")
    if not isinstance(declared, list) or not declared:
        raise DeclarationError(
            (*path, "secrets"),
            'must list at least one of "env:NAME", "file:PATH" or a literal'
            f" ({provider.secret_hint})",
        )
    for index, secret in enumerate(declared):
        if not isinstance(secret, str) or not secret.strip():
            raise DeclarationError((*path, "secrets", index), "must be text, and not empty")
    return tuple(declared)


def _livemode(table: Mapping[str, Any], path: KeyPath, provider: Provider) -> bool | None:
    livemode = table.get("livemode")
    if provider.has_livemode:
        if not isinstance(livemode, bool):
            raise DeclarationError(
                (*path, "livemode"),
                f"must be true or false: {provider.name} has a live and a test mode",
            )
        return livemode
    if livemode is not None:
        raise DeclarationError(
            (*path, "livemode"), f"{provider.name} has no such notion; leave it out"
        )
    return None


def _tenant(table: Mapping[str, Any], path: KeyPath) -> str | None:
    tenant = table.get("tenant")
    if tenant is not None and not (isinstance(tenant, str) and is_storable(tenant)):
        raise DeclarationError((*path, "tenant"), "must be text of 1 to 255 bytes")
    return tenant


def _api_key(table: Mapping[str, Any], path: KeyPath) -> str | None:
    key = table.get("api_key")
    if key is not None and not (isinstance(key, str) and key.strip()):
        raise DeclarationError((*path, "api_key"), 'must be "env:NAME", "file:PATH" or a literal')
    return key


def _api_base(table: Mapping[str, Any], path: KeyPath) -> str | None:
    base = table.get("api_base")
    if base is None:
        return None
    if "api_key" not in table:
        raise DeclarationError((*path, "api_base"), "without an api_key nobody is asked there")
    if not isinstance(base, str) or not _ADDRESS.fullmatch(base):
        raise DeclarationError(
            (*path, "api_base"),
            'must be an address like "https://api.stripe.com": http or https, no user, query or'
            " fragment",
        )
    return base.rstrip("/")


def _settings(table: Mapping[str, Any], path: KeyPath, provider: Provider) -> Mapping[str, str]:
    settings = table_at(table, path)
    for name, value in settings.items():
        allowed = provider.settings.get(name)
        if allowed is None:
            known = ", ".join(sorted(provider.settings)) or "none"
            raise DeclarationError(
                (*path, name), f"unknown setting; {provider.name} knows: {known}"
            )
        if value not in allowed:
            known = " or ".join(f'"{one}"' for one in allowed)
            raise DeclarationError((*path, name), f"{value!r} is not {known}")
    return settings
