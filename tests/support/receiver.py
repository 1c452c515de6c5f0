"""
A receiver on the outside that dedupes by key, and an installed package whose handler sends to it.

The handler tells when it has handled an event, when it is about to send and when it has got its
answer, by requests of their own: at each of these moments the test can hold it, or kill it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: In the handler's transaction, when it has said what is to be sent.
HANDLED = "handled"
#: The moments of a sending, in their order.
BEFORE, POSTED, ANSWERED, AFTER = "before", "posted", "answered", "after"

PACKAGE = '''
"""Posts what it is given to OUTPOST_URL."""
import os
import signal

import httpx

from shared.plugin import Event, Extension, Handler, Outgoing, Result, Transaction


class Post(Extension, frozen=True):
    text: str = ""


class Outpost(Handler[Post]):
    name = "outpost"
    command = Post
    listens_to = ("stripe:customer.subscription.*",)

    def __init__(self):
        url = os.environ["OUTPOST_URL"]
        self.client = httpx.AsyncClient(base_url=url, timeout=60, verify=False)

    def read(self, event: Event) -> Post:
        return Post(event.event_id)

    async def handle(self, event: Event, command: Post, transaction: Transaction) -> Result:
        transaction.send({"text": command.text})
        headers = {"Idempotency-Key": "", "X-Pid": str(os.getpid()), "X-Attempt": "0"}
        await self.client.get("/handled", headers=headers)
        return Result()

    async def send(self, message: Outgoing) -> None:
        headers = {
            "Idempotency-Key": message.key,
            "X-Pid": str(os.getpid()),
            "X-Attempt": str(message.attempt),
        }
        await self.client.get("/before", headers=headers)
        answer = await self.client.post("/messages", json=message.payload, headers=headers)
        answer.raise_for_status()
        after = await self.client.get("/after", headers=headers)
        if after.status_code == 299:
            os.kill(os.getpid(), signal.SIGSTOP)
'''


def install(directory: Path) -> Path:
    """Write the package, as pip would have; returns what belongs on PYTHONPATH."""
    directory.mkdir()
    (directory / "outpost.py").write_text(PACKAGE)
    information = directory / "outpost-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: outpost\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[sluice.handlers]\noutpost = outpost:Outpost\n")
    return directory


@dataclass(frozen=True)
class Request:
    """What came, from which process, with which key."""

    moment: str
    key: str
    pid: int
    attempt: int
    payload: Any = None


Hook = Callable[[Request], Awaitable[int | None]]


async def _nothing(_: Request) -> int | None:
    return None


@dataclass
class Receiver:
    """
    `posts` are all that came, `kept` what is left of them by key. `hook` is called at each moment,
    and may hold up, kill, or answer another status: at POSTED nothing is kept yet, and 299 at AFTER
    has the process stop itself in the last line of its sending.
    """

    url: str = ""
    hook: Hook = _nothing
    posts: list[Request] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    #: Keys that came again with something else in them.
    changed: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")
                headers = {
                    name.lower(): value
                    for name, _, value in (one.partition(": ") for one in fields if one)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status = await self._take(line.split(" ")[1], headers, body)
                answer = f"HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n"
                writer.write(answer.encode())
                await writer.drain()
        writer.close()

    async def _take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        key, pid = headers["idempotency-key"], int(headers["x-pid"])
        attempt = int(headers["x-attempt"])
        if path != "/messages":
            return await self.hook(Request(path.removeprefix("/"), key, pid, attempt)) or 204
        post = Request(POSTED, key, pid, attempt, json.loads(body))
        self.posts.append(post)
        status = await self.hook(post)
        if status is None:
            if self.kept.setdefault(key, post.payload) != post.payload:
                self.changed.append(key)
            status = await self.hook(Request(ANSWERED, key, pid, attempt))
        return status or 200


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """It listens until the end."""
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
