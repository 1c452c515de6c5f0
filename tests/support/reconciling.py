"""What the tests of asking Polar share: a source with a key, and a world that sends or does not."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.support.fetching import PACE, Scene, look
from tests.support.polar_api import PolarServer, Sent
from workers.crew import Crew
from workers.fetching.fetch import Fetching
from workers.fetching.reconcile import Reconciling
from workers.fetching.targets import Targets

PLANS = {
    "pro": {
        "products": ["polar:prod_pro", "polar:benefit_of_prod_pro"],
        "features": {"seats": 10, "sso": True},
        "graceS": 7 * 86400,
    },
}


@dataclass
class PolarScene(Scene):
    """A database with the source `polar`, and the organization that its key is for."""

    api: PolarServer

    async def open(self, **settings: str) -> None:
        """Declare the source, its plans and its key."""
        await self.stack.add_source("polar", "polar", True, **settings)
        await self.stack.configure(sources={}, plans=PLANS)
        await self.set_key("polar_oat_1", source="polar")

    async def deliver(self, *events: Sent) -> None:
        """These arrive, and are applied."""
        await self.stack.apply(
            *(sent.body for sent in events),
            source="polar",
            headers=[sent.headers for sent in events],
        )

    def reconciling(
        self, crew: Crew | None = None, every_s: float = 3600, **pace: float
    ) -> Reconciling:
        """A process's part. It is driven by `turn`, or run."""
        targets = Targets(self.keys, replace(PACE, **pace))  # type: ignore[arg-type]
        return Reconciling(crew or self.stack.crew, targets, self.woken.extend, every_s)

    async def reconcile(self, every_s: float = 3600) -> None:
        """A whole round, and all that follows from it: events applied, objects fetched."""
        await self.make_round_due()
        await finish(self.reconciling(every_s=every_s))
        await self.settle()

    async def settle(self, times: int = 2) -> None:
        """Apply what came, fetch what wants to be fetched, and apply that."""
        fetching = self.fetching()
        for _ in range(times):
            await self.stack.drain()
            await self.make_due()
            await look(fetching)
        await self.stack.drain()

    async def make_round_due(self) -> None:
        """As if it had been long since the last round."""
        await self.execute(
            "UPDATE reconciliations SET begun_at = begun_at - interval '1 day', due_at = now()"
            " WHERE phase IS NULL"
        )

    async def pass_round_claims(self) -> None:
        """As if a minute had passed, and whoever claimed had died."""
        await self.execute(
            "UPDATE reconciliations SET claimed_until = now(), due_at = now()"
            " WHERE claimed_until IS NOT NULL"
        )

    async def round(self) -> dict[str, object]:
        """The source's row."""
        (row,) = await self.stack.fetch("SELECT * FROM reconciliations")
        return dict(row)

    async def with_access(self, tenants: Iterable[str]) -> set[str]:
        """Those of these tenants who may use anything."""
        return {tenant for tenant in tenants if await self.stack.features(tenant)}

    async def states(self) -> int:
        """How many summaries were stored as answers."""
        found: int = await self.stack.value(
            "SELECT count(*) FROM inbox WHERE event_type = 'sluice.fetched'"
            " AND subject LIKE 'customer_state/%'"
        )
        return found


async def finish(*processes: Reconciling, steps: int = 1000) -> None:
    """Turns of these processes, one after the other, until no round is due."""
    for step in range(steps):
        if not await processes[step % len(processes)].turn():
            return
    raise AssertionError("the round does not end")


__all__ = ["Fetching", "PolarScene", "finish"]
