"""A process that prunes again and again, or takes steps of jobs, until it is killed."""

import asyncio
import sys
from pathlib import Path

from shared.artifacts import Artifacts
from shared.settings import Endpoints, Settings
from workers.crew import Crew, run_process
from workers.retention.prune import Busy, Tools, prune


async def work(stop: asyncio.Event, crew: Crew, settings: Settings, _: Endpoints) -> None:
    tools = Tools(settings, Artifacts(None, Path(settings.home)))
    while not stop.is_set():
        try:
            async with crew.db.connection() as conn:
                await prune(conn, tools, ("standard", "hold", "ledger", "jobs"))
        except Busy:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(run_process(work, "pruning", lambda: None))
