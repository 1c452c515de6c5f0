"""
What proves a sender without a signature: a secret that comes with every request.

It does not bind the body, and whoever reads one request can send others. Sources: RFC 6750
(bearer), RFC 7617 (basic), and senders with a header of their own.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, SignatureError, Suspect, header

AUTHORIZATION = "authorization"
BEARER = "Bearer "
_BASIC = "Basic "


@dataclass(frozen=True, slots=True)
class Bearer:
    """A header, its name in lower case, that holds the secret after `prefix`."""

    header: str = AUTHORIZATION
    prefix: str = BEARER

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`."""
        return _unguessable(random)

    def verify(self, headers: Headers, secrets: Sequence[str]) -> int:
        """
        The index of the secret that was sent.

        Raises:
            SignatureError: none was.
        """
        given = header(headers, self.header)
        if given is None:
            raise SignatureError("missing_signature")
        token = _after(given, self.prefix)
        return _index_of(token.encode("latin-1", "replace"), secrets)

    def sign(self, secret: str) -> Headers:
        """The header with this secret."""
        return ((self.header, self.prefix + secret),)


@dataclass(frozen=True, slots=True)
class Basic:
    """`Authorization: Basic`, a secret being "user:password"."""

    header: str = AUTHORIZATION

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        user, colon, password = secret.partition(":")
        if not (user and colon and password):
            raise ConfigurationError((), 'is not "user:password", with neither of them empty')

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`. The user stays; without one, none can be made."""
        user = replaced.partition(":")[0]
        return f"{user}:{_unguessable(random)}" if user else None

    def verify(self, headers: Headers, secrets: Sequence[str]) -> int:
        """See `Bearer.verify`."""
        given = header(headers, self.header)
        if given is None:
            raise SignatureError("missing_signature")
        try:
            pair = base64.b64decode(_after(given, _BASIC).strip().encode("ascii"), validate=True)
        except (binascii.Error, ValueError):
            raise SignatureError("malformed_signature") from None
        return _index_of(pair, secrets)

    def sign(self, secret: str) -> Headers:
        """The header with this secret."""
        return ((self.header, _BASIC + base64.b64encode(secret.encode()).decode()),)


def respelt(secret: str) -> list[Suspect]:
    """See `Provider.respelt`: what a shell, a form or a file leaves around it."""
    around = (('"{}"', "in quotes"), ("'{}'", "in quotes"), ("Bearer {}", "with Bearer twice"),
              ("{} ", "with a space behind it"), ("{}\\n", "with \\n behind it"))  # fmt: skip
    return [Suspect(text.format(secret), f"this source's secret {how}") for text, how in around]


def _unguessable(random: bytes) -> str:
    return base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def _after(given: str, prefix: str) -> str:
    # RFC 9110, 11.1: the name of an authentication scheme may be in any case.
    if given[: len(prefix)].lower() != prefix.lower():
        raise SignatureError("malformed_signature")
    return given[len(prefix) :]


def _index_of(token: bytes, secrets: Sequence[str]) -> int:
    # Of digests, which are of one length: comparing the secrets would tell how long they are.
    digest = sha256(token).digest()
    same = [
        bool(secret) and hmac.compare_digest(sha256(secret.encode()).digest(), digest)
        for secret in secrets
    ]
    if not any(same):
        raise SignatureError("wrong_signature")
    return same.index(True)
