"""
What Sluice asks of the code that understands one kind of source.

A provider is pure: every answer is a function of the arguments, the clock included. It lives in
one module or one package beside this one, with one line in the registry.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from shared.domain.commands import Command
from shared.domain.events import Headers, Identity


class SignatureError(Exception):
    """
    The request is not the provider's, or not proven to be.

    `code` is one of "missing_signature", "malformed_signature", "timestamp_too_old",
    "timestamp_in_future", "wrong_signature".
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class PayloadError(Exception):
    """A verified body that cannot be read as an event. Permanent: reading again will not help."""


class Provider(Protocol):
    """
    One kind of source. `name` is what configuration calls it.

    `settings` are what a source of this kind may be told about granting: name → the values it
    knows, the first of which holds where nothing is said.
    """

    name: str
    has_livemode: bool
    secret_hint: str  # what a secret of this provider looks like, for people
    #: What a source's `settings` may say: name → the values it may have, the default first.
    settings: Mapping[str, tuple[str, ...]]

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """
        Prove that the request is the provider's.

        Every secret is tried, in constant time each. Returns the index of the one that matched.

        Raises:
            SignatureError: and nothing else, whatever the request holds.
        """
        ...

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """
        Read the little that receipt needs.

        Raises:
            PayloadError: and nothing else, whatever the body holds.
        """
        ...

    def translate(self, event_type: str, body: bytes) -> Sequence[Command]:
        """
        Read all that the event asks for; empty is not allowed, `Ignore` says nothing.

        The type `FETCHED` and its body are Sluice's own, with the provider's object inside.

        Raises:
            PayloadError: the body does not have the shape its type promises.
        """
        ...

    def event_types(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """
        The types that an endpoint must be sent, for a source with these settings: those that
        decide access, and no other. The provider is set up with them.
        """
        ...

    def same_event(self, first: bytes, second: bytes) -> bool:
        """Whether two bodies under one event id differ in the provider's moving fields only."""
        ...

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """The headers the provider would send; for tests, the demo and `make bench`."""
        ...


def header(headers: Headers, name: str) -> str | None:
    """The value of the first header called `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
