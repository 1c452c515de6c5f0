"""
Who is drained next: round the sources, then round a source's lanes.

A visit is bounded, and a lane with more to do goes to the end of its source's line; so one
source's flood delays only itself. Visits that run handlers of installed packages may last as long
as these take: they never have all slots.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from workers.process import Progress

log = logging.getLogger(__name__)

Visitor = Callable[[int], Awaitable[Progress]]

#: So many slots are never taken by sources whose events run handlers of installed packages.
SPARED = 2

_FAULT_PAUSE_S = 0.1
_LONGEST_FAULT_PAUSE_S = 2.0


class Rounds:
    """
    The lanes that this process has been woken for, and the slots that visit them.

    A lane is in line once at most; a wake for a lane that is being visited brings it back after.
    The sources `extended`, together, leave `SPARED` of the slots to the others.
    """

    def __init__(
        self,
        visit: Visitor,
        slots: int,
        source_of: Callable[[], Mapping[int, int]],
        extended: Collection[int] = (),
    ):
        self._visit = visit
        self._slots = slots
        self._source_of = source_of
        self._extended = extended
        self._for_extended = max(1, slots - SPARED)
        self._being_visited: dict[int, int] = {}  # lane → source
        self._lines: dict[int, deque[int]] = {}
        self._order: deque[int] = deque()
        self._in_line: set[int] = set()
        self._woken_meanwhile: set[int] = set()
        self._news = asyncio.Event()
        self._is_closed = False

    def wake(self, lanes: Iterable[int]) -> None:
        """Visit these lanes soon."""
        sources = self._source_of()
        for lane in lanes:
            if lane in self._being_visited:
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
            turn = self._next()
            if turn is None:
                self._news.clear()
                await self._news.wait()
                continue
            progress = await self._visited_once(*turn)
            if progress is Progress.FAULT:
                # The whole fleet meets the same fault; it should not come back in step.
                pause_s = min(_FAULT_PAUSE_S * 2**faults, _LONGEST_FAULT_PAUSE_S)
                faults = min(faults + 1, 10)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - jitter
            elif progress is not Progress.NOTHING:
                faults = 0

    async def _visited_once(self, source: int, lane: int) -> Progress:
        self._being_visited[lane] = source
        try:
            progress = await self._visit(lane)
        except Exception:
            # A bug in the spine itself. The lane stays due, and the sweep brings it back.
            log.exception("visit failed", extra={"lane": lane})
            progress = Progress.FAULT
        finally:
            del self._being_visited[lane]
            if source in self._extended:
                self._news.set()  # somebody may wait for this turn's end
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

    def _next(self) -> tuple[int, int] | None:
        """The next source's turn and which of its lanes has it; None: nobody, for now."""
        begun = sum(source in self._extended for source in self._being_visited.values())
        for _ in range(len(self._order)):
            source = self._order.popleft()
            if source in self._extended and begun >= self._for_extended:
                self._order.append(source)
                continue
            line = self._lines[source]
            lane = line.popleft()
            self._in_line.discard(lane)
            if line:
                self._order.append(source)
            return source, lane
        return None
