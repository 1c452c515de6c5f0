"""
Pushes to a gateway process: what a large stream costs it and the webhooks beside it, and what a
kill between the artifact and its row leaves.
"""

import asyncio
import hmac
import itertools
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared import db
from shared.artifacts import Artifacts
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import SECRET, add_source, event, sign
from tests.gateway.test_process import listening, process

STREAM_BYTES = 200 << 20
#: Of a fast line. As fast as the loop takes it, the sender's CPU would be measured as well.
STREAM_S = 4.0
WEBHOOKS_PER_S = 60
TRIES = 8
TABLES = {
    "signature": {"header": "X-Sig", "signed": "{header:X-Batch}.{body}"},
    "event": {"id": "header:X-Batch"},
    "ingest": {"record": {"id": "id", "version": "at"}, "largest": "256MiB"},
}


@asynccontextmanager
async def pushing(port: int, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Who will push `STREAM_BYTES` as soon as it is told to."""
    arguments = (str(port), name, SECRET, str(STREAM_BYTES), str(STREAM_S))
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.pushing",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert running.stdout is not None
    assert await running.stdout.readline() == b"ready\n"
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def configured(endpoints: Endpoints) -> None:
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, keys, "stripe", SECRET)
        acme = await add_source(owner, keys, "acme", SECRET)
        await owner.execute(
            "UPDATE sources SET provider = 'hmac', livemode = NULL, settings = $2 WHERE id = $1",
            acme,
            TABLES,
        )


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("a process without memory")


async def webhooks(
    client: httpx.AsyncClient, numbers: Iterator[int], is_over: Callable[[], bool]
) -> list[float]:
    """Acknowledgement times in seconds, of one webhook every 1/`WEBHOOKS_PER_S` s."""
    found: list[float] = []
    waiting: set[asyncio.Task[None]] = set()

    async def one() -> None:
        body = event(f"evt_{next(numbers)}")
        signed = {"stripe-signature": sign(body)}
        begun = time.perf_counter()
        answer = await client.post("/api/v1/webhooks/stripe", content=body, headers=signed)
        found.append(time.perf_counter() - begun)
        assert answer.status_code == 200

    while not is_over():
        task = asyncio.create_task(one())
        waiting.add(task)
        await asyncio.sleep(1 / WEBHOOKS_PER_S)
    await asyncio.gather(*waiting)
    return found


def p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


@pytest.mark.timeout(180)
async def test_a_large_stream_costs_little_memory_and_delays_no_webhook(
    endpoints: Endpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await configured(endpoints)
    numbers = itertools.count()
    grew, ratios, delays_s = [], [], []
    async with process(endpoints, tmp_path) as (running, port):
        await listening(port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            warm = time.monotonic() + 2
            await webhooks(client, numbers, lambda: time.monotonic() > warm)
            for number in range(TRIES):
                async with pushing(port, f"batch-{number}") as pusher:
                    until = time.monotonic() + STREAM_S
                    without = await webhooks(
                        client, numbers, lambda at=until: time.monotonic() > at
                    )
                    before = rss_bytes(running.pid)
                    peaks = [before]
                    assert pusher.stdin is not None
                    assert pusher.stdout is not None
                    pusher.stdin.write(b"\n")
                    answer = asyncio.create_task(pusher.stdout.readline())

                    def is_over(
                        answer: asyncio.Task[bytes] = answer, peaks: list[int] = peaks
                    ) -> bool:
                        peaks.append(rss_bytes(running.pid))
                        return answer.done()

                    beside = await webhooks(client, numbers, is_over)
                    assert (await answer).startswith(b"HTTP/1.1 202 ")
                grew.append(max(peaks) - before)
                ratios.append(p99(beside) / p99(without))
                delays_s.append(p99(beside) - p99(without))
                with capsys.disabled():
                    print(
                        f"\n{len(without)} without: p99 {p99(without) * 1000:.1f} ms;"
                        f" {len(beside)} beside: p99 {p99(beside) * 1000:.1f} ms;"
                        f" x{ratios[-1]:.2f}; RSS +{grew[-1] / 2**20:.1f} MiB"
                    )
                if min(ratios) <= 1.25 and number >= 2:
                    break
    assert max(grew) <= 64 << 20
    # The best of several: whoever else uses this machine is in the others. And the stream's own
    # sender is on it as well, which takes its part of two cores.
    assert min(ratios) <= 1.25 or min(delays_s) <= 0.002
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        rows = await owner.fetch("SELECT artifact_bytes FROM inbox WHERE artifact IS NOT NULL")
    assert [row["artifact_bytes"] for row in rows] == [STREAM_BYTES] * len(grew)


@pytest.mark.timeout(60)
async def test_a_kill_between_artifact_and_row_loses_nothing(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """The row waits for a lock when the gateway is killed; the retry is the first to be stored."""
    await configured(endpoints)
    body = b"id,at\n" + b"x" * (2 << 20)
    mac = hmac.digest(SECRET.encode(), b"b1." + body, "sha256").hex()
    headers = {"content-type": "text/csv", "x-batch": "b1", "x-sig": mac}

    async def push(port: int) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            return await client.post("/api/v1/ingest/acme", content=body, headers=headers)

    async with db.connect(endpoints.database["owner"], "owner") as owner:
        patient = {"SLUICE_STORE_TIMEOUT_S": "30"}
        async with process(endpoints, tmp_path, settings=patient) as (running, port):
            await listening(port)
            async with owner.transaction():
                await owner.execute("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE")
                pushing = asyncio.create_task(push(port))
                async with asyncio.timeout(20):
                    while not await waits_for_the_ledger(owner):
                        await asyncio.sleep(0.02)
                running.kill()
                with pytest.raises(httpx.HTTPError):
                    await pushing
                await owner.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks"
                    " WHERE relation = 'ledger'::regclass AND NOT granted"
                )
        [left] = files(tmp_path)
        assert left.read_bytes() == body
        assert not list(tmp_path.rglob("sluice-*"))
        assert await owner.fetchval("SELECT count(*) FROM inbox") == 0
        async with process(endpoints, tmp_path) as (_, port):
            await listening(port)
            first, again = await push(port), await push(port)
        for answer in (first, again):
            assert answer.status_code == 202, answer.text
        assert "x-idempotency-replayed" not in first.headers
        assert again.headers["x-idempotency-replayed"] == "true"
        assert json.loads(first.content)["data"] == json.loads(again.content)["data"]
        [row] = await owner.fetch("SELECT artifact, artifact_bytes FROM inbox")
    assert (row["artifact"], row["artifact_bytes"]) == (sha256(body).digest(), len(body))
    artifacts = Artifacts(None, tmp_path)
    assert b"".join([chunk async for chunk in artifacts.read(row["artifact"])]) == body


async def waits_for_the_ledger(owner: Any) -> bool:
    return bool(
        await owner.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = 'ledger'::regclass AND NOT granted"
        )
    )


def files(home: Path) -> list[Path]:
    return [path for path in (home / "artifacts").rglob("*") if path.is_file()]
