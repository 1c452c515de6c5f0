"""
The classes `standard` and `hold`: a day of the inbox goes at once, and what has to stay of it is
copied before. Who is killed anywhere has lost nothing: the copy is thrown away and made again, and
copy and day change places in one transaction.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from datetime import timedelta

from shared.db import Conn, is_lock_timeout
from shared.store import retention
from shared.store.retention import Stretch

log = logging.getLogger(__name__)

#: What is looked through at once, so that no transaction is long.
WINDOW = timedelta(minutes=10)
ROWS_AT_ONCE = 2000
#: How long receipt may have to wait for us, at most: first hardly at all, then a little longer.
WAITS_MS = (5, 5, 10, 10, 20, 20, 40, 40, 80, 80)
#: What has to stay had changed since it was copied.
_CHANGED = "55006"
_TRIES = 3


async def prune_days(conn: Conn, keep_d: int) -> int:
    """
    Let the days go whose time is over; returns how many went. What has to stay of them is of the
    class `hold` from then on. A day that is in use is left for the next time, and those after it.
    """
    gone = 0
    while await _move_oldest(conn, keep_d):
        gone += 1
    while await retention.drop_gone(conn):
        pass
    return gone


async def _move_oldest(conn: Conn, keep_d: int) -> bool:
    for _ in range(_TRIES):
        stretch = await retention.begin_move(conn, keep_d)
        if stretch is None:
            return False
        async for window in _windows(conn, stretch):
            async with conn.transaction():
                await retention.allow_longer(conn)
                await retention.copy_kept(conn, window)
        try:
            if await _swap(conn, keep_d):
                log.info("a day of the inbox went", extra={"until": stretch.upto.isoformat()})
                return True
            log.warning("the inbox is in use: its oldest day stays for now")
            return False
        except Exception as error:
            if getattr(error, "sqlstate", None) != _CHANGED:
                raise
    log.warning("what has to stay of the inbox's oldest day keeps changing: it stays for now")
    return False


async def _swap(conn: Conn, keep_d: int) -> bool:
    for wait_ms in WAITS_MS:
        try:
            await retention.finish_move(conn, keep_d, wait_ms)
        except Exception as error:
            if not is_lock_timeout(error):
                raise
            # Whoever queued behind us goes on; the longer we wait, the rarer we try.
            await asyncio.sleep(wait_ms / 1000 * (5 + 5 * random.random()))  # noqa: S311 - jitter
        else:
            return True
    return False


async def prune_holds(conn: Conn, keep_d: int) -> int:
    """Delete of the class `hold` what has not to stay any more; returns how many rows went."""
    gone = 0
    for partition in await retention.list_partitions(conn, keep_d):
        if partition.kind != "hold" or not partition.is_due:
            continue
        async for window in _windows(conn, partition.stretch):
            rows = ROWS_AT_ONCE
            while rows == ROWS_AT_ONCE:
                async with conn.transaction():
                    await retention.allow_longer(conn)
                    rows = await retention.forget(conn, window, keep_d, ROWS_AT_ONCE)
                gone += rows
    for wait_ms in WAITS_MS if gone else ():
        try:
            await retention.drop_empty_holds(conn, wait_ms)
            break
        except Exception as error:
            if not is_lock_timeout(error):
                raise
    while await retention.drop_gone(conn):
        pass
    return gone


async def _windows(conn: Conn, stretch: Stretch) -> AsyncIterator[Stretch]:
    """The stretch in pieces of at most `WINDOW`, those that have any event."""
    while (since := await retention.next_body(conn, stretch)) is not None:
        upto = min(since + WINDOW, stretch.upto)
        yield Stretch(since, upto)
        stretch = Stretch(upto, stretch.upto)
