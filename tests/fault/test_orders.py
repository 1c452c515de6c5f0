"""Orders outlive whoever took them: the gateway, or the worker that carries them out."""

import asyncio
import json
import time
import uuid
from pathlib import Path

import httpx
import pytest

from shared import db
from shared.conformance.running import running_stack
from shared.settings import Endpoints
from shared.store import tokens
from tests.gateway.test_process import configured, listening, process
from tests.support.load import Load, selling_pro
from tests.support.stack import Stack, drain
from workers import trail


async def add_token(endpoints: Endpoints) -> dict[str, str]:
    token = tokens.new_token()
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await tokens.create(
            owner, uuid.uuid4(), "ci", "operator", tokens.digest_of(token), "test", None
        )
    return {"authorization": f"Bearer {token}"}


async def test_an_answered_order_survives_the_gateways_death(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """Killed right after its answer: the order is stored, and applied by whoever comes."""
    await configured(endpoints)
    headers = await add_token(endpoints)
    async with process(endpoints, tmp_path) as (running, port):
        await listening(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            answer = await client.post(
                "/api/v1/integrations/stripe/pause",
                headers={**headers, "idempotency-key": "k"},
                json={"reason": "why"},
            )
            running.kill()
        assert answer.status_code == 202
        placed = answer.json()["data"]
    async with Stack.open(endpoints) as stack:
        assert await stack.value("SELECT paused_at FROM sources WHERE name = 'stripe'") is None
        await drain(stack.crew)
        assert (
            await stack.value("SELECT paused_by FROM sources WHERE name = 'stripe'") == "token:ci"
        )
        async with process(endpoints, tmp_path) as (_, port):
            await listening(port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                status = await client.get(placed["statusUrl"], headers=headers)
                again = await client.post(
                    "/api/v1/integrations/stripe/pause",
                    headers={**headers, "idempotency-key": "k"},
                    json={"reason": "why"},
                )
        assert status.json()["data"]["state"] == "applied"
        assert again.headers["x-idempotency-replayed"] == "true"
        assert again.json()["data"] == placed
        async with stack.owner.connection() as conn:
            assert [one async for one in trail.verify(conn, None, lambda tally: None)] == []


SECRET = "whsec_orders"
CONFIGURATION = selling_pro(SECRET)
SETTLED = """
SELECT count(*) FROM settlements WHERE source_id = (SELECT id FROM sources WHERE name = 'stripe')
"""


class Operator:
    """Who asks the running stack for something, again and again under one key until it is taken."""

    def __init__(self, port: int, token: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._headers = {"authorization": f"Bearer {token}"}

    async def order(self, do: str) -> str:
        """Place an order; where to see what became of it."""
        key = {"idempotency-key": str(uuid.uuid4())}
        async with httpx.AsyncClient(base_url=self._base) as client:
            async with asyncio.timeout(30):
                while True:
                    try:
                        answer = await client.post(
                            f"/api/v1/integrations/stripe/{do}",
                            headers={**self._headers, **key},
                            json={"reason": "in a test"},
                        )
                    except httpx.HTTPError:
                        await asyncio.sleep(0.1)
                        continue
                    if answer.status_code == 202:
                        return str(answer.json()["data"]["statusUrl"])
                    assert answer.status_code in (409, 503), answer.text
                    await asyncio.sleep(0.1)

    async def is_applied(self, url: str) -> None:
        """Wait until it is."""
        async with asyncio.timeout(30):
            while True:
                try:
                    async with httpx.AsyncClient(base_url=self._base) as client:
                        answer = await client.get(url, headers=self._headers)
                    if answer.status_code == 200 and answer.json()["data"]["state"] != "received":
                        break
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)
        assert answer.json()["data"]["state"] == "applied", answer.text


@pytest.mark.timeout(180)
async def test_a_pause_under_load_holds_whoever_is_killed(tmp_path: Path) -> None:
    """Gateway and workers die between the orders and after them; then everything is applied."""
    async with running_stack(tmp_path, CONFIGURATION, SLUICE_WORKER_PROCESSES="3") as running:
        await asyncio.sleep(2)
        made = await running.cli("tokens", "create", "ci", "--scope", "operator", "--json")
        operator = Operator(running.port, json.loads(made.stdout)["token"])
        stop = asyncio.Event()
        loading = asyncio.create_task(Load(running.port, SECRET).run(stop))
        await asyncio.sleep(2)
        pausing = await operator.order("pause")
        running.kill("gateway")
        await operator.is_applied(pausing)
        noticed = time.monotonic()
        await asyncio.sleep(0.5)  # what was being applied at that moment is finished
        at_the_pause = await running.value(SETTLED)
        assert at_the_pause > 0
        running.kill("workers.fleet")
        await asyncio.sleep(4)
        assert await running.value(SETTLED) == at_the_pause
        stop.set()
        acknowledged = await loading
        assert len(acknowledged.at) > at_the_pause
        resuming = await operator.order("resume")
        running.kill("workers.fleet")
        await operator.is_applied(resuming)
        async with asyncio.timeout(60):
            while await running.value(SETTLED) < len(acknowledged.at):
                await asyncio.sleep(0.1)
        assert await running.value("SELECT count(*) FROM work") == 0
        statuses = await running.value("SELECT array_agg(DISTINCT status) FROM settlements")
        assert statuses == ["processed"]
        verified = await running.cli("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        waited = len(acknowledged.at) - at_the_pause
        print(f"\n  {waited} events waited for {time.monotonic() - noticed:.0f} s")
