"""
Clerk: users, organizations, memberships and what Clerk Billing sells, delivered by Svix.

`receipt` identifies, `events` says what each type asks for, `objects` holds the models, `fields`
what they have in common. The signature is Svix's own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.domain.commands import Command
from shared.domain.events import Arrival, Headers, Identity
from shared.providers.base import Configured, Provider, Suspect
from shared.providers.clerk import events, receipt
from shared.providers.signing import standard_webhooks
from shared.providers.signing.standard_webhooks import SVIX, key_of


class Clerk(Provider):
    """See `shared.providers.base.Provider`."""

    name = "clerk"
    #: A development and a production instance; no event says which of them sent it.
    has_livemode = True
    secret_hint = "whsec_… of the endpoint, Configure → Webhooks"  # noqa: S105 - a hint, no secret
    signature_headers = standard_webhooks.headers_of(SVIX[0])

    def __init__(self, livemode: bool = True) -> None:
        self._livemode = livemode

    def for_source(self, configured: Configured) -> "Clerk":
        """See `Provider.for_source`. The instance is live or not because its source says so."""
        return Clerk(configured.livemode is not False)

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        super().check_secret(secret)
        key_of(secret)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        keys = standard_webhooks.keys_of(secrets)
        return standard_webhooks.verify(headers, body, keys, now, tolerance_s, SVIX)

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return standard_webhooks.signed_at(headers, SVIX)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        keys = standard_webhooks.keys_of(secrets)
        return standard_webhooks.unknown_scheme(headers, keys, SVIX)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return standard_webhooks.respelt(secret)

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """See `Provider.identify`."""
        return receipt.identify(headers, body, self._livemode)

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """See `Provider.translate`."""
        return events.translate(arrival.identity.event_type, arrival.body)

    def event_types(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """See `Provider.event_types`."""
        return events.DECIDING

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`. A body has one id, however often it is signed."""
        message = f"msg_{hashlib.sha256(body).hexdigest()[:27]}"
        return standard_webhooks.sign(body, key_of(secret).key, message, now, SVIX[0])
