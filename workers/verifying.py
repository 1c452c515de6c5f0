"""
Whether a saved request would be accepted, by which secret, or why not: said without a gateway.

It is judged by the provider's own `verify` and `diagnose`, as the gateway would at that time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.db import Conn
from shared.domain.events import Headers
from shared.providers.base import Configured, Diagnosis, Provider, SignatureError, Suspect
from shared.sealing import KeyRing, SealingError
from shared.store import secrets
from shared.store.integrations import Integration
from shared.store.secrets import SealedThing

#: How the gateway keeps what is itself a secret.
_DIGESTED = "hmac-sha256:"


@dataclass(frozen=True, slots=True)
class Judged:
    """`secret` is the label of the one that proves it; None where none does, and `why` says why."""

    secret: str | None
    why: Diagnosis | None
    signed_at: datetime | None


class UnreadableHeadersError(Exception):
    """They are neither lines of `Name: value` nor JSON."""


def read_headers(text: str) -> Headers:
    """
    Headers from a file: lines of `Name: value`; a JSON array of pairs, or of objects with `name`
    and `value`; a JSON object, whose values may be lists; or an object whose `headers` are these.

    Raises:
        UnreadableHeadersError: they are none of these.
    """
    if not text.lstrip().startswith(("[", "{")):
        return _of_lines(text)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise UnreadableHeadersError(f"not JSON: {error}") from None
    if isinstance(document, dict) and isinstance(document.get("headers"), list | dict):
        document = document["headers"]
    pairs: list[tuple[object, object]] = []
    if isinstance(document, dict):
        for name, value in document.items():
            pairs += [(name, one) for one in (value if isinstance(value, list) else [value])]
    else:
        for entry in document:
            if isinstance(entry, dict) and {"name", "value"} <= entry.keys():
                pairs.append((entry["name"], entry["value"]))
            elif isinstance(entry, list) and len(entry) == 2:
                pairs.append((entry[0], entry[1]))
            else:
                raise UnreadableHeadersError("an entry is no pair of name and value")
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in pairs):
        raise UnreadableHeadersError("a name or a value is no text")
    return tuple((str(name).strip().lower(), str(value)) for name, value in pairs)


def _of_lines(text: str) -> Headers:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        # What curl and browsers show around them.
        bare = line.strip().removeprefix("> ").removeprefix("< ")
        if not bare or bare.split(" ", 1)[0] in ("POST", "HTTP/1.1", "HTTP/2"):
            continue
        name, colon, value = bare.partition(":")
        if not colon or not name.strip() or " " in name.strip():
            raise UnreadableHeadersError(f"line {number} is not `Name: value`")
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


async def judge(
    conn: Conn,
    source: Integration,
    known: Mapping[str, Provider],
    keys: KeyRing,
    headers: Headers,
    body: bytes | None,
    at: datetime,
    tolerance_s: int,
) -> Judged:
    """
    What a gateway would have said at `at`; `body` is None where not all of it is known.

    Raises:
        KeyError: the source's provider is not installed here.
        ConfigurationError: it does not understand the source.
    """
    provider = known[source.provider].for_source(
        Configured(source.settings, source.livemode, source.tenant)
    )
    things = await secrets.read_sealed(conn)
    opened = [(one, text) for one in things if (text := _opened(one, keys)) is not None]
    active = [
        (one, text)
        for one, text in opened
        if one.source == source.name and one.kind == "secret" and _is_open(one, at)
    ]
    plaintexts = [text for _, text in active]
    seen = _undigested(provider, headers, plaintexts, keys, at)
    try:
        if body is None and provider.binds_body:
            raise SignatureError("wrong_signature")
        index = provider.verify(seen, body or b"", plaintexts, at, tolerance_s)
        return Judged(active[index][0].label, None, provider.signed_at(seen, body or b""))
    except SignatureError:
        suspects = _suspects(source.name, opened, at)
        why = provider.diagnose(seen, body, plaintexts, suspects, at, tolerance_s)
        return Judged(None, why, why.signed_at)


def _opened(one: SealedThing, keys: KeyRing) -> str | None:
    if one.kind in ("api_key", "audit_key"):
        return None
    try:
        return keys.open(one.sealed, source=one.source, slot=one.slot, version=one.version)
    except SealingError:
        return None


def _is_open(one: SealedThing, at: datetime) -> bool:
    return one.retires_at is None or at < one.retires_at


def _suspects(
    source: str, opened: Sequence[tuple[SealedThing, str]], at: datetime
) -> list[Suspect]:
    found = []
    for one, text in opened:
        if one.kind == "shadow":
            whose = "this source's shadow" if one.source == source else f"{one.source}'s shadow"
        elif one.source != source:
            whose = f"a secret of another source here, {one.source}"
        elif not _is_open(one, at):
            whose = f"this source's secret {one.label}, which was rotated out"
        else:
            continue
        found.append((one.source != source, Suspect(text, whose)))
    return [suspect for _, suspect in sorted(found, key=lambda pair: pair[0])]


def _undigested(
    provider: Provider, headers: Headers, secrets_: Sequence[str], keys: KeyRing, at: datetime
) -> Headers:
    """
    With what was kept as a digest put back, where it is one of the source's own secrets': what is
    sent along proves a request, and is nowhere in the clear.
    """
    wanted = {name for name, value in headers if value.startswith(_DIGESTED)}
    if provider.binds_body or not wanted & provider.secret_headers:
        return headers
    known = {
        (name, keys.digest(value)): value
        for secret in secrets_
        for name, value in provider.sign(b"", secret, at)
    }
    return tuple((name, known.get((name, value), value)) for name, value in headers)
