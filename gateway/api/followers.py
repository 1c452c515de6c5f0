"""
Those who follow the feed: woken when there is something to read, and not before.

One task of a process looks at the end of the trail, five times a second and only while somebody
follows; a follower that waits costs a place in a dictionary and holds no connection. Whoever is
woken reads up to where the task has looked, so that followers who want the same read the same
piece, and it is read once for all of them.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from uuid import UUID

from gateway.envelope import Refusal
from shared import gauges
from shared.db import Database, is_platform_fault
from shared.store import feed, tokens
from shared.store.feed import END, Position, Stretch, Wanted

log = logging.getLogger(__name__)

#: Followers of one process, and of one token in it.
FOLLOWERS = 1000
FOLLOWERS_OF_TOKEN = 100

_LOOK_EVERY_S = 0.2
_TOKENS_EVERY_S = 2.0
_PAUSE_AFTER_FAILURE_S = 1.0
#: Records of which none may fit, for one page: some 5 ms.
_LOOK_AT = 20_000
_READ_WITHIN_S = 2.0
#: Readings that are kept for others: while nothing new comes, who goes through all of the trail
#: would leave all of it in memory.
_MOST_SHARED = 64
#: Of a reader of the trail, beside the connections of the API.
CONNECTIONS = 3


class Follower:
    """One who waits. `tenant` is the only one that it is told of; None: of all."""

    def __init__(self, token: UUID, tenant: str | None) -> None:
        self.token = token
        self.tenant = tenant
        #: Why it should go: its token ended, or the process does.
        self.is_ended = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to read."""
        self._woken.set()

    def end(self) -> None:
        """It is over; said once, and at once."""
        self.is_ended = True
        self._woken.set()

    def begin_reading(self) -> None:
        """Whatever comes from now on wakes it."""
        if not self.is_ended:
            self._woken.clear()

    async def wait(self, timeout_s: float) -> bool:
        """Until there may be something to read since `begin_reading`; False where time ran out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, and what those who share it have made of it."""

    stretch: Stretch
    made: dict[str, bytes] = field(default_factory=dict)


class Followers:
    """All that read the trail in this process. Must be used in one event loop."""

    def __init__(self, reader: Database) -> None:
        self._reader = reader
        self._salt: bytes | None = None
        self._followers: set[Follower] = set()
        self._by_token: Counter[UUID] = Counter()
        self._watching: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._tail: Position | None = None
        self._held_s = 0.0
        self._shared: dict[tuple[Wanted, Position, int], asyncio.Task[Reading]] = {}
        gauges.feed_followers.read_from(lambda: {(): len(self._followers)})
        gauges.feed_held.read_from(lambda: {(): self._held_s} if self._followers else {})

    async def salt(self) -> bytes:
        """
        What the ids of items are made with.

        Raises:
            Refusal: the database is away.
        """
        if self._salt is None:
            with _refused():
                async with self._reader.connection(timeout_s=_READ_WITHIN_S) as conn:
                    self._salt = await feed.read_salt(conn)
        return self._salt

    async def newest(self) -> Position:
        """
        Behind the last record that can be read now.

        Raises:
            Refusal: the database is away.
        """
        with _refused():
            async with self._reader.connection(timeout_s=_READ_WITHIN_S) as conn:
                return await feed.newest(conn)

    async def read(self, wanted: Wanted, after: Position, limit: int) -> Reading:
        """
        The next piece of the trail, whoever follows.

        Raises:
            Refusal: the database is away.
        """
        with _refused():
            return await self._read(wanted, after, limit, END)

    async def read_shared(self, wanted: Wanted, after: Position, limit: int) -> Reading:
        """
        The same for who was woken: up to where all were, and once for all who want the same.

        Raises:
            Refusal: the database is away.
        """
        if self._tail is None or self._tail <= after:
            return await self.read(wanted, after, limit)
        key = (wanted, after, limit)
        reading = self._shared.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read(wanted, after, limit, self._tail))
            # Who shares it may all have gone before it fails.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._shared[key] = reading
            if len(self._shared) > _MOST_SHARED:
                del self._shared[next(iter(self._shared))]
        with _refused():
            return await asyncio.shield(reading)

    def admit(self, token: UUID) -> None:
        """
        Whether one more may follow, by this token.

        Raises:
            Refusal: too many are, of this token or at all, or the process is about to end.
        """
        if self._is_stopping or len(self._followers) >= FOLLOWERS:
            raise Refusal("overloaded", "Nobody more can follow here now.")
        if self._by_token[token] >= FOLLOWERS_OF_TOKEN:
            raise Refusal(
                "too_many_requests",
                f"The token has {FOLLOWERS_OF_TOKEN} followers here, and may not have more.",
                {"Retry-After": "5"},
            )

    @contextlib.contextmanager
    def following(self, token: UUID, tenant: str | None) -> Generator[Follower]:
        """Be one of those who are woken, if only to be sent away."""
        follower = Follower(token, tenant)
        if self._is_stopping:
            follower.end()
        self._followers.add(follower)
        self._by_token[token] += 1
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="feed")
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            self._by_token[token] -= 1
            if not self._by_token[token]:
                del self._by_token[token]

    def stop(self) -> None:
        """Send everybody away: the process ends. A server waits for its open answers."""
        self._is_stopping = True
        for follower in self._followers:
            follower.end()

    async def close(self) -> None:
        """Stop looking. The connections are the caller's to close."""
        self.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def _read(self, wanted: Wanted, after: Position, limit: int, up_to: Position) -> Reading:
        async with self._reader.connection(timeout_s=_READ_WITHIN_S) as conn:
            return Reading(
                await feed.read_stretch(conn, wanted, after, limit, look_at=_LOOK_AT, up_to=up_to)
            )

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        tokens_at = clock() + _TOKENS_EVERY_S
        self._tail = None
        while self._followers:
            pause_s = _LOOK_EVERY_S
            try:
                await self._look()
                if clock() >= tokens_at:
                    await self._look_at_tokens()
                    tokens_at = clock() + _TOKENS_EVERY_S
            except Exception as error:  # whatever it is, they must be woken some day
                pause_s = _PAUSE_AFTER_FAILURE_S
                if is_platform_fault(error):
                    log.warning("the trail cannot be read", extra={"error": str(error)})
                else:
                    log.exception("the trail cannot be read")
            await asyncio.sleep(pause_s)
        self._shared.clear()

    async def _look(self) -> None:
        async with self._reader.connection(timeout_s=_READ_WITHIN_S) as conn:
            if self._tail is None:
                self._tail = await feed.newest(conn)
                # Who has read before this was looked at may lack what came between.
                woken: frozenset[str] | None = None
            else:
                news = await feed.look(conn, self._tail)
                self._held_s = news.held_s
                if news.end == self._tail:
                    return
                self._tail, woken = news.end, news.tenants
        self._shared.clear()
        for follower in self._followers:
            if woken is None or follower.tenant is None or follower.tenant in woken:
                follower.wake()

    async def _look_at_tokens(self) -> None:
        async with self._reader.connection(timeout_s=_READ_WITHIN_S) as conn:
            valid = await tokens.still_valid(conn, list(self._by_token))
        for follower in self._followers:
            if follower.token not in valid:
                follower.end()


@contextlib.contextmanager
def _refused() -> Generator[None]:
    try:
        yield
    except Exception as error:
        if is_platform_fault(error):
            raise Refusal("store_unavailable", "The database cannot be read now.") from error
        raise
