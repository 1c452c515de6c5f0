"""
The spine of pulling: a provider's list of events every few minutes, its list of objects once a day.

    take the source's place · claim it, with numbers · ask for a page · store what is news · move on

One worker at a time is at a source's list, under a claim that runs out; where it is lies in
Postgres. Requests are paid for from the budget that fetches have, and half of its burst is left to
them. What was missed is stored by a statement of its own, before the place is moved: who dies
between asks for the page again and finds nothing missing.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec.structs import replace
from opentelemetry.trace import SpanKind

from shared import gauges, telemetry
from shared.db import Conn
from shared.store import fetches, pulls
from shared.store.pulls import Absent, Counted, Pull, What
from workers.crew import Crew
from workers.fetching import budgets, comparing, missing, pacing
from workers.fetching.answers import ANSWERED, FORBIDDEN, NOT_FOUND, FetchFailed
from workers.fetching.api import Archive
from workers.fetching.asking import is_ours
from workers.fetching.comparing import Compared
from workers.fetching.places import OVERLAP_S, YOUNG_S, EventsPlace, ObjectsPlace
from workers.fetching.targets import Target, Targets
from workers.fetching.turning import guarded, take_turns

log = logging.getLogger(__name__)

IDLE_S = 2.0
MEASURE_EVERY_S = 15.0
#: Of the time that a provider keeps its events, so much may pass before somebody is told.
_WARN_AT = 25 / 30
#: With so many events of a source that are to be applied now, its objects are not compared.
_BACKLOG = 50
NOT_OURS = "the key sees nobody of whom events told: is it of another account?"

Place = EventsPlace | ObjectsPlace


@dataclass(frozen=True, slots=True)
class Step:
    """What one claim is for: the page, or the absent object, that the place is at."""

    target: Target
    what: What
    place: Place
    failures: int
    numbers: Sequence[int]
    deadline: float  # in the loop's clock
    absent: Absent | None = None

    @property
    def claim(self) -> int:
        """The number that fences the source's row."""
        return self.numbers[0]

    @property
    def is_first(self) -> bool:
        """Whether nothing was asked for yet."""
        return self.place.account == 0 and self.place.after is None and self.absent is None


@dataclass(slots=True)
class Moved:
    """What a step came to: the next place, and what was looked at, different and failed."""

    place: Place | None
    requests: int = 1
    looked_at: int = 0
    different: int = 0
    failed: int = 0
    compared: Compared = field(default_factory=Compared)
    reached: int | None = None  # of events, with this page: see `EventsPlace`


class Pulling:
    """
    One process's part in it, of all sources whose provider keeps an archive.

    `every_s` says how long after the last one began the next begins, for each `What`; 0: never.
    `targets` are those of the process's `Fetching`; `wake` as there.
    """

    def __init__(
        self,
        crew: Crew,
        targets: Targets,
        wake: Callable[[Iterable[int]], None],
        every_s: dict[What, float],
    ) -> None:
        self._crew = crew
        self._targets = targets
        self._wake = wake
        self._every_s = {what: seconds for what, seconds in every_s.items() if seconds > 0}
        self._measure_at = float("-inf")  # in the loop's clock
        self.ages: dict[tuple[str, str], float] = {}  # s since the last one's end

    async def run(self) -> None:
        """Pull until cancelled. A claim that was under way runs out."""
        gauges.pull_age.read_from(lambda: self.ages)
        await take_turns(self.turn, IDLE_S, log, "pulling")

    async def turn(self) -> bool:
        """One step of everything that is due; whether anything is."""
        if not self._every_s:
            return False
        due: list[tuple[Target, What]] = []
        async with self._crew.db.connection() as conn:
            await self._targets.learn(conn, self._crew.surroundings)
            kept = {
                source_id: target
                for source_id, target in self._targets.by_source.items()
                if isinstance(target.api, Archive)
            }
            if not kept:
                return False
            for what, every_s in self._every_s.items():
                await pulls.add_pulls(conn, sorted(kept), what)
                found = await pulls.due_pulls(conn, sorted(kept), what, every_s)
                due.extend((kept[source_id], what) for source_id in found)
            await self._measure(conn, sorted(kept))
        for target, what in due:
            step = self._step(target, what)
            await guarded(step, log, "pulling", source=target.source.name, what=what)
        return bool(due)

    async def _measure(self, conn: Conn, source_ids: Sequence[int]) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._measure_at:
            self._measure_at = now_s + MEASURE_EVERY_S
            named = self._crew.surroundings.name_of
            found = await pulls.ages_of_pulls(conn, source_ids)
            self.ages = {(named(one), what): age_s for (one, what), age_s in found.items()}

    # One step -----------------------------------------------------------------------------------

    async def _step(self, target: Target, what: What) -> None:
        # From before the claim on, as fetches do.
        deadline = asyncio.get_running_loop().time() + target.pace.within_s
        async with self._crew.db.transaction() as conn:
            step = await self._claim(conn, target, what, deadline)
        if step is None:
            return
        span = telemetry.start_span("pull page", SpanKind.CLIENT)
        span.set_attribute("sluice.source", target.source.name)
        trace = telemetry.traceparent_of(span)
        try:
            if step.is_first and await is_ours(self._crew.db.connection, target, deadline) is False:
                raise FetchFailed(FORBIDDEN, NOT_OURS)
            moved = await (self._events if what == "events" else self._objects)(step, trace)
            telemetry.fetched(target.source.name, ANSWERED)
            await self._move(step, moved)
        except FetchFailed as failure:
            telemetry.fetched(target.source.name, failure.code)
            await self._put_off(step, failure)
        finally:
            span.end()

    async def _claim(self, conn: Conn, target: Target, what: What, deadline: float) -> Step | None:
        """What comes next, if the budget has it and nobody is at it."""
        taken = await budgets.take(conn, target)
        if taken is None:
            return None
        budget, now = taken
        source_id, numbers = target.source.id, list[int]()
        pull, place, absent = None, None, None
        is_free = budgets.allowed(budget, now, reserve=target.pace.burst / 2) > 0
        if is_free and what == "objects":
            # What is to be applied still would be found as drift.
            is_free = await pulls.count_ready(conn, source_id, _BACKLOG) < _BACKLOG
        if is_free:
            pull = await pulls.take_pull(conn, source_id, what, self._every_s[what])
        if pull is not None:
            numbers = await pulls.next_numbers(conn, comparing.NUMBERS if what == "objects" else 1)
            place = await self._place(conn, target, what, pull, numbers[0])
            if isinstance(place, ObjectsPlace) and place.phase == "absent":
                absent = await comparing.next_absent(conn, target, place)
            await pulls.claim_pull(conn, source_id, what, numbers[0], target.pace.claim_s)
            if isinstance(place, ObjectsPlace) and place.phase == "absent" and absent is None:
                done = await pulls.move_pull(conn, source_id, what, numbers[0], None, (0, 0, 0))
                self._finished(target, what, done)
                place = None
        await budgets.charge(conn, target, budget, now, numbers[:1] if place is not None else [])
        if pull is None or place is None:
            return None
        return Step(target, what, place, pull.failures, numbers, deadline, absent)

    async def _place(
        self, conn: Conn, target: Target, what: What, pull: Pull, number: int
    ) -> Place:
        """Where the source is; at the beginning of a new one, where that is due."""
        if pull.place is not None:
            return (EventsPlace if what == "events" else ObjectsPlace).read(pull.place)
        accounts = await missing.accounts_of(conn, target.source.id)
        place: Place
        if what == "events":
            assert isinstance(target.api, Archive)
            reached_at = pull.reached_at or pull.added_at
            age_s = (pull.now - reached_at).total_seconds()
            if age_s > target.api.events_kept_s * _WARN_AT:
                log.warning(
                    "events are asked for that the provider may have forgotten",
                    extra={"source": target.source.name, "days": round(age_s / 86400, 1)},
                )
            since = int(reached_at.timestamp()) - OVERLAP_S
            place = EventsPlace(accounts, since, max(int(pull.now.timestamp()) - YOUNG_S, since))
        else:
            place = ObjectsPlace(accounts, number, pull.now.timestamp())
        await pulls.begin_pull(conn, target.source.id, what, place.at_rest())
        return place

    async def _events(self, step: Step, trace: str) -> Moved:
        target, place = step.target, step.place
        assert isinstance(place, EventsPlace)
        try:
            listed = await missing.ask_page(target, place, step.deadline)
        except FetchFailed as failure:
            return _elsewhere(place, failure)
        async with self._crew.db.connection() as conn:
            found, unreadable = await missing.lacking(conn, target, listed)
            fresh = await missing.store(conn, target, found, trace=trace)
        # A counter that is born with a value has not grown, to whoever asks for its increase.
        telemetry.missed(target.source.name, 0)
        self._wake([one.lane for one in fresh])
        return Moved(
            place.after_page(listed, len(missing.groups(target))),
            listed.requests,
            len(listed.items),
            len(fresh),
            unreadable,
            reached=place.reached_by(listed),
        )

    async def _objects(self, step: Step, trace: str) -> Moved:
        target, place = step.target, step.place
        assert isinstance(place, ObjectsPlace)
        if step.absent is not None:
            asked = await comparing.ask_absent(
                target, step.absent, step.claim, step.deadline, trace
            )
            event = None if asked is None else asked[1]
            async with self._crew.db.connection() as conn:
                compared = await comparing.compare_absent(conn, target, step.absent, event)
            later = place.after_absent(step.absent.id)
            return _compared(later, 1 if asked is None else asked[0].requests, compared)
        try:
            listed = await comparing.ask_page(target, place, step.deadline)
        except FetchFailed as failure:
            return _elsewhere(place, failure)
        compared = await comparing.compare_twice(
            self._crew.db, target, place, listed, step.numbers, trace
        )
        return _compared(place.after_page(listed), listed.requests, compared)

    async def _move(self, step: Step, moved: Moved) -> None:
        """Store what is news, and say what comes next; nothing where the claim was lost."""
        target, source_id = step.target, step.target.source.id
        compared, done = moved.compared, moved.place is None
        reached_at = None
        if done and isinstance(step.place, EventsPlace):
            reached = next(
                one
                for one in (moved.reached, step.place.reached, step.place.until)
                if one is not None
            )
            reached_at = datetime.fromtimestamp(reached, UTC)
        async with self._crew.db.transaction() as conn:
            await budgets.tell(conn, target, [(step.claim, moved.requests)])
            counted = await pulls.move_pull(
                conn,
                source_id,
                step.what,
                step.claim,
                None if moved.place is None else moved.place.at_rest(),
                (moved.looked_at, moved.different, moved.failed),
                reached_at,
            )
            if counted is None:
                return
            await fetches.insert_answers(conn, compared.news, missing.ACTOR)
            if isinstance(step.place, ObjectsPlace):
                await pulls.note_compared(conn, compared.held, step.place.run)
        self._wake([event.lane for event in compared.news])
        if step.what == "objects":
            say_compared(target.source.name, compared)
        if done:
            self._finished(target, step.what, counted)

    async def _put_off(self, step: Step, failure: FetchFailed) -> None:
        """The same step comes again."""
        delay_s = 0.0  # while the breaker is open nobody asks
        if pacing.is_charged(failure.code):
            chance = random.random()  # noqa: S311 - jitter
            delay_s = pacing.retry_after_s(failure.code, step.failures + 1, chance)
        error = f"{failure.code}: {failure}"
        source = step.target.source
        async with self._crew.db.transaction() as conn:
            await budgets.tell(conn, step.target, [(step.claim, failure)])
            await pulls.put_off_pull(conn, source.id, step.what, step.claim, error, delay_s)
        fields = {"source": source.name, "what": step.what, "error": error}
        log.warning("pulling put off", extra=fields)

    def _finished(self, target: Target, what: What, counted: Counted | None) -> None:
        if counted is None:
            return
        fields = {
            "source": target.source.name,
            "number": counted.number,
            what: counted.looked_at,
            "different": counted.different,
            "failed": counted.failed,
            "took_s": round((counted.finished_at - counted.begun_at).total_seconds(), 1),
        }
        is_drift = what == "objects" and counted.different > 0
        log.log(logging.ERROR if is_drift else logging.INFO, f"{what} were compared", extra=fields)


def say_compared(source: str, compared: Compared) -> None:
    """Count what a page came to."""
    same = compared.looked_at - len(compared.news) - compared.failed
    telemetry.compared(source, "different", len(compared.news))
    telemetry.compared(source, "same", max(same, 0))
    telemetry.compared(source, "failed", compared.failed)


def _compared(place: ObjectsPlace | None, requests: int, compared: Compared) -> Moved:
    different = len(compared.news)
    return Moved(place, requests, compared.looked_at, different, compared.failed, compared)


def _elsewhere(place: Place, failure: FetchFailed) -> Moved:
    """
    What comes next where this page cannot be had.

    Raises:
        FetchFailed: that would not help.
    """
    return Moved(elsewhere(place, failure), failed=1)


def elsewhere(place: Place, failure: FetchFailed) -> Place | None:
    """
    Where to go on after a failure: an account that has left must not stop the others, and a list
    whose last one is gone is begun again.

    Raises:
        FetchFailed: that would not help.
    """
    if failure.code == FORBIDDEN and place.accounts[place.account]:
        return place.next_account()
    if failure.code == NOT_FOUND and place.after is not None:
        return replace(place, after=None)
    raise failure
