"""Standard Webhooks and Svix, against the published vectors and the official SDKs."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from svix.webhooks import Webhook

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, SignatureError
from shared.providers.signing.standard_webhooks import SVIX, key_of, message_id, sign, verify

# github.com/standard-webhooks/standard-webhooks, libraries/python/tests/test_webhooks.py, and
# svix/svix-webhooks, server/svix-server/src/worker.rs
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
AT = datetime.fromtimestamp(1614265330, UTC)
BODY = b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
V1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


def headers(signature: str, *, prefix: str = "webhook-", at: str = "1614265330") -> Headers:
    return ((f"{prefix}id", ID), (f"{prefix}timestamp", at), (f"{prefix}signature", signature))


@pytest.mark.parametrize(("secret", "signature"), [(SECRET, V1), (PUBLIC, V1A)])
def test_published_vectors(secret: str, signature: str) -> None:
    keys = [[key_of(secret)]]
    assert verify(headers(signature), BODY, keys, AT, 300) == 0
    with pytest.raises(SignatureError, match="wrong_signature"):
        verify(headers(signature), BODY + b" ", keys, AT, 300)


def test_any_signature_with_any_secret() -> None:
    """While either side rotates, and whatever else stands in the list."""
    keys = [[key_of(PUBLIC)], [key_of(SECRET)]]
    assert verify(headers(f"v1,AAAA v2,x nonsense v1a,!! {V1}"), BODY, keys, AT, 300) == 1
    assert verify(headers(f"{V1} {V1A}"), BODY, keys, AT, 300) == 0


def test_a_version_is_not_another() -> None:
    """A public key is known to everybody: it must not count as a shared one."""
    public = key_of(PUBLIC)
    forged = Webhook(public.key).sign(ID, AT, BODY.decode())
    for signature in (forged, forged.replace("v1,", "v1a,")):
        with pytest.raises(SignatureError, match="wrong_signature"):
            verify(headers(signature), BODY, [[public]], AT, 300)


def test_the_sdk_signs_what_is_verified() -> None:
    body = '{"grüße": "\\ud83d"}'.encode()
    key = key_of(SECRET)
    made = sign(body, key.key, "msg_1", AT, "svix-")
    assert made[2][1] == Webhook(SECRET).sign("msg_1", AT, body.decode())
    assert verify(made, body, [[key]], AT, 300, SVIX) == 0
    assert message_id(made, SVIX) == "msg_1"
    Webhook(SECRET)  # and the other way round, at the SDK's own time:
    now = datetime.now(UTC)
    Webhook(SECRET).verify(body, dict(sign(body, key.key, "msg_1", now, "svix-")))


def test_an_asymmetric_sender() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    content = b"%b.1614265330.%b" % (ID.encode(), b"\xff\x00")
    signature = "v1a," + base64.b64encode(private.sign(content)).decode()
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    assert verify(headers(signature), b"\xff\x00", [[key_of(public)]], AT, 300) == 0


@pytest.mark.parametrize(
    ("offset_s", "code"),
    [(300, None), (301, "timestamp_too_old"), (-300, None), (-301, "timestamp_in_future")],
)
def test_the_window_has_two_sides(offset_s: int, code: str | None) -> None:
    def verified() -> int:
        now = AT + timedelta(seconds=offset_s)
        return verify(headers(V1), BODY, [[key_of(SECRET)]], now, 300)

    if code is None:
        assert verified() == 0
    else:
        with pytest.raises(SignatureError, match=code):
            verified()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_what_is_missing(missing: int) -> None:
    left = tuple(one for number, one in enumerate(headers(V1)) if number != missing)
    with pytest.raises(SignatureError, match="missing_signature"):
        verify(left, BODY, [[key_of(SECRET)]], AT, 300)


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.text(max_size=20), st.binary())
def test_hostile_headers_are_only_wrong(signature: str, timestamp: str, body: bytes) -> None:
    for given_headers in (headers(signature), headers(signature, at=timestamp)):
        with pytest.raises(SignatureError):
            verify(given_headers, body, [[key_of(SECRET)], [key_of(PUBLIC)]], AT, 300)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_ä", "whsec_!!!", "whpk_AAAA", "whsec_A"])
def test_secrets_that_are_none(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        key_of(secret)
    assert secret.partition("_")[2] not in str(refused.value) or secret.endswith("_")
