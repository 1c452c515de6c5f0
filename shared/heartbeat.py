"""
A sign of life from an event loop to the process that started it.

One byte a second goes into an inherited pipe. It is written by the loop itself, so that a loop
that hangs falls silent and its supervisor can tell "hung" from "busy elsewhere".
"""

import asyncio
import contextlib
import os


async def beat(fd: int, interval_s: float = 1.0) -> None:
    """
    Write one byte per `interval_s` to the pipe `fd` until nobody reads it any more.

    Returns when the supervisor is gone: the process should then shut down as on SIGTERM. Run it
    as a task of its own, and cancel it to stop beating. `fd` is closed either way.
    """
    # Grandchildren must not keep the pipe open, or sound alive in our place.
    os.set_inheritable(fd, False)
    # A supervisor that is paused stops reading; a full pipe must not block the loop.
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                os.write(fd, b".")
            except BlockingIOError:
                pass
            except OSError:
                return
            await asyncio.sleep(interval_s)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
