"""
The spine of reconciling: a provider that stops sending does not say so, and has to be asked.

    begin a round · list its customers, page by page · fetch the summary of each · store what is
    news as an event · then whoever has something here and was on no page

One worker at a time is at a source's round, under a claim that runs out; how far the round is
lies in Postgres, so that whoever comes next goes on. The requests are paid for from the budget
that fetches have, and half of its burst is left to them: an object that wants to be fetched does
not wait for a round. Nothing here changes an object. A summary that says nothing which we do not
hold already is not stored: see `shared.domain.summaries.tells_news`.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from opentelemetry.trace import SpanKind

from shared import gauges, telemetry
from shared.db import Conn
from shared.domain.events import Arrival
from shared.domain.keys import CustomerKey
from shared.domain.payments import Policy
from shared.domain.register import Seen
from shared.domain.standings import families_of
from shared.domain.summaries import tells_news
from shared.store import fetches, objects, reconciliations
from shared.store.fetches import AnswerEvent, Claim
from shared.store.reconciliations import Phase, Progress, Round
from workers.crew import Crew
from workers.fetching import budgets, pacing
from workers.fetching.answers import (
    ABOUT_THE_OBJECT,
    ANSWERED,
    FORBIDDEN,
    NOT_FOUND,
    UNREADABLE,
    Answer,
    FetchFailed,
)
from workers.fetching.api import Listing, Page
from workers.fetching.asking import answer_event, ask, fields_of, in_time, is_ours
from workers.fetching.targets import Target, Targets
from workers.fetching.turning import guarded, take_turns

log = logging.getLogger(__name__)

IDLE_S = 1.0
MEASURE_EVERY_S = 15.0
ACTOR = "system:reconcile"
_UNLISTED_AT_ONCE = 100
NOT_OURS = "the key sees nobody of whom events told: is it of another organization?"


@dataclass(frozen=True, slots=True)
class Step:
    """What one claim is for: these customers' summaries, or with none the round's next page."""

    target: Target
    round: Round
    numbers: Sequence[int]
    customers: tuple[str, ...]
    deadline: float  # in the loop's clock

    @property
    def claim(self) -> int:
        """The number that fences the round's row."""
        return self.numbers[0]

    def claims(self, api: Listing) -> list[Claim]:
        """One for each customer."""
        livemode = self.target.source.livemode is not False
        return [
            Claim(0, number, 0, 0, "", livemode, api.summary_kind, customer, customer)
            for number, customer in zip(self.numbers, self.customers, strict=True)
        ]


@dataclass(slots=True)
class Looked:
    """What came of a step's questions."""

    answers: list[tuple[Claim, Answer, AnswerEvent]] = field(default_factory=list)
    failures: list[tuple[Claim, FetchFailed]] = field(default_factory=list)


class Reconciling:
    """
    One process's part in the rounds of all sources whose provider lists its customers.

    A round begins `every_s` after the last one began, and once for a source that had none; with
    0 none ever does. `targets` are those of the process's `Fetching`; `wake` as there.
    """

    def __init__(
        self,
        crew: Crew,
        targets: Targets,
        wake: Callable[[Iterable[int]], None],
        every_s: float,
    ) -> None:
        self._crew = crew
        self._targets = targets
        self._wake = wake
        self._every_s = every_s
        self._measure_at = float("-inf")  # in the loop's clock
        self._known: set[int] = set()  # sources with a row
        self.ages: dict[str, float] = {}  # s since the last round's end, by source

    async def run(self) -> None:
        """Reconcile until cancelled. A claim that was under way runs out."""
        gauges.reconciliation_age.read_from(lambda: self.ages)
        await take_turns(self.turn, IDLE_S, log, "reconciling")

    async def turn(self) -> bool:
        """One step of every source's round that is due; whether any is."""
        if self._every_s <= 0:
            return False
        async with self._crew.db.connection() as conn:
            await self._targets.learn(conn, self._crew.surroundings)
            listing = {
                source_id: target
                for source_id, target in self._targets.by_source.items()
                if isinstance(target.api, Listing)
            }
            if not listing.keys() <= self._known:
                await reconciliations.add_reconciliations(conn, sorted(listing))
                self._known |= listing.keys()
            await self._measure(conn, sorted(listing))
            due = await reconciliations.due_reconciliations(conn, sorted(listing), self._every_s)
        await asyncio.gather(
            *(
                guarded(self._step(target), log, "reconciling", source=target.source.name)
                for target in map(listing.__getitem__, due)
            )
        )
        return bool(due)

    async def _measure(self, conn: Conn, source_ids: Sequence[int]) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._measure_at:
            self._measure_at = now_s + MEASURE_EVERY_S
            found = await reconciliations.ages_of_reconciliations(conn, source_ids)
            named = self._crew.surroundings.name_of
            self.ages = {named(source_id): age_s for source_id, age_s in found.items()}

    # One step -----------------------------------------------------------------------------------

    async def _step(self, target: Target) -> None:
        # From before the claim on, as fetches do.
        deadline = asyncio.get_running_loop().time() + target.pace.within_s
        async with self._crew.db.transaction() as conn:
            step = await self._claim(conn, target, deadline)
        if step is None:
            return
        if step.customers:
            await self._look_at(step)
        else:
            await self._list(step)

    async def _claim(self, conn: Conn, target: Target, deadline: float) -> Step | None:
        """What comes next of the source's round, if the budget has it and nobody is at it."""
        source_id, pace = target.source.id, target.pace
        taken = await budgets.take(conn, target)
        if taken is None:
            return None
        budget, now = taken
        room = min(budgets.allowed(budget, now, reserve=pace.burst / 2), pace.at_once)
        at = await self._round(conn, source_id) if room > 0 else None
        numbers: list[int] = []
        if at is not None:
            wanted = len(at.customers[:room]) or 1
            numbers = await reconciliations.claim_round(conn, source_id, wanted, pace.claim_s)
        await budgets.charge(conn, target, budget, now, numbers)
        if at is None:
            return None
        return Step(target, at, numbers, at.customers[:room], deadline)

    async def _round(self, conn: Conn, source_id: int) -> Round | None:
        """The source's round, locked; a new one where it is time; None where there is none."""
        at = await reconciliations.take_round(conn, source_id, self._every_s)
        if at is None:
            return None
        if at.phase is None:
            await reconciliations.begin_round(conn, source_id)
            return replace(at, round=at.round + 1, phase="listed", page=1, customers=())
        if at.phase == "unlisted" and not at.customers:
            left = await reconciliations.unlisted(conn, source_id, at.round, _UNLISTED_AT_ONCE)
            if not left:
                await self._finish(conn, source_id)
                return None
            await reconciliations.set_customers(conn, source_id, left)
            return replace(at, customers=tuple(left))
        return at

    async def _finish(self, conn: Conn, source_id: int) -> None:
        done = await reconciliations.finish_round(conn, source_id)
        log.info(
            "reconciled",
            extra={
                "source": self._crew.surroundings.name_of(source_id),
                "round": done.round,
                "customers": done.looked_at,
                "different": done.different,
                "failed": done.failed,
                "took_s": round((done.finished_at - done.begun_at).total_seconds(), 1),
            },
        )

    async def _list(self, step: Step) -> None:
        """Read the round's next page."""
        target, number = step.target, step.round.page
        assert isinstance(target.api, Listing)
        fields: dict[str, object] = {"source": target.source.name, "page": number}
        page: Page | None = None
        failure: FetchFailed | None = None
        try:
            if number == 1 and await self._is_ours(step) is False:
                raise FetchFailed(FORBIDDEN, NOT_OURS)
            listing = target.api.list_customers(number)
            page = await in_time(listing, target, step.deadline, fields)
            if page.has_more and not page.customers:
                raise FetchFailed(UNREADABLE, "the list has more, and does not give it")
        except FetchFailed as failed:
            failure = failed
        telemetry.fetched(target.source.name, failure.code if failure else ANSWERED)
        async with self._crew.db.transaction() as conn:
            await budgets.tell(conn, target, [(step.claim, failure or 1)])
            if failure is not None:
                await self._put_off(conn, step, Progress(), failure, fields)
            elif page is not None:
                phase: Phase = "listed" if page.has_more else "unlisted"
                await reconciliations.turn_page(
                    conn, target.source.id, step.claim, phase, number + 1, page.customers
                )

    async def _look_at(self, step: Step) -> None:
        """Fetch these customers' summaries, and store what is news."""
        target = step.target
        assert isinstance(target.api, Listing)
        claims = step.claims(target.api)
        outcomes = await asyncio.gather(*(self._ask(step, claim) for claim in claims))
        async with self._crew.db.transaction() as conn:
            await budgets.tell(
                conn,
                target,
                [
                    (claim.number, one if isinstance(one, FetchFailed) else one[0].requests)
                    for claim, one in zip(claims, outcomes, strict=True)
                ],
            )
            looked = Looked()
            for claim, one in zip(claims, outcomes, strict=True):
                if isinstance(one, FetchFailed):
                    looked.failures.append((claim, one))
                else:
                    looked.answers.append((claim, *one))
            lanes = await self._settle(conn, step, looked)
        self._wake(lanes)

    async def _ask(self, step: Step, claim: Claim) -> tuple[Answer, AnswerEvent] | FetchFailed:
        target = step.target
        span = telemetry.start_span("fetch object", SpanKind.CLIENT)
        span.set_attribute("sluice.source", target.source.name)
        span.set_attribute("sluice.object_kind", claim.kind)
        span.set_attribute("sluice.fetch_number", claim.number)
        code = ANSWERED
        try:
            answer = await ask(target, claim, step.deadline)
            if answer.result is None and not await self._is_ours(step):
                raise FetchFailed(NOT_FOUND, "nor is any customer there of whom events told")
            event = answer_event(answer, target, claim, telemetry.traceparent_of(span))
            return answer, event
        except FetchFailed as failure:
            code = failure.code
            return failure
        finally:
            span.set_attribute("sluice.fetch_code", code)
            telemetry.fetched(target.source.name, code)
            span.end()

    async def _is_ours(self, step: Step) -> bool | None:
        return await is_ours(self._crew.db.connection, step.target, step.deadline)

    async def _settle(self, conn: Conn, step: Step, looked: Looked) -> list[int]:
        """Store what is news, and move the round on; the lanes that have something to apply."""
        target = step.target
        news = await news_of(conn, target, looked)
        for event in news:
            await fetches.insert_answer(conn, event, ACTOR)
        refused = [one for one in looked.failures if one[1].code in ABOUT_THE_OBJECT]
        done = [claim.object_id for claim, _, _ in looked.answers]
        done += [claim.object_id for claim, _ in refused]
        await reconciliations.note_looked_at(conn, target.source.id, done, step.round.round)
        name = target.source.name
        telemetry.reconciled(name, "different", len(news))
        telemetry.reconciled(name, "same", len(looked.answers) - len(news))
        telemetry.reconciled(name, "failed", len(refused))
        for claim, failure in refused:
            fields = fields_of(target, claim) | {"code": failure.code, "error": str(failure)}
            log.warning("a customer cannot be reconciled", extra=fields)
        progress = Progress(done, len(news), len(refused))
        others = [one for one in looked.failures if one[1].code not in ABOUT_THE_OBJECT]
        if others:
            claim, failure = others[-1]
            await self._put_off(conn, step, progress, failure, fields_of(target, claim))
        else:
            await reconciliations.move_on(conn, target.source.id, step.claim, progress)
        return [event.lane for event in news]

    async def _put_off(
        self,
        conn: Conn,
        step: Step,
        progress: Progress,
        failure: FetchFailed,
        fields: dict[str, object],
    ) -> None:
        """What is done is done with; the rest comes again."""
        failures = step.round.failures + 1
        delay_s = 0.0  # while the breaker is open nobody asks
        if pacing.is_charged(failure.code):
            chance = random.random()  # noqa: S311 - jitter
            delay_s = pacing.retry_after_s(failure.code, failures, chance)
        error = f"{failure.code}: {failure}"
        progress = replace(progress, failures=failures, error=error, delay_s=delay_s)
        await reconciliations.move_on(conn, step.target.source.id, step.claim, progress)
        log.warning("reconciling put off", extra=fields | {"error": error})


async def news_of(conn: Conn, target: Target, looked: Looked) -> list[AnswerEvent]:
    """The answers that say something of their customer that is not held here."""
    source = target.source
    keys = {
        CustomerKey(source.id, claim.account, claim.livemode, claim.object_id)
        for claim, *_ in looked.answers
    }
    held: dict[str, dict[str, Seen]] = {}
    for stored in await objects.read_objects(conn, keys, keys, ()) if keys else ():
        if stored.customer is not None and not stored.register.is_empty:
            seen = Seen(stored.key.kind, stored.key.object_id, stored.register)
            held.setdefault(stored.customer, {})[seen.name] = seen
    grants_from = Policy.read(source.settings).grants_from
    granting = families_of(source.provider).get(grants_from, frozenset())
    news = []
    for claim, _, event in looked.answers:
        commands = target.provider.translate(Arrival(event.identity, event.body))
        known = held.get(claim.object_id, {})
        if tells_news(source.provider, granting, commands, known):
            news.append(event)
    return news
