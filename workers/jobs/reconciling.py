"""
The kinds "reconcile" and "backfill": a provider's lists of events and of objects, read to their end
because somebody wants it now.

A page a step. What was missed is stored while the step is prepared, by a statement of its own, and
named after the job: who dies then has it named, and the page that is read again lacks nothing. Of
objects what is news is stored in the step, which moves the place in the same transaction.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from shared import telemetry
from shared.db import Conn
from shared.store import fetches, missed, pulls
from shared.store.fetches import AnswerEvent
from shared.store.jobs import Job, Progress
from workers.fetching import budgets, comparing, missing
from workers.fetching.answers import ABOUT_THE_OBJECT, RATE_LIMITED, UNAUTHORIZED, FetchFailed
from workers.fetching.api import Archive, Listed, Listing
from workers.fetching.asking import is_ours
from workers.fetching.comparing import Compared
from workers.fetching.places import YOUNG_S, EventsPlace, ObjectsPlace
from workers.fetching.pull import NOT_OURS, elsewhere, say_compared
from workers.fetching.targets import Target, Targets
from workers.jobs.estimating import estimated, oldest_of
from workers.jobs.kinds import JobFailed, Tools, Work
from workers.jobs.rounds import DryRound, Round

#: Until the budget has something for us again.
_WAIT_S = 0.3
#: So many answers may wait to be applied: live events stand in the same lanes behind them.
_BACKLOG = 1000
#: As often, at most, before objects are compared with what is still to be applied.
_WAITS = 50
#: So many of what was found are named in the result.
NAMED = 200

Phase = Literal["events", "objects"]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Events from `since` on (unix seconds; None: no events), then the objects, unless not wanted.
    With `dry_run` nothing is stored, and the result says what would be.
    """

    since: int | None = None
    objects: bool = True
    dry_run: bool = False


@dataclass(slots=True)
class Taken:
    """What a prepared step came to, to be written; without `phase` it is all there was."""

    phase: Phase | None
    place: EventsPlace | ObjectsPlace | None
    counts: dict[str, int] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    missing: list[dict[str, Any]] = field(default_factory=list)
    lanes: Collection[int] = ()
    news: Sequence[AnswerEvent] = ()
    held: Sequence[int] = ()
    run: int | None = None
    span: tuple[int, int] | None = None
    total: int | None = None
    wait_s: float = 0.0


class Reconcile:
    """
    `cursor`: {"phase", "place": see `workers.fetching.places`, "missing", "drift": the first of
    what was found, "span": [newest, oldest] of an account's objects, "before": objects of the
    accounts before}.
    """

    def __init__(self, tools: Tools, asked: Asked, targets: Targets, *, is_backfill: bool) -> None:
        self._tools = tools
        self.asked = asked
        self.targets = targets
        self._is_backfill = is_backfill
        self._taken: Taken | None = None

    async def prepare(self, job: Job) -> None:
        """See `Work`: ask for the page that the place is at."""
        self._taken = None
        crew = self._tools.crew
        async with crew.db.connection() as conn:
            await self.targets.learn(conn, crew.surroundings)
            target = target_of(self.targets, job)
            phase, place = await self._place(conn, target, job)
            waits = await pulls.count_ready(conn, target.source.id, _BACKLOG)
        deadline = asyncio.get_running_loop().time() + target.pace.within_s
        try:
            if not job.cursor and await is_ours(crew.db.connection, target, deadline) is False:
                raise JobFailed("forbidden", NOT_OURS)
            if waits >= _BACKLOG or (waits and self._begins_too_early(place, job)):
                self._taken = Taken(phase, place, wait_s=_WAIT_S)
            elif isinstance(place, EventsPlace):
                self._taken = await self._events(target, place, job, deadline)
            elif place.phase == "absent":
                self._taken = await self._absent(target, place, deadline)
            else:
                self._taken = await self._objects(target, place, job, deadline)
        except FetchFailed as failure:
            if failure.code in ABOUT_THE_OBJECT or failure.code == UNAUTHORIZED:
                raise JobFailed(failure.code, str(failure)) from None
            if failure.code != RATE_LIMITED:
                raise
        # The budget waits as long as it was asked to.
        self._taken = self._taken or Taken(phase, place, wait_s=_WAIT_S)

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        taken, cursor = self._taken, job.cursor
        assert taken is not None
        drift = [
            {"object": one.identity.subject, "account": one.identity.account} for one in taken.news
        ]
        if not self.asked.dry_run:
            await fetches.insert_answers(conn, taken.news, missing.ACTOR)
        if taken.run is not None:
            await pulls.note_compared(conn, taken.held, taken.run)
        counts = dict(job.counts)
        for name, amount in taken.counts.items():
            counts[name] = counts.get(name, 0) + amount
        place = taken.place
        moved = {
            "phase": taken.phase,
            "place": None if place is None else place.at_rest(),
            "missing": [*cursor.get("missing", ()), *taken.missing][:NAMED],
            "drift": [*cursor.get("drift", ()), *drift][:NAMED],
            "span": taken.span or cursor.get("span"),
            "waited": cursor.get("waited", 0) + (taken.wait_s > 0),
        }
        is_finished = taken.phase is None
        lanes = set() if self.asked.dry_run else {*taken.lanes, *(one.lane for one in taken.news)}
        return Progress(
            cursor=moved,
            done=job.done + taken.done,
            failed=job.failed + taken.failed,
            counts=counts,
            total=job.done + taken.done if is_finished else taken.total or job.total,
            is_finished=is_finished,
            result=await self._result(conn, job, counts, moved) if is_finished else None,
            wait_s=taken.wait_s,
            lanes=lanes,
        )

    async def close(self) -> None:
        """See `Work`."""
        await self.targets.close()

    def _begins_too_early(self, place: EventsPlace | ObjectsPlace, job: Job) -> bool:
        """What was missed and is not applied yet would be found as drift once more."""
        is_first = isinstance(place, ObjectsPlace) and place.phase == "listed"
        is_first = is_first and place.account == 0 and place.after is None
        return is_first and job.cursor.get("waited", 0) < _WAITS

    # Where it is --------------------------------------------------------------------------------

    async def _place(
        self, conn: Conn, target: Target, job: Job
    ) -> tuple[Phase, EventsPlace | ObjectsPlace]:
        if job.cursor.get("place") is not None:
            if job.cursor["phase"] == "events":
                return "events", EventsPlace.read(job.cursor["place"])
            return "objects", ObjectsPlace.read(job.cursor["place"])
        now = await pulls.now(conn)
        accounts = await missing.accounts_of(conn, target.source.id)
        if self.asked.since is not None and job.cursor.get("phase") != "objects":
            until = max(int(now.timestamp()) - YOUNG_S, self.asked.since)
            return "events", EventsPlace(accounts, self.asked.since, until)
        (run,) = await pulls.next_numbers(conn, 1)
        place = ObjectsPlace(accounts, run, now.timestamp(), asks=not self._is_backfill)
        return "objects", place

    # What a page comes to -----------------------------------------------------------------------

    async def _events(
        self, target: Target, place: EventsPlace, job: Job, deadline: float
    ) -> Taken | None:
        db = self._tools.crew.db
        numbers = await budgets.admitted(db, target, 1)
        if numbers is None:
            return None
        groups = len(missing.groups(target))
        try:
            listed = await budgets.paid(
                db, target, numbers[0], missing.ask_page(target, place, deadline)
            )
        except FetchFailed as failure:
            return self._after_events(elsewhere(place, failure), Taken(None, None, failed=1))
        span = telemetry.begin_trace("pull page")
        async with self._tools.crew.db.connection() as conn:
            found, unreadable = await missing.lacking(conn, target, listed)
            if not self.asked.dry_run:
                found = await missing.store(conn, target, found, trace=span, job=job.id)
        named = [
            {
                "eventId": one.identity.event_id,
                "type": one.identity.event_type,
                "account": one.identity.account,
                "createdAt": _iso(one.identity.occurred_at),
            }
            for one in found
        ]
        counts = {"events": len(listed.items), "missed": len(found)}
        lanes = {one.lane for one in found}
        taken = Taken(None, None, counts, len(listed.items), unreadable, missing=named, lanes=lanes)
        return self._after_events(place.after_page(listed, groups), taken)

    def _after_events(self, place: Any, taken: Taken) -> Taken:
        taken.place = place
        if place is not None:
            taken.phase = "events"
        elif self.asked.objects:
            taken.phase = "objects"
        return taken

    async def _objects(
        self, target: Target, place: ObjectsPlace, job: Job, deadline: float
    ) -> Taken | None:
        db = self._tools.crew.db
        numbers = await budgets.admitted(db, target, comparing.NUMBERS)
        if numbers is None:
            return None
        try:
            listed = await budgets.paid(
                db, target, numbers[0], comparing.ask_page(target, place, deadline)
            )
        except FetchFailed as failure:
            later = elsewhere(place, failure)
            assert later is None or isinstance(later, ObjectsPlace)
            return Taken("objects" if later else None, later, failed=1)
        trace = telemetry.begin_trace("pull page")
        compared = await comparing.compare_twice(db, target, place, listed, numbers, trace)
        later = place.after_page(listed)
        taken = self._compared(target, later, place.run, len(listed.items), compared)
        taken.span, taken.total = await self._estimate(target, place, job, listed, deadline)
        return taken

    async def _absent(self, target: Target, place: ObjectsPlace, deadline: float) -> Taken | None:
        db = self._tools.crew.db
        async with self._tools.crew.db.connection() as conn:
            absent = await comparing.next_absent(conn, target, place)
        if absent is None:
            return Taken(None, None)
        numbers = await budgets.admitted(db, target, 1)
        if numbers is None:
            return None
        trace = telemetry.begin_trace("pull page")
        asking = comparing.ask_absent(target, absent, numbers[0], deadline, trace)
        asked = await budgets.paid(db, target, numbers[0], asking)
        async with self._tools.crew.db.connection() as conn:
            event = None if asked is None else asked[1]
            compared = await comparing.compare_absent(conn, target, absent, event)
        taken = self._compared(target, place.after_absent(absent.id), place.run, 1, compared)
        taken.counts["absent"] = 1
        return taken

    def _compared(
        self, target: Target, place: ObjectsPlace | None, run: int, done: int, compared: Compared
    ) -> Taken:
        if not self._is_backfill:
            say_compared(target.source.name, compared)
        counts = {"objects": compared.looked_at, "different": len(compared.news)}
        return Taken(
            "objects" if place is not None else None, place, counts, done, compared.failed,
            news=compared.news, held=compared.held, run=run,
        )  # fmt: skip

    async def _estimate(
        self, target: Target, place: ObjectsPlace, job: Job, listed: Listed, deadline: float
    ) -> tuple[tuple[int, int] | None, int | None]:
        """The span of the account's objects in time, and with it how many there will be."""
        db = self._tools.crew.db
        if len(place.accounts) > 1 or not listed.items:
            return None, None
        done, last = job.done + len(listed.items), int(listed.items[-1].get("created", 0))
        if not listed.has_more:
            return None, done
        span = job.cursor.get("span")
        if span is None:
            assert isinstance(target.api, Archive)
            newest = int(listed.items[0].get("created", 0))

            async def is_any_before(moment: int) -> bool | None:
                numbers = await budgets.admitted(db, target, 1)
                if numbers is None:
                    return None
                assert isinstance(target.api, Archive)
                livemode = target.source.livemode is not False
                asking = target.api.is_any_before(place.accounts[0], livemode, moment)
                return await budgets.paid(db, target, numbers[0], asking)

            span = (newest, await oldest_of(last, is_any_before))
        return (span[0], span[1]), estimated(done, span[0], last, span[1])

    # What it came to ----------------------------------------------------------------------------

    async def _result(
        self, conn: Conn, job: Job, counts: Mapping[str, int], cursor: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Whoever died on the way: what was stored under the job's name was missed."""
        inserted = await missed.count_missed(conn, job.id)
        found = counts.get("missed", 0) if self.asked.dry_run else inserted
        named = cursor["missing"]
        if not self.asked.dry_run:
            named = [
                {
                    "eventId": one.event_id,
                    "type": one.event_type,
                    "account": one.account,
                    "createdAt": _iso(one.occurred_at),
                }
                for one in await missed.missed_by_job(conn, job.id, NAMED)
            ]
        different = counts.get("different", 0)
        return {
            "dryRun": self.asked.dry_run,
            "eventsListed": counts.get("events", 0),
            "missed": found,
            "inserted": inserted,
            "objectsCompared": counts.get("objects", 0),
            "different": different,
            "healed": 0 if self.asked.dry_run else different,
            "missing": named,
            "drift": cursor["drift"],
        }


async def begin(tools: Tools, job: Job) -> Work:
    """See `Begin`: the kind "reconcile", of the lists that the provider has."""
    work = _begun(tools, job, is_backfill=False)
    async with tools.crew.db.connection() as conn:
        await work.targets.learn(conn, tools.crew.surroundings)
    target = work.targets.by_source.get(job.source_id or 0)
    if target is not None and isinstance(target.api, Listing):
        return (DryRound if work.asked.dry_run else Round)(tools, work.targets)
    return work


async def begin_backfill(tools: Tools, job: Job) -> Reconcile:
    """See `Begin`: the kind "backfill"."""
    return _begun(tools, job, is_backfill=True)


def _begun(tools: Tools, job: Job, *, is_backfill: bool) -> Reconcile:
    try:
        asked = msgspec.convert(job.arguments, Asked)
    except msgspec.ValidationError as error:
        raise JobFailed("invalid_arguments", str(error)) from None
    return Reconcile(tools, asked, Targets(tools.keys, None), is_backfill=is_backfill)


def target_of(targets: Targets, job: Job) -> Target:
    """
    The source of a job, as it can be asked.

    Raises:
        JobFailed: it cannot.
    """
    target = targets.by_source.get(job.source_id or 0)
    if target is None:
        raise JobFailed("no_api_key", "there is no API key of the source, or none that opens here")
    if not isinstance(target.api, Archive):
        raise JobFailed("no_lists", f"{target.source.provider} lists neither events nor objects")
    return target


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
