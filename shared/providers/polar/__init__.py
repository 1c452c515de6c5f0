"""
Polar: Standard Webhooks with a key of their own, whole objects with a version key.

`receipt` proves and identifies, `events` says what each type asks for, `objects` holds the models.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.domain.commands import Command
from shared.domain.events import Arrival, Headers, Identity
from shared.providers.base import Configured, Provider, Suspect
from shared.providers.polar import events, receipt
from shared.providers.signing import standard_webhooks


class Polar(Provider):
    """
    See `shared.providers.base.Provider`.

    Polar's sandbox sends what its live side sends, and nothing in an event says which of them it
    is: the source does. An event's account is "": a source is one endpoint, an endpoint belongs to
    one organization, and not every payload names it.
    """

    name = "polar"
    has_livemode = True
    secret_hint = "all of the endpoint's secret, prefix included, Settings → Webhooks"  # noqa: S105 - a hint
    settings = events.SETTINGS
    signature_headers = standard_webhooks.headers_of("webhook-")

    def __init__(self, livemode: bool = True) -> None:
        self._livemode = livemode

    def for_source(self, configured: Configured) -> Provider:
        """See `Provider.for_source`."""
        return Polar(configured.livemode is not False)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        return receipt.verify(headers, body, secrets, now, tolerance_s)

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return standard_webhooks.signed_at(headers)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        keys = [receipt.keys_of(secret) for secret in secrets]
        return standard_webhooks.unknown_scheme(headers, keys)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return [Suspect(secret.removeprefix("whsec_"), "this source's secret without its whsec_")]

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """See `Provider.identify`."""
        return receipt.identify(headers, body, self._livemode)

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """See `Provider.translate`."""
        return events.translate(arrival.identity.event_type, arrival.body)

    def event_types(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """See `Provider.event_types`."""
        return events.event_types(settings)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        return receipt.sign(body, secret, now)
