"""
How long live events take beside a replay of thousands: until they are applied, in one stack.

The same stream of live events, before the replay and while it runs at its rate.
"""

import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from shared import db
from shared.conformance.running import RunningStack, Sending, running_stack, send_all
from shared.providers import providers
from tests.bench.backlog import backlog
from tests.support.stripe_events import event, subscription

EVENTS, RATE, LIVE, LIVE_RATE = 8_000, 500, 600, 50
SECRET = "whsec_" + "A" * 32
CONFIGURATION = f"""
[sources.stripe]
provider = "stripe"
livemode = true
secrets = ["{SECRET}"]
[plans.pro]
products = ["stripe:prod_pro"]
features = {{ seats = 10 }}
"""
TOOK = """
SELECT extract(epoch FROM z.settled_at - l.received_at)::float8
FROM ledger l JOIN settlements z ON z.tracking_id = l.tracking_id AND z.run = 1
WHERE l.event_id LIKE $1
"""


def sending(body: bytes) -> Sending:
    return Sending("stripe", providers()["stripe"], SECRET, body)


async def live(running: RunningStack, name: str) -> list[float]:
    """Send live events at their rate; how long each took from receipt to effect, in seconds."""
    sendings = []
    for number in range(LIVE):
        one = f"{name}_{number}"
        content = subscription(f"sub_{one}", customer=f"cus_{one}", tenant=one)
        sendings.append(
            sending(event("customer.subscription.created", content, event_id=f"evt_{one}"))
        )
    await send_all(running.port, sendings, within_s=LIVE / LIVE_RATE, deadline_s=60)
    async with db.connect(running.endpoints.database["owner"], "owner") as conn:
        while len(rows := await conn.fetch(TOOK, f"evt_{name}_%")) < LIVE:
            await asyncio.sleep(0.1)
    return [row[0] for row in rows]


async def ask(running: RunningStack, *argv: str) -> Any:
    done = await running.cli(*argv, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


async def run() -> dict[str, float]:
    """Medians and 99th percentiles in milliseconds, and how many runs were opened a second."""
    with tempfile.TemporaryDirectory() as directory:
        async with running_stack(Path(directory), CONFIGURATION) as running:
            old = [sending(body) for body in backlog(EVENTS)]
            await send_all(running.port, old, within_s=1, deadline_s=120)
            while await running.value("SELECT count(*) FROM work"):
                await asyncio.sleep(0.1)
            quiet = await live(running, "quiet")
            plan = await ask(running, "replay", "plan", "--source", "stripe")
            job = await ask(
                running, "replay", "run", plan["id"],
                "--rate", f"{RATE}/s", "--reason", "bench", "--detach",
            )  # fmt: skip
            began = asyncio.get_running_loop().time()
            beside = await live(running, "beside")
            took_s = asyncio.get_running_loop().time() - began
            replayed = await running.value("SELECT count(*) FROM settlements WHERE run = 2")
            assert replayed < EVENTS, "it ended before the live events did"
            await ask(running, "replay", "cancel", job["id"], "--reason", "bench")
    figures = {"replayed_per_s": replayed / took_s}
    for name, took in (("quiet", quiet), ("beside", beside)):
        figures[f"{name}_p50_ms"] = statistics.median(took) * 1e3
        figures[f"{name}_p99_ms"] = statistics.quantiles(took, n=100)[98] * 1e3
    return figures


if __name__ == "__main__":
    print({name: round(figure) for name, figure in asyncio.run(run()).items()})
