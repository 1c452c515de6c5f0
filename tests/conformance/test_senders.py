"""Every way in which a sender may be configured stands what every provider has to."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from shared.conformance import ProviderConformance
from shared.providers import providers
from shared.providers.base import Configured

EVENT = {
    "id": "id",
    "type": "type",
    "subject": "about.id",
    "account": "account",
    "occurred_at": "at",
}
STRIPES = {
    "header": "X-Signature",
    "part": "v1",
    "timestamp": "part:t",
    "signed": "{timestamp}.{body}",
}
MAPPING = [
    {
        "types": ["licence.*"],
        "when": "!(about.test)",
        "object": {
            "kind": "subscription",
            "id": "about.id",
            "status": "about.state",
            "statuses": {"running": "active", "owing": "past_due", "stopped": "ended"},
            "version": "about.updated_at",
            "customer": "about.customer",
            "tenant": "about.tenant",
            "products": "about.items[].{ref: sku, quantity: units}",
            "ends_at": "about.until",
            "past_due_at": "about.owing_since",
        },
    },
    {
        "types": ["report.ready"],
        "record": {
            "id": "about.id",
            "version": "about.updated_at",
            "tenant": "about.tenant",
            "fields": {"title": "about.title", "score": "about.score", "rows": "about.rows[].n"},
        },
    },
]


def configured(**tables: Any) -> Configured:
    return Configured({"event": EVENT, **tables})


class Senders(ProviderConformance):
    fixtures = Path(__file__).parents[1] / "fixtures" / "sender"
    # Five schemes are one module, and each suite is one of them.
    covers = ()


class TestMapped(Senders):
    """What a mapping reads folds in any order, and damage is refused or read, and never raises."""

    provider = providers()["hmac"]
    configured = configured(signature=STRIPES, mapping=MAPPING)
    fixtures = Path(__file__).parents[1] / "fixtures" / "sender_mapped"


class TestSvix(Senders):
    provider = providers()["svix"]
    configured = configured()


class TestStandardWebhooks(Senders):
    provider = providers()["standard-webhooks"]
    configured = configured()


class TestHmacOfTheBody(Senders):
    provider = providers()["hmac"]
    configured = configured(signature={"header": "X-Signature", "prefix": "sha256="})
    signs_time = False


class TestHmacWithATime(Senders):
    provider = providers()["hmac"]
    configured = configured(signature=STRIPES)


class TestBearer(Senders):
    provider = providers()["bearer"]
    configured = configured()
    signs_body = False
    signs_time = False


class TestBasic(Senders):
    provider = providers()["basic"]
    configured = configured()
    secrets = ("Aladdin:open sesame", "somebody:else", "a:b")
    signs_body = False
    signs_time = False


class TestHandshakes(Senders):
    provider = providers()["hmac"]
    configured = configured(
        signature=STRIPES, handshake={"when": "type == 'hello'", "answer": "challenge"}
    )
    handshakes: ClassVar = {b'{"type":"hello","challenge":"c-1"}': b"c-1"}


@pytest.mark.parametrize("name", ["svix", "standard-webhooks", "hmac", "bearer", "basic"])
def test_no_scheme_is_forgotten(name: str) -> None:
    suites = [one for one in globals().values() if isinstance(one, type) and one is not Senders]
    tested = {one.provider.name for one in suites if issubclass(one, Senders)}
    assert name in tested
