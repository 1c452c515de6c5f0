"""
Verifying a body while it comes, and the whole of it: the same answer to every request.

A stream may say that the time is out of the window where the whole says that the signature is
wrong, and nothing else.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.conformance.forgeries import changed_bodies, changed_headers, doubled_headers
from shared.domain.events import Headers
from shared.providers import providers
from shared.providers.base import Configured, SignatureError
from shared.providers.sender import Sender
from tests.unit.test_standard_webhooks import AT as VECTOR_AT
from tests.unit.test_standard_webhooks import BODY as VECTOR_BODY
from tests.unit.test_standard_webhooks import PUBLIC, SECRET, V1, V1A
from tests.unit.test_standard_webhooks import headers as vector_headers

AT = datetime(2026, 11, 2, 12, tzinfo=UTC)
TOLERANCE_S = 300
BODY = b'{"rows": [{"id": "a"}, {"id": "b"}]}'
WHSEC = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
HEX = ("0b0b0b0b", "feed")

#: Provider, secrets, signature: every way in which a body may be bound.
SCHEMES: dict[str, tuple[str, Sequence[str], dict[str, Any] | None]] = {
    "standard webhooks": ("standard-webhooks", WHSEC, None),
    "svix": ("svix", WHSEC, None),
    "a bearer": ("bearer", ("one", "two"), {"header": "X-Key"}),
    "a user": ("basic", ("Aladdin:open sesame", "some:body"), None),
    "the body alone": ("hmac", ("one", "two"), {"header": "X-Sig", "prefix": "sha256="}),
    "parts": ("hmac", ("one", "two"), {
        "header": "X-Sig", "part": "v1", "timestamp": "part:t", "signed": "{timestamp}.{body}",
    }),
    "around the body": ("hmac", HEX, {
        "header": "X-Sig", "timestamp": "header:X-At", "secret_encoding": "hex",
        "signed": "{header:X-Topic}.{body}.{timestamp}", "timestamp_unit": "ms",
        "encoding": "base64", "algorithm": "sha512",
    }),
    "several": ("hmac", ("one", "two"), {
        "header": "X-Sig", "separator": " ", "signed": "{header:X-Id}|{body}", "algorithm": "sha1",
    }),
}  # fmt: skip


def bound(name: str) -> tuple[Sender, Sequence[str]]:
    provider, secrets, signature = SCHEMES[name]
    tables = {} if signature is None else {"signature": signature}
    sender = providers()[provider].for_source(Configured(tables))
    assert isinstance(sender, Sender)
    return sender, secrets


def chunks(body: bytes, seed: int) -> list[bytes]:
    drawn = random.Random(seed)
    ends = sorted(drawn.randint(0, len(body)) for _ in range(drawn.randint(0, 5)))
    return [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]


def whole(
    sender: Sender, headers: Headers, body: bytes, secrets: Sequence[str], at: datetime
) -> Any:
    try:
        return sender.verify(headers, body, secrets, at, TOLERANCE_S)
    except SignatureError as error:
        return error.code


def streamed(
    sender: Sender, headers: Headers, pieces: list[bytes], secrets: Sequence[str], at: datetime
) -> Any:
    try:
        begun = sender.begin(headers, secrets, at, TOLERANCE_S)
        assert begun is not None
        for piece in pieces:
            begun.update(piece)
        return begun.finish()
    except SignatureError as error:
        return error.code


def agree(
    sender: Sender, headers: Headers, body: bytes, secrets: Sequence[str], at: datetime, seed: int
) -> Any:
    expected = whole(sender, headers, body, secrets, at)
    found = streamed(sender, headers, chunks(body, seed), secrets, at)
    if isinstance(expected, str) and found in ("timestamp_too_old", "timestamp_in_future"):
        return found
    assert found == expected
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_every_damage_gets_the_same_answer(name: str) -> None:
    sender, secrets = bound(name)
    headers = sender.sign(BODY, secrets[1], AT)
    signed = frozenset(name for name, _ in headers)
    assert agree(sender, headers, BODY, secrets, AT, 1) == 1
    assert agree(sender, headers, BODY, secrets[:1], AT, 1) == "wrong_signature"
    assert agree(sender, headers, BODY, ["", "!", *secrets], AT, 1) == 3
    assert agree(sender, headers, BODY, [], AT, 1) == "wrong_signature"
    for seed, (_, changed) in enumerate(changed_bodies(BODY)):
        agree(sender, headers, changed, secrets, AT, seed)
    forged = changed_headers(headers, BODY, signed, with_digits=True)
    for seed, forgery in enumerate(forged):
        agree(sender, forgery.headers, forgery.body, secrets, AT, seed)
    for seed, (_, doubled) in enumerate(doubled_headers(headers, signed)):
        agree(sender, doubled, BODY, secrets, AT, seed)


@pytest.mark.parametrize("name", ["standard webhooks", "svix", "parts", "around the body"])
def test_a_time_out_of_the_window_is_told_before_the_body(name: str) -> None:
    sender, secrets = bound(name)
    headers = sender.sign(BODY, secrets[0], AT)
    for shift_s, code in [(301, "timestamp_too_old"), (-301, "timestamp_in_future")]:
        at = AT + timedelta(seconds=shift_s)
        with pytest.raises(SignatureError, match=code):
            sender.begin(headers, secrets, at, TOLERANCE_S)
        assert whole(sender, headers, BODY, secrets, at) == code
    for shift_s in (300, -300):
        assert agree(sender, headers, BODY, secrets, AT + timedelta(seconds=shift_s), 0) == 0


@pytest.mark.parametrize("name", ["a bearer", "a user"])
def test_what_is_sent_along_is_proven_without_a_body(name: str) -> None:
    sender, secrets = bound(name)
    begun = sender.begin(sender.sign(b"", secrets[1], AT), secrets, AT, TOLERANCE_S)
    assert begun is not None
    assert begun.is_proven
    with pytest.raises(SignatureError, match="wrong_signature"):
        sender.begin(sender.sign(b"", "other:one", AT), secrets, AT, TOLERANCE_S)


@given(
    body=st.binary(max_size=300),
    name=st.sampled_from(sorted(SCHEMES)),
    seed=st.integers(0, 1 << 30),
    change=st.tuples(st.integers(0, 299), st.integers(1, 255)) | st.none(),
)
@settings(max_examples=300, deadline=None)
def test_any_body_in_any_pieces(
    body: bytes, name: str, seed: int, change: tuple[int, int] | None
) -> None:
    if name in ("standard webhooks", "svix"):
        body = body.hex().encode()  # their SDK signs text
    sender, secrets = bound(name)
    headers = sender.sign(body, secrets[seed % 2], AT)
    if change is not None and change[0] < len(body):
        at, bits = change
        body = body[:at] + bytes([body[at] ^ bits]) + body[at + 1 :]
    agree(sender, headers, body, secrets, AT, seed)


def test_of_v1a_only_where_it_can_count() -> None:
    """Whoever may have signed with it is verified over the whole body, secret by secret."""
    sender, _ = bound("standard webhooks")
    both = vector_headers(f"{V1} {V1A}")
    for secrets, signature in [((PUBLIC,), V1A), ((SECRET, PUBLIC), f"{V1} {V1A}")]:
        assert sender.begin(vector_headers(signature), secrets, VECTOR_AT, 300) is None
    at_once = vector_headers("", at="1")
    with pytest.raises(SignatureError, match="missing_signature"):
        sender.begin(at_once, (PUBLIC,), VECTOR_AT, 300)
    with pytest.raises(SignatureError, match="timestamp_too_old"):
        sender.begin(vector_headers(V1A, at="1614265000"), (PUBLIC,), VECTOR_AT, 300)
    # A public key is known to everybody, and counts as no shared one.
    assert agree(sender, both, VECTOR_BODY, (SECRET,), VECTOR_AT, 3) == 0
    assert agree(sender, vector_headers(V1), VECTOR_BODY, (PUBLIC, SECRET), VECTOR_AT, 4) == 1
    assert agree(sender, vector_headers(V1), VECTOR_BODY, (PUBLIC,), VECTOR_AT, 5) == (
        "wrong_signature"
    )


@pytest.mark.parametrize(
    "signature",
    [
        {"header": "X-Sig", "timestamp": "sent_at"},
        {"header": "X-Sig", "signed": "{body}.{body}"},
    ],
)
def test_what_needs_the_whole_body_says_so_and_refuses_early_what_it_can(signature: Any) -> None:
    sender = providers()["hmac"].for_source(Configured({"signature": signature}))
    assert isinstance(sender, Sender)
    headers = sender.sign(BODY, "one", AT)
    assert sender.begin(headers, ("one",), AT, TOLERANCE_S) is None
    with pytest.raises(SignatureError, match="missing_signature"):
        sender.begin((), ("one",), AT, TOLERANCE_S)
    with pytest.raises(SignatureError, match="malformed_signature"):
        sender.begin((("x-sig", "zz"),), ("one",), AT, TOLERANCE_S)
