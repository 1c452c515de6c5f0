"""
Any signature that is an HMAC of the body and of a little beside it.

One header holds one signature, several with a separator between them, or named parts of which
some are signatures ("t=…,v1=…"). What is signed is a template: "v0:{timestamp}:{body}". All of it
is bytes: headers were read as latin-1, which gives theirs back.
Source: RFC 2104; what senders make of it is in `docs/senders.md`.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, SignatureError, Suspect, header
from shared.providers.signing.streams import Hmacs, Verification
from shared.providers.signing.windows import check_window, moment_of

ALGORITHMS = ("sha256", "sha1", "sha512")
ENCODINGS = ("hex", "base64", "base64url")
SECRET_ENCODINGS = ("utf8", "hex", "base64")
#: How a timestamp is written: unix seconds, unix milliseconds, or ISO 8601 with its zone.
UNITS = ("s", "ms", "iso")

_MOST_SIGNATURES = 32
_LONGEST_NUMBER = 15
# To the second at least, and with a zone: a time that may end earlier would let the rest of it be
# taken for the beginning of the body, where nothing separates the two.
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_PLACE = re.compile(r"\{([^{}]*)\}")
_HEADER = "header:"


class Piece(NamedTuple):
    """Of a template: what stands there, or the name of what is put there."""

    text: bytes
    name: str = ""


class Stamp(NamedTuple):
    """Where the time of signing is: in a header of its own, or a part of the signature's."""

    header: str = ""
    part: str = ""
    unit: str = UNITS[0]


@dataclass(frozen=True, slots=True)
class Mac:
    """
    A scheme. `header` is in lower case; `part` is what a signature is called where the header has
    named parts; `separator` stands between parts, or between signatures; "" where there is one.
    """

    header: str
    signed: tuple[Piece, ...]
    algorithm: str = ALGORITHMS[0]
    encoding: str = ENCODINGS[0]
    prefix: str = ""
    separator: str = ""
    part: str = ""
    stamp: Stamp | None = None
    secret_encoding: str = SECRET_ENCODINGS[0]

    def verify(
        self,
        headers: Headers,
        body: bytes,
        secrets: Sequence[str],
        now: datetime,
        tolerance_s: int,
    ) -> int:
        """See `Provider.verify`. Every secret is tried with every signature."""
        signatures, text, signed_at_s = self._read(headers)
        content = self._content(headers, body, text)
        matched = None
        for index, secret in enumerate(secrets):
            same = self._matches(content, secret, signatures)
            if same and matched is None:
                matched = index
        if matched is None:
            raise SignatureError("wrong_signature")
        if signed_at_s is not None:
            check_window(signed_at_s, now, tolerance_s)
        return matched

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification | None:
        """
        See `Scheme.begin`. None where the body is signed more than once.

        Raises:
            SignatureError: the headers say enough.
        """
        signatures, text, signed_at_s = self._read(headers)
        if signed_at_s is not None:
            check_window(signed_at_s, now, tolerance_s)
        names = [piece.name for piece in self.signed]
        put = [self._put(piece, headers, b"", text) for piece in self.signed]
        if names.count("body") > 1:
            return None
        place = names.index("body")
        keys = [_found_in(secret, self.secret_encoding) for secret in secrets]
        before, after = b"".join(put[:place]), b"".join(put[place:])
        return Hmacs(keys, self.algorithm, before, after, signatures)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`. What else is signed, an id say, is made of the body."""
        text = stamp_of(now, self.stamp.unit) if self.stamp is not None else ""
        others = {piece.name for piece in self.signed} - {"", "body", "timestamp"}
        made = sha256(body).hexdigest()[:32]
        headers = tuple((name.removeprefix(_HEADER), made) for name in sorted(others))
        digest = hmac.digest(
            key_of(secret, self.secret_encoding), self._content(headers, body, text), self.algorithm
        )
        value = self.prefix + _encoded(digest, self.encoding)
        if self.part:
            value = f"{self.part}={value}"
        if self.stamp is not None and self.stamp.part:
            value = f"{self.stamp.part}={text}{self.separator}{value}"
        elif self.stamp is not None:
            headers += ((self.stamp.header, text),)
        return (*headers, (self.header, value))

    @property
    def headers(self) -> tuple[str, ...]:
        """See `Provider.signature_headers`."""
        stamp = [self.stamp.header] if self.stamp is not None and self.stamp.header else []
        others = [one.name.removeprefix(_HEADER) for one in self.signed if ":" in one.name]
        return tuple(dict.fromkeys([self.header, *stamp, *others]))

    def signed_at(self, headers: Headers) -> datetime | None:
        """See `Provider.signed_at`."""
        signed_at_s = self._read(headers)[2]
        return None if signed_at_s is None else moment_of(signed_at_s)

    def unknown_scheme(self, headers: Headers) -> str | None:
        """See `Provider.unknown_scheme`: signatures have the length of their algorithm."""
        wanted = hashlib.new(self.algorithm).digest_size
        found = {len(one) for one in self._read(headers)[0]}
        if wanted in found:
            return None
        lengths = ", ".join(str(size) for size in sorted(found))
        return f"{self.header} has {lengths} bytes; {self.algorithm} has {wanted}"

    def respelt(self, secret: str) -> list[Suspect]:
        """See `Provider.respelt`: the secret's characters are taken as the key, undecoded."""
        if self.secret_encoding == SECRET_ENCODINGS[0]:
            return []
        spelt = _encoded(secret.encode(), self.secret_encoding)
        return [Suspect(spelt, f"this source's secret as text instead of {self.secret_encoding}")]

    def _read(self, headers: Headers) -> tuple[list[bytes], str, int | None]:
        """The signatures, and when the request was signed: as it was sent, and in unix seconds."""
        given = header(headers, self.header)
        if given is None:
            raise SignatureError("missing_signature")
        entries = self._entries(given)
        signatures = [value for entry in entries if (value := self._signature(entry)) is not None]
        text = self._stamp_text(headers, entries)
        if not signatures:
            raise SignatureError("malformed_signature")
        signed_at_s = None if self.stamp is None else moment_s(text, self.stamp.unit)
        return signatures, text, signed_at_s

    def _entries(self, given: str) -> list[tuple[str, str]]:
        """What the header holds, each with its name, which is "" where parts have none."""
        texts = given.split(self.separator) if self.separator else [given]
        stripped = [text.strip() for text in texts[: 2 * _MOST_SIGNATURES]]
        if not self.part:
            return [("", text) for text in stripped[:_MOST_SIGNATURES]]
        return [(name, value) for name, _, value in (text.partition("=") for text in stripped)]

    def _signature(self, entry: tuple[str, str]) -> bytes | None:
        name, text = entry
        if name != self.part or not text.startswith(self.prefix):
            return None
        return _decoded(text.removeprefix(self.prefix), self.encoding)

    def _stamp_text(self, headers: Headers, entries: Sequence[tuple[str, str]]) -> str:
        """As it was sent, which is how it was signed; "" where the scheme has none."""
        if self.stamp is None:
            return ""
        if self.stamp.part:
            for name, value in entries:
                if name == self.stamp.part:
                    return value
            raise SignatureError("malformed_signature")
        text = header(headers, self.stamp.header)
        if text is None:
            raise SignatureError("missing_signature")
        return text

    def _content(self, headers: Headers, body: bytes, stamp: str) -> bytes:
        return b"".join(self._put(piece, headers, body, stamp) for piece in self.signed)

    def _put(self, piece: Piece, headers: Headers, body: bytes, stamp: str) -> bytes:
        if piece.name == "body":
            return body
        if piece.name == "timestamp":
            return stamp.encode("latin-1", "replace")
        if piece.name:
            value = header(headers, piece.name.removeprefix(_HEADER))
            if value is None:
                raise SignatureError("missing_signature")
            return value.encode("latin-1", "replace")
        return piece.text

    def _matches(self, content: bytes, secret: str, signatures: Sequence[bytes]) -> bool:
        digests = [
            hmac.digest(key, content, self.algorithm)
            for key in _found_in(secret, self.secret_encoding)
        ]
        same = [hmac.compare_digest(one, signature) for one in digests for signature in signatures]
        return any(same)


def read_template(
    text: str, path: tuple[str | int, ...], *, url: str | None, id_header: str | None
) -> tuple[Piece, ...]:
    """
    What is signed, from "{timestamp}.{body}": besides these two it may have `{header:NAME}`,
    `{id}` where the event's id is in a header, and `{url}` where it is known.

    Raises:
        ConfigurationError: with `path`; it is no such template, or leaves the body out.
    """
    pieces: list[Piece] = []
    for number, part in enumerate(_PLACE.split(text)):
        if number % 2:
            pieces.append(_piece(part, path, url, id_header))
        elif "{" in part or "}" in part:
            raise ConfigurationError(path, "has a { or } that names nothing")
        elif part:
            pieces.append(Piece(part.encode()))
    if not any(piece.name == "body" for piece in pieces):
        raise ConfigurationError(path, "leaves out {body}, which anybody could change then")
    return tuple(pieces)


def key_of(secret: str, encoding: str) -> bytes:
    """
    The bytes to sign with; never empty.

    Raises:
        ConfigurationError: the secret is not so encoded. The text does not say what it holds.
    """
    try:
        if encoding == "hex":
            key = binascii.unhexlify(secret)
        elif encoding == "base64":
            key = base64.b64decode(secret + "=" * (-len(secret) % 4), validate=True)
        else:
            key = secret.encode()
    except ValueError:
        raise ConfigurationError((), f"is not in {encoding}") from None
    if not key:
        raise ConfigurationError((), "is empty: an empty secret is one anybody can sign with")
    return key


def _found_in(secret: str, encoding: str) -> list[bytes]:
    """Its key. One that can be none has none: whatever it is, nobody has signed with it."""
    try:
        return [key_of(secret, encoding)]
    except ConfigurationError:
        return []


def secret_of(random: bytes, encoding: str) -> str:
    """A secret, so encoded, of which `key_of` makes a key that nobody can guess."""
    # What is no encoding is taken as it is: it may hold whatever can be typed.
    return base64.b64encode(random).decode() if encoding == "base64" else random.hex()


def moment_s(text: str, unit: str) -> int:
    """
    Unix seconds of a timestamp as it was sent.

    Raises:
        SignatureError: it is none in this unit.
    """
    if unit == "iso":
        if _ISO.fullmatch(text):
            try:
                return int(datetime.fromisoformat(text).timestamp())
            except (ValueError, OverflowError):
                pass
    elif text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER:
        return int(text) // (1000 if unit == "ms" else 1)
    raise SignatureError("malformed_signature")


def stamp_of(now: datetime, unit: str) -> str:
    """The timestamp that `moment_s` reads."""
    if unit == "iso":
        return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(int(now.timestamp() * (1000 if unit == "ms" else 1)))


def _piece(name: str, path: tuple[str | int, ...], url: str | None, id_header: str | None) -> Piece:
    if name in ("body", "timestamp"):
        return Piece(b"", name)
    if name == "url":
        if url is None:
            raise ConfigurationError(path, "has {url}, and no `url` says what was registered")
        return Piece(url.encode())
    if name == "id":
        if id_header is None:
            raise ConfigurationError(path, "has {id}, and the event's id is in no header")
        return Piece(b"", _HEADER + id_header)
    named = name.removeprefix(_HEADER).strip().lower()
    if name.startswith(_HEADER) and named:
        return Piece(b"", _HEADER + named)
    raise ConfigurationError(
        path, f"has {{{name}}}; known: {{body}}, {{timestamp}}, {{id}}, {{url}}, {{header:NAME}}"
    )


def _encoded(digest: bytes, encoding: str) -> str:
    if encoding == "hex":
        return digest.hex()
    encode = base64.b64encode if encoding == "base64" else base64.urlsafe_b64encode
    return encode(digest).decode()


def _decoded(text: str, encoding: str) -> bytes | None:
    """The bytes of a signature; None where it is none, for another one may be in order."""
    try:
        if encoding == "hex":
            return binascii.unhexlify(text) or None
        # Some leave the padding out.
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        characters = b"-_" if encoding == "base64url" else b"+/"
        return base64.b64decode(padded.encode("ascii"), characters, validate=True) or None
    except ValueError:
        return None
