"""
Start a process that cannot outlive us, and hold on to it for one life.

On Linux the kernel signals every child when we die (PR_SET_PDEATHSIG), however we die. Elsewhere
our own processes end because their heartbeat pipe breaks, and servers that were left behind are
stopped by the next start (`embedded.py`).

Children get a session of their own: a terminal's Ctrl-C reaches the supervisor alone, which then
stops them in order. What they print goes to our stderr; stdout is for data.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_STDERR = 2


class ChildFailed(Exception):
    """A process could not be started, or ended before it was ready. The message names it."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """
    What is to be kept running.

    With `heartbeat`, `--heartbeat-fd N` is appended to `argv`, where N is the writing end of an
    inherited pipe (`shared.heartbeat.beat`). `ready` gets the pid and returns once the process
    can be used. Stages are stopped from the highest down, the children of one stage together.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stage: int = 0
    cwd: Path | None = None
    user: int | None = None  # uid and gid to run as; None: our own
    stdin: bytes = b""  # written whole, then closed
    keep_fds: tuple[int, ...] = ()
    heartbeat: bool = False
    ready: Callable[[int], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: signal.Signals = signal.SIGTERM  # sent by the kernel when we die


class Life:
    """One life of a child: a running process and the pipe on which it is heard."""

    def __init__(
        self, child: Child, process: asyncio.subprocess.Process, beats: int | None
    ) -> None:
        self.child = child
        self.pid = process.pid
        self._process = process
        self._beats = beats
        self.started_at = asyncio.get_running_loop().time()  # loop time, like `heard_at`
        self.heard_at: float | None = None

    def listen(self) -> None:
        """Read what has been beaten since; sets `heard_at`. Never blocks."""
        if self._beats is None:
            return
        with contextlib.suppress(BlockingIOError):
            if os.read(self._beats, 65536):
                self.heard_at = asyncio.get_running_loop().time()

    async def wait(self) -> int:
        """Wait for the end; returns the exit status, negative for a signal."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself; nothing happens if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it and whatever it started in its session."""
        # Not after it has been reaped: the number may belong to somebody else by then.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> int:
        """Ask it to stop, kill it after `stop_timeout_s`; returns the exit status."""
        self.send(self.child.stop_signal)
        try:
            return await asyncio.wait_for(self._process.wait(), self.child.stop_timeout_s)
        except TimeoutError:
            self.kill()
            return await self._process.wait()

    def close(self) -> None:
        """Let go of the heartbeat pipe."""
        if self._beats is not None:
            os.close(self._beats)
            self._beats = None


async def spawn(child: Child) -> Life:
    """
    Start `child` once.

    Call it from the main thread: the kernel ties a child to the *thread* that forked it.

    Raises:
        ChildFailed: the program is missing, or we may not run it (as that user).
    """
    argv, keep = list(child.argv), list(child.keep_fds)
    reading = writing = None
    if child.heartbeat:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        argv += ["--heartbeat-fd", str(writing)]
        keep.append(writing)
    try:
        with _forking_is_meant():
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(child.env),
                cwd=child.cwd,
                stdin=asyncio.subprocess.PIPE if child.stdin else asyncio.subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=keep,
                start_new_session=True,
                preexec_fn=tie(child.death_signal),
                **as_user(child.user),
            )
    except OSError as error:
        if reading is not None:
            os.close(reading)
        raise ChildFailed(f"{child.name}: {argv[0]} cannot be started: {error}") from None
    finally:
        if writing is not None:
            os.close(writing)
    life = Life(child, process, reading)
    if process.stdin is not None:
        # No drain: nothing is awaited between the fork and the caller's hold on the process.
        process.stdin.write(child.stdin)
        process.stdin.close()
    return life


async def until_ready(life: Life, timeout_s: float) -> None:
    """
    Wait for `Child.ready`; at once if there is none.

    Raises:
        ChildFailed: it ended first, or took longer. It is left as it is.
    """
    if life.child.ready is None:
        return
    name = life.child.name
    ended = asyncio.create_task(life.wait())
    ready = asyncio.ensure_future(life.child.ready(life.pid))
    try:
        await asyncio.wait({ended, ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            await ready
        elif ended.done():
            raise ChildFailed(f"{name} {describe(ended.result())} before it was ready")
        else:
            raise ChildFailed(f"{name} was not ready after {timeout_s:g} s")
    finally:
        ended.cancel()
        ready.cancel()
        await asyncio.gather(ended, ready, return_exceptions=True)


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def as_user(uid: int | None) -> dict[str, Any]:
    """Arguments by which `subprocess` runs a program as `uid`, without our groups."""
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}


def tie(death_signal: signal.Signals) -> Callable[[], None] | None:
    """
    What a forked child runs before its program, so that it gets `death_signal` when we die.

    None where the kernel cannot do it. It runs after the change of user, which would undo it.
    """
    if sys.platform != "linux":
        return None
    parent, number, prctl = os.getpid(), int(death_signal), _prctl()

    def run() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        # We may have died between the fork and the line above.
        if os.getppid() != parent:
            os._exit(1)

    return run


@functools.cache
def _prctl() -> Any:
    # Looked up before any fork: the loader's lock may be held by a thread that the child lacks.
    return ctypes.CDLL(None, use_errno=True).prctl


@contextlib.contextmanager
def _forking_is_meant() -> Any:
    # Python 3.12+ warns of every fork beside threads; this one runs only prctl before it execs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
