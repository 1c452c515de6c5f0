"""
How fast `POST /api/v1/entitlements/check` is: what an application asks before it does anything.

One gateway process in turns with limits (counted in Redis) and without, over keep-alive
connections; every answer is read from Postgres. 1,000 tenants with five features each.

    python -m tests.bench.check
"""

import asyncio
import json
import os
import random
import signal
import statistics
import tempfile
import uuid
from pathlib import Path

import uvloop

from shared import db
from shared.store import tokens
from tests.bench.ingress import configure, free_port, load, start
from workers.stack.servers import Servers, running_servers

TENANTS = 1000
FEATURES = ("api_calls", "seats", "sso", "storage", "tier")
RATES = {"limited": "100000000/minute", "unlimited": "off"}


async def run(*, rounds: int = 5, round_s: float = 2.5) -> dict[str, float]:
    """Measure, print and return requests per second, and latencies in ms at two loads."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        async with running_servers(Path(home) / "stack") as servers:
            await servers.migrate()
            await configure(servers)
            token = await fill(servers)
            gateways, ports = [], {}
            for kind, rate in RATES.items():
                os.environ["SLUICE_API_RATE"] = rate
                ports[kind] = free_port()
                gateways.append(await start("real", ports[kind], servers, home))
            try:
                for connections in (64, 4):
                    found: dict[str, list[tuple[float, list[float]]]] = {kind: [] for kind in RATES}
                    for number in range(rounds + 1):
                        for kind, port in ports.items():
                            requests = [request(token) for _ in range(int(round_s * 8000))]
                            one = await asyncio.to_thread(
                                uvloop.run, load(port, requests, round_s, connections)
                            )
                            if number:  # the first one warms up
                                found[kind].append(one)
                    for kind, rounds_ in found.items():
                        took = sorted(each for _, latencies in rounds_ for each in latencies)
                        name = f"{kind}_{connections}"
                        figures[f"{name}_per_s"] = statistics.median(rate for rate, _ in rounds_)
                        figures[f"{name}_p50_ms"] = took[len(took) // 2] * 1000
                        figures[f"{name}_p99_ms"] = took[len(took) * 99 // 100] * 1000
            finally:
                for gateway in gateways:
                    gateway.send_signal(signal.SIGTERM)
                    await gateway.wait()
    for name, value in figures.items():
        print(f"{name:22} {value:10.2f}")
    return figures


async def fill(servers: Servers) -> str:
    """Tenants with grants, as workers would have written them; returns a token that sees them."""
    token = tokens.new_token()
    async with db.connect(servers.postgres.url(), "owner") as conn:
        await conn.execute(
            "INSERT INTO tenants (tenant) SELECT 'tenant-' || n FROM generate_series(1, $1) n",
            TENANTS,
        )
        await conn.execute(
            "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
            " SELECT n, 'pro', feature, 'tenant-' || n, '10', 0, 0"
            " FROM generate_series(1, $1) n, unnest($2::text[]) feature",
            TENANTS, list(FEATURES),
        )  # fmt: skip
        await conn.execute("ANALYZE")
        digest = tokens.digest_of(token)
        await tokens.create(conn, uuid.uuid4(), "bench", "service", digest, "bench", None)
    return token


def request(token: str) -> bytes:
    """Two features of some tenant."""
    tenant = f"tenant-{random.randint(1, TENANTS)}"
    body = json.dumps({"tenant": tenant, "features": random.sample(FEATURES, 2)}).encode()
    return (
        b"POST /api/v1/entitlements/check HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)
    )


if __name__ == "__main__":
    asyncio.run(run())
