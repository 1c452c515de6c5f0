"""Following events as they are received and settled: each of them once, however late it commits."""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.store import tailing
from shared.store.tailing import Clock, Place

#: So many numbers of work before the last one may still be committed by whoever has them.
_UNCOMMITTED = 10_000
_AT_ONCE = 1000


class Seen(NamedTuple):
    """An event that was received, or of which a run was settled; `run` is that one then."""

    tracking_id: UUID
    run: int | None


class Tail:
    """One reader of what happens, from when it `begin`s."""

    def __init__(self) -> None:
        self._below = 0  # all numbers of work up to here are committed or never will be
        self._seen: set[int] = set()  # of those above
        self._clocks: deque[Clock] = deque()
        self._place = Place(0, 0)

    async def begin(self, conn: Conn) -> None:
        """From now on: what is visible now is known, what is not will be new."""
        clock = await tailing.read_clock(conn)
        self._below = max(clock.last_work - _UNCOMMITTED, 0)
        self._clocks.append(clock)
        # A position behind an open transaction's number: none of its records is passed over.
        self._place = Place(clock.horizon, 0)
        async for number, _ in self._unfinished(conn):
            self._seen.add(number)

    async def look(self, conn: Conn) -> list[Seen]:
        """What is new since the last look: what was received, then what was settled."""
        clock = await tailing.read_clock(conn)
        found = []
        async for number, tracking_id in self._unfinished(conn):
            if number not in self._seen:
                self._seen.add(number)
                found.append(Seen(tracking_id, None))
        self._forget(clock)
        while True:
            told = await tailing.read_told(conn, self._place, _AT_ONCE)
            found += list(self._settled(told))
            if len(told) < _AT_ONCE:
                return found

    async def _unfinished(self, conn: Conn) -> AsyncIterator[tuple[int, UUID]]:
        after = self._below
        while True:
            page = await tailing.read_unfinished(conn, after, _AT_ONCE)
            for one in page:
                yield one
            if len(page) < _AT_ONCE:
                return
            after = page[-1][0]

    def _settled(self, told: list[tailing.Told]) -> Iterator[Seen]:
        for one in told:
            self._place = one.place
            if one.is_settled:
                yield Seen(UUID(one.cause_id), one.run)

    def _forget(self, now: Clock) -> None:
        """
        Numbers that were given out before a look are settled once every transaction that was open
        at the look after that has ended: who takes a number may have no transaction's number yet.
        """
        self._clocks.append(now)
        while len(self._clocks) > 2 and self._clocks[1].xid < now.horizon:
            self._below = max(self._below, self._clocks.popleft().last_work)
        self._seen = {number for number in self._seen if number > self._below}
