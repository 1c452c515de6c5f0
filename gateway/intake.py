"""
Group commit: requests that arrive together are committed together, and each gets its own answer.

Nothing is answered before its commit (L1). Everything here is bounded: what waits, by number and
bytes; how long a request waits; how many connections are used.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from shared import telemetry
from shared.db import Conn, Line, Unreachable, is_data_error, is_platform_fault
from shared.store import intake
from shared.store.intake import Delivery, NotStored, Receipt

log = logging.getLogger(__name__)

FLUSHES_IN_FLIGHT = 2
#: What one statement takes at most.
BATCH_EVENTS = 256
BATCH_BYTES = 4 << 20
#: As many are worth a second flush while the first is on its way.
FULL_EVENTS = 32
#: A flush costs as much as some ten events in it. Once as many as BUSY_EVENTS come together, the
#: next flush begins GATHER_S after the last one began; a lone event never waits.
BUSY_EVENTS = 4
GATHER_S = 0.005
WAITING_EVENTS = 4096
WAITING_BYTES = 64 << 20

_PROBE_EVERY_S = 0.25
_PROBE_TIMEOUT_S = 2.0
_PAUSE_S = 0.02
_TICK_S = 0.05
_LOG_EVERY_S = 10.0

# The ledger only grows: a plan made while it was small must not read all of it later.
_SESSION = {"enable_seqscan": "off"}


class StoreUnavailable(Exception):
    """The event could not be stored in time, or it is not known whether it was."""


class Overloaded(Exception):
    """More waits for the store than may be held."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its event to be stored. `deadline` is in the loop's clock."""

    delivery: Delivery
    receipt: asyncio.Future[Receipt]
    deadline: float
    is_refused: bool = False  # the database did not take it as it was


class Intake:
    """
    The gateway's writer.

    `ring` is called with the lanes of what was committed; it must not wait or raise. `record` is
    the store's own, but for tests that need to stand between.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        ring: Callable[[Iterable[int]], None],
        record: Callable[[Conn, Sequence[Delivery]], Awaitable[list[Receipt]]] = intake.record,
    ) -> None:
        self._timeout_s = timeout_s
        self._ring = ring
        self._record = record
        self._idle = [
            Line(url, "gateway", name="sluice-gateway-intake", settings=_SESSION)
            for _ in range(FLUSHES_IN_FLIGHT)
        ]
        self._probe_line = Line(url, "gateway", name="sluice-gateway-probe")
        self._waiting: deque[_Waiting] = deque()
        self._held_events = 0  # waiting or on their way
        self._held_bytes = 0
        self._waiting_bytes = 0
        self._flushes: set[asyncio.Task[None]] = set()
        self._on_their_way: list[list[_Waiting]] = []
        self._clock: asyncio.TimerHandle | None = None
        self._probe: asyncio.Task[None] | None = None
        self._is_pump_due = False
        self._gather_until = float("-inf")  # in the loop's clock
        self._is_closed = False
        self._logged_at = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether requests are taken: Postgres answered when it was last asked."""
        return self._probe is None and not self._is_closed

    async def submit(self, delivery: Delivery) -> Receipt:
        """
        Store a delivery; returns after its commit.

        Raises:
            StoreUnavailable: Postgres is away (known at once), or did not answer within
                `timeout_s`. The event may have been stored.
            Overloaded: too much waits already.
        """
        if not self.is_open:
            raise StoreUnavailable
        size = len(delivery.body)
        if self._held_events >= WAITING_EVENTS or self._held_bytes + size > WAITING_BYTES:
            raise Overloaded
        loop = asyncio.get_running_loop()
        receipt: asyncio.Future[Receipt] = loop.create_future()
        deadline = loop.time() + self._timeout_s - _TICK_S
        self._waiting.append(_Waiting(delivery, receipt, deadline))
        self._held_events += 1
        self._held_bytes += size
        self._waiting_bytes += size
        if not self._is_pump_due or self._has_full_batch():
            # Once for all requests that are read in this turn of the loop.
            self._is_pump_due = True
            loop.call_soon(self._pump)
        if self._clock is None:
            self._clock = loop.call_later(_TICK_S, self._expire)
        return await receipt

    async def close(self) -> None:
        """Take nothing more, and flush what waits."""
        self._is_closed = True
        self._pump()
        while self._flushes:
            await asyncio.wait(self._flushes)
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait({self._probe})
        for line in (*self._idle, self._probe_line):
            await line.close()

    def _pump(self) -> None:
        """Start a flush if none is on its way, a second one only for a full batch."""
        self._is_pump_due = False
        loop = asyncio.get_running_loop()
        while self._waiting and self._idle and (not self._flushes or self._has_full_batch()):
            wait_s = self._gather_until - loop.time()
            if wait_s > 0 and not self._has_full_batch() and not self._is_closed:
                self._is_pump_due = True
                loop.call_later(wait_s, self._pump)
                return
            batch = self._take()
            if len(batch) >= BUSY_EVENTS:
                self._gather_until = loop.time() + GATHER_S
            flush = asyncio.create_task(self._flush(self._idle.pop(), batch))
            self._flushes.add(flush)
            flush.add_done_callback(self._flushed)

    def _flushed(self, flush: asyncio.Task[None]) -> None:
        self._flushes.discard(flush)
        if not self._is_pump_due:
            self._pump()

    def _expire(self) -> None:
        """
        Answer those whose time is up; one clock for all, because a timer each is dear.

        Whatever still comes of their batch is nobody's: it is a duplicate when it is sent again.
        """
        now = asyncio.get_running_loop().time()
        for batch in (self._waiting, *self._on_their_way):
            for waiting in batch:
                if waiting.deadline > now:
                    break
                if not waiting.receipt.done():
                    waiting.receipt.set_exception(StoreUnavailable())
        self._clock = None
        if self._held_events:
            self._clock = asyncio.get_running_loop().call_later(_TICK_S, self._expire)

    def _has_full_batch(self) -> bool:
        return len(self._waiting) >= FULL_EVENTS or self._waiting_bytes >= BATCH_BYTES

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH_EVENTS and (not batch or size < BATCH_BYTES):
            batch.append(self._waiting.popleft())
            size += len(batch[-1].delivery.body)
        self._waiting_bytes -= size
        return batch

    async def _flush(self, line: Line, batch: list[_Waiting]) -> None:
        # A task of its own: a client that hangs up takes nobody's commit with it.
        self._on_their_way.append(batch)
        try:
            await self._store(line, batch)
        except Exception:
            log.exception("a batch could not be stored")
            telemetry.store_failed("fault")
        finally:
            self._held_events -= len(batch)
            self._held_bytes -= sum(len(waiting.delivery.body) for waiting in batch)
            self._on_their_way.remove(batch)
            self._idle.append(line)
            for waiting in batch:
                if not waiting.receipt.done():
                    waiting.receipt.set_exception(StoreUnavailable())

    async def _store(self, line: Line, batch: list[_Waiting]) -> None:
        """
        Store a batch, and again after every error that a repetition may mend.

        The repetition carries the same tracking ids, by which what was committed after all is
        recognised as its own. Returns when all have their receipt, or nobody waits any more.
        """
        loop = asyncio.get_running_loop()
        while batch := [waiting for waiting in batch if not waiting.receipt.done()]:
            left_s = batch[-1].deadline - loop.time()
            if left_s <= 0:
                return
            try:
                async with line.use(timeout_s=left_s) as conn:
                    receipts = await self._record(conn, [waiting.delivery for waiting in batch])
            except Unreachable as error:
                self._break("unreachable", error)
            except TimeoutError as error:
                self._break("timeout", error)
            except Exception as error:
                if is_data_error(error):
                    await self._isolate(line, batch, error)
                    return
                if not (isinstance(error, NotStored) or is_platform_fault(error)):
                    raise
                self._complain("lost", error)
            else:
                self._deliver(batch, receipts)
                return
            await asyncio.sleep(_PAUSE_S)

    def _deliver(self, batch: list[_Waiting], receipts: list[Receipt]) -> None:
        for waiting, receipt in zip(batch, receipts, strict=True):
            if not waiting.receipt.done():
                waiting.receipt.set_result(receipt)
        self._ring({waiting.delivery.lane for waiting in batch})
        telemetry.committed(len(batch))

    async def _isolate(self, line: Line, batch: list[_Waiting], error: Exception) -> None:
        """
        Halve until what the database refuses stands alone, and keep that as unreadable.

        It was verified, so it is evidence; refused again, its sender is told to come again, and
        we are told to look.
        """
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._store(line, batch[:middle])
            await self._store(line, batch[middle:])
            return
        [waiting] = batch
        tracking_id = str(waiting.delivery.tracking_id)
        telemetry.store_failed("data")
        log.error(
            "the database refuses an event",
            extra={"tracking_id": tracking_id, "error": type(error).__name__},
        )
        if not waiting.is_refused:
            waiting.is_refused = True
            waiting.delivery = waiting.delivery.as_unreadable(
                f"refused by the database: {type(error).__name__}"
            )
            await self._store(line, batch)

    def _break(self, kind: str, error: Exception) -> None:
        """Refuse at once from now on, until a probe gets through."""
        self._complain(kind, error)
        if self._probe is None:
            self._probe = asyncio.create_task(self._probe_until_answered(), name="store probe")

    async def _probe_until_answered(self) -> None:
        while True:
            # With jitter: all gateways lost the same Postgres at the same moment.
            pause_s = _PROBE_EVERY_S * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            await asyncio.sleep(pause_s)
            try:
                async with self._probe_line.use(timeout_s=_PROBE_TIMEOUT_S) as conn:
                    await intake.prove_writable(conn)
            except Exception as error:  # whatever it is, Postgres is not back
                self._complain("unreachable", error)
            else:
                self._probe = None
                log.info("the store is back")
                return

    def _complain(self, kind: str, error: Exception) -> None:
        telemetry.store_failed(kind)
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            log.error("the store fails", extra={"kind": kind, "error": str(error)})
