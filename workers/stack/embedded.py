"""
A server of our own: what Postgres and Valkey have in common.

The server's data directory is locked by a file descriptor that it inherits: the lock is held as
long as *it* lives, whoever started it. So no two servers ever share a directory, a stale pid file
is known to be stale, and what an earlier stack left behind is waited for, or stopped.
"""

import asyncio
import contextlib
import fcntl
import os
import platform
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path

from workers.stack.home import Home, is_port_free
from workers.stack.spawn import Child, ChildFailed, Life, spawn, until_ready

READY_TIMEOUT_S = 60.0
#: How long what was left behind may take to end; a checkpoint on a slow disk is most of it.
LEFT_BEHIND_TIMEOUT_S = 30.0
_PORT_ATTEMPTS = 5


class ServerError(Exception):
    """A server cannot be set up. The message says what to do."""


class Server(ABC):
    """
    One embedded server.

    `prepare` once, then either give `child()` to a supervisor or drive it by hand with `start`,
    `stop`, `kill`, `pause` and `resume`; `close` at the end.
    """

    name: str
    programs: tuple[str, ...]  # what its process may be called
    first_port: int
    stop_signal: signal.Signals

    def __init__(self, home: Home) -> None:
        self.home = home
        self.port = 0  # set by `prepare`, kept from then on
        self._directory: int | None = None
        self._life: Life | None = None

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.home.path / self.name

    @abstractmethod
    async def prepare(self) -> None:
        """
        Make the data directory if there is none, lock it, and choose a port.

        Raises:
            BinariesError, ServerError, HomeError: with a line that mends it.
        """

    @abstractmethod
    def child(self) -> Child:
        """How to run it, on the port chosen last."""

    @abstractmethod
    def left_behind(self) -> int | None:
        """The pid that an earlier process wrote into the data directory."""

    async def start_with(self, start: Callable[[Child], Awaitable[None]]) -> None:
        """
        Have `start` start it; on another port if somebody has taken ours in the meantime.

        Raises:
            ChildFailed: it does not start, for another reason.
        """
        for attempt in range(_PORT_ATTEMPTS):
            try:
                await start(self.child())
            except ChildFailed:
                if attempt == _PORT_ATTEMPTS - 1 or is_port_free("127.0.0.1", self.port):
                    raise
                self.choose_port()
            else:
                return

    def choose_port(self) -> None:
        """Take the port of the last run if it is free, else another."""
        self.port = self.home.port(self.name, self.first_port)

    async def start(self) -> None:
        """Start it and wait until it can be used. Also after `kill`, on the same port."""
        await self.run(self.child())

    async def run(self, child: Child) -> None:
        """
        Start it as `child` says; what `start_with` takes where there is no supervisor.

        Raises:
            ChildFailed: it did not become ready, and does not run any more.
        """
        self._life = await spawn(child)
        try:
            await until_ready(self._life, READY_TIMEOUT_S)
        except ChildFailed:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop it as its supervisor would; nothing happens if it does not run."""
        if self._life is not None:
            self.resume()
            await self._life.end()
            self._life = None

    async def kill(self) -> None:
        """SIGKILL it, as a power cut would end it."""
        if self._life is not None:
            self._life.send(signal.SIGKILL)
            await self._life.wait()
            self._life = None

    def pause(self) -> None:
        """SIGSTOP it: connections hang and do not break."""
        if self._life is not None:
            self._life.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT it."""
        if self._life is not None:
            self._life.send(signal.SIGCONT)

    def close(self) -> None:
        """Let go of the data directory."""
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    async def lock_data(self) -> int:
        """
        Lock the data directory; returns the descriptor that the server has to inherit.

        Raises:
            ServerError: an earlier server is still there and does not end.
        """
        descriptor = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = asyncio.get_running_loop().time() + LEFT_BEHIND_TIMEOUT_S
        asked = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = self.left_behind()
                # On Linux the kernel has asked already. Elsewhere we do; the name guards
                # against a pid that has become somebody else's.
                if not asked and pid and _program_of(pid) in self.programs:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, self.stop_signal)
                    asked = True
                if asyncio.get_running_loop().time() > deadline:
                    os.close(descriptor)
                    raise ServerError(
                        f"an earlier {self.name} still runs in {self.data} and does not end;"
                        f" end it: kill -9 {pid or 'its pid'}"
                    ) from None
                await asyncio.sleep(0.05)
            else:
                self._directory = descriptor
                return descriptor

    @property
    def directory(self) -> int:
        """The locked data directory."""
        if self._directory is None:
            raise RuntimeError(f"{self.name}: prepare() comes first")
        return self._directory


def read_pid(path: Path) -> int | None:
    """The first line of a pid file."""
    try:
        return int(path.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _program_of(pid: int) -> str:
    if platform.system() == "Linux":
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text().strip()
        return ""
    command = ["/bin/ps", "-o", "comm=", "-p", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(result.stdout.strip()).name
