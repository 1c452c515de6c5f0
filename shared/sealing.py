"""
Secrets at rest: AES-256-GCM under the keys of `SLUICE_SECRET_KEY`.

A ciphertext is bound to its place as associated data, so that it opens nowhere else: the source's
name, the slot, the version, and of an API key the address that it is sent to. The sealing key's id
lies beside it, and the ids of all keys that a database was ever sealed with lie in its `seals`: who
lacks one of them must not start.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12

#: The place of a source's API key, beside the slots of its secrets.
API_KEY_SLOT = -1
#: And of the secret that is only tried beside them.
SHADOW_SLOT = -2
#: The slot of a key that signs the audit trail; its place is the key's id, and no source's.
SIGNING_SLOT = -3

_DIGEST_PURPOSE = b"sluice.header-digest.1"


class SealingError(Exception):
    """A key is missing or malformed, or a secret does not open. The message never holds a key."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is stored: the key's id, the nonce, the ciphertext with its tag."""

    key_id: str
    nonce: bytes
    ciphertext: bytes


class KeyRing:
    """The keys a process holds. The first one seals; every one opens."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = {key_id(key): key for key in keys}
        if not self._keys:
            raise SealingError("SLUICE_SECRET_KEY is not set")
        self.first = next(iter(self._keys))
        self._ciphers = {name: AESGCM(key) for name, key in self._keys.items()}
        first = self._keys[self.first]
        self._digest_key = hmac.digest(first, _DIGEST_PURPOSE, "sha256")

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read `SLUICE_SECRET_KEY`: base64url keys of 32 bytes, separated by commas.

        Raises:
            SealingError: there is none, or one is malformed (named by its position).
        """
        entries = [entry for entry in (part.strip() for part in text.split(",")) if entry]
        return cls(_key(entry, position) for position, entry in enumerate(entries, start=1))

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    def seal(
        self, secret: str, *, source: str, slot: int, version: int, address: str | None = None
    ) -> Sealed:
        """Seal with the first key, for this one place; `address` is an API key's."""
        nonce = os.urandom(NONCE_BYTES)
        place = _place(source, slot, version, address)
        return Sealed(
            self.first, nonce, self._ciphers[self.first].encrypt(nonce, secret.encode(), place)
        )

    def open(
        self,
        sealed: Sealed,
        *,
        source: str,
        slot: int,
        version: int,
        address: str | None = None,
    ) -> str:
        """
        Open what was sealed for this place.

        Raises:
            SealingError: the key is not held, or the ciphertext is not this place's.
        """
        named = {API_KEY_SLOT: "the API key", SHADOW_SLOT: "the shadow"}
        what = named.get(slot, f"secret {slot}")
        where = source if slot == SIGNING_SLOT else f"{what} of source {source!r}"
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise SealingError(
                f"{where} is sealed with key {sealed.key_id}, which SLUICE_SECRET_KEY lacks"
            )
        try:
            place = _place(source, slot, version, address)
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, place).decode()
        except (InvalidTag, ValueError):
            raise SealingError(f"{where} does not open: it was altered or moved") from None

    def digest(self, value: str) -> str:
        """
        What may be stored of a credential: "hmac-sha256:<key id>:<hex>".

        Equal values give equal digests as long as the first key stays; nobody without the key can
        tell what they were.
        """
        content = value.encode("utf-8", "surrogateescape")
        return f"hmac-sha256:{self.first}:{hmac.digest(self._digest_key, content, 'sha256').hex()}"

    def hide(self, content: bytes, purpose: str) -> str:
        """
        `content` as a text that says nothing of it, and that nobody else can make: a cursor.

        base64url, and another one each time.
        """
        nonce = os.urandom(NONCE_BYTES)
        hidden = self._ciphers[self.first].encrypt(nonce, content, purpose.encode())
        return base64.urlsafe_b64encode(nonce + hidden).rstrip(b"=").decode()

    def reveal(self, text: str, purpose: str) -> bytes:
        """
        What was hidden for this purpose, under any key that is still held.

        Raises:
            SealingError: nothing was.
        """
        try:
            hidden = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise SealingError("not a text that was hidden here") from None
        for cipher in self._ciphers.values():
            with contextlib.suppress(InvalidTag, ValueError):
                return cipher.decrypt(hidden[:NONCE_BYTES], hidden[NONCE_BYTES:], purpose.encode())
        raise SealingError("not a text that was hidden here")

    @property
    def ids(self) -> list[str]:
        """Of all keys that are held; the first one seals."""
        return list(self._keys)

    def lacks(self, key_ids: Iterable[str]) -> list[str]:
        """Which of these keys are not held, in order."""
        return sorted(set(key_ids) - self._keys.keys())

    def check(self, key_ids: Iterable[str]) -> None:
        """
        Refuse a database that was sealed with keys this process does not hold.

        Raises:
            SealingError: naming the ids of the missing keys.
        """
        missing = self.lacks(key_ids)
        if missing:
            raise SealingError(
                f"the database is sealed with {', '.join(missing)}, and SLUICE_SECRET_KEY holds"
                f" {', '.join(self._keys)}: add the missing key behind the first"
            )


def key_id(key: bytes) -> str:
    """The first 16 hex digits of the key's SHA-256: says which key, and nothing about it."""
    return hashlib.sha256(key).hexdigest()[:16]


def new_key() -> str:
    """A fresh key, as `SLUICE_SECRET_KEY` wants it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).rstrip(b"=").decode()


def _key(text: str, position: int) -> bytes:
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise SealingError(f"key {position} of SLUICE_SECRET_KEY is not base64url") from None
    if len(key) != KEY_BYTES:
        raise SealingError(
            f"key {position} of SLUICE_SECRET_KEY has {len(key)} bytes instead of {KEY_BYTES}"
        )
    return key


def _place(source: str, slot: int, version: int, address: str | None) -> bytes:
    # Length-prefixed: no two places have the same bytes, whatever a name holds.
    parts = [source.encode(), str(slot).encode(), str(version).encode()]
    if address is not None:
        parts.append(address.encode())
    return b"".join(len(part).to_bytes(4) + part for part in parts)
