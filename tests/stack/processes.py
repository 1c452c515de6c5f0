"""Programs to supervise."""

import os
import sys
from pathlib import Path

from workers.stack.spawn import Child

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
