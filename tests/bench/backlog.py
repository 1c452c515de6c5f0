"""
How fast one worker process drains a backlog: as batches, and one event per transaction.

50,000 events over 20,000 subscriptions and 5,000 tenants, received before the clock starts. The
second figure is the same code with batches of one, over a share of the same backlog.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared import db, migrate
from shared.settings import Endpoints
from tests.support.stack import Stack, with_database
from tests.support.stripe_events import NOW_S, event, subscription
from workers.stack.servers import running_servers

EVENTS, SUBJECTS, TENANTS = 50_000, 20_000, 5_000
ALONE = 3_000


def backlog(events: int, seed: int = 1) -> list[bytes]:
    """Lives of subscriptions: created, then updates that renew, change seats, or cancel."""
    rng = random.Random(seed)
    born: dict[int, dict[str, Any]] = {}
    bodies = []
    for number in range(events):
        subject = number if number < SUBJECTS else rng.randrange(SUBJECTS)
        subject = min(subject, SUBJECTS - 1)
        created = NOW_S + number // 100
        if subject not in born:
            tenant = f"tenant-{subject % TENANTS}"
            who = f"cus_{subject % TENANTS}"
            state = subscription(f"sub_{subject}", customer=who, tenant=tenant)
            born[subject] = state
            bodies.append(event("customer.subscription.created", state, created=created))
            continue
        state = dict(born[subject])
        change, previous = rng.choice(
            [
                ({"status": "past_due"}, {"status": state["status"]}),
                ({"status": "active"}, {"status": state["status"]}),
                ({"latest_invoice": f"in_{number}"}, {"latest_invoice": state["latest_invoice"]}),
                ({"cancel_at": NOW_S + 90 * 86400}, {"cancel_at": state["cancel_at"]}),
            ]
        )
        state.update(change)
        born[subject] = state
        bodies.append(
            event("customer.subscription.updated", state, created=created, previous=previous)
        )
    return bodies


async def drained(endpoints: Endpoints, bodies: list[bytes], batch_size: int) -> dict[str, float]:
    """Receive everything, then have one worker process drain it."""
    async with Stack.open(endpoints) as stack:
        await stack.configure()
        await stack.receive(*bodies)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.drain"),
            env={
                **os.environ,
                "SLUICE_DATABASE_URL": endpoints.database["worker"],
                "SLUICE_BATCH_SIZE": str(batch_size),
            },
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        settled = await stack.value("SELECT count(*) FROM settlements WHERE status = 'processed'")
        assert settled == len(bodies), (settled, len(bodies))
        figures: dict[str, float] = json.loads(output)
        return figures


async def run(events: int = EVENTS, alone: int = ALONE) -> dict[str, float]:
    """Both figures, and their ratio."""
    with tempfile.TemporaryDirectory() as home:
        async with running_servers(Path(home) / "home") as servers:
            await servers.migrate()
            owner = servers.endpoints().database["owner"]
            figures: dict[str, float] = {}
            for name, batch_size, count in (("batches", 100, events), ("alone", 1, alone)):
                async with db.connect(owner, "owner") as conn:
                    await conn.execute(f"CREATE DATABASE bench_{name}")
                endpoints = with_database(servers.endpoints(), f"bench_{name}")
                async with db.connect(endpoints.database["owner"], "owner") as conn:
                    await migrate.migrate(conn)
                found = await drained(endpoints, backlog(count), batch_size)
                figures[name], figures[f"{name}_cpu_us"] = found["per_s"], found["cpu_us"]
    figures["ratio"] = figures["batches"] / figures["alone"]
    return figures


if __name__ == "__main__":
    print(asyncio.run(run(*map(int, sys.argv[1:]))))
