"""
The provider `sluice`: events that Sluice makes itself, to bring to handlers what they listen to,
and to do what operators ask for over the API.

Nobody can send one. What is to be brought a worker stores, in the transaction that follows the
audit trail; what is ordered the API does, of a token that may.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.domain.commands import Bring, Command, Ordered
from shared.domain.events import ORDERED, OWN_PROVIDER, Arrival, Headers, Identity
from shared.providers.base import PayloadError, Provider, SignatureError

_decode_brought = msgspec.json.Decoder(Bring).decode
_decode_ordered = msgspec.json.Decoder(Ordered).decode


class Own(Provider):
    """Of the sources `sluice-handlers` and `operator`."""

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
        """What is to be brought, and to which handler; or what is ordered, and by whom."""
        is_ordered = arrival.identity.event_type.startswith(ORDERED)
        decode = _decode_ordered if is_ordered else _decode_brought
        try:
            return (decode(arrival.body),)
        except msgspec.MsgspecError as error:
            raise PayloadError(str(error)) from None

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """Nothing: there is no signature that would be accepted."""
        return ()
