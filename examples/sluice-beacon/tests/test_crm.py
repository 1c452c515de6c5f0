"""What the CRM is told, and how often."""

from datetime import UTC, datetime

import pytest
from httpx import HTTPStatusError
from shared.conformance import Bench, made_event, receiving
from shared.plugin import Outgoing, Permanent

from sluice_beacon.crm import Crm, Note

NOTE = Note("acme", "seats", "gained", 10)
MESSAGE = Outgoing(
    key="beacon-crm:1",
    payload={"tenant": "acme", "feature": "seats", "what": "gained", "now": 10},
    created_at=datetime(2026, 11, 21, tzinfo=UTC),
    attempt=1,
)


@pytest.mark.parametrize(
    ("event_type", "after", "what"),
    [
        ("entitlement.granted", 10, "gained"),
        ("entitlement.changed", 20, "changed"),
        ("entitlement.revoked", None, "lost"),
    ],
)
def test_it_reads_each_change(event_type: str, after: object, what: str) -> None:
    held = None if after is None else {"value": after, "validUntil": None}
    body = {"tenant": "acme", "feature": "seats", "before": None, "after": held}
    assert Crm().read(made_event(event_type, body)) == Note("acme", "seats", what, after)


def test_it_listens_only_where_it_knows_whom_to_tell() -> None:
    assert Crm("").listens_to == ()
    assert Crm("http://localhost").listens_to == ("sluice:entitlement.*",)


async def test_it_means_one_message(sluice_bench: Bench) -> None:
    handled = await sluice_bench.handle(Crm(), NOTE)
    assert handled.result.tenant == "acme"
    assert handled.messages == ((None, MESSAGE.payload),)


async def test_it_sends_under_the_messages_key() -> None:
    async with receiving() as crm:
        await Crm(f"{crm.url}/notes").send(MESSAGE)
        (request,) = crm.requests
        assert request.path == "/notes"
        assert request.headers["idempotency-key"] == "beacon-crm:1"


@pytest.mark.parametrize(("status", "error"), [(422, Permanent), (503, HTTPStatusError)])
async def test_only_what_may_help_is_tried_again(status: int, error: type[Exception]) -> None:
    async with receiving() as crm:
        crm.status = status
        with pytest.raises(error):
            await Crm(crm.url).send(MESSAGE)
