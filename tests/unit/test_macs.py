"""HMACs over bytes: the RFC's vectors, every form a header may have, and hostile ones."""

import base64
import hmac
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, SignatureError
from shared.providers.signing.macs import (
    ALGORITHMS,
    ENCODINGS,
    SECRET_ENCODINGS,
    UNITS,
    Mac,
    Stamp,
    key_of,
    moment_s,
    read_template,
    stamp_of,
)

AT = datetime.fromtimestamp(1_700_000_000, UTC)
PATH = ("signed",)


def template(text: str, url: str | None = None, id_header: str | None = None) -> Any:
    return read_template(text, PATH, url=url, id_header=id_header)


BODY = template("{body}")
STAMPED = template("{timestamp}.{body}")
PLAIN = Mac("x-signature", BODY)
PARTS = Mac("x-signature", STAMPED, separator=",", part="v1", stamp=Stamp(part="t"))
BESIDE = Mac("x-signature", STAMPED, prefix="v0=", stamp=Stamp(header="x-timestamp"))


# RFC 4231, 4.2, 4.3 and 4.7; RFC 2202, 3.
@pytest.mark.parametrize(
    ("secret", "encoding", "body", "algorithm", "digest"),
    [
        ("Jefe", "utf8", b"what do ya want for nothing?", "sha256",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("Jefe", "utf8", b"what do ya want for nothing?", "sha512",
         "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
         "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"),
        ("Jefe", "utf8", b"what do ya want for nothing?", "sha1",
         "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ("0b" * 20, "hex", b"Hi There", "sha256",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (base64.b64encode(b"\xaa" * 131).decode(), "base64",
         b"Test Using Larger Than Block-Size Key - Hash Key First", "sha256",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ],
)  # fmt: skip
def test_published_vectors(
    secret: str, encoding: str, body: bytes, algorithm: str, digest: str
) -> None:
    mac = replace(PLAIN, algorithm=algorithm, secret_encoding=encoding)
    for written in (digest, digest.upper()):
        assert mac.verify((("x-signature", written),), body, [secret], AT, 300) == 0
    in_base64 = base64.b64encode(bytes.fromhex(digest)).decode()
    for written, of in [
        (in_base64, "base64"),
        (in_base64.rstrip("="), "base64"),
        (in_base64.replace("+", "-").replace("/", "_"), "base64url"),
        (in_base64.replace("+", "-").replace("/", "_").rstrip("="), "base64url"),
    ]:
        other = replace(mac, encoding=of)
        assert other.verify((("x-signature", written),), body, [secret], AT, 300) == 0
    with pytest.raises(SignatureError, match="wrong_signature"):
        mac.verify((("x-signature", digest),), body + b"\0", [secret], AT, 300)


SCHEMES = st.builds(
    lambda algorithm, encoding, prefix, secret_encoding, unit, form: Mac(
        "x-signature",
        form[0],
        algorithm,
        encoding,
        prefix,
        form[1],
        form[2],
        form[3](unit) if form[3] else None,
        secret_encoding,
    ),
    st.sampled_from(ALGORITHMS),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["", "sha256=", "v0:"]),
    st.sampled_from(SECRET_ENCODINGS),
    st.sampled_from(UNITS),
    st.sampled_from(
        [
            (BODY, "", "", None),
            (template("{url}{body}", url="https://a.example/in"), " ", "", None),
            (template("{id}.{body}", id_header="x-id"), "", "", None),
            (STAMPED, ",", "v1", lambda unit: Stamp(part="t", unit=unit)),
            (template("{timestamp}:{body}"), ";", "h1", lambda unit: Stamp(part="ts", unit=unit)),
            (template("v0:{timestamp}:{body}"), "", "", lambda unit: Stamp("x-at", unit=unit)),
            (template("{header:X-Id}.{timestamp}.{body}"), " ", "", lambda u: Stamp("x-at", "", u)),
        ]
    ),
)


@given(SCHEMES, st.binary(), st.sampled_from([b"secret", b"\xff\x00", b"x" * 200]))
def test_what_is_signed_is_verified_and_nothing_else(mac: Mac, body: bytes, key: bytes) -> None:
    secret = {
        "utf8": key.hex(),
        "hex": key.hex(),
        "base64": base64.b64encode(key).decode(),
    }[mac.secret_encoding]
    headers = mac.sign(body, secret, AT)
    assert mac.verify(headers, body, ["00ff", secret], AT, 300) == 1
    with pytest.raises(SignatureError, match="wrong_signature"):
        mac.verify(headers, body + b".", [secret], AT, 300)
    with pytest.raises(SignatureError, match="wrong_signature"):
        mac.verify(headers, body, ["00ff"], AT, 300)
    for missing in range(len(headers)):
        left = headers[:missing] + headers[missing + 1 :]
        with pytest.raises(SignatureError, match="missing_signature"):
            mac.verify(left, body, [secret], AT, 300)
    # Whatever else was signed is bound as well.
    for name in range(len(headers) - 1):
        other = list(headers)
        other[name] = (headers[name][0], "1700000001" if "at" in headers[name][0] else "other")
        with pytest.raises(SignatureError):
            mac.verify(tuple(other), body, [secret], AT, 300)


def signed(stamp: str, body: bytes = b"{}", secret: bytes = b"s") -> str:
    return hmac.digest(secret, stamp.encode() + b"." + body, "sha256").hex()


def test_any_signature_with_any_secret() -> None:
    """While either side rotates, and whatever else stands in the header."""
    value = f"v0=00, t=1700000000,v1=zz,v1={'00' * 32},=,v1,v1={signed('1700000000')} ,x"
    headers = (("x-signature", value),)
    assert PARTS.verify(headers, b"{}", ["a", "b", "s"], AT, 300) == 2
    listed = Mac("x-signature", STAMPED, "sha256", "hex", "v1,", " ", "", Stamp("x-at"))
    headers = (("x-signature", f"v1,00 v1,{signed('1700000000')}"), ("x-at", "1700000000"))
    assert listed.verify(headers, b"{}", ["s", "s"], AT, 300) == 0


def test_another_part_is_no_signature() -> None:
    """Of two names, one may be a scheme that anybody can sign: Stripe's v0 is."""
    headers = (("x-signature", f"t=1700000000,v0={signed('1700000000')}"),)
    with pytest.raises(SignatureError, match="malformed_signature"):
        PARTS.verify(headers, b"{}", ["s"], AT, 300)


def test_the_first_time_counts_and_it_is_what_was_signed() -> None:
    value = f"t=1600000000,t=1700000000,v1={signed('1600000000')}"
    with pytest.raises(SignatureError, match="timestamp_too_old"):
        PARTS.verify((("x-signature", value),), b"{}", ["s"], AT, 300)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("offset_s", "code"),
    [(300, None), (301, "timestamp_too_old"), (-300, None), (-301, "timestamp_in_future")],
)
def test_the_window_has_two_sides(unit: str, offset_s: int, code: str | None) -> None:
    for mac in (
        replace(PARTS, stamp=Stamp(part="t", unit=unit)),
        replace(BESIDE, stamp=Stamp(header="x-timestamp", unit=unit)),
    ):
        headers = mac.sign(b"{}", "s", AT)
        now = AT + timedelta(seconds=offset_s)
        if code is None:
            assert mac.verify(headers, b"{}", ["s"], now, 300) == 0
        else:
            with pytest.raises(SignatureError, match=code):
                mac.verify(headers, b"{}", ["s"], now, 300)


def test_a_forged_time_is_a_wrong_signature_whatever_it_says() -> None:
    """Whether a request is old is nobody's business who cannot sign one."""
    with pytest.raises(SignatureError, match="wrong_signature"):
        PARTS.verify((("x-signature", f"t=1,v1={'00' * 32}"),), b"{}", ["s"], AT, 300)


@pytest.mark.parametrize(
    ("text", "unit", "seconds"),
    [
        ("1700000000", "s", 1_700_000_000),
        ("1700000000999", "ms", 1_700_000_000),
        ("2023-11-14T22:13:20Z", "iso", 1_700_000_000),
        ("2023-11-14T23:13:20.123456789+01:00", "iso", 1_700_000_000),
    ],
)
def test_times_as_they_are_sent(text: str, unit: str, seconds: int) -> None:
    assert moment_s(text, unit) == seconds
    assert moment_s(stamp_of(AT, unit), unit) == 1_700_000_000


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", "s"), ("-1", "s"), ("+1", "s"), ("1.5", "s"), ("1e9", "s"), (" 1", "s"),
        ("\u0661", "s"),
        ("9" * 16, "s"), ("9" * 5000, "ms"), ("", "iso"), ("2023-11-14", "iso"),
        ("2023-11-14T22:13:20", "iso"), ("2023-11-14T22:13Z", "iso"), ("now", "iso"),
        ("2023-11-14 22:13:20Z", "iso"), ("2023-11-31T22:13:20Z", "iso"),
        ("2023-11-14T22:13:20+99:99", "iso"),
    ],
)  # fmt: skip
def test_what_is_no_time(text: str, unit: str) -> None:
    with pytest.raises(SignatureError, match="malformed_signature"):
        moment_s(text, unit)


def test_a_time_that_ends_early_does_not_begin_the_body() -> None:
    """Where nothing stands between time and body, the one must not lend the other its end."""
    mac = Mac("x-signature", template("{timestamp}{body}"), stamp=Stamp("x-at", "", "iso"))
    headers = dict(mac.sign(b"{}", "s", AT))
    assert headers["x-at"] == "2023-11-14T22:13:20Z"
    for cut in range(1, 20):
        moved = (("x-signature", headers["x-signature"]), ("x-at", headers["x-at"][:cut]))
        with pytest.raises(SignatureError, match="malformed_signature"):
            mac.verify(moved, headers["x-at"][cut:].encode() + b"{}", ["s"], AT, 300)


TEXT = st.text(alphabet=st.characters(max_codepoint=255), max_size=60)


@given(SCHEMES, TEXT, TEXT, TEXT, st.binary(max_size=40))
def test_hostile_headers_are_only_wrong(
    mac: Mac, signature: str, at: str, message: str, body: bytes
) -> None:
    headers: Headers = (("x-signature", signature), ("x-at", at), ("x-id", message))
    for some in (headers, headers[:1], (("x-signature", f"t=1,ts=1,v1={signature}"), *headers)):
        with pytest.raises(SignatureError) as refused:
            mac.verify(some, body, ["00ff"], AT, 300)
        assert refused.value.code in (
            "missing_signature", "malformed_signature", "timestamp_too_old",
            "timestamp_in_future", "wrong_signature",
        )  # fmt: skip


@pytest.mark.parametrize("secret", ["", "zz", "0", "é"])
def test_a_secret_that_is_none_matches_nothing(secret: str) -> None:
    for encoding in SECRET_ENCODINGS:
        mac = replace(PLAIN, secret_encoding=encoding)
        empty = hmac.digest(b"", b"{}", "sha256").hex()
        with pytest.raises(SignatureError, match="wrong_signature"):
            mac.verify((("x-signature", empty),), b"{}", [secret], AT, 300)


@pytest.mark.parametrize(
    ("secret", "encoding", "said"),
    [
        ("", "utf8", "is empty"),
        ("", "hex", "is empty"),
        ("hunter2", "hex", "is not in hex"),
        ("hunter2!", "base64", "is not in base64"),
        ("=", "base64", "is not in base64|is empty"),
    ],
)
def test_secrets_that_are_none(secret: str, encoding: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        key_of(secret, encoding)
    assert refused.value.path == ()
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", {}, "leaves out {body}"),
        ("{timestamp}", {}, "leaves out {body}"),
        ("{body", {}, "has a { or } that names nothing"),
        ("{{body}}", {}, "has a { or } that names nothing"),
        ("{body}{method}", {}, "has {method}; known: {body}, {timestamp}, {id}, {url}"),
        ("{body}{header:}", {}, "has {header:}; known"),
        ("{url}{body}", {}, "no `url` says what was registered"),
        ("{id}{body}", {}, "the event's id is in no header"),
    ],
)
def test_templates_that_are_none(text: str, more: Mapping[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        template(text, **more)
    assert said in refused.value.problem
    assert refused.value.path == PATH
