"""
Keep processes running: restart what dies, kill what hangs, stop everything in order.

A hang is turned into a crash: a child with a heartbeat that has been silent for `hang_after_s`
is killed, and from then on the same path leads back to work. Nothing else is decided here.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from itertools import groupby
from typing import Any

from workers.stack.spawn import Child, ChildFailed, Life, describe, spawn, until_ready

FIRST_RESTART_S = 0.1
LAST_RESTART_S = 1.0
STEADY_AFTER_S = 10.0
#: A second signal so soon is an echo (a shell or make that passes on what the terminal sent).
ECHO_S = 0.3

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"sluice: {line}\n")
    sys.stderr.flush()


class Supervisor:
    """The children of this process, by name."""

    def __init__(
        self,
        *,
        hang_after_s: float = 10.0,
        first_beat_s: float = 30.0,
        log: Callable[[str], None] = say,
    ) -> None:
        self._hang_after_s = hang_after_s
        self._first_beat_s = first_beat_s
        self._log = log
        self._lives: dict[str, Life] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        #: How often each child has ended without being asked to.
        self.deaths: dict[str, int] = {}

    def pid(self, name: str) -> int:
        """The process that is `name` at this moment, or was until it died."""
        return self._lives[name].pid

    def is_heard(self, name: str) -> bool:
        """Whether the present life of `name` has beaten, or is a child without a heartbeat."""
        life = self._lives[name]
        life.listen()
        return life.heard_at is not None or not life.child.heartbeat

    async def start(self, child: Child, *, timeout_s: float = 60.0) -> None:
        """
        Start `child`, wait until it is ready, and keep it running from then on.

        Raises:
            ChildFailed: it could not be started, ended before it was ready, or took longer than
                `timeout_s`. It is not tried again.
        """
        life = await spawn(child)
        self._lives[child.name] = life
        try:
            await until_ready(life, timeout_s)
        except ChildFailed:
            del self._lives[child.name]
            await life.end()
            life.close()
            raise
        self.deaths[child.name] = 0
        self._keepers[child.name] = asyncio.create_task(self._keep(life), name=child.name)

    async def stop(self) -> None:
        """Stop everything, the highest stage first; returns when nothing of it runs."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        self._keepers.clear()
        lives = sorted(self._lives.values(), key=lambda life: -life.child.stage)
        for _, stage in groupby(lives, key=lambda life: life.child.stage):
            await asyncio.gather(*(life.end() for life in stage))
        for life in lives:
            life.close()
        self._lives.clear()

    def kill(self) -> None:
        """SIGKILL everything that runs. `stop` still has to be awaited."""
        for keeper in self._keepers.values():
            keeper.cancel()
        for life in self._lives.values():
            life.kill()

    async def supervise(self, starting: Coroutine[Any, Any, None]) -> None:
        """
        Run `starting`, which starts the children, then keep them until SIGINT, SIGTERM or SIGHUP.

        Everything is stopped on the way out; a second signal kills. Raises what `starting` raised.
        """
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        asked_at = 0.0

        def ask() -> None:
            nonlocal asked_at
            if not asked.is_set():
                asked_at = loop.time()
                asked.set()
            elif loop.time() - asked_at > ECHO_S:
                self._log("killing everything")
                self.kill()

        # A signal that we were started to ignore stays ignored: SIGHUP under nohup.
        heeded = [
            number
            for number in STOP_SIGNALS
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        ]
        for number in heeded:
            loop.add_signal_handler(number, ask)
        start = asyncio.create_task(starting)
        stop = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                await stop
            self._log("stopping")
        finally:
            start.cancel()
            stop.cancel()
            await asyncio.gather(start, stop, return_exceptions=True)
            await self.stop()
            for number in heeded:
                loop.remove_signal_handler(number)

    async def _keep(self, life: Life) -> None:
        child = life.child
        pause_s = FIRST_RESTART_S
        while True:
            status = await self._outlive(life)
            life.close()
            self.deaths[child.name] += 1
            if asyncio.get_running_loop().time() - life.started_at >= STEADY_AFTER_S:
                pause_s = FIRST_RESTART_S
            self._log(f"{child.name} {describe(status)}; starting it again in {pause_s:g} s")
            while True:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LAST_RESTART_S)
                with contextlib.suppress(ChildFailed):
                    life = await spawn(child)
                    self._lives[child.name] = life
                    break

    async def _outlive(self, life: Life) -> int:
        if not life.child.heartbeat:
            return await life.wait()
        watch = asyncio.create_task(self._watch(life))
        try:
            return await life.wait()
        finally:
            watch.cancel()

    async def _watch(self, life: Life) -> None:
        loop = asyncio.get_running_loop()
        tick_s = min(1.0, self._hang_after_s / 4)
        looked_at, since = loop.time(), life.started_at
        while True:
            await asyncio.sleep(tick_s)
            now = loop.time()
            life.listen()
            if now - looked_at > tick_s + self._hang_after_s / 2:
                # We were held up ourselves (SIGSTOP, a debugger, a laptop's lid), and so may
                # the child have been: its silence says nothing.
                since = now
            looked_at = now
            since = max(since, life.heard_at or 0.0)
            limit_s = self._first_beat_s if life.heard_at is None else self._hang_after_s
            if now - since > limit_s:
                self._log(f"{life.child.name} (pid {life.pid}) has been silent for {limit_s:g} s")
                life.kill()
                return
