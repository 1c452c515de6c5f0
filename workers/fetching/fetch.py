"""
The spine of fetching.

    note who wants it · claim, with a number · ask · store the answer as an event · wake its lane

The number is committed before the provider is asked, so that of two answers the later one is
known. Nothing here changes an object: the answer does, once it is applied like every event. Who
dies after a claim has lost it when it runs out; somebody else gets another number.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

from opentelemetry.trace import SpanKind

from shared import gauges, telemetry
from shared.db import Conn, is_platform_fault
from shared.sealing import KeyRing
from shared.store import fetches
from shared.store.fetches import AnswerEvent, Budget, Claim
from workers.crew import Crew
from workers.fetching import breaker, budgets, pacing
from workers.fetching.answers import (
    ANSWERED,
    FORBIDDEN,
    MODE_MISMATCH,
    NOT_FOUND,
    Answer,
    FetchFailed,
)
from workers.fetching.asking import answer_event, ask, fields_of, is_ours
from workers.fetching.pacing import Pace
from workers.fetching.targets import Target, Targets
from workers.fetching.turning import guarded, take_turns

log = logging.getLogger(__name__)

IDLE_S = 1.0
COUNT_EVERY_S = 15.0
#: Of the crew's connections, at most so many.
_CONNECTIONS = 2
_NOTED_AT_ONCE = 1000
_GIVE_BACK_WITHIN_S = 3.0


class Fetching:
    """
    One process's fetches.

    `wake` is called with the lanes that have an answer to apply. Without `keys` nothing is
    fetched here. Must be used in one event loop.
    """

    def __init__(
        self,
        crew: Crew,
        keys: KeyRing | None,
        wake: Callable[[Iterable[int]], None],
        pace: Pace | None = None,
    ) -> None:
        self._crew = crew
        self._wake = wake
        self._pace = pace or Pace()
        self.targets = Targets(keys, pace)
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._running: dict[asyncio.Task[None], tuple[Target, Claim]] = {}
        self._note_at = self._count_at = float("-inf")  # in the loop's clock
        self.wanting: dict[str, int] = {}  # objects by source

    async def run(self) -> None:
        """Fetch until cancelled; what is under way then is given back."""
        gauges.objects_wanting.read_from(lambda: self.wanting)
        try:
            await take_turns(self.turn, IDLE_S, log, "fetching", at="look")
        finally:
            await self._end()

    async def turn(self) -> bool:
        """Begin what is due and may go; whether any was due. What was begun goes on by itself."""
        async with self._connections, self._crew.db.connection() as conn:
            await self.targets.learn(conn, self._crew.surroundings)
            await self._note(conn)
            targets = self.targets.by_source
            versions = [target.key_version for target in targets.values()]
            due = await fetches.sources_with_due(conn, list(targets), versions)
        for source_id in due:
            await self._begin(targets[source_id])
        return bool(due)

    async def finish(self) -> None:
        """Wait for what has begun."""
        await asyncio.gather(*self._running)

    # Claiming -----------------------------------------------------------------------------------

    async def _note(self, conn: Conn) -> None:
        """Who wants to be fetched, and who does not any more; now and then, how many."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        if begun_s >= self._note_at:
            kinds = {
                source_id: target.api.kinds for source_id, target in self.targets.by_source.items()
            }
            await fetches.note_wanting(conn, kinds, self._pace.settle_s, _NOTED_AT_ONCE)
            await fetches.forget_satisfied(conn, _NOTED_AT_ONCE)
            # With 100,000 that wait this takes a second, and must not be all that Postgres does.
            self._note_at = begun_s + max(IDLE_S / 2, 10 * (loop.time() - begun_s))
        if begun_s >= self._count_at:
            self._count_at = begun_s + COUNT_EVERY_S
            found = await fetches.count_wanting(conn)
            named = self._crew.surroundings.name_of
            counts = {named(source_id): count for source_id, count in found.items()}
            # A source that has none any more has to say so.
            self.wanting = {**dict.fromkeys(self.wanting, 0), **counts}

    async def _begin(self, target: Target) -> None:
        here = sum(other.source.id == target.source.id for other, _ in self._running.values())
        if here >= self._pace.at_once:
            return
        # From before the claim on: a process that was paused must not begin to ask when somebody
        # else has taken over with a larger number.
        deadline = asyncio.get_running_loop().time() + self._pace.within_s
        async with self._transaction() as conn:
            claims = await self._claim(conn, target, self._pace.at_once - here)
        for claim in claims:
            task = asyncio.create_task(self._fetch(target, claim, deadline), name="fetch")
            self._running[task] = (target, claim)
            task.add_done_callback(self._running.pop)

    async def _claim(self, conn: Conn, target: Target, limit: int) -> list[Claim]:
        """As many as may go now, and the budget without them."""
        taken = await budgets.take(conn, target)
        if taken is None:
            return []
        budget, now = taken
        limit = min(limit, budgets.allowed(budget, now))
        claims: list[Claim] = []
        if limit > 0:
            claims = await fetches.claim(conn, target.source.id, limit, self._pace.claim_s)
        await budgets.charge(conn, target, budget, now, [claim.number for claim in claims])
        return claims

    # Fetching -----------------------------------------------------------------------------------

    async def _fetch(self, target: Target, claim: Claim, deadline: float) -> None:
        """One fetch, from the claim to its end. Raises nothing but cancellation."""
        span = telemetry.start_span("fetch object", SpanKind.CLIENT)
        span.set_attribute("sluice.source", target.source.name)
        span.set_attribute("sluice.object_kind", claim.kind)
        span.set_attribute("sluice.fetch_number", claim.number)
        try:
            try:
                answer = await ask(target, claim, deadline)
                if answer.result is None:
                    await self._prove(target, deadline)
                event = answer_event(answer, target, claim, telemetry.traceparent_of(span))
            except FetchFailed as failure:
                await guarded(self._put_off(target, claim, failure), log, "fetching", at="put off")
                code = failure.code
            else:
                await guarded(
                    self._bring_in(target, claim, answer, event), log, "fetching", at="store"
                )
                code = ANSWERED
            span.set_attribute("sluice.fetch_code", code)
            telemetry.fetched(target.source.name, code)
        finally:
            span.end()

    async def _prove(self, target: Target, deadline: float) -> None:
        """
        That something is not there is believed only of a key that is proven.

        Raises:
            FetchFailed: it is not.
        """
        try:
            is_proven = await is_ours(self._crew.db.connection, target, deadline)
        except Exception as error:
            if not is_platform_fault(error):
                raise
            is_proven = False
        if not is_proven:
            raise FetchFailed(NOT_FOUND, "nor is any customer there of whom events told")

    async def _bring_in(
        self, target: Target, claim: Claim, answer: Answer, event: AnswerEvent
    ) -> None:
        """Store the answer, also of a claim that was taken over: the larger number wins."""

        def decide(budget: Budget, _: datetime) -> Budget:
            # One request was paid for by the claim.
            budget = pacing.spend(budget, answer.requests - 1)
            return breaker.answered(budget, claim.number, target.key_version)

        async with self._transaction() as conn:
            await fetches.insert_answer(conn, event, "system:fetch")
            before, after = await budgets.decide(conn, target, decide)
            again_s = pacing.again_after_s(claim.answers + 1)
            await fetches.mark_answered(conn, claim, event.tracking_id, again_s)
        self._wake([event.lane])
        if before.open_until is not None and after.open_until is None:
            log.info("fetching goes on", extra={"source": target.source.name})

    async def _put_off(self, target: Target, claim: Claim, failure: FetchFailed) -> None:
        """Charge the object, the provider or the key, whichever it is that fails."""

        def decide(budget: Budget, now: datetime) -> Budget:
            return breaker.failed(budget, claim.number, target.key_version, failure, now)

        async with self._transaction() as conn:
            before, after = await budgets.decide(conn, target, decide)
            # With another key in use by now, this says nothing of the object either.
            is_charged = pacing.is_charged(failure.code) and target.key_version == after.key_version
            attempts = claim.attempts + is_charged
            chance = random.random()  # noqa: S311 - jitter
            await fetches.mark_failed(
                conn,
                claim,
                attempts=attempts,
                delay_s=pacing.retry_after_s(failure.code, attempts, chance) if is_charged else 0,
                code=failure.code,
                error=str(failure),
            )
        fields = fields_of(target, claim) | {"code": failure.code, "error": str(failure)}
        level = logging.ERROR if failure.code in (FORBIDDEN, MODE_MISMATCH) else logging.WARNING
        log.log(level, "fetch failed", extra=fields)
        if after.open_until is not None and after.open_until != before.open_until:
            log.error(
                "nothing is fetched for a while",
                extra={
                    "source": target.source.name,
                    "until": after.open_until.isoformat(),
                    "error": after.last_error,
                },
            )

    # The rest -----------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Stop what is under way, and let others have it at once."""
        claims = [claim for _, claim in self._running.values()]
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if claims:
            await guarded(self._give_back(claims), log, "fetching", at="give back")
        await self.targets.close()

    async def _give_back(self, claims: list[Claim]) -> None:
        async with asyncio.timeout(_GIVE_BACK_WITHIN_S), self._transaction() as conn:
            await fetches.give_back(conn, claims)

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Conn]:
        async with self._connections, self._crew.db.transaction() as conn:
            yield conn
