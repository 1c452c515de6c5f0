"""How far an import is: who may ask, what is said, and that strangers learn nothing."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from shared import db
from shared.providers import providers
from shared.providers.base import Configured
from shared.sealing import KeyRing
from shared.settings import Endpoints
from shared.store import tokens
from tests.gateway.conftest import Gateway, assert_envelope, running_gateway
from tests.support.importing import INGEST, Importer, ndjson, row
from tests.support.stack import ADD_LANES, Stack

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BEARER = "a-secret-of-the-source"
EVENT = {"id": "id", "type": "type"}
OF_ONE: dict[str, Any] = {"record": {**INGEST["record"]}}
del OF_ONE["record"]["tenant"]
#: Source → its provider, its tenant and its `ingest`.
SOURCES: dict[str, tuple[str, str | None, Any]] = {
    "signed": ("standard-webhooks", "acme", OF_ONE),
    "known": ("bearer", "beta", OF_ONE),
    "many": ("bearer", "acme", INGEST),
}


@pytest.fixture
async def stack(endpoints: Endpoints) -> AsyncIterator[Stack]:
    keys = KeyRing.parse(endpoints.secret_key)
    async with (
        Stack.open(endpoints) as opened,
        db.connect(endpoints.database["owner"], "owner") as owner,
    ):
        for name, (provider, tenant, ingest) in SOURCES.items():
            settings: Any = {"event": EVENT, "ingest": ingest}
            if provider == "bearer":
                settings["signature"] = {"header": "Authorization", "prefix": "Bearer "}
            secret = WHSEC if provider == "standard-webhooks" else BEARER
            opened.sources[name] = source = await owner.fetchval(
                "INSERT INTO sources (name, provider, tenant, settings) VALUES ($1, $2, $3, $4)"
                " RETURNING id",
                name, provider, tenant, settings,
            )  # fmt: skip
            await owner.execute(ADD_LANES, source)
            sealed = keys.seal(secret, source=name, slot=0, version=1)
            await owner.execute(
                "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)"
                " VALUES ($1, 0, 1, $2, $3, $4)",
                source, sealed.key_id, sealed.nonce, sealed.ciphertext,
            )  # fmt: skip
            await owner.execute(
                "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT DO NOTHING", sealed.key_id
            )
        await opened.configure({"stripe": True})
        yield opened


@pytest.fixture
async def importer(stack: Stack, tmp_path: Path) -> Importer:
    return Importer(stack, tmp_path)


@pytest.fixture
async def gateway(stack: Stack, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(stack.endpoints, tmp_path / "gateway") as running:
        yield running


async def add_token(gateway: Gateway, scope: str) -> dict[str, str]:
    token = tokens.new_token()
    await tokens.create(
        gateway.owner, uuid4(), "test", scope, tokens.digest_of(token), "test", None
    )
    return {"authorization": f"Bearer {token}"}


def signed(shift_s: int = 0, secret: str = WHSEC) -> dict[str, str]:
    """As the push was, with nothing in it."""
    provider = providers()["standard-webhooks"].for_source(Configured({"event": EVENT}))
    return dict(provider.sign(b"", secret, datetime.now(UTC) + timedelta(seconds=shift_s)))


async def get(
    gateway: Gateway, tracking_id: Any, headers: dict[str, str], **query: Any
) -> httpx.Response:
    return await gateway.client.get(f"/api/v1/ingest/{tracking_id}", headers=headers, params=query)


async def test_an_import_from_receipt_to_the_end(gateway: Gateway, importer: Importer) -> None:
    service = await add_token(gateway, "service")
    body = ndjson([row(1), row(2), {"id": "x"}, row(1, 2)])
    tracking_id = await importer.push(body, source="signed")
    data = assert_envelope(await get(gateway, tracking_id, service), 200, None)
    assert (data["state"], data["done"], data["counts"]) == ("received", 0, {})
    assert (data["source"], data["startedAt"]) == ("signed", None)
    await importer.stack.drain()
    data = assert_envelope(await get(gateway, tracking_id, service), 200, None)
    assert data["state"] == "received"
    await importer.stack.fetch("UPDATE jobs SET state = 'running', done = 2, started_at = now()")
    data = assert_envelope(await get(gateway, tracking_id, service), 200, None)
    assert (data["state"], data["done"], data["total"]) == ("importing", 2, None)
    await importer.stack.fetch("UPDATE jobs SET state = 'waiting', done = 0")
    await importer.work()
    answer = await get(gateway, tracking_id, service)
    data = assert_envelope(answer, 200, None)
    assert (data["state"], data["done"], data["failed"], data["total"]) == ("done", 4, 1, 4)
    assert data["counts"] == {"imported": 2, "changed": 1}
    assert data["finishedAt"] is not None
    (failure,) = data["failures"]
    assert (failure["line"], failure["code"], failure["pointer"]) == (3, "mapping", "")
    assert "updated" in failure["message"]
    assert answer.json()["meta"]["hasMore"] is False


async def test_failures_come_in_pages(gateway: Gateway, importer: Importer) -> None:
    job = await importer.imported(b"x\n" * 7 + ndjson([row(1)]) + b"x\n" * 3, source="signed")
    service = await add_token(gateway, "operator")
    lines: list[int] = []
    query: dict[str, Any] = {"limit": 4}
    while True:
        answer = await get(gateway, job["id"], service, **query)
        data = assert_envelope(answer, 200, None)
        assert data["failed"] == 10
        lines += [failure["line"] for failure in data["failures"]]
        meta = answer.json()["meta"]
        if not meta["hasMore"]:
            break
        query["cursor"] = meta["next"]
    assert lines == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    assert_envelope(await get(gateway, job["id"], service, cursor="x"), 400, "malformed_request")


async def test_one_that_failed_says_why(gateway: Gateway, importer: Importer) -> None:
    service = await add_token(gateway, "service")
    job = await importer.imported(b"[1", "application/json", source="signed")
    data = assert_envelope(await get(gateway, job["id"], service), 200, None)
    assert (data["state"], data["code"]) == ("failed", "damaged_document")
    assert data["message"]
    await importer.stack.fetch(
        "UPDATE jobs SET state = 'cancelled', code = NULL WHERE id = $1", job["id"]
    )
    data = assert_envelope(await get(gateway, job["id"], service), 200, None)
    assert (data["state"], data["code"]) == ("failed", "cancelled")


async def test_who_may_see(gateway: Gateway, importer: Importer) -> None:
    own = (await importer.imported(ndjson([row(1)]), source="signed"))["id"]
    beta = (await importer.imported(ndjson([row(1)]), source="known"))["id"]
    many = (await importer.imported(ndjson([row(1)]), source="many"))["id"]
    (other,) = await importer.stack.receive(b'{"id": "evt_1", "type": "x"}', source="known")
    acme = await add_token(gateway, "tenant:acme")
    service = await add_token(gateway, "service")
    absent = await get(gateway, uuid4(), acme)
    for tracking_id in (beta, many, other.tracking_id, "x", absent_uuid()):
        answer = await get(gateway, tracking_id, acme)
        assert_envelope(answer, 404, "not_found")
        assert answer.json()["error"] == absent.json()["error"]
    assert_envelope(await get(gateway, own, acme), 200, None)
    for tracking_id in (own, beta, many):
        assert_envelope(await get(gateway, tracking_id, service), 200, None)
    assert_envelope(await get(gateway, other.tracking_id, service), 404, "not_found")
    await importer.stack.fetch("UPDATE tenants SET merged_into = 'acme', merged_at = now()"
                               " WHERE tenant = 'beta'")  # fmt: skip
    assert_envelope(await get(gateway, beta, acme), 200, None)


def absent_uuid() -> UUID:
    return UUID(int=(1 << 128) - 1)


async def test_the_source_itself_sees_its_own(gateway: Gateway, importer: Importer) -> None:
    own = await importer.push(ndjson([row(1)]), source="signed")
    known = await importer.push(ndjson([row(1)]), source="known")
    many = await importer.push(ndjson([row(1)]), source="many")
    other = (await importer.stack.receive(b'{"id": "evt_1", "type": "x"}', source="known"))[0]
    data = assert_envelope(await get(gateway, own, signed()), 200, None)
    assert (data["source"], data["state"]) == ("signed", "received")
    bearer = {"authorization": f"Bearer {BEARER}"}
    assert_envelope(await get(gateway, known, bearer), 200, None)
    assert_envelope(await get(gateway, many, bearer), 200, None)
    stale, forged = signed(-3600), signed(secret="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    for headers, code in (
        (stale, "missing_token"),
        (forged, "missing_token"),
        ({}, "missing_token"),
        ({"authorization": "Bearer wrong"}, "invalid_token"),
    ):
        # The same whether there is such an import or not.
        for tracking_id in (own, uuid4(), "x", other.tracking_id):
            assert_envelope(await get(gateway, tracking_id, headers), 401, code)
    assert_envelope(await get(gateway, known, signed()), 401, "missing_token")
    assert_envelope(await get(gateway, own, bearer), 401, "invalid_token")
    # It opens nothing else.
    answer = await gateway.client.get("/api/v1/tenants/acme/entitlements", headers=bearer)
    assert_envelope(answer, 401, "invalid_token")


async def test_an_event_that_died_is_an_import_that_failed(
    gateway: Gateway, importer: Importer
) -> None:
    tracking_id = await importer.push(ndjson([row(1)]), source="signed")
    await importer.stack.fetch("UPDATE inbox SET unreadable = 'for the test'")
    await importer.stack.drain()
    service = await add_token(gateway, "service")
    data = assert_envelope(await get(gateway, tracking_id, service), 200, None)
    assert (data["state"], data["code"], data["message"]) == (
        "failed", "unreadable", "for the test",
    )  # fmt: skip
    assert json.dumps(data)
