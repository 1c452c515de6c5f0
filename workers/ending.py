"""The end of a task that runs somebody else's code."""

import asyncio
import logging
from typing import Any

log = logging.getLogger(__name__)

#: How long a task may take to stop.
GRACE_S = 2.0

#: Those that would not; the event loop itself holds tasks only weakly.
_left: set[asyncio.Task[Any]] = set()


async def end(task: asyncio.Task[Any]) -> None:
    """
    Cancel a task that is not done. One that goes on regardless is left to itself, after GRACE_S:
    it must keep nobody's slot, lease or lane.
    """
    if task.done():
        return
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE_S)
    if not task.done():
        log.error("a handler does not stop when it is cancelled", extra={"task": task.get_name()})
        _left.add(task)
        task.add_done_callback(_left.discard)
