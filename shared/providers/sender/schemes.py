"""
How requests of a configured sender are proven to be its own: `[sources.NAME.signature]`.

Each scheme is one of `shared.providers.signing`, with what the table says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, PayloadError, SignatureError, Suspect
from shared.providers.sender.documents import read_document
from shared.providers.sender.expressions import Location
from shared.providers.sender.identities import text_of
from shared.providers.sender.tables import Table, header_name
from shared.providers.signing import macs, standard_webhooks, tokens
from shared.providers.signing.macs import Mac, Stamp
from shared.providers.signing.streams import Proven, Verification
from shared.providers.signing.windows import check_window, moment_of

PATH = ("signature",)

_PART = "part:"
_HEADER = "header:"


class Scheme(Protocol):
    """
    See `Provider` for what has the names of its methods.

    Derive from it: what has a body here need not be written again.
    """

    @property
    def secret_headers(self) -> frozenset[str]:
        """The headers that hold the secret itself, in lower case."""
        return frozenset()

    binds_body: bool = True

    @property
    def signature_headers(self) -> tuple[str, ...]:
        """See `Provider.signature_headers`."""
        return ()

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return None

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        return None

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return ()

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`. It is not empty."""

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`."""
        return None

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        ...

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification | None:
        """
        Begin what `verify` does, with a body that is still to come; None where only the whole body
        can prove this request.

        Raises:
            SignatureError: the headers say enough.
        """
        ...

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        ...

    def message_id(self, headers: Headers) -> str | None:
        """The id that the scheme gives a message; None where it has none."""
        return None


@dataclass(frozen=True, slots=True)
class Messages(Scheme):
    """Standard Webhooks, whose headers begin with one of `prefixes`."""

    prefixes: tuple[str, ...]

    @property
    def signature_headers(self) -> tuple[str, ...]:
        """See `Provider.signature_headers`."""
        return standard_webhooks.headers_of(self.prefixes[0])

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return standard_webhooks.signed_at(headers, self.prefixes)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        keys = standard_webhooks.keys_of(secrets)
        return standard_webhooks.unknown_scheme(headers, keys, self.prefixes)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return standard_webhooks.respelt(secret)

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        standard_webhooks.key_of(secret)

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`. Svix's senders choose, and whoever has only a public key."""
        if self.prefixes != standard_webhooks.STANDARD or standard_webhooks.is_public(replaced):
            return None
        return standard_webhooks.secret_of(random)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        keys = standard_webhooks.keys_of(secrets)
        return standard_webhooks.verify(headers, body, keys, now, tolerance_s, self.prefixes)

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification | None:
        """See `Scheme.begin`."""
        keys = standard_webhooks.keys_of(secrets)
        return standard_webhooks.begin(headers, keys, now, tolerance_s, self.prefixes)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        key = standard_webhooks.key_of(secret)
        if key.version != "v1":
            raise ValueError("a public key verifies, and cannot sign")
        message = f"msg_{sha256(body).hexdigest()[:24]}"
        return standard_webhooks.sign(body, key.key, message, now, self.prefixes[0])

    def message_id(self, headers: Headers) -> str | None:
        """See `Scheme.message_id`."""
        return standard_webhooks.message_id(headers, self.prefixes)


@dataclass(frozen=True, slots=True)
class Hmac(Scheme):
    """
    An HMAC that the source describes; None before it has, and then nothing is proven.

    `time_in_body` finds the time of signing there, where the signature binds it as well.
    """

    mac: Mac | None = None
    time_in_body: Location | None = None
    unit: str = macs.UNITS[0]

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        if self.mac is not None:
            macs.key_of(secret, self.mac.secret_encoding)

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`."""
        return None if self.mac is None else macs.secret_of(random, self.mac.secret_encoding)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        if self.mac is None:
            raise SignatureError("missing_signature")
        index = self.mac.verify(headers, body, secrets, now, tolerance_s)
        if self.time_in_body is not None:
            check_window(self._time_in(headers, body), now, tolerance_s)
        return index

    @property
    def signature_headers(self) -> tuple[str, ...]:
        """See `Provider.signature_headers`."""
        return () if self.mac is None else self.mac.headers

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        if self.time_in_body is not None:
            return moment_of(self._time_in(headers, body))
        return None if self.mac is None else self.mac.signed_at(headers)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        return None if self.mac is None else self.mac.unknown_scheme(headers)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return () if self.mac is None else self.mac.respelt(secret)

    def _time_in(self, headers: Headers, body: bytes) -> int:
        assert self.time_in_body is not None
        try:
            found = text_of(self.time_in_body.find(headers, read_document(headers, body)))
        except PayloadError:
            found = None
        # Without a time it may be as old as the secret.
        return macs.moment_s(found or "", self.unit)

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification | None:
        """See `Scheme.begin`. A time inside the body is found in the whole of it."""
        if self.mac is None:
            raise SignatureError("missing_signature")
        begun = self.mac.begin(headers, secrets, now, tolerance_s)
        return None if self.time_in_body is not None else begun

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        return () if self.mac is None else self.mac.sign(body, secret, now)


@dataclass(frozen=True, slots=True)
class Sent(Scheme):
    """A secret that is sent along: in a header, or as a user and a password."""

    token: tokens.Bearer | tokens.Basic
    binds_body = False

    @property
    def signature_headers(self) -> tuple[str, ...]:
        """See `Provider.signature_headers`."""
        return (self.token.header,)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return tokens.respelt(secret)

    @property
    def secret_headers(self) -> frozenset[str]:
        """See `Scheme.secret_headers`."""
        return frozenset({self.token.header})

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        if isinstance(self.token, tokens.Basic):
            self.token.check_secret(secret)

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`."""
        return self.token.new_secret(random, replaced)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        return self.token.verify(headers, secrets)

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification:
        """See `Scheme.begin`. The headers alone prove it."""
        return Proven(self.token.verify(headers, secrets))

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        return self.token.sign(secret)


def read_hmac(table: object, id_header: str | None) -> Hmac:
    """
    The scheme that `[sources.NAME.signature]` describes; `id_header` has the event's id.

    Raises:
        ConfigurationError: it describes none.
    """
    read = Table({} if table is None else table, PATH, _HMAC_KEYS)
    name = read.header("header")
    if name is None:
        raise ConfigurationError(read.at("header"), 'is missing: the signature\'s, "X-Signature"')
    part = read.characters("part")
    separator = read.characters("separator", "," if part else "")
    unit = read.choice("timestamp_unit", macs.UNITS)
    stamp, signed_at = _read_timestamp(read, part, separator, unit)
    default = "{body}" if stamp is None else "{timestamp}.{body}"
    signed = macs.read_template(
        read.text("signed", default) or default,
        read.at("signed"),
        url=read.text("url"),
        id_header=id_header,
    )
    _check_together(read, signed, stamp)
    mac = Mac(
        header=name,
        signed=signed,
        algorithm=read.choice("algorithm", macs.ALGORITHMS),
        encoding=read.choice("encoding", macs.ENCODINGS),
        prefix=read.characters("prefix"),
        separator=separator,
        part=part,
        stamp=stamp,
        secret_encoding=read.choice("secret_encoding", macs.SECRET_ENCODINGS),
    )
    return Hmac(mac, signed_at, unit)


def read_bearer(table: object, id_header: str | None) -> Sent:
    """See `read_hmac`. A header of its own holds the secret alone, unless there is a `prefix`."""
    del id_header
    read = Table({} if table is None else table, PATH, ("header", "prefix"))
    name = read.header("header", tokens.AUTHORIZATION) or tokens.AUTHORIZATION
    prefix = tokens.BEARER if name == tokens.AUTHORIZATION else ""
    return Sent(tokens.Bearer(name, read.characters("prefix", prefix)))


_HMAC_KEYS = (
    "header", "algorithm", "encoding", "prefix", "separator", "part", "signed", "timestamp",
    "timestamp_unit", "secret_encoding", "url",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SchemeKind:
    """
    What a provider's name stands for: the scheme before it is bound, and what reads its table;
    None where there is nothing to say.
    """

    unbound: Scheme
    secret_hint: str
    read: Callable[[object, str | None], Scheme] | None = None


KINDS: Mapping[str, SchemeKind] = {
    "svix": SchemeKind(Messages(standard_webhooks.SVIX), "whsec_… of the endpoint"),
    "standard-webhooks": SchemeKind(
        Messages(standard_webhooks.STANDARD), "whsec_…, or whpk_… where the sender signs with v1a"
    ),
    "hmac": SchemeKind(Hmac(), "what the sender signs with", read_hmac),
    "bearer": SchemeKind(
        Sent(tokens.Bearer()), "what the sender puts into the header", read_bearer
    ),
    "basic": SchemeKind(Sent(tokens.Basic()), "user:password"),
}


def _read_timestamp(
    read: Table, part: str, separator: str, unit: str
) -> tuple[Stamp | None, Location | None]:
    text = read.text("timestamp")
    path = read.at("timestamp")
    if text is None:
        if read.get("timestamp_unit") is not None:
            raise ConfigurationError(read.at("timestamp_unit"), "is of no `timestamp`")
        return None, None
    if text.startswith(_PART):
        named = text.removeprefix(_PART).strip()
        if not (named and part and separator) or named == part:
            raise ConfigurationError(path, 'is a part of its own only beside a `part`, like "v1"')
        return Stamp(part=named, unit=unit), None
    if text.startswith(_HEADER):
        return Stamp(header=header_name(text.removeprefix(_HEADER), path), unit=unit), None
    return None, Location(text, path)


def _check_together(read: Table, signed: Sequence[macs.Piece], stamp: Stamp | None) -> None:
    names = {piece.name for piece in signed}
    if stamp is not None and "timestamp" not in names:
        raise ConfigurationError(
            read.at("signed"), "leaves out {timestamp}, which anybody could change then"
        )
    if stamp is None and "timestamp" in names:
        raise ConfigurationError(
            read.at("signed"), 'has {timestamp}, and no `timestamp` says where it is: "header:NAME"'
        )
    if read.get("url") is not None and "{url}" not in str(read.get("signed")):
        raise ConfigurationError(read.at("url"), "is not signed: `signed` has no {url}")
