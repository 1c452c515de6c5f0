"""
Who asks: bearer tokens, and what their scopes let them see.

A token that was looked up is known for a second, so that most requests ask the database one thing
less; a revoked one therefore opens nothing after a second.
"""

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

from starlette.requests import Request

from gateway.api.reader import reading
from gateway.envelope import Refusal
from gateway.limiting import Limits, Network, address_of
from shared.db import Database
from shared.store import tokens
from shared.store.tokens import Token

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="sluice"'}

#: From when it was asked for: no revoked token is let in later than this, plus a look-up.
KNOWN_FOR_S = 0.9
#: Of those that were once let in so many are remembered; the oldest ones are forgotten first.
_MOST_KNOWN = 10_000
_NOTE_EVERY_S = 60.0

#: Tells the workers that a token was used, and when, in seconds since 1970. It may be lost.
NoteUse = Callable[[UUID, int], None]


class Tokens:
    """The tokens that this process knows. Must be used in one event loop."""

    def __init__(
        self,
        reader: Database,
        limits: Limits,
        *,
        note: NoteUse = lambda token, at: None,
        trusted: tuple[Network, ...] = (),
    ) -> None:
        self._reader = reader
        self._limits = limits
        self._note = note
        self._trusted = trusted
        self._known: dict[bytes, tuple[Token, float]] = {}
        self._looking: dict[bytes, asyncio.Task[Token | None]] = {}
        self._noted_at: dict[UUID, float] = {}

    async def authenticate(self, request: Request) -> Token:
        """
        The token of `Authorization: Bearer …`.

        Raises:
            Refusal: there is none, or it is unknown, revoked or expired; which one is not said. Or
                the address has failed too often, or the database is away.
        """
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        value = value.strip() if scheme.lower() == "bearer" else ""
        digest = tokens.digest_of(value)
        now = asyncio.get_running_loop().time()
        token, until = self._known.get(digest, (None, 0.0))
        if token is None or now >= until:
            # Whoever was let in before does not pay for its neighbours' failures.
            if token is None:
                await self._refuse_failing(request)
            token = await self._look(digest, now) if value else None
            if token is None:
                await self._limits.fail(self._address(request))
                if not value:
                    raise Refusal("missing_token", "A bearer token is required.", _CHALLENGE)
                raise Refusal("invalid_token", "The token is not valid.", _CHALLENGE)
        self._note_use(token, now)
        return token

    async def _refuse_failing(self, request: Request) -> None:
        wait_s = await self._limits.wait_s(self._address(request))
        if wait_s > 0:
            raise Refusal(
                "too_many_requests",
                "Too many requests of this address had no valid token.",
                {"Retry-After": str(wait_s)},
            )

    def _address(self, request: Request) -> str:
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        return address_of(request.scope, forwarded, self._trusted)

    async def _look(self, digest: bytes, now: float) -> Token | None:
        """One look-up for all who ask meanwhile."""
        looking = self._looking.get(digest)
        if looking is None:
            looking = asyncio.create_task(self._look_once(digest, now), name="token")
            self._looking[digest] = looking
        return await asyncio.shield(looking)

    async def _look_once(self, digest: bytes, now: float) -> Token | None:
        try:
            async with reading(self._reader) as conn:
                token = await tokens.find_by_digest(conn, digest)
        finally:
            del self._looking[digest]
        self._known.pop(digest, None)
        if token is not None:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = (token, now + KNOWN_FOR_S)
        return token

    def _note_use(self, token: Token, now: float) -> None:
        if now - self._noted_at.get(token.id, float("-inf")) < _NOTE_EVERY_S:
            return
        if len(self._noted_at) >= _MOST_KNOWN:
            self._noted_at.clear()
        self._noted_at[token.id] = now
        self._note(token.id, int(time.time()))
