"""Whom a handler's messages reach in a test: it takes everything, and tells what came."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Received(NamedTuple):
    """One request; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server on `url`. It answers 200, or `status` where a test says so."""

    url: str = ""
    status: int = 200
    requests: list[Received] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request. One that breaks off was never received."""
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            path = (await reader.readline()).decode("latin-1").split(" ")[1]
            headers = {}
            while line := (await reader.readline()).decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append(Received(path, headers, body))
            writer.write(
                f"HTTP/1.1 {self.status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
                .encode()
            )  # fmt: skip
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver, for as long as the block lasts."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        server.close()
