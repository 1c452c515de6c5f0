"""Steady signed load over real HTTP, and a record of what was acknowledged."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from shared.conformance.running import Sending
from shared.providers import providers
from tests.support.stripe_events import NOW_S, event, subscription


def selling_pro(secret: str) -> str:
    """The configuration that `Load` sends to: Stripe, and a plan."""
    return f"""
[sources.stripe]
provider = "stripe"
secrets = ["{secret}"]
livemode = true
[plans.pro]
products = ["stripe:prod_pro"]
features = {{ seats = 10 }}
"""


@dataclass
class Acknowledged:
    """event id → when its 2xx came (monotonic), and every other answer by its status."""

    at: dict[str, float] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    sent: int = 0


@dataclass
class Load:
    """Sends new events at a rate, and unacknowledged ones again, as a provider would."""

    port: int
    secret: str
    rate: float = 150.0
    senders: int = 16
    subjects: int = 200
    result: Acknowledged = field(default_factory=Acknowledged)

    async def run(self, stop: asyncio.Event) -> Acknowledged:
        rng = random.Random(5)
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(maxsize=500)
        senders = [asyncio.create_task(self._send_all(queue, stop)) for _ in range(self.senders)]
        begun = time.monotonic()
        number = 0
        while not stop.is_set():
            while number < (time.monotonic() - begun) * self.rate and not queue.full():
                number += 1
                queue.put_nowait(self._event(rng, number))
            await asyncio.sleep(0.01)
        await asyncio.gather(*senders)
        return self.result

    def _event(self, rng: random.Random, number: int) -> tuple[str, bytes]:
        subject = rng.randrange(self.subjects)
        name = f"evt_load_{number}"
        content = subscription(
            f"sub_{subject}",
            customer=f"cus_{subject % 50}",
            tenant=f"tenant-{subject % 50}",
            quantity=number,
        )
        before = {"items": {"data": []}}
        body = event("customer.subscription.updated", content, created=NOW_S + number // 20,
                     event_id=name, previous=before)  # fmt: skip
        return name, body

    async def _send_all(self, queue: asyncio.Queue[tuple[str, bytes]], stop: asyncio.Event) -> None:
        while not stop.is_set() or not queue.empty():
            try:
                name, body = await asyncio.wait_for(queue.get(), 0.1)
            except TimeoutError:
                continue
            for _ in range(40):
                status = await self._post(body)
                if status == "200":
                    self.result.at[name] = time.monotonic()
                    break
                self.result.other[status] = self.result.other.get(status, 0) + 1
                await asyncio.sleep(0.1)

    async def _post(self, body: bytes) -> str:
        self.result.sent += 1
        return await Sending("stripe", providers()["stripe"], self.secret, body).to(self.port)
