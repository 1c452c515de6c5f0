"""A gateway as it is run, in this process, against the session's servers."""

import asyncio
import hmac
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.__main__ import opened
from gateway.app import Deps, create_app
from shared import db
from shared.sealing import KeyRing
from shared.settings import Endpoints, Settings

SECRET = "whsec_test"


@dataclass
class Gateway:
    """One running gateway and the database behind it."""

    endpoints: Endpoints
    keys: KeyRing
    client: httpx.AsyncClient
    deps: Deps
    port: int
    owner: Any
    logged: "Recorder" = field(repr=False)

    async def post(
        self,
        body: bytes,
        *,
        source: str = "stripe",
        secret: str = SECRET,
        at: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        signed = {"stripe-signature": sign(body, secret, at), **(headers or {})}
        return await self.client.post(f"/api/v1/webhooks/{source}", content=body, headers=signed)

    async def count(self, table: str) -> int:
        return int(await self.owner.fetchval(f"SELECT count(*) FROM {table}"))

    async def counts(self) -> dict[str, int]:
        tables = ("ledger", "inbox", "work", "deliveries")
        return {table: await self.count(table) for table in tables}


class Recorder(logging.Handler):
    """Keeps what was logged, tracebacks included."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def tracebacks(self) -> list[logging.LogRecord]:
        return [record for record in self.records if record.exc_info]


def sign(body: bytes, secret: str = SECRET, at: float | None = None) -> str:
    moment = int(time.time() if at is None else at)
    mac = hmac.digest(secret.encode(), b"%d.%b" % (moment, body), "sha256").hex()
    return f"t={moment},v1={mac}"


def event(event_id: str = "evt_1", subject: str = "sub_1", **more: Any) -> bytes:
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "customer.subscription.updated",
            "created": 1_700_000_000,
            "livemode": True,
            "data": {"object": {"id": subject, "object": "subscription"}},
            **more,
        }
    ).encode()


def assert_envelope(answer: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    """The status, the shape and the error's code; returns `data`."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"data", "error", "meta"}
    trace_id = body["meta"]["traceId"]
    assert len(trace_id) == 32
    assert int(trace_id, 16)
    assert answer.headers["x-request-id"]
    if code is None:
        assert body["error"] is None
        return dict(body["data"])
    assert body["data"] is None
    assert body["error"]["code"] == code
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
    return {}


async def add_source(owner: Any, keys: KeyRing, name: str, *secrets: str) -> int:
    """A Stripe source with these secrets, and the next version of the configuration."""
    async with owner.transaction():
        source: int = await owner.fetchval(
            "INSERT INTO sources (name, provider, livemode) VALUES ($1, 'stripe', true)"
            " RETURNING id",
            name,
        )
        await owner.execute(
            "INSERT INTO lanes (source_id, number) SELECT $1, generate_series(0, 15)", source
        )
        for slot, secret in enumerate(secrets):
            sealed = keys.seal(secret, source=name, slot=slot, version=1)
            await owner.execute(
                "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)"
                " VALUES ($1, $2, 1, $3, $4, $5)",
                source,
                slot,
                sealed.key_id,
                sealed.nonce,
                sealed.ciphertext,
            )
            await owner.execute(
                "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT DO NOTHING", sealed.key_id
            )
        await owner.execute(
            "INSERT INTO configuration (version, actor, mode)"
            " SELECT max(version) + 1, 'test', 'live' FROM configuration"
        )
    return source


@asynccontextmanager
async def running_gateway(endpoints: Endpoints, home: Path, **more: Any) -> AsyncIterator[Gateway]:
    keys = KeyRing.parse(endpoints.secret_key)
    settings = Settings(home=home, max_body_bytes=64 << 10, **more)
    recorder = Recorder()
    logging.getLogger().addHandler(recorder)
    async with (
        db.connect(endpoints.database["owner"], "owner") as owner,
        opened(settings, endpoints, keys) as deps,
        served(deps) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield Gateway(endpoints, keys, client, deps, port, owner, recorder)
    logging.getLogger().removeHandler(recorder)


@asynccontextmanager
async def served(deps: Deps) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(deps), http="httptools", lifespan="off", log_config=None, server_header=False
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


@pytest.fixture
async def gateway(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with the source "stripe"."""
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, keys, "stripe", SECRET)
    async with running_gateway(endpoints, tmp_path) as running:
        yield running
