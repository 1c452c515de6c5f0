"""
The spine of sending.

    claim, with a token · send · settle, if the token still holds

The lease is committed before anything is sent, and nothing is sent outside of it. So a message is
sent at least once, each time under the same key; twice only where a process died, was paused or
lost Postgres between the receiver's answer and the settlement. No order is kept.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from opentelemetry.trace import SpanKind

from shared import gauges, telemetry
from shared.db import Conn, is_platform_fault, storable
from shared.domain.outcomes import ATTEMPTS_EXHAUSTED, PROCESS_DIED, UNREADABLE
from shared.plugin import Handler, Outgoing, Permanent
from shared.store import outbox
from shared.store.outbox import Lease, Unsent
from workers.crew import Crew
from workers.ending import end
from workers.sending import breaker
from workers.sending.breaker import CLOSED, Breaker

log = logging.getLogger(__name__)

BUSY_S = 0.2
IDLE_S = 1.0
COUNT_EVERY_S = 15.0
#: Codes of attempts that failed; a handler's own come from `Permanent`.
TIMEOUT = "timeout"
FAILED = "failed"
LOST = "lost"

#: Of the crew's connections, at most so many.
_CONNECTIONS = 2
_SETTLE_AGAIN_S = 0.5
_END_WITHIN_S = 2.0
_LONGEST_ERROR = 2000
_LONGEST_CODE = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """
    The bounds of sending.

    A lease lasts `lease_s`, of which `send_s` are for sending, counted from before the claim.
    `at_once` is for one handler in one process: whoever is slow uses up what is its own.
    """

    send_s: float = 30.0
    lease_s: float = 60.0
    at_once: int = 8

    @classmethod
    def of(cls, send_s: float) -> "Pace":
        """A lease is twice as long as what may be sent in it: clocks and pauses differ."""
        return cls(send_s=send_s, lease_s=2 * send_s)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed; `is_final`: no other one would help."""

    code: str
    error: str
    is_final: bool = False


class Sending:
    """
    One process's sending, of the handlers that are installed in it: `handlers`, by name.

    What others have put in is left alone. Must be used in one event loop.
    """

    def __init__(
        self, crew: Crew, handlers: Mapping[str, Handler[Any]], pace: Pace | None = None
    ) -> None:
        self._crew = crew
        self._handlers = handlers
        self._pace = pace or Pace()
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._running: dict[asyncio.Task[bool], Lease] = {}
        self._settling: set[asyncio.Task[Any]] = set()
        self._breakers: dict[str, Breaker] = {}
        self._looking: asyncio.Task[bool] | None = None
        self._freed = asyncio.Event()
        self._count_at = float("-inf")  # in the loop's clock
        self.unsent: dict[str, Unsent] = {}
        self.dead: dict[str, int] = {}

    async def run(self) -> None:
        """Send until cancelled; what is under way then is given back."""
        gauges.outbox_unsent.read_from(
            lambda: {name: one.messages for name, one in self.unsent.items()}
        )
        gauges.outbox_oldest_unsent.read_from(
            lambda: {name: one.oldest_s for name, one in self.unsent.items()}
        )
        gauges.outbox_dead.read_from(lambda: self.dead)
        try:
            while True:
                self._freed.clear()
                # Shielded: what a stop cuts off at its claim could not be given back.
                self._looking = asyncio.create_task(self._guarded("look", self.turn()))
                is_busy = await asyncio.shield(self._looking)
                pause_s = BUSY_S if is_busy else IDLE_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s * _jitter()):
                        await self._freed.wait()
        finally:
            await self._end()

    async def turn(self) -> bool:
        """Begin what is due and may go; whether any was due. What was begun goes on by itself."""
        able = [name for name in self._handlers if self._room(name) > 0]
        if not able and _now_s() < self._count_at:
            return False
        async with self._connections, self._crew.db.connection() as conn:
            if _now_s() >= self._count_at:
                await self._count(conn)
            due = await outbox.handlers_with_due(conn, able) if able else []
        for name in due:
            await self._begin(name)
        return bool(due)

    async def finish(self) -> None:
        """Wait for what has begun."""
        await asyncio.gather(*self._running)

    # Claiming -----------------------------------------------------------------------------------

    def _room(self, name: str) -> int:
        """How many messages of a handler may go now."""
        here = sum(lease.handler == name for lease in self._running.values())
        let_through = breaker.let_through(self._breakers.get(name, CLOSED), _now_s())
        return min(self._pace.at_once - here, let_through)

    async def _begin(self, name: str) -> None:
        # From before the claim on: a process that was paused must not begin to send what somebody
        # else has a lease of by now.
        claimed_s = _now_s()
        async with self._connections, self._crew.db.connection() as conn:
            leases = await outbox.claim(conn, name, self._room(name), uuid4(), self._pace.lease_s)
        for lease in leases:
            if not lease.taken_over:
                now = self._breakers.get(name, CLOSED)
                self._breakers[name] = breaker.probing(now, lease.message)
            delivering = self._guarded("deliver", self._deliver(lease, claimed_s))
            task = asyncio.create_task(delivering, name="send")
            self._running[task] = lease
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[bool]) -> None:
        del self._running[task]
        self._settling.discard(task)
        self._freed.set()

    async def _count(self, conn: Conn) -> None:
        """Now and then, how many wait and how many are dead."""
        self._count_at = _now_s() + COUNT_EVERY_S
        # A handler that has none any more has to say so.
        nothing = {name: Unsent(0, 0.0) for name in self.unsent}
        self.unsent = nothing | await outbox.count_unsent(conn)
        self.dead = dict.fromkeys(self.dead, 0) | await outbox.count_dead(conn)

    # Sending ------------------------------------------------------------------------------------

    async def _deliver(self, lease: Lease, claimed_s: float) -> None:
        """One message, from its lease to its settlement. Raises nothing but cancellation."""
        span = telemetry.start_span("send message", SpanKind.CLIENT)
        span.set_attribute("sluice.handler", lease.handler)
        span.set_attribute("sluice.tracking_id", str(lease.tracking_id))
        span.set_attribute("sluice.attempt", lease.attempt)
        try:
            if lease.taken_over:
                # Not at once, and not together: one of those that died together killed the rest.
                failure: Failure | None = Failure(PROCESS_DIED, "its sender did not come back")
                attempts = lease.attempt - 1
            else:
                failure, attempts = await self._send(lease, claimed_s), lease.attempt
                self._tell_breaker(lease, failure)
            task = asyncio.current_task()
            assert task is not None
            self._settling.add(task)
            outcome = await self._settle(lease, failure, attempts, claimed_s)
            span.set_attribute("sluice.outcome", outcome)
            telemetry.sent(lease.handler, outcome)
        finally:
            span.end()

    async def _send(self, lease: Lease, claimed_s: float) -> Failure | None:
        """Outside of any transaction. None: the receiver has it."""
        handler, deadline = self._handlers[lease.handler], claimed_s + self._pace.send_s
        try:
            payload = json.loads(lease.payload)
        except (ValueError, RecursionError) as error:
            return Failure(UNREADABLE, _text(error), is_final=True)
        late = Failure(TIMEOUT, f"not sent within {self._pace.send_s:g} s")
        if _now_s() >= deadline:
            return late
        message = Outgoing(lease.key, payload, lease.created_at, lease.attempt)
        # In a task of its own: one that catches its cancellation must not keep a place for ever.
        sending = asyncio.create_task(_sent(handler, message), name=f"send of {lease.handler}")
        try:
            await asyncio.wait({sending}, timeout=deadline - _now_s())
            is_late = not sending.done()
        finally:
            await end(sending)
        if is_late:
            return late
        if sending.cancelled():
            return Failure(FAILED, "what it waited for was cancelled")
        return sending.result()

    def _tell_breaker(self, lease: Lease, failure: Failure | None) -> None:
        before = self._breakers.get(lease.handler, CLOSED)
        # A receiver that refuses for good is there.
        if failure is None or failure.is_final:
            after = CLOSED
        else:
            after = breaker.failed(before, lease.message, _now_s())
        self._breakers[lease.handler] = after
        if before.open_until_s is None and after.open_until_s is not None:
            log.error("sending is held back: message after message fails", extra=_fields(lease))
        elif before.open_until_s is not None and after.open_until_s is None:
            log.info("sending goes on", extra={"handler": lease.handler})

    # Settling -----------------------------------------------------------------------------------

    async def _settle(
        self, lease: Lease, failure: Failure | None, attempts: int, claimed_s: float
    ) -> str:
        """
        Write down what became of it: "sent", "failed", "dead", or "lost" where it is not ours any
        more. With Postgres away, again and again, until the lease has run out.
        """
        while True:
            try:
                async with self._connections, self._crew.db.connection() as conn:
                    outcome, holds = await self._written(conn, lease, failure, attempts)
                break
            except Exception as error:
                is_over = _now_s() >= claimed_s + self._pace.lease_s
                if is_over or not is_platform_fault(error):
                    log.exception("a sending could not be settled", extra=_fields(lease))
                    return LOST
            await asyncio.sleep(_SETTLE_AGAIN_S * _jitter())
        fields = _fields(lease)
        if failure is not None:
            fields |= {"code": failure.code, "error": failure.error}
        if not holds:
            log.warning("a lease was lost: the message is sent again", extra=fields)
            return LOST
        if failure is not None:
            is_dead = outcome == "dead"
            text = "message is dead" if is_dead else "sending failed"
            log.log(logging.ERROR if is_dead else logging.WARNING, text, extra=fields)
        return outcome

    async def _written(
        self, conn: Conn, lease: Lease, failure: Failure | None, attempts: int
    ) -> tuple[str, bool]:
        """The outcome, and whether the lease still held to write it."""
        if failure is None:
            return "sent", await outbox.settle(conn, lease, "sent", attempts=attempts)
        retry, error = self._crew.retry, failure.error
        if failure.is_final or retry.is_exhausted(attempts):
            code = failure.code
            if not failure.is_final and code != PROCESS_DIED:
                code = ATTEMPTS_EXHAUSTED
            return "dead", await outbox.settle(
                conn, lease, "dead", attempts=attempts, code=code, error=error
            )
        delay_s = retry.delay_s(attempts, random.random())  # noqa: S311 - jitter
        return FAILED, await outbox.put_off(
            conn, lease, attempts=attempts, delay_s=delay_s, code=failure.code, error=error
        )

    # The rest -----------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Stop what is under way, let what was answered be settled, and give the rest back."""
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=_END_WITHIN_S)
        for task in self._running:
            if task not in self._settling:
                task.cancel()
        held = dict(self._running)
        if not held:
            return
        # A handler may take its time over being cancelled, or refuse to be.
        await asyncio.wait(held, timeout=_END_WITHIN_S)
        for task in held:
            task.cancel()
        left = [lease for task, lease in held.items() if not task.done() or task.cancelled()]
        if left:
            await self._guarded("give back", self._give_back(left))

    async def _give_back(self, leases: list[Lease]) -> None:
        async with asyncio.timeout(_END_WITHIN_S), self._crew.db.connection() as conn:
            await outbox.give_back(conn, leases)

    async def _guarded(self, what: str, doing: Awaitable[bool | None]) -> bool:
        """What is not claimed now is claimed later; a lease that is not given back runs out."""
        try:
            return bool(await doing)
        except Exception as error:
            if is_platform_fault(error):
                log.warning("sending put off", extra={"at": what, "error": repr(error)})
            else:
                log.exception("sending failed", extra={"at": what})
            return False


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return 0.75 + random.random() / 2  # noqa: S311 - jitter


async def _sent(handler: Handler[Any], message: Outgoing) -> Failure | None:
    try:
        await handler.send(message)
    except Permanent as error:
        return Failure(storable(str(error.code))[:_LONGEST_CODE] or FAILED, _text(error), True)
    except TimeoutError as error:
        return Failure(TIMEOUT, _text(error))
    except (Exception, SystemExit) as error:
        return Failure(FAILED, _text(error))
    return None


def _text(error: BaseException) -> str:
    with contextlib.suppress(Exception):
        return storable(str(error) or repr(error))[:_LONGEST_ERROR]
    return type(error).__name__


def _fields(lease: Lease) -> dict[str, object]:
    return {
        "handler": lease.handler,
        "message_id": lease.message,  # `message` is the log record's own
        "tracking_id": str(lease.tracking_id),
        "attempt": lease.attempt,
    }
