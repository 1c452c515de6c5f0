"""What Beacon sends: proven, identified, and read."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from shared.plugin import (
    Arrival,
    Command,
    Headers,
    Identity,
    Ignore,
    PayloadError,
    Provider,
    Reply,
    is_storable,
)

from sluice_beacon import signature
from sluice_beacon.fields import Moment
from sluice_beacon.licences import Holder, Licence
from sluice_beacon.usage import UsageReport


class _Event(msgspec.Struct, rename="camel"):
    """What receipt reads: as little as it can, so that as little as possible is unreadable."""

    id: str
    type: str
    at: Moment
    about: str = ""  # the licence or holder whose events belong together


class _LicenceEvent(msgspec.Struct):
    licence: Licence


class _HolderEvent(msgspec.Struct):
    holder: Holder


class _UsageEvent(msgspec.Struct):
    usage: UsageReport


class _Challenge(msgspec.Struct, forbid_unknown_fields=True):
    challenge: str


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_licence = msgspec.json.Decoder(_LicenceEvent).decode
_decode_holder = msgspec.json.Decoder(_HolderEvent).decode
_decode_usage = msgspec.json.Decoder(_UsageEvent).decode
_decode_challenge = msgspec.json.Decoder(_Challenge).decode

#: What the parser raises: no JSON or another shape; no UTF-8; a hundred thousand brackets; a time
#: that its zone takes out of what a datetime holds.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)


class Beacon(Provider):
    """See `shared.plugin.Provider`."""

    name = "beacon"
    secret_hint = "40 letters and digits, from Beacon's page of endpoints"

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `signature`."""
        return signature.verify(headers, body, secrets, now, tolerance_s)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `signature`; tests use it."""
        return signature.sign(body, secret, now)

    def handshake(self, headers: Headers, body: bytes) -> Reply | None:
        """Beacon makes sure of a new endpoint: it signs a challenge, and wants it back."""
        try:
            return Reply(_decode_challenge(body).challenge.encode(), media_type="text/plain")
        except _UNREADABLE:
            return None

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """
        Beacon's `id` is the same however often it sends an event: what dedupe hangs on. Events
        with the same subject share a lane, and are applied one after the other.
        """
        try:
            event = _decode_event(body)
            occurred_at = event.at.astimezone(UTC)
        except _UNREADABLE as error:
            raise PayloadError(f"not an event of Beacon's: {error}") from None
        subject = event.about or event.id
        if not all(map(is_storable, (event.id, event.type, subject))):
            raise PayloadError("an id or the type is empty, too long, or holds a NUL")
        return Identity(event.id, event.type, subject, occurred_at)

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """One command for each thing that the event says; here each says one."""
        read = READERS.get(arrival.identity.event_type)
        if read is None:
            # Kept all the same: a later version may know it, and replay it.
            return (Ignore("unknown_type"),)
        try:
            return (read(arrival.body),)
        except _UNREADABLE as error:
            raise PayloadError(f"{arrival.identity.event_type}: {error}") from None

    def event_types(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """What the endpoint at Beacon is to be subscribed to, and no more."""
        return tuple(READERS)


#: Type → how its body becomes a command.
READERS: Mapping[str, Callable[[bytes], Command]] = {
    "licence.issued": lambda body: _decode_licence(body).licence.observed(),
    "licence.changed": lambda body: _decode_licence(body).licence.observed(),
    "licence.revoked": lambda body: _decode_licence(body).licence.observed(),
    "holder.changed": lambda body: _decode_holder(body).holder.observed(),
    "usage.reported": lambda body: _decode_usage(body).usage.checked(),
}
