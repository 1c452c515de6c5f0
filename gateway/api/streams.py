"""
Answers that stay open: server-sent events, and waiting for whoever may go at any time.

The format is the WHATWG HTML standard's "Server-sent events" (read 2026-11): a block of `id` alone
moves the client's last event id and is given to nobody.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Done = TypeVar("Done")

MEDIA_TYPE = "text/event-stream"
#: How long a reader may take nothing before it is given up.
_STALLED_S = 60.0
_HEADERS = {
    "content-type": MEDIA_TYPE,
    "cache-control": "no-store",
    # A proxy that gathers what it passes on would pass on nothing.
    "x-accel-buffering": "no",
}


def block(event_id: str, event: str, data: bytes) -> bytes:
    """One event. `data` is JSON, which has no line breaks."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event_id.encode(), event.encode(), data)


def bookmark(event_id: str) -> bytes:
    """From where a client that is cut off here goes on."""
    return b"id: %b\n\n" % event_id.encode()


def retry(after_ms: int) -> bytes:
    """How long a client waits before it comes again."""
    return b"retry: %d\n" % after_ms


#: Says nothing, so that nobody on the way takes the connection for dead.
KEEP_ALIVE = b": still here\n\n"


class EventStream(Response):
    """
    Sends what `chunks` yields, as fast as the client takes it, until it ends or the client goes.

    Whatever `chunks` holds is let go of as soon as either happens.
    """

    media_type = MEDIA_TYPE

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        super().__init__(headers=_HEADERS)
        # The length of an answer without an end.
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await unless_gone(self._send_all(send), receive)
        finally:
            await self._chunks.aclose()

    async def _send_all(self, send: Send) -> None:
        async for chunk in self._chunks:
            async with asyncio.timeout(_STALLED_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(work: Coroutine[Any, Any, Done], receive: Receive) -> Done | None:
    """What comes of `work`; None where the client has gone before, and the work is cancelled."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait({working, watching})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
