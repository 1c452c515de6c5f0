"""Who asks: bearer tokens, and what their scopes let them see."""

from starlette.requests import Request

from gateway.api.operations import Api, reading
from gateway.envelope import Refusal
from shared.store import tokens
from shared.store.tokens import Token

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="sluice"'}


async def authenticate(api: Api, request: Request) -> Token:
    """
    The token of `Authorization: Bearer …`.

    Raises:
        Refusal: there is none, or it is unknown, revoked or expired; which one is not said. Or the
            database is away.
    """
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise Refusal("missing_token", "A bearer token is required.", _CHALLENGE)
    async with reading(api.reader) as conn:
        token = await tokens.find_by_digest(conn, tokens.digest_of(value.strip()))
    if token is None:
        raise Refusal("invalid_token", "The token is not valid.", _CHALLENGE)
    return token
