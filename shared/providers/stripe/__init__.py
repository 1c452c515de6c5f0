"""
Stripe: v1 snapshot events, v2 thin events, and what a fetch answers.

`signature` proves, `receipt` identifies, `events` says what each type asks for, `snapshots` reads
the state now and before, `objects` and `payments` hold the models.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.domain.commands import Command
from shared.domain.events import Arrival, Headers, Identity
from shared.providers.base import Provider, Suspect
from shared.providers.stripe import events, receipt, signature


class Stripe(Provider):
    """See `shared.providers.base.Provider`."""

    name = "stripe"
    has_livemode = True
    secret_hint = "whsec_… of the endpoint, Developers → Webhooks"  # noqa: S105 - a hint, no secret
    settings = events.SETTINGS
    signature_headers = ("stripe-signature",)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        return signature.verify(headers, body, secrets, now, tolerance_s)

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return signature.signed_at(headers)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        return signature.unknown_scheme(headers)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return signature.respelt(secret)

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """See `Provider.identify`."""
        return receipt.identify(body)

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """See `Provider.translate`."""
        return events.translate(arrival.identity.event_type, arrival.body)

    def event_types(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """See `Provider.event_types`."""
        return events.event_types(settings)

    def same_event(self, first: bytes, second: bytes) -> bool:
        """See `Provider.same_event`."""
        return receipt.is_same_event(first, second)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        return signature.sign(body, secret, now)
