"""
Why a request was refused: every cause that can be proven is tried, one after the other. Pure.

It is asked afterwards, of a few requests, and decides nothing. Whatever is tried is tried by the
provider's own `verify`, with a window without end, so that a finding is a proof: this secret signed
this body, or that one. Bounded by how often it tries and how large a body it changes.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from shared.domain.events import Headers
from shared.providers.base import Diagnosis, Provider, SignatureError, Suspect, header

#: A larger body is not written anew; what is cut off or added at its ends is tried all the same.
_LARGEST_REWRITTEN_BYTES = 32 << 10
#: Indented, what is nested deep grows without end: of 31 kB came 60 MB, sixteen times over.
_LARGEST_WRITTEN_CHARS = 16 * _LARGEST_REWRITTEN_BYTES
_MOST_SECRETS = 64
#: Of a large body fewer are tried, the likeliest: each goes through all of it.
_MOST_TRIED_BYTES = 8 << 20
#: Longer than there have been clocks.
_FOREVER_S = 10**11


class _Asked(NamedTuple):
    provider: Provider
    headers: Headers
    now: datetime

    def signed_by(self, body: bytes, secrets: Sequence[str]) -> int | None:
        """Which of the secrets signed this body, whenever; None: none did."""
        if not secrets:
            return None
        try:
            return self.provider.verify(self.headers, body, secrets, self.now, _FOREVER_S)
        except SignatureError:
            return None


def diagnose(
    provider: Provider,
    headers: Headers,
    body: bytes | None,
    secrets: Sequence[str],
    suspects: Sequence[Suspect],
    now: datetime,
    tolerance_s: int,
) -> Diagnosis:
    """See `Provider.diagnose`."""
    # A time inside the body is found by expressions, which take their time over what nobody has
    # proven yet.
    is_small = body is not None and len(body) <= _LARGEST_REWRITTEN_BYTES
    signed_at = _signed_at(provider, headers, body if body is not None and is_small else b"")
    found = _of_headers(provider, headers, body or b"", secrets, now, tolerance_s)
    if found is None and (body is not None or not provider.binds_body):
        asked = _Asked(provider, headers, now)
        found = _of_secrets(asked, body or b"", secrets, suspects, signed_at)
        if found is None and body is not None and provider.binds_body:
            found = _of_body(asked, body, secrets)
    if found is None:
        found = _unknown(provider, body)
    return found._replace(signed_at=signed_at)


def _of_headers(
    provider: Provider,
    headers: Headers,
    body: bytes,
    secrets: Sequence[str],
    now: datetime,
    tolerance_s: int,
) -> Diagnosis | None:
    """What the headers alone show."""
    absent = [name for name in provider.signature_headers if not header(headers, name)]
    try:
        provider.verify(headers, body, list(secrets), now, tolerance_s)
        code = ""
    except SignatureError as error:
        code = error.code
    if code == "missing_signature":
        lacking = ", ".join(absent) or "the signature's"
        said = f"the request has no header {lacking}{_similar(headers)}"
        return Diagnosis("missing_header", said)
    if code == "malformed_signature":
        present = [name for name in provider.signature_headers if name not in absent]
        shapes = "; ".join(f"{name} {_shape(header(headers, name) or '')}" for name in present)
        said = f": {shapes}" if shapes else ""
        return Diagnosis("malformed_header", f"a header of the signature cannot be read{said}")
    unknown = provider.unknown_scheme(headers, secrets)
    return None if unknown is None else Diagnosis("unknown_scheme", unknown)


def _similar(headers: Headers) -> str:
    """Headers that look as if another scheme had signed."""
    words = ("signature", "svix-", "webhook-", "hmac")
    named = [name for name, _ in headers if any(word in name for word in words)]
    return f"; what it has is {', '.join(dict.fromkeys(named))}"[:300] if named else ""


def _shape(value: str) -> str:
    """What can be said of a value without saying it: it may hold a secret."""
    if not value.strip():
        return "is empty"
    about = [f"has {len(value)} characters"]
    if value[0] in "\"'" or value[-1] in "\"'":
        about.append("stands in quotes")
    if not value.isascii():
        about.append("is not ASCII")
    if "{" in value or "$" in value:
        about.append("looks like a template that nothing was put into")
    return ", ".join(about)


def _of_secrets(
    asked: _Asked,
    body: bytes,
    secrets: Sequence[str],
    suspects: Sequence[Suspect],
    signed_at: datetime | None,
) -> Diagnosis | None:
    """The body is as it was signed: too early or late, or by another secret."""
    provider = asked.provider
    wrong = "wrong_secret" if provider.binds_body else "token_wrong"
    if asked.signed_by(body, secrets) is not None:
        return Diagnosis("clock_off", _off(signed_at, asked.now))
    misspelt = [one for secret in secrets for one in provider.respelt(secret)]
    most = min(_MOST_SECRETS, _MOST_TRIED_BYTES // max(len(body), 1))
    tried = [*misspelt, *suspects][:most]
    index = asked.signed_by(body, [one.secret for one in tried])
    if index is None:
        return None
    word = "signed with" if provider.binds_body else "what was sent is"
    return Diagnosis(wrong, f"{word} {tried[index].whose}")


def _off(signed_at: datetime | None, now: datetime) -> str:
    """By how much, where that can be told."""
    if signed_at is None:
        return "the signature is right, and its time is not within the window"
    age_s = round((now - signed_at).total_seconds())
    if age_s >= 0:
        return (
            f"the signature is right, and {age_s} s old: the sender's clock is slow, or the request"
            " was kept somewhere, or sent again as it was"
        )
    return f"the signature is right, and {-age_s} s ahead of our clock: the sender's is fast"


def _of_body(asked: _Asked, body: bytes, secrets: Sequence[str]) -> Diagnosis | None:
    """The signature fits another body that this one was made of."""
    for other, how in _variants(body):
        if other != body and asked.signed_by(other, secrets) is not None:
            return Diagnosis("body_changed", f"the signature fits the body {how}")
    return None


def _variants(body: bytes) -> Iterator[tuple[bytes, str]]:
    """What the body may have been, and what came of it on the way."""
    yield body + b"\n", "with a newline at its end, which something on the way took off"
    yield body + b"\r\n", "with CR LF at its end, which something on the way took off"
    yield body.rstrip(b"\r\n"), "without the newline at its end, which something on the way added"
    yield body.strip(), "without the white space around it, which something on the way added"
    yield b"\xef\xbb\xbf" + body, "with a byte order mark, which something on the way took off"
    yield body.removeprefix(b"\xef\xbb\xbf"), "without the byte order mark, which was added"
    yield b"", "when it is empty: the sender signed no body, or another one than it sent"
    if len(body) > _LARGEST_REWRITTEN_BYTES:
        return
    lines = body.replace(b"\r\n", b"\n")
    yield lines, "with LF where CR LF came: its line ends were changed"
    yield lines.replace(b"\n", b"\r\n"), "with CR LF where LF came: its line ends were changed"
    yield from _recoded(body)
    yield from _rewritten(body)


def _recoded(body: bytes) -> Iterator[tuple[bytes, str]]:
    how = "in another character set: it was read as one and written as another"
    for source, target in (("utf-8", "latin-1"), ("latin-1", "utf-8")):
        try:
            yield body.decode(source).encode(target), how
        except UnicodeError:
            continue


def _rewritten(body: bytes) -> Iterator[tuple[bytes, str]]:
    """The same JSON as libraries write it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict | list):
        return
    how = "written otherwise: its JSON was parsed and written anew on the way"
    for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, None), (4, None)):
        for is_ascii in (False, True):
            for is_sorted in (False, True):
                encoder = json.JSONEncoder(
                    indent=indent,
                    separators=separators,
                    ensure_ascii=is_ascii,
                    sort_keys=is_sorted,
                )
                try:
                    written = _written(encoder, document, is_indented=indent is not None)
                except (ValueError, RecursionError, TypeError):
                    return
                if written is None:
                    return
                yield written, how
                if b"/" in written:
                    yield written.replace(b"/", b"\\/"), how
                yield written + b"\n", how


def _written(encoder: json.JSONEncoder, document: object, *, is_indented: bool) -> bytes | None:
    """None where it is much larger than what came: no sender has written that."""
    if not is_indented:
        return encoder.encode(document).encode()
    pieces, length = [], 0
    for piece in encoder.iterencode(document):
        pieces.append(piece)
        length += len(piece)
        if length > _LARGEST_WRITTEN_CHARS:
            return None
    return "".join(pieces).encode()


def _unknown(provider: Provider, body: bytes | None) -> Diagnosis:
    if not provider.binds_body:
        return Diagnosis("token_wrong", "what was sent is no secret that is known here")
    if body is None:
        return Diagnosis("signature_mismatch", "not all of the body is known: nothing was tried")
    return Diagnosis(
        "signature_mismatch",
        "no secret that is known here signed this body: most likely the sender has another secret,"
        " or something on the way changes bodies",
    )


def _signed_at(provider: Provider, headers: Headers, body: bytes) -> datetime | None:
    try:
        return provider.signed_at(headers, body)
    except (SignatureError, ValueError, OverflowError):
        return None
