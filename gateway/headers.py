"""A request's headers, as they are read and as they may be stored."""

from collections.abc import Set
from functools import lru_cache

from starlette.requests import Request

from shared.domain.events import Headers
from shared.sealing import KeyRing

_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_CREDENTIAL_WORDS = ("token", "secret", "password", "api-key", "apikey", "x-auth")


def read_headers(request: Request) -> Headers:
    """Names in lower case, values as latin-1, which holds any byte."""
    return tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw
    )


def storable_headers(
    headers: Headers, keys: KeyRing, secret: Set[str] = frozenset()
) -> list[tuple[str, str]]:
    """
    The pairs as they may be stored: of credentials, only a keyed digest. `secret` are the names
    that hold one although nothing in them says so.
    """
    return [
        (name, keys.digest(value) if name in secret or _is_credential(name) else value)
        for name, value in headers
    ]


@lru_cache(maxsize=512)
def _is_credential(name: str) -> bool:
    return name in _CREDENTIALS or any(word in name for word in _CREDENTIAL_WORDS)
