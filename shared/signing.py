"""
Signatures of the deployment's own: Ed25519 (RFC 8032), with keys that are sealed like every secret.

What is signed begins with what it is, so that no signature of one thing is one of another.
"""

import base64
import hashlib
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from shared.sealing import SIGNING_SLOT, KeyRing, Sealed


class SigningKey:
    """A private key. `id` and `public` may be told to everybody."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.id = public_id(self.public)

    @classmethod
    def new(cls) -> Self:
        """A key that was never there."""
        return cls(Ed25519PrivateKey.generate())

    def __repr__(self) -> str:
        return f"SigningKey({self.id})"

    def sign(self, purpose: str, content: bytes) -> bytes:
        """64 bytes, for this purpose only."""
        return self._private.sign(signed(purpose, content))

    def sealed(self, ring: KeyRing) -> Sealed:
        """As it is stored; opens under its own id only."""
        text = base64.b64encode(self._private.private_bytes_raw()).decode()
        return ring.seal(text, source=_place(self.id), slot=SIGNING_SLOT, version=1)

    @classmethod
    def opened(cls, ring: KeyRing, key: str, sealed: Sealed) -> Self:
        """
        The key that was sealed.

        Raises:
            SealingError: its sealing key is not held, or it was altered or moved.
        """
        text = ring.open(sealed, source=_place(key), slot=SIGNING_SLOT, version=1)
        return cls(Ed25519PrivateKey.from_private_bytes(base64.b64decode(text)))


def public_id(public: bytes) -> str:
    """The first 16 hex digits of the public key's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def is_signed(public: bytes, signature: bytes, purpose: str, content: bytes) -> bool:
    """Whether whoever has the key's private half has signed this."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed(purpose, content))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed(purpose: str, content: bytes) -> bytes:
    """The bytes that are signed: the purpose, a NUL, the content."""
    return purpose.encode() + b"\0" + content


def _place(key: str) -> str:
    # No source is called that: names have no space.
    return f"audit key {key}"
