"""What shadows have counted is written down every second, over a connection that waits for it."""

import asyncio
import contextlib
import logging

from gateway.shadowing import Shadow
from gateway.sources import Sources
from shared.db import Line
from shared.store import shadows as store
from shared.store.shadows import Tally

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_WRITE_WITHIN_S = 2.0


class Tallies:
    """The counts of one process. Opens its connection when there is something to write."""

    def __init__(self, url: str, sources: Sources) -> None:
        self._line = Line(url, "gateway", name="sluice-gateway-shadows")
        self._sources = sources
        #: Also those that the configuration has no more, until their last counts are written.
        self._seen: set[Shadow] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write them down from now on."""
        self._task = asyncio.create_task(self._write_all(), name="shadows")

    async def close(self) -> None:
        """Write the last ones, and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._write()
        await self._line.close()

    async def _write_all(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._write()

    async def _write(self) -> None:
        current = set(self._sources.shadows)
        for shadow in self._seen | current:
            counts, accepted_at = shadow.take()
            if not any(counts):
                continue
            try:
                async with self._line.use(timeout_s=_WRITE_WITHIN_S) as conn:
                    await store.count_shadow(
                        conn, shadow.source_id, shadow.version, Tally(*counts), accepted_at
                    )
            except Exception as error:  # they are counted on, and written the next time
                shadow.give_back(counts)
                log.warning("a shadow's counts wait", extra={"error": repr(error)})
        self._seen = current
