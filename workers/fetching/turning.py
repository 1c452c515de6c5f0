"""Turns of fetching, pulling and reconciling, one after the other while their process lives."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from logging import Logger

from shared.db import is_platform_fault

#: Between two turns, the first of which had something to do.
BUSY_S = 0.2


async def take_turns(
    turn: Callable[[], Awaitable[bool]], idle_s: float, log: Logger, doing: str, /, **fields: str
) -> None:
    """Turn after turn, until cancelled; `idle_s` after one that had nothing to do, or failed."""
    while True:
        is_busy = await guarded(turn(), log, doing, **fields)
        pause_s = BUSY_S if is_busy else idle_s
        await asyncio.sleep(pause_s * (0.75 + random.random() / 2))  # noqa: S311 - jitter


async def guarded(step: Awaitable[bool | None], log: Logger, doing: str, /, **fields: str) -> bool:
    """
    What comes of it; False where it failed, which is said and no reason to leave the others.

    A claim whose end could not be written runs out, and the step is made again.
    """
    try:
        return bool(await step)
    except Exception as error:
        if is_platform_fault(error):
            log.warning("%s put off", doing, extra=fields | {"error": repr(error)})
        else:
            log.error("%s failed", doing, extra=fields, exc_info=error)
        return False
