"""
Stripe's signature.

`Stripe-Signature: t=<unix s>,v1=<hex>[,v1=<hex>…]`, HMAC-SHA256 over "<t>.<body>", keyed with the
UTF-8 bytes of the whole secret, its `whsec_` included. Snapshots and thin events are signed alike.
Source: docs.stripe.com/webhooks and the stripe SDK's `_webhook.py` (read 2026-11).
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from shared.domain.events import Headers
from shared.providers.base import SignatureError, Suspect, header
from shared.providers.signing.windows import check_window, moment_of

#: Some fifty signatures: Stripe sends one for each secret that works. The SDK goes through all of
#: them for every secret, which a request of anybody's may make it do for 64 KiB.
_LONGEST = 4096


def verify(
    headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
) -> int:
    """See `Provider.verify`. The window is two-sided; the SDK's own bounds only the past."""
    signature = header(headers, "stripe-signature")
    if signature is None:
        raise SignatureError("missing_signature")
    if len(signature) > _LONGEST:
        raise SignatureError("malformed_signature")
    timestamp = _timestamp(signature)
    matched = None
    for index, secret in enumerate(secrets):
        if _matches(body, signature, secret) and matched is None:
            matched = index
    if matched is None:
        raise SignatureError("wrong_signature")
    check_window(timestamp, now, tolerance_s)
    return matched


def sign(body: bytes, secret: str, now: datetime) -> Headers:
    """See `Provider.sign`."""
    from stripe import WebhookSignature

    value = WebhookSignature.generate_signature_header(body.decode(), secret, int(now.timestamp()))
    return (("stripe-signature", value),)


def signed_at(headers: Headers) -> datetime | None:
    """See `Provider.signed_at`."""
    return moment_of(_timestamp(header(headers, "stripe-signature") or ""))


def unknown_scheme(headers: Headers) -> str | None:
    """See `Provider.unknown_scheme`. `v0` is what Stripe's own test tools sign with beside v1."""
    entries = (header(headers, "stripe-signature") or "").split(",")
    names = [name.strip()[:16] for name, _, _ in (entry.partition("=") for entry in entries)]
    if "v1" in names:
        return None
    others = ", ".join(dict.fromkeys(name for name in names if name != "t")) or "nothing"
    return f"Stripe-Signature has no v1, which is all that is checked; beside t it has {others}"


def respelt(secret: str) -> list[Suspect]:
    """See `Provider.respelt`."""
    bare = secret.removeprefix("whsec_")
    return [Suspect(bare, "this source's secret without its whsec_")] if bare != secret else []


def _timestamp(signature: str) -> int:
    for entry in signature.split(","):
        name, _, value = entry.partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:
            return int(value)
    raise SignatureError("malformed_signature")


def _matches(body: bytes, signature: str, secret: str) -> bool:
    # The import is slow, and only the gateway verifies.
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        text = body.decode()
    except UnicodeDecodeError:
        return _matches_bytes(body, signature, secret)
    try:
        # No tolerance: the SDK would read the clock, and would look at the past only.
        WebhookSignature.verify_header(text, signature, secret, None)
    except SignatureVerificationError:
        return False
    except (TypeError, ValueError):
        # Non-ASCII in a signature, or a lone surrogate: whatever it is, it does not match.
        return False
    return True


def _matches_bytes(body: bytes, signature: str, secret: str) -> bool:
    """The same check over bytes, for what the SDK cannot decode."""
    signed = b"%d.%b" % (_timestamp(signature), body)
    expected = hmac.new(secret.encode(), signed, sha256).hexdigest().encode()
    given = [entry.partition("=")[2] for entry in signature.split(",") if entry.startswith("v1=")]
    # All of them are compared, whichever matches.
    same = [hmac.compare_digest(expected, value.encode("latin-1", "replace")) for value in given]
    return any(same)
