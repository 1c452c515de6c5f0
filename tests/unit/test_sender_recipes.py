"""Every configuration of docs/senders.md, against published vectors and official signers."""

import base64
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from stripe import WebhookSignature
from svix.webhooks import Webhook

from shared.domain.events import Headers, Identity
from shared.providers import providers
from shared.providers.base import Configured, PayloadError, Provider, Reply, SignatureError
from workers.declaration import read_declaration

DOCUMENT = (Path(__file__).parents[2] / "docs/senders.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
AT = datetime(2026, 11, 2, 12, tzinfo=UTC)
AT_S = int(AT.timestamp())


def bound() -> dict[str, Provider]:
    found: dict[str, Provider] = {}
    for block in BLOCKS:
        declared = read_declaration(block.encode(), providers())
        for name, source in declared.sources.items():
            assert name not in found
            configured = Configured(source.settings, source.livemode, source.tenant)
            found[name] = providers()[source.provider].for_source(configured)
    return found


SENDERS = bound()

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RFC_4231 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
RFC_4231_BODY = b"what do ya want for nothing?"


def in_base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode()


# Published vectors ------------------------------------------------------------------------------

SLACK_COMMAND = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
    b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
    b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
    b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
#: Source → secret, body, headers, the time. Where a sender publishes none, and its signature is a
#: bare HMAC-SHA256, that of RFC 4231, 4.3.
VECTORS: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    # docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
    "github": (
        "It's a Secret to Everybody",
        b"Hello, World!",
        {"x-hub-signature-256":
         "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
        AT_S,
    ),
    # api.slack.com/authentication/verifying-requests-from-slack
    "slack": (
        "8f742231b10e8888abcd99yyyzzz85a5",
        SLACK_COMMAND,
        {"x-slack-signature":
         "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
         "x-slack-request-timestamp": "1531420618"},
        1531420618,
    ),
    # github.com/PaddleHQ/paddle-python-sdk, tests/Unit/Notification/test_Verifier.py
    "paddle": (
        "pdl_ntf_01hbpjmytsa32fhr36nqgc3kgb_WvRO0eL4Bj9rgYYIBZY6wZhG4EHy9jzh",
        b"hello-world",
        {"paddle-signature":
         "ts=1696195954;h1=d96299976a6eb066f484d7fde011ac56fc32b38fc9940bc419d6e537fdc6ef02"},
        1696195954,
    ),
    # developer.squareup.com/docs/webhooks/step3validate
    "square": (
        "asdf1234",
        b'{"hello":"world"}',
        {"x-square-hmacsha256-signature": "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="},
        AT_S,
    ),
    # docs.adyen.com, verify-hmac-signatures: the example of a signed string
    "adyen": (
        "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
        b"7914073381342284::TestMerchant:TestPayment-1407325143704:1130:EUR:AUTHORISATION:true",
        {"hmacsignature": "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="},
        AT_S,
    ),
    # github.com/standard-webhooks/standard-webhooks, libraries/python/tests
    "gitlab": (
        WHSEC,
        b'{"test": 2432232314}',
        {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
         "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        1614265330,
    ),
    "lemon-squeezy": ("Jefe", RFC_4231_BODY, {"x-signature": RFC_4231}, AT_S),
    "shopify": (
        "Jefe", RFC_4231_BODY, {"x-shopify-hmac-sha256": in_base64(RFC_4231)}, AT_S,
    ),
    "typeform": (
        "Jefe", RFC_4231_BODY, {"typeform-signature": f"sha256={in_base64(RFC_4231)}"}, AT_S,
    ),
    # RFC 7617, 2
    "chargebee": (
        "Aladdin:open sesame", b"", {"authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}, AT_S,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name: str) -> None:
    secret, body, headers, at_s = VECTORS[name]
    at = datetime.fromtimestamp(at_s, UTC)
    sender, pairs = SENDERS[name], tuple(headers.items())
    sender.check_secret(secret)
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    assert sender.verify(pairs, body, [wrong, secret], at, 300) == 1
    with pytest.raises(SignatureError, match="wrong_signature"):
        sender.verify(pairs, body, [wrong], at, 300)
    for missing in headers:
        left = tuple(pair for pair in pairs if pair[0] != missing)
        with pytest.raises(SignatureError, match="missing_signature"):
            sender.verify(left, body, [secret], at, 300)
    if name != "chargebee":
        with pytest.raises(SignatureError, match="wrong_signature"):
            sender.verify(pairs, body + b" ", [secret], at, 300)


# Deliveries, by signers that are not ours -------------------------------------------------------


def mac(secret: bytes, content: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(secret, content, algorithm).digest()


def svix_headers(prefix: str) -> Callable[[bytes], dict[str, str]]:
    def sign(body: bytes) -> dict[str, str]:
        return {
            f"{prefix}id": "msg_1",
            f"{prefix}timestamp": str(AT_S),
            f"{prefix}signature": Webhook(WHSEC).sign("msg_1", AT, body.decode()),
        }

    return sign


def zendesk(body: bytes) -> dict[str, str]:
    stamp = "2026-11-02T12:00:00Z"
    return {
        "x-zendesk-webhook-signature": base64.b64encode(
            mac(b"key", stamp.encode() + body)
        ).decode(),
        "x-zendesk-webhook-signature-timestamp": stamp,
    }


def acme(body: bytes) -> dict[str, str]:
    stamp = str(AT_S * 1000 + 7)
    content = f"d-1.{stamp}.thing.made.".encode() + body
    digest = base64.urlsafe_b64encode(mac(b"\xff\xfe", content, "sha512")).decode().rstrip("=")
    return {
        "x-acme-delivery": "d-1",
        "x-acme-topic": "thing.made",
        "x-acme-timestamp": stamp,
        "x-acme-signature": f"v1:AAAA v0:{digest} v1:{digest}",
    }


def bare(header: str, key: bytes = b"key", **more: str) -> Callable[[bytes], dict[str, str]]:
    more = {name.replace("_", "-"): value for name, value in more.items()}
    return lambda body: {header: mac(key, body).hex(), **more}


def bare_base64(
    header: str, prefix: str = "", key: bytes = b"key", before: bytes = b"", **more: str
) -> Callable[[bytes], dict[str, str]]:
    more = {name.replace("_", "-"): value for name, value in more.items()}
    return lambda body: {
        header: prefix + base64.b64encode(mac(key, before + body)).decode(),
        **more,
    }


def paddle(body: bytes) -> dict[str, str]:
    digest = mac(b"key", f"{AT_S}:".encode() + body).hex()
    return {"paddle-signature": f"ts={AT_S};h1={'0' * 64};h1={digest}"}


def slack(body: bytes) -> dict[str, str]:
    digest = mac(b"key", f"v0:{AT_S}:".encode() + body).hex()
    return {"x-slack-signature": f"v0={digest}", "x-slack-request-timestamp": str(AT_S)}


def revenuecat(body: bytes) -> dict[str, str]:
    # It is of Stripe's form, and Stripe's SDK can sign.
    value = WebhookSignature.generate_signature_header(body.decode(), "key", AT_S)
    return {"x-revenuecat-webhook-signature": value}


def sent(**headers: str) -> Callable[[bytes], dict[str, str]]:
    return lambda body: {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Delivery:
    """A body as its sender documents it, how it is signed, and who the event is."""

    body: Any
    sign: Callable[[bytes], dict[str, str]]
    identity: Identity
    secret: str = "key"
    is_timed: bool = False

    @property
    def bytes(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


REVENUECAT = {
    "api_version": "1.0",
    "event": {
        "id": "12345678-1234-1234-1234-123456789012",
        "type": "INITIAL_PURCHASE",
        "event_timestamp_ms": AT_S * 1000 + 123,
        "original_app_user_id": "user-1",
    },
}
REVENUECAT_IDENTITY = Identity(
    "12345678-1234-1234-1234-123456789012",
    "INITIAL_PURCHASE",
    "user-1",
    AT + timedelta(milliseconds=123),
)
ADYEN = {"type": "balancePlatform.transfer.updated", "timestamp": "2026-11-02T13:00:00+01:00",
         "data": {"id": "1W1UG35U8A9J5ZLG"}}  # fmt: skip
LEMON = {"meta": {"event_name": "subscription_updated"},
         "data": {"type": "subscriptions", "id": "1"}}  # fmt: skip

DELIVERIES: dict[str, Delivery] = {
    "adyen": Delivery(
        ADYEN,
        bare_base64("hmacsignature", key=b"\xab\xcd"),
        Identity("*", "balancePlatform.transfer.updated", "1W1UG35U8A9J5ZLG", AT),
        secret="abcd",
    ),
    "chargebee": Delivery(
        {"id": "ev_1", "event_type": "subscription_created", "occurred_at": AT_S,
         "content": {"subscription": {"id": "sub_1"}}},
        sent(authorization="Basic dXNlcjprZXk="),
        Identity("ev_1", "subscription_created", "sub_1", AT),
        secret="user:key",
    ),
    "github": Delivery(
        {"action": "opened", "repository": {"id": 186853002}},
        lambda body: {
            "x-hub-signature-256": f"sha256={mac(b'key', body).hex()}",
            "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "x-github-event": "issues",
        },
        Identity("72d3162e-cc78-11e3-81ab-4c9367dc0958", "issues", "186853002"),
    ),
    "gitlab": Delivery(
        {"object_kind": "push", "project": {"id": 15}},
        svix_headers("webhook-"),
        Identity("msg_1", "push", "15"),
        secret=WHSEC,
        is_timed=True,
    ),
    "gitlab-token": Delivery(
        {"object_kind": "push", "project": {"id": 15}},
        sent(x_gitlab_token="key", idempotency_key="f5e5f430-f57b-4e6e-9fac-d9128cd7232f"),
        Identity("f5e5f430-f57b-4e6e-9fac-d9128cd7232f", "push", "15"),
    ),
    "lemon-squeezy": Delivery(
        LEMON, bare("x-signature"), Identity("*", "subscription_updated", "subscriptions/1")
    ),
    "linear": Delivery(
        {"action": "create", "type": "Issue", "createdAt": "2026-11-02T12:00:00.000Z",
         "organizationId": "org-1", "webhookTimestamp": AT_S * 1000 + 5, "data": {"id": "i-1"}},
        bare("linear-signature", linear_delivery="234d1a4e-b617-4388-90fe-adc3633d6b72"),
        Identity("234d1a4e-b617-4388-90fe-adc3633d6b72", "Issue.create", "i-1", AT, "org-1"),
        is_timed=True,
    ),
    "openai": Delivery(
        {"id": "evt_1", "object": "event", "type": "response.completed", "created_at": AT_S,
         "data": {"id": "resp_1"}},
        svix_headers("webhook-"),
        Identity("msg_1", "response.completed", "resp_1", AT),
        secret=WHSEC,
        is_timed=True,
    ),
    "paddle": Delivery(
        {"event_id": "evt_01", "event_type": "subscription.updated",
         "occurred_at": "2026-11-02T12:00:00.000123Z", "data": {"id": "sub_01"}},
        paddle,
        Identity("evt_01", "subscription.updated", "sub_01", AT + timedelta(microseconds=123)),
        is_timed=True,
    ),
    "resend": Delivery(
        {"type": "email.delivered", "created_at": "2026-11-02T12:00:00.000Z",
         "data": {"email_id": "e-1"}},
        svix_headers("svix-"),
        Identity("msg_1", "email.delivered", "e-1", AT),
        secret=WHSEC,
        is_timed=True,
    ),
    "revenuecat": Delivery(REVENUECAT, revenuecat, REVENUECAT_IDENTITY, is_timed=True),
    "revenuecat-token": Delivery(REVENUECAT, sent(authorization="key"), REVENUECAT_IDENTITY),
    "shopify": Delivery(
        {"id": 820982911946154508, "admin_graphql_api_id": "gid://shopify/Order/820982911946154508"},
        bare_base64(
            "x-shopify-hmac-sha256", x_shopify_webhook_id="b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
            x_shopify_topic="orders/create", x_shopify_shop_domain="acme.myshopify.com",
            x_shopify_triggered_at="2026-11-02T12:00:00.000123999Z",
        ),
        Identity("b54557e4-bdd9-4b37-8a5f-bf7d70bcd043", "orders/create",
                 "gid://shopify/Order/820982911946154508", AT + timedelta(microseconds=123),
                 "acme.myshopify.com"),
    ),
    "slack": Delivery(
        {"type": "event_callback", "team_id": "T1", "event_id": "Ev1", "event_time": AT_S,
         "event": {"type": "app_mention"}},
        slack,
        Identity("Ev1", "app_mention", "Ev1", AT, "T1"),
        is_timed=True,
    ),
    "square": Delivery(
        {"merchant_id": "M1", "type": "payment.updated", "event_id": "e-1",
         "created_at": "2026-11-02T12:00:00.000Z", "data": {"id": "P1"}},
        bare_base64("x-square-hmacsha256-signature", before=b"https://example.com/webhook"),
        Identity("e-1", "payment.updated", "P1", AT, "M1"),
    ),
    "typeform": Delivery(
        {"event_id": "LtWXD3crgy", "event_type": "form_response",
         "form_response": {"token": "a3a12ec6", "submitted_at": "2026-11-02T12:00:00Z"}},
        bare_base64("typeform-signature", "sha256="),
        Identity("LtWXD3crgy", "form_response", "a3a12ec6", AT),
    ),
    "zendesk": Delivery(
        {"account_id": 22129848, "id": "2b24ef10-19d5-4740-93cf-8f98ec4776c0",
         "type": "zen:event-type:user.created", "subject": "zen:user:10026057",
         "time": "2026-11-02T12:00:00.000Z"},
        zendesk,
        Identity("2b24ef10-19d5-4740-93cf-8f98ec4776c0", "zen:event-type:user.created",
                 "zen:user:10026057", AT, "22129848"),
        is_timed=True,
    ),
    "acme": Delivery(
        {"data": {"id": 7}, "created_us": AT_S * 1_000_000 + 1},
        acme,
        Identity("d-1", "thing.made", "7", AT + timedelta(microseconds=1)),
        secret="//4=",
        is_timed=True,
    ),
}  # fmt: skip


def test_every_configuration_is_tested() -> None:
    assert SENDERS.keys() == DELIVERIES.keys()


@pytest.mark.parametrize("name", DELIVERIES)
def test_deliveries(name: str) -> None:
    sender, one = SENDERS[name], DELIVERIES[name]
    headers = tuple(one.sign(one.bytes).items())
    sender.check_secret(one.secret)
    assert sender.verify(headers, one.bytes, [one.secret], AT, 300) == 0
    identity = sender.identify(headers, one.bytes)
    if one.identity.event_id == "*":
        assert identity.event_id.startswith("sha256:")
        identity = Identity("*", identity.event_type, identity.subject, identity.occurred_at)
    assert identity == one.identity
    assert sender.handshake(headers, one.bytes) is None


@pytest.mark.parametrize("name", [name for name, one in DELIVERIES.items() if one.is_timed])
def test_the_window_has_two_sides(name: str) -> None:
    sender, one = SENDERS[name], DELIVERIES[name]
    headers = tuple(one.sign(one.bytes).items())
    for offset_s, code in [(301, "timestamp_too_old"), (-301, "timestamp_in_future")]:
        now = AT + timedelta(seconds=offset_s)
        with pytest.raises(SignatureError, match=code):
            sender.verify(headers, one.bytes, [one.secret], now, 300)
    assert sender.verify(headers, one.bytes, [one.secret], AT + timedelta(seconds=300), 300) == 0


@pytest.mark.parametrize("name", DELIVERIES)
def test_what_it_signs_itself_is_right(name: str) -> None:
    """The demo and the conformance suite send what the sender would."""
    sender, one = SENDERS[name], DELIVERIES[name]
    headers = sender.sign(one.bytes, one.secret, AT)
    assert sender.verify(headers, one.bytes, [one.secret], AT, 300) == 0
    assert sender.identify(headers, one.bytes).subject == one.identity.subject or (
        one.identity.subject == one.identity.event_id
    )


# Handshakes and forms ---------------------------------------------------------------------------


def test_slacks_challenge() -> None:
    # api.slack.com/events/url_verification
    body = (
        b'{"token": "Jhj5dZrVaK7ZwHHjRyZWjbDl", "type": "url_verification",'
        b' "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}'
    )
    sender = SENDERS["slack"]
    assert sender.handshake((), body) == Reply(
        b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P", "text/plain", 200
    )


def test_a_ping_that_is_answered_with_nothing() -> None:
    assert SENDERS["acme"].handshake((), b'{"type": 0}') == Reply(b"", status=204)
    assert SENDERS["acme"].handshake((), b'{"type": 1}') is None
    assert SENDERS["acme"].handshake((), b'{"type": false}') is None
    assert SENDERS["acme"].handshake((), b"not json") is None


FORM: Headers = (("content-type", "application/x-www-form-urlencoded; charset=utf-8"),)


def test_slacks_forms() -> None:
    sender = SENDERS["slack"]
    identity = sender.identify(FORM, SLACK_COMMAND)
    assert identity == Identity(
        "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
        "/webhook-collect",
        "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
        None,
        "T1DC2JH3J",
    )
    body = b"payload=%7B%22type%22%3A%22block_actions%22%2C%22trigger_id%22%3A%2212.34%22%7D"
    assert sender.identify(FORM, body).event_type == "block_actions"
    with pytest.raises(PayloadError, match="not JSON"):
        sender.identify((), SLACK_COMMAND)


def test_githubs_form_is_its_json() -> None:
    one = DELIVERIES["github"]
    named = tuple(one.sign(one.bytes).items())
    body = b"payload=%7B%22action%22%3A+%22opened%22%2C+%22repository%22%3A+%7B%22id%22%3A+5%7D%7D"
    assert SENDERS["github"].identify((*FORM, *named), body).subject == "5"


def test_headers_that_hold_the_secret_are_known() -> None:
    secret = {name: set(sender.secret_headers) for name, sender in SENDERS.items()}
    assert {name: names for name, names in secret.items() if names} == {
        "chargebee": {"authorization"},
        "gitlab-token": {"x-gitlab-token"},
        "revenuecat-token": {"authorization"},
    }
