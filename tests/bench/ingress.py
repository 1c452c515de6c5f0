"""
How much of the ingress's speed the durable store costs.

Two gateways, each in a process of its own: the real one, and the same application whose store
answers "new" at once. Signed requests go to them in turns over keep-alive connections, as many at
a time as there are connections; the other one is idle meanwhile. Every 200 of the real one was
committed by Postgres with `fsync` and `synchronous_commit` on.

    python -m tests.bench.ingress
"""

import asyncio
import hmac
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import uvicorn
import uvloop

from gateway.__main__ import opened, prepare
from gateway.app import Deps, create_app
from gateway.ingress import Ingress
from shared import db, telemetry
from shared.domain.events import LANES_PER_SOURCE
from shared.sealing import KeyRing
from shared.settings import Endpoints, Settings
from shared.store.intake import Delivery, Receipt
from workers.stack.servers import Servers, running_servers

SECRET = "whsec_bench"
CONNECTIONS = 128
ROUND_S = 2.5
ROUNDS = 5


class NullStore:
    """Says "new" and keeps nothing."""

    async def submit(self, delivery: Delivery) -> Receipt:
        return Receipt(delivery.tracking_id, "new")


async def run(
    *, rounds: int = ROUNDS, round_s: float = ROUND_S, connections: int = CONNECTIONS
) -> dict[str, float]:
    """Measure, print and return requests per second of both, their ratio, and latencies in ms."""
    results: dict[str, list[tuple[float, list[float]]]] = {"real": [], "null": []}
    with tempfile.TemporaryDirectory() as home:
        async with running_servers(Path(home) / "stack") as servers:
            await servers.migrate()
            await configure(servers)
            ports = {"real": free_port(), "null": free_port()}
            gateways = [await start(kind, port, servers, home) for kind, port in ports.items()]
            try:
                requests = signed_requests()
                for port in ports.values():
                    warm_up = list(take(requests, 3000))
                    await asyncio.to_thread(uvloop.run, load(port, warm_up, 1.0, connections))
                for _ in range(rounds):
                    for kind in ("null", "real"):
                        prepared = list(take(requests, int(round_s * 12_000)))
                        # A loop of its own: uvloop is the cheaper sender, but cannot start the
                        # servers, which become another user.
                        results[kind].append(
                            await asyncio.to_thread(
                                uvloop.run, load(ports[kind], prepared, round_s, connections)
                            )
                        )
            finally:
                for gateway in gateways:
                    gateway.send_signal(signal.SIGTERM)
                    await gateway.wait()
    return report(results)


def report(results: dict[str, list[tuple[float, list[float]]]]) -> dict[str, float]:
    """Print the medians over the rounds."""
    figures: dict[str, float] = {}
    for kind, rounds in results.items():
        figures[f"{kind}_per_s"] = statistics.median(rate for rate, _ in rounds)
        latencies = sorted(latency for _, round_ in rounds for latency in round_)
        figures[f"{kind}_p50_ms"] = latencies[len(latencies) // 2] * 1000
        figures[f"{kind}_p99_ms"] = latencies[len(latencies) * 99 // 100] * 1000
    figures["ratio"] = figures["real_per_s"] / figures["null_per_s"]
    for name, value in figures.items():
        print(f"{name:14} {value:10.2f}")
    return figures


async def configure(servers: Servers) -> None:
    """One Stripe source, as `sluice apply` would write it."""
    keys = KeyRing.parse(servers.home.secret_key())
    sealed = keys.seal(SECRET, source="stripe", slot=0, version=1)
    async with db.connect(servers.postgres.url(), "owner") as conn:
        source = await conn.fetchval(
            "INSERT INTO sources (name, provider, livemode) VALUES ('stripe', 'stripe', true)"
            " RETURNING id"
        )
        for number in range(LANES_PER_SOURCE):
            await conn.execute(
                "INSERT INTO lanes (source_id, number) VALUES ($1, $2)", source, number
            )
        await conn.execute(
            "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)"
            " VALUES ($1, 0, 1, $2, $3, $4)",
            source,
            sealed.key_id,
            sealed.nonce,
            sealed.ciphertext,
        )
        await conn.execute("INSERT INTO seals (key_id) VALUES ($1)", sealed.key_id)
        await conn.execute(
            "INSERT INTO configuration (version, actor, mode) VALUES (1, 'bench', 'live')"
        )


# The gateways ----------------------------------------------------------------------------------


async def start(kind: str, port: int, servers: Servers, home: str) -> asyncio.subprocess.Process:
    """A gateway in a process of its own, ready for requests."""
    endpoints = servers.endpoints()
    environment = {
        **os.environ,
        "SLUICE_HOME": home,
        "SLUICE_PORT": str(port),
        "SLUICE_DATABASE_URL": endpoints.database["owner"],
        "SLUICE_REDIS_URL": endpoints.redis,
        "SLUICE_SECRET_KEY": endpoints.secret_key,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.ingress", kind, env=environment
    )
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return process
    raise RuntimeError(f"the {kind} gateway does not listen")


async def serve(kind: str) -> None:
    """What runs in the gateways' processes."""
    settings = Settings.read()
    endpoints = Endpoints.find(settings)
    async with opened(settings, endpoints, KeyRing.parse(endpoints.secret_key)) as real_deps:
        deps = real_deps
        if kind == "null":
            real = deps.ingress
            deps = Deps(
                Ingress(
                    sources=real.sources,
                    store=NullStore(),
                    keys=real.keys,
                    max_body_bytes=real.max_body_bytes,
                    tolerance_s=real.tolerance_s,
                )
            )
        if kind == "bare":
            deps = replace(real_deps, ingress=replace(real_deps.ingress, refusals=None))
        prepare()
        config = uvicorn.Config(
            create_app(deps),
            port=settings.port,
            loop="none",
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        await uvicorn.Server(config).serve()


# The load --------------------------------------------------------------------------------------


def signed_requests() -> Iterator[bytes]:
    """Requests for ever, each a new event of one of many subscriptions, about 1.6 kB."""
    prefix = os.urandom(4).hex()
    filler = {f"key_{number}": "x" * 40 for number in range(16)}
    for number in count():
        now = int(time.time())
        body = json.dumps(
            {
                "id": f"evt_{prefix}{number:010}",
                "object": "event",
                "type": "customer.subscription.updated",
                "created": now,
                "livemode": True,
                "pending_webhooks": 1,
                "data": {
                    "object": {
                        "id": f"sub_{number % 1000}",
                        "object": "subscription",
                        "status": "active",
                        "customer": f"cus_{number % 1000}",
                        "metadata": filler,
                    },
                    "previous_attributes": {"status": "past_due"},
                },
            }
        ).encode()
        mac = hmac.digest(SECRET.encode(), b"%d.%b" % (now, body), "sha256").hex()
        yield (
            b"POST /api/v1/webhooks/stripe HTTP/1.1\r\nHost: localhost\r\n"
            b"User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
            b"Accept: */*; q=0.5, application/xml\r\nCache-Control: no-cache\r\n"
            b"Content-Type: application/json; charset=utf-8\r\n"
            b"Stripe-Signature: t=%d,v1=%b\r\nContent-Length: %d\r\n\r\n%b"
            % (now, mac.encode(), len(body), body)
        )


def take(requests: Iterator[bytes], number: int) -> Iterator[bytes]:
    for _ in range(number):
        yield next(requests)


class Sender(asyncio.Protocol):
    """One keep-alive connection: sends the next request when the last is answered."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        # Every answer is one small JSON object and ends the way no other part of it does.
        if not self._buffer.endswith(b'"}}'):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._load.fail(self._buffer)
        self._buffer = b""
        self._load.latencies.append(time.perf_counter() - self._sent_at)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.finished()

    def _send(self) -> None:
        assert self._transport is not None
        request = self._load.next()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class Load:
    """What the connections of one round share."""

    def __init__(self, requests: list[bytes], until: float, connections: int) -> None:
        self._requests = requests
        self._until = until
        self._open = connections
        self._failure: bytes | None = None
        self.latencies: list[float] = []
        self.done = asyncio.Event()

    def next(self) -> bytes | None:
        if self._failure or not self._requests or time.perf_counter() > self._until:
            return None
        return self._requests.pop()

    def fail(self, answer: bytes) -> None:
        self._failure = answer

    def finished(self) -> None:
        self._open -= 1
        if not self._open:
            self.done.set()

    def check(self) -> None:
        if self._failure:
            raise RuntimeError(f"not 200: {self._failure!r}")


async def load(
    port: int, requests: list[bytes], seconds: float, connections: int
) -> tuple[float, list[float]]:
    """One round: answers per second, and every latency in seconds."""
    started_at = time.perf_counter()
    shared = Load(requests, started_at + seconds, connections)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Sender(shared), "127.0.0.1", port)
    await shared.done.wait()
    shared.check()
    return len(shared.latencies) / (time.perf_counter() - started_at), shared.latencies


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        shut_down = telemetry.set_up("gateway")
        uvloop.run(serve(sys.argv[1]))
        shut_down()
    else:
        asyncio.run(run())
