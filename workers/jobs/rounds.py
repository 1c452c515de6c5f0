"""
The kind "reconcile" for a provider that lists its customers: a round of
`workers.fetching.reconcile`, now. The round is the source's own, and whoever is at it, here or in
a worker, takes its steps.

A dry run cannot be that round: it goes through the listed customers by itself, and stores nothing.
"""

import asyncio
from typing import Any

from shared import telemetry
from shared.db import Conn
from shared.store import reconciliations
from shared.store.fetches import Claim
from shared.store.jobs import Job, Progress
from shared.store.reconciliations import Standing
from workers.fetching import budgets
from workers.fetching.answers import ABOUT_THE_OBJECT, FORBIDDEN, UNAUTHORIZED, FetchFailed
from workers.fetching.api import Listing
from workers.fetching.asking import answer_event, ask, is_ours
from workers.fetching.reconcile import NOT_OURS, Looked, Reconciling, news_of
from workers.fetching.targets import Target, Targets
from workers.jobs.kinds import JobFailed, Tools

_WAIT_S = 0.2
#: Rounds begin because they are asked for here, and never by time.
_NEVER_S = 10 * 365 * 86400.0
_NAMED = 200
#: Why a round will not go on by itself.
_HOPELESS = ABOUT_THE_OBJECT | {UNAUTHORIZED}


class Round:
    """`cursor`: {"wanted": the number of the round that began after the job}."""

    def __init__(self, tools: Tools, targets: Targets) -> None:
        self._targets = targets
        self._tools = tools
        self._wanted = 0
        self._reconciling = Reconciling(tools.crew, targets, lambda lanes: None, _NEVER_S)

    async def prepare(self, job: Job) -> None:
        """See `Work`: a step of whatever round is under way."""
        assert job.source_id is not None
        self._wanted = job.cursor.get("wanted", 0)
        async with self._tools.crew.db.connection() as conn:
            await self._targets.learn(conn, self._tools.crew.surroundings)
            listing_target(self._targets, job)
            if not self._wanted:
                # Whoever asks now may have mended what it failed of.
                await reconciliations.start_round_afresh(conn, job.source_id)
                at = await reconciliations.standing_of_round(conn, job.source_id)
                # One that is under way has passed customers of whom nothing was known then.
                self._wanted = 1 if at is None else at.round + 1
        await self._reconciling.turn()

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        assert job.source_id is not None
        at = await reconciliations.standing_of_round(conn, job.source_id)
        if at is None:
            return _waiting(job, {"wanted": self._wanted}, None)
        if at.last_error is not None and at.last_error.partition(":")[0] in _HOPELESS:
            raise JobFailed(at.last_error.partition(":")[0], at.last_error)
        wanted = self._wanted
        if at.round < wanted and at.phase is None:
            await reconciliations.ask_for_round(conn, job.source_id)
        if at.round < wanted or (at.round == wanted and at.phase is not None):
            return _waiting(job, {"wanted": wanted}, at if at.round == wanted else None)
        return Progress(
            cursor={"wanted": wanted},
            done=at.looked_at,
            failed=at.failed,
            counts={"customers": at.looked_at, "different": at.different},
            total=at.looked_at,
            is_finished=True,
            result=_result(at.looked_at, at.different, [], is_dry=False),
        )

    async def close(self) -> None:
        """See `Work`."""
        await self._targets.close()


class DryRound:
    """`cursor`: {"page": the next one, "customers": still to be looked at, "drift": the first}."""

    def __init__(self, tools: Tools, targets: Targets) -> None:
        self._tools = tools
        self._targets = targets
        self._moved: dict[str, Any] = {}
        self._looked = Looked()
        self._different: list[str] = []
        self._has_asked = False

    async def prepare(self, job: Job) -> None:
        """See `Work`: a page of the list, or one customer of it."""
        crew = self._tools.crew
        async with crew.db.connection() as conn:
            await self._targets.learn(conn, crew.surroundings)
        target = listing_target(self._targets, job)
        self._moved = {"page": 1, "customers": [], "drift": [], **job.cursor}
        self._looked, self._different = Looked(), []
        deadline = asyncio.get_running_loop().time() + target.pace.within_s
        try:
            if not job.cursor and await is_ours(crew.db.connection, target, deadline) is False:
                raise FetchFailed(FORBIDDEN, NOT_OURS)
            numbers = await budgets.admitted(crew.db, target, 1)
            self._has_asked = numbers is not None
            if numbers is None:
                return
            if self._moved["customers"]:
                await self._look_at(target, numbers[0], deadline)
            else:
                await self._list(target, numbers[0])
        except FetchFailed as failure:
            if failure.code in ABOUT_THE_OBJECT:
                raise JobFailed(failure.code, str(failure)) from None
            raise

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        done = job.done + len(self._looked.answers) + len(self._looked.failures)
        is_finished = self._moved["page"] is None and not self._moved["customers"]
        different = job.counts.get("different", 0) + len(self._different)
        self._moved["drift"] = [*self._moved["drift"], *self._different][:_NAMED]
        drift = [{"object": one, "account": ""} for one in self._moved["drift"]]
        return Progress(
            cursor=self._moved,
            done=done,
            failed=job.failed + len(self._looked.failures),
            counts={"customers": done, "different": different},
            is_finished=is_finished,
            result=_result(done, different, drift, is_dry=True) if is_finished else None,
            wait_s=0.0 if self._has_asked else _WAIT_S,
        )

    async def close(self) -> None:
        """See `Work`."""
        await self._targets.close()

    async def _list(self, target: Target, number: int) -> None:
        assert isinstance(target.api, Listing)
        asking = target.api.list_customers(self._moved["page"])
        page = await budgets.paid(self._tools.crew.db, target, number, asking)
        self._moved["customers"] = list(page.customers)
        self._moved["page"] = self._moved["page"] + 1 if page.has_more else None

    async def _look_at(self, target: Target, number: int, deadline: float) -> None:
        assert isinstance(target.api, Listing)
        db = self._tools.crew.db
        customer, *left = self._moved["customers"]
        livemode = target.source.livemode is not False
        kind = target.api.summary_kind
        claim = Claim(0, number, 0, 0, "", livemode, kind, customer, customer)
        try:
            answer = await budgets.paid(db, target, number, ask(target, claim, deadline))
            event = answer_event(answer, target, claim, telemetry.begin_trace("fetch object"))
            self._looked.answers.append((claim, answer, event))
        except FetchFailed as failure:
            if failure.code not in ABOUT_THE_OBJECT:
                raise
            self._looked.failures.append((claim, failure))
        async with db.connection() as conn:
            news = await news_of(conn, target, self._looked)
        self._different = [event.identity.subject for event in news]
        self._moved["customers"] = left


def listing_target(targets: Targets, job: Job) -> Target:
    """
    The source of a job, as it can be asked.

    Raises:
        JobFailed: it cannot, any more: nobody takes a step of its round.
    """
    target = targets.by_source.get(job.source_id or 0)
    if target is None or not isinstance(target.api, Listing):
        raise JobFailed(
            "no_api_key",
            "there is no API key of the source any more, or none that opens here",
        )
    return target


def _waiting(job: Job, cursor: dict[str, Any], at: Standing | None) -> Progress:
    return Progress(
        cursor=cursor,
        done=job.done if at is None else at.looked_at,
        failed=0 if at is None else at.failed,
        counts={} if at is None else {"customers": at.looked_at, "different": at.different},
        wait_s=_WAIT_S,
    )


def _result(looked_at: int, different: int, drift: list[Any], *, is_dry: bool) -> dict[str, Any]:
    """As that of a list of objects: a customer's summary is what is compared."""
    return {
        "dryRun": is_dry,
        "eventsListed": 0,
        "missed": 0,
        "inserted": 0,
        "objectsCompared": looked_at,
        "different": different,
        "healed": 0 if is_dry else different,
        "missing": [],
        "drift": drift,
    }
