"""
The provider `sluice`: events that Sluice makes itself, to bring to handlers what they listen to.

Nobody can send one. A worker stores them in the transaction that follows the audit trail, and the
body says what the handler is to be given.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.domain.commands import Bring, Command
from shared.domain.events import OWN_PROVIDER, Arrival, Headers, Identity
from shared.providers.base import PayloadError, Provider, SignatureError

_decode = msgspec.json.Decoder(Bring).decode


class Own(Provider):
    """Of the source `sluice-handlers`."""

    name = OWN_PROVIDER
    secret_hint = "…"  # noqa: S105 - there is none

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """Never: whatever comes from outside is forged."""
        raise SignatureError("wrong_signature")

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """Never: identities are made where the events are."""
        raise PayloadError("events of Sluice's own are not received")

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """What is to be brought, and to which handler."""
        try:
            return (_decode(arrival.body),)
        except msgspec.MsgspecError as error:
            raise PayloadError(str(error)) from None

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """Nothing: there is no signature that would be accepted."""
        return ()
