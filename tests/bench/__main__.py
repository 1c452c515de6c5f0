"""
`make bench`: first figures, each pair in one run. `make bench ARGS=quick` takes a fifth of it.

Quote the ratios: absolute rates are the machine's of the moment.
"""

import asyncio
import sys

from tests.bench import backlog, ingress


async def main(quick: bool) -> None:
    events, alone = (10_000, 600) if quick else (backlog.EVENTS, backlog.ALONE)
    print("ingress: signed durable events/s over HTTP, beside an immediate `new` (ratio >= 0.7)")
    await ingress.run()
    drained = await backlog.run(events, alone)
    print(f"backlog of {events} events, one worker process")
    print(f"   in batches           {drained['batches']:8.0f} events/s  (expected >= 4,000)")
    print(f"   one per transaction  {drained['alone']:8.0f} events/s")
    print(f"   ratio                {drained['ratio']:8.1f}           (expected >= 4)")
    print(f"   worker's CPU         {drained['batches_cpu_us']:8.0f} us/event in batches")


if __name__ == "__main__":
    asyncio.run(main("quick" in sys.argv[1:]))
