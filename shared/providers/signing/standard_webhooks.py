"""
Standard Webhooks, and Svix, whose headers have another name.

`webhook-id`, `webhook-timestamp` (unix seconds of this attempt) and `webhook-signature`, a list
of "v1,<base64>" (HMAC-SHA256) and "v1a,<base64>" (Ed25519) over "<id>.<timestamp>.<body>".
Source: github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`, and the SDKs
`svix` 2.9 and `standardwebhooks` 1.1 (read 2026-11). Neither SDK is given the clock, the body's
bytes or a v1a signature, and both raise what they should not at hostile input: so they are what
this is tested against, and what signs.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, SignatureError, Suspect, header
from shared.providers.signing.streams import Hmacs, Verification
from shared.providers.signing.windows import check_window, moment_of

#: What the headers of a family begin with.
STANDARD = ("webhook-",)
SVIX = ("svix-", "webhook-")

_SECRET_PREFIX = "whsec_"  # noqa: S105 - of a secret, no secret
_PUBLIC_PREFIX = "whpk_"
_LONGEST_TIMESTAMP = 12
_MOST_SIGNATURES = 32


class Key(NamedTuple):
    """What one signature version is checked with: `v1` a shared key, `v1a` a public one."""

    version: str
    key: bytes


class _Signed(NamedTuple):
    before: bytes  # what is signed in front of the body
    timestamp: int
    signatures: list[tuple[str, bytes]]

    def of(self, version: str) -> list[bytes]:
        return [value for one, value in self.signatures if one == version]


def key_of(secret: str) -> Key:
    """
    The key in "whsec_<base64>" (its prefix may be missing) or "whpk_<base64>".

    Raises:
        ConfigurationError: it holds none. The text does not say what it holds.
    """
    is_public = secret.startswith(_PUBLIC_PREFIX)
    encoded = secret.removeprefix(_PUBLIC_PREFIX if is_public else _SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError((), 'is not "whsec_…" or "whpk_…" in base64') from None
    if not key:
        raise ConfigurationError((), "is empty: an empty secret is one anybody can sign with")
    if is_public and len(key) != 32:
        raise ConfigurationError((), "is no Ed25519 public key: it has not 32 bytes")
    return Key("v1a" if is_public else "v1", key)


def is_public(secret: str) -> bool:
    """Whether the secret is a sender's public key, whose other half only the sender has."""
    return secret.startswith(_PUBLIC_PREFIX)


def secret_of(key: bytes) -> str:
    """A key as a secret; the specification wants 24 to 64 bytes."""
    return _SECRET_PREFIX + base64.b64encode(key).decode()


def keys_of(secrets: Sequence[str]) -> list[list[Key]]:
    """For `verify`: of each secret its key. One that can be none has none, and matches nothing."""
    return [_found_in(secret) for secret in secrets]


def _found_in(secret: str) -> list[Key]:
    try:
        return [key_of(secret)]
    except ConfigurationError:
        return []


def message_id(headers: Headers, prefixes: Sequence[str] = STANDARD) -> str | None:
    """The id of the message, the same for every delivery of it."""
    return _named(headers, "id", prefixes)


def verify(
    headers: Headers,
    body: bytes,
    keys: Sequence[Sequence[Key]],
    now: datetime,
    tolerance_s: int,
    prefixes: Sequence[str] = STANDARD,
) -> int:
    """
    The index of the secret that signed; `keys` has the keys that each secret may stand for.

    Raises:
        SignatureError: none did, or not at this time. The window is two-sided.
    """
    signed = _read(headers, prefixes)
    content = signed.before + body
    matched = None
    for index, of_secret in enumerate(keys):
        # Every one is tried, whichever matches.
        same = [_matches(signed, content, key) for key in of_secret]
        if any(same) and matched is None:
            matched = index
    if matched is None:
        raise SignatureError("wrong_signature")
    check_window(signed.timestamp, now, tolerance_s)
    return matched


def begin(
    headers: Headers,
    keys: Sequence[Sequence[Key]],
    now: datetime,
    tolerance_s: int,
    prefixes: Sequence[str] = STANDARD,
) -> Verification | None:
    """
    What `verify` does, with a body that is still to come; None where the sender may have signed
    with v1a: Ed25519 goes through what is signed twice.

    Raises:
        SignatureError: the headers say enough.
    """
    signed = _read(headers, prefixes)
    check_window(signed.timestamp, now, tolerance_s)
    if signed.of("v1a") and any(key.version == "v1a" for of_one in keys for key in of_one):
        return None
    shared = [[key.key for key in of_one if key.version == "v1"] for of_one in keys]
    return Hmacs(shared, "sha256", signed.before, b"", signed.of("v1"))


def sign(
    body: bytes, key: bytes, message: str, now: datetime, prefix: str = STANDARD[0]
) -> Headers:
    """The headers of a v1 delivery, as the official SDK makes them."""
    from svix.webhooks import Webhook

    signature = Webhook(key).sign(message, now, body.decode())
    return (
        (f"{prefix}id", message),
        (f"{prefix}timestamp", str(int(now.timestamp()))),
        (f"{prefix}signature", signature),
    )


def headers_of(prefix: str) -> tuple[str, ...]:
    """See `Provider.signature_headers`."""
    return tuple(prefix + name for name in ("id", "timestamp", "signature"))


def signed_at(headers: Headers, prefixes: Sequence[str] = STANDARD) -> datetime | None:
    """See `Provider.signed_at`."""
    return moment_of(_read(headers, prefixes).timestamp)


def unknown_scheme(
    headers: Headers, keys: Sequence[Sequence[Key]], prefixes: Sequence[str] = STANDARD
) -> str | None:
    """See `Provider.unknown_scheme`; `keys` as for `verify`."""
    given = {version[:16] for version, _ in _read(headers, prefixes).signatures}
    checked = {key.version for of_one in keys for key in of_one}
    if not checked or given & checked:
        return None
    said, wanted = (", ".join(sorted(found)) or "none" for found in (given, checked))
    return f"the signatures are of version {said}, and the secrets are for {wanted}"


def respelt(secret: str) -> list[Suspect]:
    """See `Provider.respelt`: the secret's characters are taken as the key, undecoded."""
    bare = secret.removeprefix(_SECRET_PREFIX)
    return [
        Suspect(secret_of(text.encode()), f"this source's secret, {how}")
        for text, how in (
            (secret, "all of it as text instead of what its base64 stands for"),
            (bare, "without its whsec_ and as text instead of what its base64 stands for"),
        )
        if text and not is_public(secret)
    ]


def _read(headers: Headers, prefixes: Sequence[str]) -> _Signed:
    parts = [_named(headers, name, prefixes) for name in ("id", "timestamp", "signature")]
    message, timestamp, signature = parts
    if not (message and timestamp and signature):
        raise SignatureError("missing_signature")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
        raise SignatureError("malformed_signature")
    if "." in message:
        # It is what parts are signed with: of such an id a part could be taken for the timestamp,
        # and the timestamp for the beginning of the body.
        raise SignatureError("malformed_signature")
    given: list[tuple[str, bytes]] = []
    for entry in signature.split(" ")[:_MOST_SIGNATURES]:
        version, comma, encoded = entry.partition(",")
        try:
            value = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            continue  # another entry may be in order
        if comma:
            given.append((version, value))
    # Headers were read as latin-1, which gives their bytes back.
    before = b"%b.%b." % (message.encode("latin-1", "replace"), timestamp.encode())
    return _Signed(before, int(timestamp), given)


def _matches(signed: _Signed, content: bytes, key: Key) -> bool:
    values = signed.of(key.version)
    if key.version == "v1":
        expected = hmac.new(key.key, content, sha256).digest()
        same = [hmac.compare_digest(expected, value) for value in values]
    else:
        same = [_is_signed(key.key, value, content) for value in values]
    return any(same)


def _is_signed(public: bytes, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _named(headers: Headers, name: str, prefixes: Sequence[str]) -> str | None:
    for prefix in prefixes:
        value = header(headers, prefix + name)
        if value is not None:
            return value
    return None
