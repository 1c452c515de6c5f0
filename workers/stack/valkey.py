"""
The embedded Valkey (or Redis), and the few words of its protocol that are needed to ask it.

It is only the doorbell: `appendfsync everysec` may lose a second of wake-ups in a power cut, and
the sweep finds their work in Postgres.
"""

import asyncio
import contextlib
import os
import signal
import ssl
from urllib.parse import unquote, urlsplit

from workers.stack.binaries import BARE_ENVIRONMENT, find_valkey, server_uid
from workers.stack.embedded import Server, ServerError, read_pid
from workers.stack.spawn import Child

_CONFIG = """\
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir .
pidfile valkey.pid
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
loglevel warning
"""


class ValkeyServer(Server):
    """Valkey in `home/valkey`."""

    name = "valkey"
    programs = ("valkey-server", "redis-server")
    first_port = 63799
    stop_signal = signal.SIGTERM

    async def prepare(self) -> None:
        """
        Find the program, make and lock the data directory, choose a port.

        Raises:
            BinariesError: no Valkey and no Redis.
            ServerError: an earlier server does not end.
        """
        self._program = find_valkey()
        self.data.mkdir(mode=0o700, exist_ok=True)
        uid = server_uid()
        if uid is not None:
            os.chown(self.data, uid, uid)
        await self.lock_data()
        self.choose_port()

    def child(self) -> Child:
        """See `Server.child`."""
        config = _CONFIG.format(port=self.port, password=self.home.passwords["valkey"])
        return Child(
            name=self.name,
            # The configuration comes on stdin, so that the password is neither in `ps` nor on
            # the disk.
            argv=(str(self._program.path), "-"),
            env=BARE_ENVIRONMENT,
            cwd=self.data,
            user=server_uid(),
            stdin=config.encode(),
            keep_fds=(self.directory,),
            ready=self._become_ready,
            stop_signal=self.stop_signal,
            death_signal=self.stop_signal,
            stage=1,
        )

    def url(self) -> str:
        """Where clients connect."""
        return f"redis://:{self.home.passwords['valkey']}@127.0.0.1:{self.port}/0"

    def left_behind(self) -> int | None:
        """See `Server.left_behind`."""
        return read_pid(self.data / "valkey.pid")

    async def _become_ready(self, _pid: int) -> None:
        while True:
            # Refused, or still loading the file; nobody else's server knows the password.
            with contextlib.suppress(OSError, ServerError):
                if await ask(self.url(), "PING", timeout_s=2) == "PONG":
                    return
            await asyncio.sleep(0.02)


async def ask(url: str, *command: str, timeout_s: float = 3.0) -> object:
    """
    Send one command to the Redis at `url` (redis, rediss or unix), on a connection of its own.

    Returns:
        str, int, None or a list of those.

    Raises:
        OSError: it cannot be reached, or not within `timeout_s` (TimeoutError).
        ServerError: it answered with an error, its own words.
    """
    parts = urlsplit(url)
    async with asyncio.timeout(timeout_s):
        if parts.scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(parts.path)
        else:
            reader, writer = await asyncio.open_connection(
                parts.hostname or "127.0.0.1",
                parts.port or 6379,
                ssl=ssl.create_default_context() if parts.scheme == "rediss" else None,
            )
        try:
            if parts.password:
                login = [unquote(parts.username)] if parts.username else []
                writer.write(_encode("AUTH", *login, unquote(parts.password)))
                await _reply(reader)
            writer.write(_encode(*command))
            return await _reply(reader)
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("the connection was closed") from None
        finally:
            writer.close()


def _encode(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)


async def _reply(reader: asyncio.StreamReader) -> object:
    line = (await reader.readuntil(b"\r\n"))[:-2].decode(errors="replace")
    kind, rest = line[:1], line[1:]
    match kind:
        case "+":
            return rest
        case "-":
            raise ServerError(rest)
        case ":":
            return int(rest)
        case "$":
            if rest == "-1":
                return None
            return (await reader.readexactly(int(rest) + 2))[:-2].decode(errors="replace")
        case "*":
            return [await _reply(reader) for _ in range(int(rest))]
    raise ServerError(f"not a Redis: {line!r}")
