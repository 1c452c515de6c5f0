"""
Beacon's signature.

    Beacon-Signature: time=1795262400; sha512=<hex>[; sha512=<hex>…]

HMAC-SHA512 over "<time>\\n<body>", keyed with the UTF-8 bytes of the secret; two of them while
Beacon rotates its own key. (Beacon is invented. Here it would say where the scheme is specified,
and when that was read.)
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha512

from shared.plugin import Headers, SignatureError, header

SIGNATURE = "beacon-signature"

_MOST_SIGNATURES = 8
_LONGEST_TIME = 12  # int() refuses, and takes long over, what no clock says


def verify(
    headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
) -> int:
    """See `Provider.verify`."""
    signed_at, given = _read(headers)
    matched = None
    for index, secret in enumerate(secrets):
        # Every secret and every signature is tried, whichever matches: how long this takes must
        # not say which it was.
        expected = _digest(body, secret, signed_at)
        same = [hmac.compare_digest(expected, one) for one in given]
        if any(same) and secret and matched is None:
            matched = index
    if matched is None:
        raise SignatureError("wrong_signature")
    # Only now: what the forged says of its age is worth nothing. The window has two sides, for a
    # time in the future would be valid for as long as it lies there.
    age_s = int(now.timestamp()) - signed_at
    if age_s > tolerance_s:
        raise SignatureError("timestamp_too_old")
    if age_s < -tolerance_s:
        raise SignatureError("timestamp_in_future")
    return matched


def sign(body: bytes, secret: str, now: datetime) -> Headers:
    """See `Provider.sign`."""
    signed_at = int(now.timestamp())
    digest = _digest(body, secret, signed_at).decode()
    return ((SIGNATURE, f"time={signed_at}; sha512={digest}"),)


def _digest(body: bytes, secret: str, signed_at: int) -> bytes:
    # The body's bytes as they came: a document that was parsed and written again is another one.
    return hmac.new(secret.encode(), b"%d\n%b" % (signed_at, body), sha512).hexdigest().encode()


def _read(headers: Headers) -> tuple[int, list[bytes]]:
    value = header(headers, SIGNATURE)
    if value is None:
        raise SignatureError("missing_signature")
    signed_at, *given = value.split("; ", _MOST_SIGNATURES)
    number = signed_at.removeprefix("time=")
    if not (number.isascii() and number.isdigit() and len(number) <= _LONGEST_TIME):
        raise SignatureError("malformed_signature")
    # As bytes: compare_digest takes no text but ASCII, and anybody may send any.
    return int(number), [
        one.removeprefix("sha512=").encode("utf-8", "replace")
        for one in given
        if one.startswith("sha512=")
    ]
