"""Drain a backlog as `workers.fleet` does, and say how long that took."""

import asyncio
import json
import sys
import time

import uvloop

from shared.settings import Endpoints, Settings
from workers.crew import enlisted, spare_the_collector
from workers.fleet import work_until


async def main(settings: Settings) -> None:
    async with enlisted("bench", settings, Endpoints.find(settings)) as crew:
        async with crew.db.connection() as conn:
            await crew.surroundings.refresh(conn)
            backlog = await conn.fetchval("SELECT count(*) FROM work")
            spare_the_collector()
            stop = asyncio.Event()
            begun_s, cpu_s = time.perf_counter(), time.process_time()
            working = asyncio.create_task(work_until(stop, crew, "", settings.worker_slots))
            while await conn.fetchval("SELECT EXISTS (SELECT FROM work)"):
                await asyncio.sleep(0.05)
            elapsed_s = time.perf_counter() - begun_s
            cpu_s = time.process_time() - cpu_s
        stop.set()
        await working
    sys.stdout.write(json.dumps({"per_s": backlog / elapsed_s, "cpu_us": cpu_s / backlog * 1e6}))


if __name__ == "__main__":
    uvloop.run(main(Settings.read()))
