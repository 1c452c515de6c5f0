"""
Both embedded servers with a migrated database, until stdin is closed: what handlers are tried on.

    python -m shared.conformance.serving DIRECTORY

Prints where they are, as JSON. It is a process of its own so that no test waits in its event loop,
and so that the servers end with whoever asked for them.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from workers.stack.servers import running_servers


async def serve(directory: Path) -> None:
    """Run until stdin is closed."""
    async with running_servers(directory) as servers:
        await servers.migrate()
        sys.stdout.write(msgspec.json.encode(servers.endpoints().database).decode() + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
