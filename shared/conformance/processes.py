"""Processes as a test sees them from outside: started, listed, waited for."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

CLI = ("-m", "workers.cli")

_READY_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0


async def until(look: Callable[[], T], timeout_s: float = 10.0) -> T:
    """Look again and again until something is seen."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "nothing was seen in time"
        await asyncio.sleep(0.02)
    return seen


def listing() -> dict[int, tuple[int, int]]:
    """Parent and uid of every process that runs; zombies do not. Works without `ps` on Linux."""
    found = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found[int(entry.name)] = (int(parent), entry.stat().st_uid)
        return found
    command = ["/bin/ps", "-axo", "pid=,ppid=,uid=,stat="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        pid, parent, uid, state = line.split()
        if not state.startswith("Z"):
            found[int(pid)] = (int(parent), int(uid))
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    return pid in listing()


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    processes, found, queue = listing(), [], [pid]
    while queue:
        above = queue.pop()
        children = [child for child, (parent, _) in processes.items() if parent == above]
        found += children
        queue += children
    return found


def command_of(pid: int) -> str:
    """A process's command line; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    command = ["/bin/ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**environ: str) -> dict[str, str]:
    """Ours without what it says to Sluice, with what we can import, and with `environ`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environ}


def sluice(*argv: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run one command of the CLI to its end."""
    return subprocess.run(
        [sys.executable, *CLI, *argv],
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def ready_line(process: "subprocess.Popen[str]") -> dict[str, str]:
    """
    Wait for the one line that `sluice up --json` prints once it is ready.

    Raises:
        AssertionError: it ended before; with what it said, where that was piped to us.
    """
    assert process.stdout is not None
    reading = asyncio.to_thread(process.stdout.readline)
    line = await asyncio.wait_for(reading, _READY_TIMEOUT_S)
    said = process.stderr.read() if not line and process.stderr is not None else ""
    assert line, f"the stack does not start: {said[-4000:]}"
    ready: dict[str, str] = json.loads(line)
    return ready


@contextlib.contextmanager
def started(
    *argv: str, stderr: IO[str] | int = subprocess.PIPE, **environ: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program of ours; at the end it is killed if it is still there."""
    process = subprocess.Popen(
        [sys.executable, *argv],
        env=environment(**environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
