"""How many jobs there are, and how long they wait: looked at again and again, for the gauges."""

import asyncio
import logging
from dataclasses import dataclass, field

from shared import gauges
from shared.db import is_platform_fault
from shared.store import jobs
from workers.crew import Crew

log = logging.getLogger(__name__)

EVERY_S = 15.0


@dataclass
class Counting:
    """Of one process. `jobs` by kind and state, `waits_s` by kind."""

    crew: Crew
    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    waits_s: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Count until cancelled."""
        gauges.jobs.read_from(lambda: self.jobs)
        gauges.jobs_oldest_waiting.read_from(lambda: self.waits_s)
        while True:
            try:
                await self.count()
            except Exception as error:
                if not is_platform_fault(error):
                    log.exception("jobs could not be counted")
            await asyncio.sleep(EVERY_S)

    async def count(self) -> None:
        """Once."""
        async with self.crew.db.connection() as conn:
            found = await jobs.count_jobs(conn)
        self.jobs = {(one.kind, one.state): one.jobs for one in found}
        waits: dict[str, float] = {}
        for one in found:
            waits[one.kind] = max(one.waits_s, waits.get(one.kind, 0.0))
        self.waits_s = waits
