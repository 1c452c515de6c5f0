"""Programs to supervise, and ways to look at processes from outside."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from workers.stack.spawn import Child

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]

#: A child: beats if told to, notes its pid and its end in a file, then does as `mode` says.
PROGRAM = """
import argparse, asyncio, os, signal, sys, time
from shared.heartbeat import beat

arguments = argparse.ArgumentParser()
arguments.add_argument("--heartbeat-fd", type=int)
arguments.add_argument("--notes")
arguments.add_argument("--name")
arguments.add_argument("--mode", default="stay")
arguments = arguments.parse_args()

def note(word):
    with open(arguments.notes, "a") as file:
        file.write(f"{word} {arguments.name} {os.getpid()}\\n")

def ended(*_):
    note("stop")
    os._exit(0)

async def main():
    note("start")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in arguments.mode else ended)
    if "die" in arguments.mode:
        sys.exit(3)
    if "mute" not in arguments.mode and arguments.heartbeat_fd is not None:
        beating = asyncio.create_task(beat(arguments.heartbeat_fd, 0.05))
    await asyncio.sleep(0.3)
    if "hang" in arguments.mode:
        time.sleep(600)
    if "mute" in arguments.mode or arguments.heartbeat_fd is None:
        await asyncio.sleep(600)
    await beating
    note("alone")

asyncio.run(main())
"""


class Notes:
    """What the children of a test have noted, in order: (word, name, pid)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, word: str, name: str | None = None) -> list[tuple[str, int]]:
        """(name, pid) of every note with this word."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        notes = [line.split() for line in lines]
        return [(n, int(pid)) for w, n, pid in notes if w == word and name in (None, n)]

    def child(self, name: str, mode: str = "stay", **fields: object) -> Child:
        """A child that runs PROGRAM."""
        arguments = ("--notes", str(self.path), "--name", name, "--mode", mode)
        return Child(
            name=name,
            argv=(sys.executable, "-c", PROGRAM, *arguments),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            **{"heartbeat": True, **fields},  # type: ignore[arg-type]  # a test's free choice
        )


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
    command = ["ps", "-axo", "pid=,ppid=,uid=,stat="]
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


@contextlib.contextmanager
def started(
    *argv: str, stderr: IO[str] | int = subprocess.PIPE, **environ: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a program of ours; at the end it is killed if it is still there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    process = subprocess.Popen(
        [sys.executable, *argv],
        env={**clean, "PYTHONPATH": str(ROOT), **environ},
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
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
