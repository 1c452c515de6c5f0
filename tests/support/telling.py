"""Tell lives to a stack as a provider and operators would, and compare what it makes of them."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from shared.domain.keys import CustomerKey
from tests.support.life import Life
from tests.support.model import CATALOG, Features
from tests.support.stack import Stack, drain, new_crew
from tests.support.stripe_events import NOW_S
from workers.crew import Crew


async def tell(
    stack: Stack,
    rng: random.Random,
    lives: Sequence[Life],
    *,
    slice_size: int = 2000,
    again: float = 0.3,
    source: str = "stripe",
) -> int:
    """
    Tell everything, shuffled and partly twice, to two crews at once that come and go.

    Operators link customers meanwhile. Returns how many deliveries that were.
    """
    bodies = [body for life in lives for body in life.told]
    bodies += [body for body in bodies if rng.random() < again]
    rng.shuffle(bodies)
    slices = [bodies[first : first + slice_size] for first in range(0, len(bodies), slice_size)]
    linking = asyncio.create_task(operate(stack, rng, lives, source=source))
    waiting = iter(slices)
    more = True
    while more:
        # Both are closed after a few slices, and others come: what they knew is gone.
        async with two_crews(stack) as crews:
            for _ in range(4):
                part = next(waiting, None)
                more = part is not None
                if part is None:
                    break
                receiving = asyncio.create_task(stack.receive(*part, source=source))
                await asyncio.gather(*(_follow(crew, receiving) for crew in crews))
    await linking
    await stack.drain()
    return len(bodies)


@asynccontextmanager
async def two_crews(stack: Stack) -> AsyncIterator[tuple[Crew, Crew]]:
    async with new_crew(stack.endpoints, "one") as one, new_crew(stack.endpoints, "two") as two:
        yield one, two


async def _follow(crew: Crew, receiving: "asyncio.Task[Any]") -> None:
    """Drain while events come in, and once more when all are in."""
    while not receiving.done():
        await drain(crew)
        await asyncio.sleep(0.01)
    await receiving
    await drain(crew)


async def operate(
    stack: Stack, rng: random.Random, lives: Sequence[Life], *, source: str = "stripe"
) -> None:
    """Link what operators link in these lives, one by one."""
    links = [
        (CustomerKey(stack.sources[source], "", life.merchant.livemode, customer), tenant)
        for life in lives
        for customer, tenant in life.operators.items()
    ]
    rng.shuffle(links)
    for customer, tenant in links:
        await stack.link(customer, tenant)
        await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Difference:
    """A tenant of a life that does not have what the model says."""

    life: Life
    tenant: str
    expected: Features
    found: Features

    def __str__(self) -> str:
        return "\n".join(
            [
                f"life {self.life.name}, tenant {self.tenant}",
                f"  expected {self.expected}",
                f"  found    {self.found}",
                f"  linked by an operator: {self.life.operators}",
                *(f"  {_in_short(json.loads(body))}" for body in self.life.told),
            ]
        )


async def differences(
    stack: Stack, lives: Sequence[Life], catalog: Mapping[str, Any] = CATALOG
) -> list[Difference]:
    """Every tenant whose features are not what the model says, values' types included."""
    rows = await stack.fetch("SELECT DISTINCT tenant FROM grants")
    granted = {row["tenant"] for row in rows}
    wrong = []
    for life in lives:
        for tenant, expected in life.features(NOW_S, catalog).items():
            found = await stack.features(tenant) if tenant in granted else {}
            if repr(sorted(found.items())) != repr(sorted(expected.items())):
                wrong.append(Difference(life, tenant, expected, found))
    return wrong


def report(seed: int, wrong: Sequence[Difference]) -> str:
    """What an assertion says: how to see it again, and the first few in full."""
    return "\n".join(
        [f"TEST_SEED={seed}: {len(wrong)} tenants differ", *(str(one) for one in wrong[:3])]
    )


#: What does not help to see how a life went.
DULL = {"object", "livemode", "currency", "email", "collection_method", "lines", "created", "price",
        "customer_details", "evidence_details", "expires_at", "trial_settings", "captured",
        "amount_captured", "latest_invoice", "start_date", "current_period_start"}  # fmt: skip


def _in_short(body: dict[str, Any]) -> str:
    content = body["data"]["object"]
    shown = f"{body['created'] - NOW_S:+}s {body['type']} {_bare(content)}"
    if "previous_attributes" in body["data"]:
        shown += f" was {_bare(body['data']['previous_attributes'])}"
    return shown


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("object") == "list" or set(value) == {"data"}:
            return [_bare(one) for one in value["data"]]
        if value.get("object") == "subscription_item":
            return f"{value['quantity']} {value['price']['product']}"
        return {key: _bare(one) for key, one in value.items() if key not in DULL and one}
    return value
