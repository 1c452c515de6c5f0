"""Between a sender and the gateway: may change a byte of what passes, or hold it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Passing:
    """One request: its first line, its headers by their names in lower case, its body."""

    line: str
    headers: dict[str, str]
    body: bytes

    def change(self, what: str) -> None:
        """Change one byte: of the body, or of the header that is named."""
        if what == "body":
            middle = len(self.body) // 2
            other = self.body[middle] ^ 1
            self.body = self.body[:middle] + bytes([other]) + self.body[middle + 1 :]
            return
        # Of a signature not the last character, whose lowest bits say nothing.
        value, place = self.headers[what], -1 if what != "webhook-signature" else -4
        other_text = "1" if value[place] != "1" else "2"
        self.headers[what] = value[:place] + other_text + value[place + 1 or len(value) :]

    def encoded(self) -> bytes:
        headers = {**self.headers, "connection": "close", "content-length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.line}\r\n{head}\r\n".encode("latin-1") + self.body


@dataclass
class Relay:
    """
    Passes requests on to a gateway, one a connection, and keeps what came in `seen`, and with
    which status the gateway answered in `answered`.

    `change` may change a request; `delay_s` holds it; `refusals` are answers that are given
    instead, one a request, before anything is passed on.
    """

    gateway_port: int
    port: int = 0
    delay_s: float = 0.0
    change: Callable[[Passing], None] = lambda _: None
    refusals: list[bytes] = field(default_factory=list)
    seen: list[Passing] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader, writer)
            self.seen.append(request)
            if self.refusals:
                writer.write(self.refusals.pop(0))
                return
            self.change(request)
            await asyncio.sleep(self.delay_s)
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.gateway_port)
            to_writer.write(request.encoded())
            answer = await to_reader.read(-1)
            self.answered.append(int(answer.split(b" ", 2)[1]))
            writer.write(answer)
            to_writer.close()
        finally:
            await writer.drain()
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Passing:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.strip().split("\r\n")
    headers = {}
    for one in lines:
        name, _, value = one.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.pop("expect", None) is not None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Passing(line, headers, body)


@asynccontextmanager
async def relay(gateway_port: int) -> AsyncIterator[Relay]:
    """A relay in front of the gateway on that port."""
    relaying = Relay(gateway_port)
    server = await asyncio.start_server(relaying.pass_on, "127.0.0.1", 0, limit=1 << 20)
    relaying.port = server.sockets[0].getsockname()[1]
    async with server:
        yield relaying
