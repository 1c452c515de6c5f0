"""Why a request is refused: each cause is made, and found."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.events import Headers
from shared.providers import BUILT_IN, providers
from shared.providers.base import (
    CAUSES,
    Configured,
    Diagnosis,
    Provider,
    SignatureError,
    Suspect,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BODY = b'{"id": "evt_1", "a": [1, 2.5], "name": "Z\xc3\xbcrich", "url": "https://x/y"}'
KEY = base64.b64encode(b"k" * 32).decode()
SIGNED: dict[str, dict[str, object]] = {
    "hmac": {"signature": {"header": "X-Signature", "timestamp": "header:X-Time"}},
}
SECRETS = {"basic": "user:right"}
OTHERS = {"basic": "user:other"}


def bound(name: str) -> Provider:
    return providers()[name].for_source(Configured(SIGNED.get(name, {}), None))


def secret_of(name: str) -> str:
    return SECRETS.get(name, f"whsec_{KEY}")


def diagnose(
    name: str,
    headers: Headers,
    body: bytes | None = BODY,
    *,
    suspects: tuple[Suspect, ...] = (),
    now: datetime = NOW,
) -> Diagnosis:
    provider = bound(name)
    if body is not None:
        with pytest.raises(SignatureError):  # or there is nothing to find out
            provider.verify(headers, body, [secret_of(name)], now, 300)
    found = provider.diagnose(headers, body, [secret_of(name)], suspects, now, 300)
    assert found.cause in CAUSES
    assert secret_of(name) not in found.hint
    return found


ALL = [provider.name for provider in BUILT_IN]
BINDING = [name for name in ALL if bound(name).binds_body]
TIMED = BINDING


@pytest.mark.parametrize("name", ALL)
def test_a_missing_header_is_named(name: str) -> None:
    found = diagnose(name, (("x-other-signature", "1"),))
    assert found.cause == "missing_header"
    for header in bound(name).signature_headers:
        assert header in found.hint
    assert "x-other-signature" in found.hint


@pytest.mark.parametrize("name", [name for name in BINDING if name != "stripe"])
def test_of_several_headers_the_missing_one_is_named(name: str) -> None:
    signed = bound(name).sign(BODY, secret_of(name), NOW)
    [_, timed, *_] = bound(name).signature_headers
    found = diagnose(name, tuple(pair for pair in signed if pair[0] != timed))
    assert found.cause == "missing_header"
    assert f"no header {timed};" in found.hint


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("age_s", [-3600, -301, 301, 3600, 86400 * 400])
def test_a_clock_that_is_off_is_told_by_how_much(name: str, age_s: int) -> None:
    signed = bound(name).sign(BODY, secret_of(name), NOW - timedelta(seconds=age_s))
    found = diagnose(name, signed)
    assert found.cause == "clock_off"
    assert f"{abs(age_s)} s {'old' if age_s > 0 else 'ahead'}" in found.hint
    assert found.signed_at == NOW - timedelta(seconds=age_s)


@pytest.mark.parametrize("name", ALL)
def test_a_known_secret_that_is_another_is_said_and_not_shown(name: str) -> None:
    other = OTHERS.get(name, f"whsec_{base64.b64encode(b'o' * 32).decode()}")
    signed = bound(name).sign(BODY, other, NOW - timedelta(days=3))
    suspects = (Suspect("whsec_" + KEY[::-1], "x"), Suspect(other, "the secret 0.1, rotated out"))
    found = diagnose(name, signed, suspects=suspects)
    assert found.cause == ("wrong_secret" if name in BINDING else "token_wrong")
    assert "the secret 0.1, rotated out" in found.hint
    assert other not in found.hint
    nobody = diagnose(name, signed)
    assert nobody.cause == ("signature_mismatch" if name in BINDING else "token_wrong")


CHANGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda body: body + b"\n", "newline at its end"),
    (lambda body: body + b"\r\n", "newline at its end"),
    (lambda body: b"\xef\xbb\xbf" + body, "byte order mark"),
    (lambda body: b" \n" + body + b" ", "white space"),
    (lambda body: json.dumps(json.loads(body)).encode(), "written otherwise"),
]


@pytest.mark.parametrize("name", BINDING)
@pytest.mark.parametrize(("change", "said"), CHANGES, ids=range(len(CHANGES)))
def test_a_body_that_was_changed_on_the_way_is_told(
    name: str, change: Callable[[bytes], bytes], said: str
) -> None:
    original = json.dumps(json.loads(BODY), separators=(",", ":"), ensure_ascii=False).encode()
    signed = bound(name).sign(original, secret_of(name), NOW)
    found = diagnose(name, signed, change(original))
    assert found.cause == "body_changed"
    assert said in found.hint


@pytest.mark.parametrize("indent", [2, 4, None])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_json_that_was_written_anew_fits_what_libraries_write(
    indent: int | None, is_ascii: bool
) -> None:
    """What was signed was any of these; what came is compact."""
    document = json.loads(BODY)
    original = json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode()
    signed = bound("stripe").sign(original, secret_of("stripe"), NOW)
    came = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    assert diagnose("stripe", signed, came).cause == "body_changed"


def test_line_ends_and_lost_ends_are_told() -> None:
    sign = bound("stripe").sign
    lines = b'{"a": 1,\n"b": 2}'
    signed = sign(lines, secret_of("stripe"), NOW)
    assert "LF where CR LF came" in diagnose("stripe", signed, lines.replace(b"\n", b"\r\n")).hint
    signed = sign(lines + b"\n", secret_of("stripe"), NOW)
    assert "took off" in diagnose("stripe", signed, lines).hint
    signed = sign(b"", secret_of("stripe"), NOW)
    assert "it is empty" in diagnose("stripe", signed, lines).hint


def test_versions_that_nobody_checks_are_told() -> None:
    mac = hmac.new(b"x", BODY, hashlib.sha1).hexdigest()
    stamp = str(int(NOW.timestamp()))
    for name, headers, said in (
        ("stripe", (("stripe-signature", f"t={stamp},v0={mac}"),), "v0"),
        ("hmac", (("x-signature", mac), ("x-time", stamp)), "20 bytes"),
        ("standard-webhooks",
         (("webhook-id", "m"), ("webhook-timestamp", stamp), ("webhook-signature", f"v1a,{KEY}")),
         "v1a"),
    ):  # fmt: skip
        found = diagnose(name, headers)
        assert (found.cause, said in found.hint) == ("unknown_scheme", True), found


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("stripe", KEY),
        ("standard-webhooks", f"whsec_{base64.b64encode(f'whsec_{KEY}'.encode()).decode()}"),
        ("clerk", f"whsec_{base64.b64encode(KEY.encode()).decode()}"),
        ("bearer", f'"whsec_{KEY}"'),
    ],
)
def test_a_secret_that_was_taken_otherwise_is_told(name: str, spelt: str) -> None:
    signed = bound(name).sign(BODY, spelt, NOW)
    found = diagnose(name, signed)
    assert found.cause in ("wrong_secret", "token_wrong")
    assert "this source's secret" in found.hint


@pytest.mark.parametrize(
    ("value", "said"),
    [("", "header"), ('"t=1"', "quotes"), ("t={time}", "template"), ("t=\xe9", "ASCII")],
)
def test_a_header_that_cannot_be_read_is_described_and_not_quoted(value: str, said: str) -> None:
    found = diagnose("stripe", (("stripe-signature", value),))
    assert found.cause in ("malformed_header", "missing_header")
    assert said in found.hint
    assert not value or value not in found.hint


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "body",
    [b"", b"\xff" * 100, b"[" * 60_000, b"1" * 60_000, b'{"a":NaN}', b'"\\ud800"', b"{}" * 40_000],
    ids=range(7),
)
def test_whatever_comes_is_answered(name: str, body: bytes) -> None:
    stamp = str(int(NOW.timestamp()))
    hostile = [
        ("stripe-signature", f"t={stamp},v1=00"), ("webhook-id", "m"), ("svix-id", "m"),
        ("webhook-timestamp", "9" * 12), ("svix-timestamp", stamp), ("x-signature", "00"),
        ("webhook-signature", "v1,AAAA"), ("svix-signature", "v1,AAAA"), ("x-time", stamp),
        ("authorization", "Bearer \xe9"),
    ]  # fmt: skip
    assert diagnose(name, tuple(hostile), body)
    assert diagnose(name, tuple(hostile), None)


@pytest.mark.parametrize("name", BINDING)
@pytest.mark.parametrize("hostile", ["deep", "flat", "signatures"])
def test_no_request_makes_a_diagnosis_long(name: str, hostile: str) -> None:
    """Anybody may send these, a few a second: the gateway's events share the interpreter."""
    body = BODY
    headers = [(header, "00") for header in bound(name).signature_headers]
    if hostile == "signatures":
        headers = [(header, "t=1,v1=00," * 6000 + "v1=00") for header, _ in headers]
    else:
        depth = 900 if hostile == "deep" else 1
        body = b"[" * depth + b",".join([b"1"] * 15_000) + b"]" * depth
        stamp = str(int(NOW.timestamp()))
        values = {"stripe-signature": f"t={stamp},v1=00", "x-time": stamp}
        values |= {f"{prefix}-timestamp": stamp for prefix in ("webhook", "svix")}
        values |= {f"{prefix}-signature": "v1,AAAA" for prefix in ("webhook", "svix")}
        headers = [(header, values.get(header, "00")) for header, _ in headers]
        if name == "hmac":
            headers.append(("x-time", stamp))
    suspects = tuple(Suspect(f"whsec_{number:032d}", "another's") for number in range(48))
    began_s = time.thread_time()
    found = diagnose(name, tuple(headers), body, suspects=suspects)
    assert time.thread_time() - began_s < 0.8
    assert found.cause in ("malformed_header", "signature_mismatch", "unknown_scheme")


def test_of_a_large_body_only_the_likeliest_secrets_are_tried() -> None:
    body, others = b"a" * (1 << 20), [f"whsec_{number:032d}" for number in range(40)]
    suspects = tuple(Suspect(secret, "another's") for secret in others)
    for index, cause in ((0, "wrong_secret"), (39, "signature_mismatch")):
        headers = bound("stripe").sign(body, others[index], NOW)
        assert diagnose("stripe", headers, body, suspects=suspects).cause == cause


def test_a_stripe_header_of_many_signatures_is_refused_before_they_are_compared() -> None:
    provider, body = bound("stripe"), b"{}"
    ((name, value),) = provider.sign(body, secret_of("stripe"), NOW)
    assert (
        provider.verify(((name, f"{value}{',v1=00' * 40}"),), body, [secret_of("stripe")], NOW, 9)
        == 0
    )
    with pytest.raises(SignatureError, match="malformed_signature"):
        provider.verify(((name, f"{value}{',v1=00' * 9000}"),), body, [secret_of("stripe")], NOW, 9)
