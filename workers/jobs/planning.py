"""
The kind "replay-plan": which events a selection means, and what replaying them would change.

The list is frozen chunk by chunk, of what had been received when it began. Then the real code is
run over it and taken back (`workers.rehearsal`). Nothing is applied.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.events import ORDERED, new_tracking_id, received_at_of
from shared.domain.jobs import ReplayPlan, UnfitError, read_arguments
from shared.domain.outcomes import BODY_EXPIRED, IS_AN_ORDER, UNFINISHED, UNKNOWN_EVENT
from shared.domain.selection import Selection, read_selection
from shared.store import replay_plans
from shared.store.jobs import Job, Progress
from shared.store.paging import iso
from shared.store.replay_plans import Item, Told
from shared.store.selecting import Selected, select_events
from workers.jobs.effects import Effect, Finding
from workers.jobs.kinds import JobFailed, Tools

CHUNK = 1000
#: How long is rehearsed in a step: between two, others have their turns, and it can be cancelled.
REHEARSE_S = 0.5
#: Of how many sources, types and codes events are counted; the rest is counted under REST.
MOST_NAMES = 100
REST = "…"
#: What is found out after the events themselves.
_BODILESS, _EFFECT = "bodiless", "effect"
_LAST = UUID(int=(1 << 128) - 1)


class Planning:
    """
    `cursor`: {"phase", "mark": what was received by then, "after": [time, id] of the last event,
    "items", "by": counts, "oldest", "newest"}.
    """

    def __init__(self, tools: Tools, selection: Selection) -> None:
        self._tools = tools
        self._wanted = selection
        self._mark: datetime | None = None
        self._found: list[tuple[Item, Told | None]] = []
        self._last: Selected | None = None
        self._is_last = False
        self._finding: Finding | None = None
        self._is_found = False

    async def prepare(self, job: Job) -> None:
        """See `Work`: find the next events, or in the end what they would change."""
        crew, phase = self._tools.crew, job.cursor.get("phase")
        if phase == _EFFECT:
            if self._finding is None:
                self._finding = await Finding.begin(crew, job)
            self._is_found = not await self._finding.go_on(REHEARSE_S)
            return
        async with crew.db.transaction() as conn:
            await replay_plans.allow_scans(conn)
            if not job.cursor and await replay_plans.has_items(conn, job.id):
                raise JobFailed("plan_is_made", f"plan {job.id} was made already")
            if phase == _BODILESS:
                await self._find_bodiless(conn, job)
            else:
                await self._find(conn, job)

    async def _find(self, conn: Conn, job: Job) -> None:
        cursor = job.cursor
        if not cursor:
            self._mark = await replay_plans.frozen_at(conn)
            # The first id of the millisecond after it.
            after = (self._mark, UUID(int=(int(self._mark.timestamp() * 1000) + 1) << 80))
        else:
            self._mark = datetime.fromisoformat(cursor["mark"])
            after = (datetime.fromisoformat(cursor["after"][0]), UUID(cursor["after"][1]))
        chunk = max(1, CHUNK >> (2 * job.deaths))
        selected = await select_events(conn, self._wanted, after, chunk)
        told = await replay_plans.describe(
            conn, [one.received_at for one in selected], [one.tracking_id for one in selected]
        )
        first = cursor.get("items", 0)
        self._found = [
            (_item(first + place, one, told.get(one.tracking_id)), told.get(one.tracking_id))
            for place, one in enumerate(selected)
        ]
        self._is_last = len(selected) < chunk
        self._last = selected[-1] if selected else None

    async def _find_bodiless(self, conn: Conn, job: Job) -> None:
        """Of those that were named, or are dead: what has no body any more."""
        wanted, first = self._wanted, job.cursor["items"]
        self._mark, self._is_last, self._last = (
            datetime.fromisoformat(job.cursor["mark"]),
            True,
            None,
        )
        self._found = []
        if wanted.ids is not None:
            kept = await replay_plans.describe(
                conn, [received_at_of(one) for one in wanted.ids], wanted.ids
            )
            gone = sorted({*wanted.ids} - kept.keys(), reverse=True)
            runs = await replay_plans.known_runs(conn, gone)
        elif _means_dead(wanted):
            before = _LAST if wanted.until is None else new_tracking_id(wanted.until, bytes(10))
            if job.cursor.get("bodiless") is not None:
                before = UUID(job.cursor["bodiless"])
            since = None if wanted.since is None else new_tracking_id(wanted.since, bytes(10))
            found = await replay_plans.dead_without_body(
                conn, before, since, wanted.source, wanted.code, CHUNK
            )
            runs = {one.tracking_id: one for one in found}
            gone, self._is_last = list(runs), len(found) < CHUNK
        else:
            return
        for place, one in enumerate(gone):
            run = runs.get(one)
            code = UNKNOWN_EVENT if run is None else BODY_EXPIRED
            item = Item(
                first + place, one, received_at_of(one), run and run.source_id, None,
                run and run.run, code,
            )  # fmt: skip
            self._found.append((item, None if run is None else Told(one, "", run.status, run.code)))

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        if job.cursor.get("phase") == _EFFECT:
            assert self._finding is not None  # it was prepared
            if self._is_found:
                return await self._finish(conn, job, self._finding.effect())
            counts = {**job.counts, "rehearsed": self._finding.done}
            return Progress(job.cursor, job.done, 0, counts)
        await replay_plans.add_items(conn, job.id, [item for item, _ in self._found])
        assert self._mark is not None  # it was prepared
        cursor = {"by": {}, "items": 0, "phase": None, **job.cursor, "mark": self._mark.isoformat()}
        cursor["by"] = self._counted(cursor["by"])
        cursor["items"] += len(self._found)
        times = [item.received_at for item, _ in self._found]
        if times:
            ends = [iso(min(times)), iso(max(times))]
            cursor["oldest"] = min(filter(None, (cursor.get("oldest"), ends[0])))
            cursor["newest"] = max(filter(None, (cursor.get("newest"), ends[1])))
        if self._last is not None:
            cursor["after"] = [self._last.received_at.isoformat(), str(self._last.tracking_id)]
        if cursor["phase"] == _BODILESS and self._found:
            cursor["bodiless"] = str(self._found[-1][0].tracking_id)
        if self._is_last:
            cursor["phase"] = _EFFECT if cursor["phase"] == _BODILESS else _BODILESS
        counts = {"replayable": cursor["items"] - sum(cursor["by"].get("leftOut", {}).values())}
        return Progress(cursor, cursor["items"], 0, counts)

    async def _finish(self, conn: Conn, job: Job, effect: Effect) -> Progress:
        cursor = job.cursor
        await replay_plans.finish(conn, job.id, effect.place, effect.configuration)
        await replay_plans.add_ground(conn, job.id, effect.tenants, effect.links)
        by = cursor["by"]
        result = {
            "events": cursor["items"],
            "replayable": job.counts["replayable"],
            "leftOut": by.get("leftOut", {}),
            "bySource": by.get("source", {}),
            "byType": by.get("type", {}),
            "byStatus": by.get("status", {}),
            "byCode": by.get("code", {}),
            "oldest": cursor.get("oldest"),
            "newest": cursor.get("newest"),
            "frozenAt": iso(datetime.fromisoformat(cursor["mark"]).astimezone(UTC)),
            "effect": effect.shown,
            "madeAt": iso(effect.place.made_at),
            "configuration": effect.configuration,
            "trail": effect.place.snapshot,
        }
        counts = {name: n for name, n in job.counts.items() if name != "rehearsed"}
        counts |= {f"would_be_{name}": n for name, n in effect.outcomes.items()}
        return Progress(cursor, job.done, 0, counts, job.done, is_finished=True, result=result)

    async def close(self) -> None:
        """See `Work`: nothing is open."""

    def _counted(self, by: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """The counts, with what was found now."""
        new: dict[str, Counter[str]] = {name: Counter() for name in _NAMES}
        surroundings = self._tools.crew.surroundings
        for item, told in self._found:
            if item.source_id is not None:
                new["source"][surroundings.name_of(item.source_id)] += 1
            if told is not None and told.event_type:
                new["type"][told.event_type] += 1
            status = "received" if told is None or told.status is None else told.status
            new["status"][UNFINISHED if item.code == UNFINISHED else status] += 1
            if told is not None and told.code is not None:
                new["code"][told.code] += 1
            if item.code is not None:
                new["leftOut"][item.code] += 1
        return {name: _bounded({**by.get(name, {})}, counter) for name, counter in new.items()}


_NAMES = ("source", "type", "status", "code", "leftOut")


def _bounded(counts: dict[str, int], more: Mapping[str, int]) -> dict[str, int]:
    for name, amount in more.items():
        key = name if name in counts or len(counts) < MOST_NAMES else REST
        counts[key] = counts.get(key, 0) + amount
    return counts


def _item(position: int, one: Selected, told: Told | None) -> Item:
    code = None
    if told is not None and told.event_type.startswith(ORDERED):
        # What was ordered once is not ordered again in the thousands.
        code = IS_AN_ORDER
    elif one.is_unfinished or one.run is None:
        code = UNFINISHED
    elif told is None:
        code = BODY_EXPIRED
    return Item(position, one.tracking_id, one.received_at, one.source_id, one.lane, one.run, code)


def _means_dead(wanted: Selection) -> bool:
    """
    Whether it asks for dead events, by what is known of them without their bodies.

    Their type is not. Where source and code are asked for too, as for an issue, that says enough:
    what may be meant, and cannot be replayed, is told rather than passed over.
    """
    asked = {
        name for name in wanted.__struct_fields__ if getattr(wanted, name) not in (None, False)
    }
    known = {"status", "outcome", "source", "code", "since", "until"}
    if {"source", "code"} <= asked:
        known.add("type")
    is_dead = wanted.status == "dead" or wanted.outcome == "dead"
    return is_dead and asked <= known


async def begin(tools: Tools, job: Job) -> Planning:
    """See `Begin`."""
    try:
        asked: Any = read_arguments(job.kind, job.arguments, job.tenant, None)
    except UnfitError as error:
        raise JobFailed(error.code, f"{error.pointer}: {error}") from None
    assert isinstance(asked, ReplayPlan)
    return Planning(tools, read_selection(asked.select))
