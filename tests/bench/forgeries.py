"""
What a flood of forged requests costs, with samples of them kept and without.

Two gateways, each in a process of its own: as it is, and with nothing kept of what it refuses. In
turns each is sent as many forgeries as it answers, and then webhooks beside such a flood.

    python -m tests.bench.forgeries
"""

import asyncio
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from shared import db
from tests.bench.ingress import (
    Load,
    Sender,
    configure,
    free_port,
    signed_requests,
    start,
    take,
)
from workers.stack.servers import running_servers

ROUNDS = 5
ROUND_S = 2.5
FORGERS = 64
SENDERS = 8


class Forger(Sender):
    """Whose every request is refused."""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(b'"}}'):
            return
        if not self._buffer.startswith(b"HTTP/1.1 401"):
            self._load.fail(self._buffer)
        self._buffer = b""
        self._load.latencies.append(time.perf_counter() - self._sent_at)
        self._send()


def forged(requests: Iterator[bytes]) -> Iterator[bytes]:
    """The same requests, their bodies changed in one byte."""
    for request in requests:
        yield request[:-1] + b" "


async def flood(
    port: int, forgeries: list[bytes], real: list[bytes]
) -> tuple[float, float, list[float]]:
    """Refused per second, stored per second, and the latencies of what was stored."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    refused = Load(forgeries, began + ROUND_S, FORGERS)
    stored = Load(real, began + ROUND_S, SENDERS)
    for _ in range(FORGERS):
        await loop.create_connection(lambda: Forger(refused), "127.0.0.1", port)
    for _ in range(SENDERS):
        await loop.create_connection(lambda: Sender(stored), "127.0.0.1", port)
    await refused.done.wait()
    await stored.done.wait()
    refused.check()
    stored.check()
    took_s = time.perf_counter() - began
    return len(refused.latencies) / took_s, len(stored.latencies) / took_s, stored.latencies


async def run() -> None:
    """Measure, and print."""
    kinds = ("bare", "real")
    alone: dict[str, list[float]] = {kind: [] for kind in kinds}
    beside: dict[str, list[tuple[float, list[float]]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as home:
        async with running_servers(Path(home) / "stack") as servers:
            await servers.migrate()
            await configure(servers)
            ports = {kind: free_port() for kind in kinds}
            gateways = [await start(kind, port, servers, home) for kind, port in ports.items()]
            requests = signed_requests()
            try:
                for number in range(ROUNDS + 1):
                    for kind in kinds if number % 2 else reversed(kinds):
                        many = int(ROUND_S * 10_000)
                        lies = list(forged(take(requests, many)))
                        rate, _, _ = await asyncio.to_thread(
                            uvloop.run, flood(ports[kind], lies, [])
                        )
                        lies = list(forged(take(requests, many)))
                        real = list(take(requests, many))
                        _, stored, latencies = await asyncio.to_thread(
                            uvloop.run, flood(ports[kind], lies, real)
                        )
                        if number:  # the first round warms up
                            alone[kind].append(rate)
                            beside[kind].append((stored, latencies))
                async with db.connect(servers.postgres.url(), "owner") as conn:
                    rows = await conn.fetchval("SELECT count(*) FROM refusals")
            finally:
                for gateway in gateways:
                    gateway.send_signal(signal.SIGTERM)
                    await gateway.wait()
    for kind in kinds:
        latencies = sorted(one for _, many in beside[kind] for one in many)
        print(
            f"{kind}: refused/s {statistics.median(alone[kind]):.0f};"
            f" beside a flood: stored/s {statistics.median(rate for rate, _ in beside[kind]):.0f},"
            f" p50 {latencies[len(latencies) // 2] * 1000:.1f} ms,"
            f" p99 {latencies[len(latencies) * 99 // 100] * 1000:.1f} ms"
        )
    print(f"rows kept: {rows}")


if __name__ == "__main__":
    asyncio.run(run())
