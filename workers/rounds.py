"""
Who is drained next: round the sources, then round a source's lanes.

A visit is bounded, and a lane with more to do goes to the end of its source's line; so one
source's flood delays only itself.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from workers.process import Progress

log = logging.getLogger(__name__)

Visitor = Callable[[int], Awaitable[Progress]]

_FAULT_PAUSE_S = 0.1
_LONGEST_FAULT_PAUSE_S = 2.0


class Rounds:
    """
    The lanes that this process has been woken for, and the slots that visit them.

    A lane is in line once at most; a wake for a lane that is being visited brings it back after.
    """

    def __init__(self, visit: Visitor, slots: int, source_of: Callable[[], Mapping[int, int]]):
        self._visit = visit
        self._slots = slots
        self._source_of = source_of
        self._lines: dict[int, deque[int]] = {}
        self._order: deque[int] = deque()
        self._in_line: set[int] = set()
        self._visited: set[int] = set()
        self._woken_meanwhile: set[int] = set()
        self._news = asyncio.Event()
        self._is_closed = False

    def wake(self, lanes: Iterable[int]) -> None:
        """Visit these lanes soon."""
        sources = self._source_of()
        for lane in lanes:
            if lane in self._visited:
                self._woken_meanwhile.add(lane)
            elif lane not in self._in_line:
                self._append(sources.get(lane, 0), lane)

    async def run(self) -> None:
        """Visit until closed; then finish the visits that have begun."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._slots):
                slots.create_task(self._slot())

    def close(self) -> None:
        """Begin no further visit."""
        self._is_closed = True
        self._news.set()

    async def _slot(self) -> None:
        faults = 0
        while not self._is_closed:
            lane = self._next()
            if lane is None:
                self._news.clear()
                await self._news.wait()
                continue
            progress = await self._visited_once(lane)
            if progress is Progress.FAULT:
                # The whole fleet meets the same fault; it should not come back in step.
                pause_s = min(_FAULT_PAUSE_S * 2**faults, _LONGEST_FAULT_PAUSE_S)
                faults = min(faults + 1, 10)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter
            elif progress is not Progress.NOTHING:
                faults = 0

    async def _visited_once(self, lane: int) -> Progress:
        self._visited.add(lane)
        try:
            progress = await self._visit(lane)
        except Exception:
            # A bug in the spine itself. The lane stays due, and the sweep brings it back.
            log.exception("visit failed", extra={"lane": lane})
            progress = Progress.FAULT
        finally:
            self._visited.discard(lane)
        woken = lane in self._woken_meanwhile
        self._woken_meanwhile.discard(lane)
        if progress in (Progress.MORE, Progress.FAULT) or (
            woken and progress in (Progress.DONE, Progress.NOTHING)
        ):
            self.wake((lane,))
        return progress

    def _append(self, source: int, lane: int) -> None:
        line = self._lines.setdefault(source, deque())
        if not line:
            self._order.append(source)
        line.append(lane)
        self._in_line.add(lane)
        self._news.set()

    def _next(self) -> int | None:
        if not self._order:
            return None
        source = self._order.popleft()
        line = self._lines[source]
        lane = line.popleft()
        self._in_line.discard(lane)
        if line:
            self._order.append(source)
        return lane
