"""
What Sluice asks of the code that understands one kind of source.

A provider is pure: every answer is a function of the arguments, the clock included. It lives in
one module or one package beside this one with one line in the registry, or in an installed
package with an entry point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import msgspec

from shared.domain.commands import Command
from shared.domain.events import Arrival, Headers, Identity


class SignatureError(Exception):
    """
    The request is not the provider's, or not proven to be.

    `code` is one of "missing_signature", "malformed_signature", "timestamp_too_old",
    "timestamp_in_future", "wrong_signature".
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Suspect(NamedTuple):
    """A secret that may have signed what was refused, and whose it is, in words."""

    secret: str
    whose: str


class Diagnosis(NamedTuple):
    """
    Why a request was refused, as far as that can be found out; nothing depends on it.

    `cause` is one of `CAUSES`; `hint` says more, for people, and holds no secret. `signed_at` is
    when the request says that it was signed, in aware UTC, proven or not.
    """

    cause: str
    hint: str
    signed_at: datetime | None = None


#: What may be found out of a refused request. `signature_mismatch`: nothing more than that.
CAUSES = (
    "missing_header",
    "malformed_header",
    "unknown_scheme",
    "clock_off",
    "wrong_secret",
    "body_changed",
    "token_wrong",
    "signature_mismatch",
)


class PayloadError(Exception):
    """A verified body that cannot be read as an event. Permanent: reading again will not help."""


class ConfigurationError(Exception):
    """What a source says is not understood. `path` leads to it from the source's own table."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Configured:
    """
    What a source says to its provider: its `settings` together with the tables that the provider
    knows, as they were declared. `livemode` is None where the provider has no such notion.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    livemode: bool | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a verified handshake is answered with; nothing of it is stored."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


_NOTHING: Mapping[str, tuple[str, ...]] = MappingProxyType({})


class Provider(Protocol):
    """
    One kind of source. `name` is what configuration calls it.

    Derive from it: what has a body here need not be written again.
    """

    name: str
    secret_hint: str  # what a secret of this provider looks like, for people
    #: Whether its events are live or test. Where no event says which, the source does.
    has_livemode: bool = False
    #: What a source's `settings` may say: name → the values it may have, the default first.
    settings: Mapping[str, tuple[str, ...]] = _NOTHING
    #: The tables of a source, beside `settings`, that are this provider's to read.
    tables: frozenset[str] = frozenset()
    #: Where in them a file of JSON may be named, instead of what is in it.
    files: frozenset[tuple[str, ...]] = frozenset()
    #: Whether `translate` needs the headers.
    reads_headers: bool = False
    #: The headers, in lower case, that hold the secret itself: only a digest of them is stored.
    secret_headers: frozenset[str] = frozenset()
    #: The headers that a request is proven by, in lower case: for who is told which one is missing.
    #: Of alternatives, those that are documented.
    signature_headers: tuple[str, ...] = ()
    #: Whether what proves a request binds its body; a secret that is sent along does not.
    binds_body: bool = True

    def for_source(self, configured: Configured) -> "Provider":
        """
        This provider as one source has it configured.

        Raises:
            ConfigurationError: what the source says is not understood.
        """
        return self

    def check_secret(self, secret: str) -> None:
        """
        Whether it can be a secret of this provider.

        Raises:
            ConfigurationError: it cannot, with the empty path. The text never holds the secret.
        """
        if not secret:
            raise ConfigurationError((), "is empty: an empty secret is one anybody can sign with")

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """
        A secret of our own choosing, made of 32 random bytes, to be put in place of `replaced`;
        None where the provider chooses its secrets itself. `replaced` is "" where it is not known.
        """
        return None

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

    def diagnose(
        self,
        headers: Headers,
        body: bytes | None,
        secrets: Sequence[str],
        suspects: Sequence[Suspect],
        now: datetime,
        tolerance_s: int,
    ) -> Diagnosis:
        """
        Why `verify` refuses the request with these secrets. Never asked before it was refused.

        `suspects` are secrets that must not be accepted, and may be what was signed with. `body` is
        None where not all of it is known. What is tried is bounded, and raises nothing.
        """
        from shared.providers.signing.diagnosing import diagnose

        return diagnose(self, headers, body, secrets, suspects, now, tolerance_s)

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """When the request says that it was signed, in aware UTC; None where it does not."""
        return None

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """What in the signature's headers is of no scheme or version that is checked, in words."""
        return None

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """What senders make of this secret by mistake, each as a secret that `verify` takes."""
        return ()

    def handshake(self, headers: Headers, body: bytes) -> Reply | None:
        """What a verified request is answered with that is no event, as a challenge; or None."""
        return None

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """
        Read the little that receipt needs.

        Raises:
            PayloadError: and nothing else, whatever the body holds.
        """
        ...

    def translate(self, arrival: Arrival) -> Sequence[Command]:
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
        return ()

    def same_event(self, first: bytes, second: bytes) -> bool:
        """
        Whether two bodies under one event id differ in the provider's moving fields only.

        Unless said otherwise no field moves: they are the same JSON, however it is written.
        """
        return first == second or _is_same_json(first, second)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """The headers the provider would send; for tests, the demo and `make bench`."""
        ...


def header(headers: Headers, name: str) -> str | None:
    """The value of the first header called `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


_EPOCH = datetime.fromtimestamp(0, UTC)
_AFTER = 253_402_300_800 * 1_000_000  # the year 10000, which no datetime reaches


def unix_microseconds(moment: datetime) -> int:
    """
    An aware moment as a version: no float rounds it.

    Raises:
        PayloadError: it is naive, before 1970, or out of what a datetime holds in UTC.
    """
    if moment.tzinfo is None:
        raise PayloadError("a time without a zone")
    microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
    if not 0 <= microseconds < _AFTER:
        raise PayloadError("a time before 1970, or after the year 9999")
    return microseconds


def unix_seconds(moment: datetime) -> int:
    """An aware moment as the times of an `ObjectState`. Raises as `unix_microseconds` does."""
    return unix_microseconds(moment) // 1_000_000


def _is_same_json(first: bytes, second: bytes) -> bool:
    try:
        # Written again: true is not 1, and 1 is not 1.0.
        written = [
            msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
            for body in (first, second)
        ]
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return False
    return written[0] == written[1]
