"""
The kind "replay": what a plan froze is applied again, slower than live events are.

Each step opens runs and says so of their items in one transaction: whoever dies has opened nothing,
and nothing is opened twice. The workers apply them like every other run; this job waits until the
last one is settled.
"""

import logging
from collections.abc import Mapping
from typing import Any

from shared.db import Conn, is_lock_timeout
from shared.domain.jobs import Replay, UnfitError, read_arguments
from shared.domain.outcomes import BODY_EXPIRED, OVERTAKEN
from shared.store import replay_plans, replays, retention
from shared.store.jobs import Job, Progress
from shared.store.replays import ToOpen
from workers.jobs.kinds import JobFailed, Tools
from workers.plans import PlanRefused, check_plan
from workers.replay import open_where_settled

log = logging.getLogger(__name__)

#: Runs opened in one transaction, whose lanes nobody else can apply meanwhile.
CHUNK = 250
#: So many of a job's runs may be open at once; of one lane, about a visit's batch.
MOST_OPEN = 1000
MOST_OPEN_OF_LANE = 200
#: While an event that came by itself has waited for so long, nothing is opened.
LATE_S = 2.0
#: So much of its rate a job may catch up on.
BURST_S = 1.0
#: How long it waits to look again.
WAIT_S = 0.2
#: After so many steps in which each of its lanes was somebody else's, one lane is waited for.
PATIENCE = 20
#: Outcomes that are failures: they were asked for, and did not come.
_FAILED = ("dead", BODY_EXPIRED)


class Replaying:
    """`cursor`: {"paid": up to which moment the rate is used up, in seconds since 1970}."""

    def __init__(self, tools: Tools, asked: Replay) -> None:
        self._tools = tools
        self._asked = asked
        #: Lanes that were somebody else's at the last step, and how often in a row all were.
        self._busy: set[int] = set()
        self._fruitless = 0

    async def prepare(self, job: Job) -> None:
        """See `Work`: there is nothing to read before."""

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        if "paid" not in job.cursor:
            return await self._take(conn, job)
        counts = dict(job.counts)
        for outcome, runs in (await replays.note_settled(conn, job.id, MOST_OPEN)).items():
            counts[outcome] = counts.get(outcome, 0) + runs
        open_runs = await replays.open_by_lane(conn, job.id)
        paid, is_behind, lanes, codes = await self._open(conn, job, open_runs)
        for code, events in codes.items():
            counts[code] = counts.get(code, 0) + events
        is_finished = (
            not is_behind
            and not await replays.has_to_open(conn, self._asked.plan)
            and not await replays.open_by_lane(conn, job.id)
        )
        failed = sum(counts.get(one, 0) for one in _FAILED)
        if is_finished and failed:
            fields = {"job": str(job.id), "plan": str(self._asked.plan), "failed": failed}
            log.error("a replay has failed events", extra=fields)
        return Progress(
            cursor={"paid": paid},
            done=sum(counts.values()),
            failed=failed,
            counts=counts,
            total=job.total,
            is_finished=is_finished,
            result={"plan": str(self._asked.plan)} if is_finished else None,
            wait_s=0.0 if is_finished or is_behind else WAIT_S,
            lanes=lanes,
        )

    async def close(self) -> None:
        """See `Work`: nothing is open."""

    async def _take(self, conn: Conn, job: Job) -> Progress:
        """
        The first step: the plan is ours, if it still holds.

        Raises:
            JobFailed: it does not.
        """
        plan = self._asked.plan
        await replay_plans.lock(conn, plan)
        try:
            total = await check_plan(conn, plan, job.id)
        except PlanRefused as error:
            raise JobFailed(error.code, str(error)) from None
        await replay_plans.take(conn, plan, job.id)
        paid = await replays.clock_s(conn) - BURST_S
        return Progress({"paid": paid}, 0, 0, {}, total)

    async def _open(
        self, conn: Conn, job: Job, open_runs: Mapping[int, int]
    ) -> tuple[float, bool, set[int], dict[str, int]]:
        """
        Open what may be opened now.

        Returns:
            Up to when the rate is used up; whether more may be opened at once; in which lanes runs
            were opened; and how many events were passed over, by code.
        """
        rate = self._asked.rate
        now = await replays.clock_s(conn)
        paid = max(job.cursor["paid"], now - max(BURST_S, 1 / rate))
        room = min(int((now - paid) * rate), MOST_OPEN - sum(open_runs.values()))
        if room < 1 or await replays.is_live_late(conn, LATE_S):
            return paid, False, set(), {}
        # Before any lane is locked: whoever forgets bodies may take a while.
        if not await retention.may_keep_bodies(conn):
            return paid, False, set(), {}
        full = {lane for lane, runs in open_runs.items() if runs >= MOST_OPEN_OF_LANE}
        left_alone = full | self._busy | self._tools.crew.surroundings.paused_lanes
        self._busy = set()
        chunk = max(1, min(room, CHUNK) >> (2 * job.deaths))
        found = await replays.next_items(conn, self._asked.plan, left_alone, chunk)
        if not found:
            return paid, False, set(), {}
        lanes = {one.lane for one in found}
        held = await self._lock(conn, lanes)
        self._busy = lanes - held
        opened, codes = await self._open_these(
            conn, job, [one for one in found if one.lane in held]
        )
        self._fruitless = 0 if held else self._fruitless + 1
        is_behind = bool(held) and room > len(found)
        return paid + opened / rate, is_behind, held if opened else set(), codes

    async def _lock(self, conn: Conn, lanes: set[int]) -> set[int]:
        """
        The lanes that nobody holds: waiting for one would keep live events of the others waiting.
        Where it was always somebody else's turn, one alone is waited for.
        """
        if self._fruitless < PATIENCE:
            return await replays.take_lanes(conn, lanes)
        lane = min(lanes)
        try:
            async with conn.transaction():
                await replays.await_lane(conn, lane)
        except Exception as error:
            if not is_lock_timeout(error):
                raise
            return set()
        return {lane}

    async def _open_these(
        self, conn: Conn, job: Job, items: list[ToOpen]
    ) -> tuple[int, dict[str, int]]:
        """Open those that are as they were frozen; how many, and what the others are."""
        by_id = {one.tracking_id: one for one in items}
        evidence = await replays.find_evidence(conn, by_id)
        opened, _ = await open_where_settled(
            conn,
            {one: evidence[one] for one in by_id if one in evidence},
            job.actor,
            self._asked.reason,
            {one.tracking_id: one.run for one in items},
        )
        passed_over = {
            one.position: OVERTAKEN if one.tracking_id in evidence else BODY_EXPIRED
            for one in items
            if one.tracking_id not in opened
        }
        plan = self._asked.plan
        runs = {by_id[one].position: run for one, run in opened.items()}
        await replays.note_opened(conn, plan, job.id, runs)
        await replays.note_passed_over(conn, plan, job.id, passed_over)
        counts: dict[str, int] = {}
        for code in passed_over.values():
            counts[code] = counts.get(code, 0) + 1
        return len(opened), counts


async def begin(tools: Tools, job: Job) -> Replaying:
    """See `Begin`."""
    try:
        asked: Any = read_arguments(job.kind, job.arguments, job.tenant, None)
    except UnfitError as error:
        raise JobFailed(error.code, f"{error.pointer}: {error}") from None
    assert isinstance(asked, Replay)
    return Replaying(tools, asked)
