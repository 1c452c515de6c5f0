"""The gateway as a process: starts, beats, stops without losing an answer, refuses a wrong key."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from shared import db
from shared.sealing import KeyRing, new_key
from shared.settings import Endpoints
from tests.bench.ingress import free_port
from tests.gateway.conftest import SECRET, add_source, event, sign


@asynccontextmanager
async def process(
    endpoints: Endpoints,
    home: Path,
    *arguments: str,
    key: str | None = None,
    fds: tuple[int, ...] = (),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if "SLUICE" not in name}
    environment |= {
        "SLUICE_HOME": str(home),
        "SLUICE_PORT": str(port),
        "SLUICE_DATABASE_URL": endpoints.database["owner"],
        "SLUICE_REDIS_URL": endpoints.redis,
        "SLUICE_SECRET_KEY": key or endpoints.secret_key,
        **(settings or {}),
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=fds,
    )
    try:
        yield running, port
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with httpx.AsyncClient() as client:
                    await client.get(f"http://127.0.0.1:{port}/livez")
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
            else:
                return


async def configured(endpoints: Endpoints) -> None:
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, KeyRing.parse(endpoints.secret_key), "stripe", SECRET)


async def test_sigterm_under_load_costs_no_acknowledged_event(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    await configured(endpoints)
    acknowledged: list[str] = []
    others: list[int] = []
    async with process(endpoints, tmp_path) as (running, port):
        await listening(port)
        limits = httpx.Limits(max_connections=30)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits) as client:

            async def send(worker: int) -> None:
                for number in range(10_000):
                    name = f"evt_{worker}_{number}"
                    body = event(name)
                    headers = {"stripe-signature": sign(body)}
                    try:
                        answer = await client.post(
                            "/api/v1/webhooks/stripe", content=body, headers=headers
                        )
                    except httpx.HTTPError:
                        return
                    if answer.status_code == 200:
                        acknowledged.append(name)
                    else:
                        others.append(answer.status_code)

            senders = [asyncio.create_task(send(worker)) for worker in range(20)]
            await asyncio.sleep(1)
            running.send_signal(signal.SIGTERM)
            await asyncio.wait_for(running.wait(), 15)
            await asyncio.gather(*senders)
    assert running.returncode == 0
    assert len(acknowledged) > 50
    assert not others
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        stored = await owner.fetch("SELECT event_id FROM inbox")
    assert set(acknowledged) <= {row["event_id"] for row in stored}


async def test_it_beats_and_stops_with_its_supervisor(endpoints: Endpoints, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    arguments = ("--heartbeat-fd", str(writing))
    async with process(endpoints, tmp_path, *arguments, fds=(writing,)) as (running, port):
        os.close(writing)
        await listening(port)
        assert await asyncio.to_thread(os.read, reading, 1)
        os.close(reading)
        await asyncio.wait_for(running.wait(), 15)
    assert running.returncode == 0


async def test_what_is_no_http_is_answered_with_an_envelope(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    async with process(endpoints, tmp_path) as (_, port):
        await listening(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"nonsense\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in answer
    assert b"connection: close" in answer


async def test_it_refuses_a_database_sealed_with_a_key_it_lacks(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    await configured(endpoints)
    key = new_key()
    async with process(endpoints, tmp_path, key=key) as (running, _):
        _, errors = await asyncio.wait_for(running.communicate(), 20)
    assert running.returncode == 1
    assert b"SLUICE_SECRET_KEY" in errors
    assert b"Traceback" not in errors
    assert key.encode() not in errors
