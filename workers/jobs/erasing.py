"""
The kind "erase": all that there is of a tenant goes, piece by piece.

Begun by an operator (`workers.erasure`), who has ended what the tenant may use. Which events are
its is found by what they did, so bodies go first, what they did afterwards, then the trail's
contents; exports of all tenants last, when none can find the tenant any more. Each piece finds what
is there: done again, it finds nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from shared.db import Conn, columns_of
from shared.store import customers, erasing, pruning, retention
from shared.store.jobs import Job, Progress
from workers.actions import act_of, replay_action
from workers.jobs.kinds import JobFailed, Tools

WINDOW = timedelta(minutes=10)
EVENTS_AT_ONCE = 200
CUSTOMERS_AT_ONCE = 50
RECORDS_AT_ONCE = 5000
CONTENTS_AT_ONCE = 1000
#: What is not finished is waited for: until then nobody knows what it comes to.
WAIT_S = 30.0

#: In this order; a step is a piece of one.
PHASES = ("jobs", "bodies", "records", "objects", "trail", "exports")

#: What a piece came to: how far the phase is (None: done), how much went, and how long to wait.
Piece = tuple[dict[str, Any] | None, Mapping[str, int], float]


class Erasing:
    """
    `cursor`: {"phase", "at": the phase's own, "files": digests in hex that may be removed}; see
    `Work`.
    """

    def __init__(self, tools: Tools, tenant: str, names: list[str]) -> None:
        self._tools = tools
        self._tenant = tenant
        self._names = names
        self._files: set[bytes] = set()

    async def prepare(self, job: Job) -> None:
        """See `Work`: remove the files that the step before took the names from."""
        digests = [bytes.fromhex(one) for one in job.cursor.get("files", ())]
        if not digests:
            return
        async with self._tools.crew.db.transaction() as conn:
            await retention.allow_longer(conn)
            named = await pruning.named_artifacts(conn, digests, but=job.id)
        for digest in digests:
            if digest not in named:
                await self._tools.artifacts.remove(digest)

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        phase = job.cursor.get("phase", PHASES[0])
        counts = dict(job.counts)
        self._files = set()
        at: dict[str, Any] | None = None
        gone: Mapping[str, int] = {}
        wait_s = 0.0
        if phase != "files":
            await retention.allow_longer(conn)
            at, gone, wait_s = await self._piece(phase)(conn, job.cursor.get("at") or {})
        for what, count in gone.items():
            counts[what] = counts.get(what, 0) + count
        is_finished = phase == "files"
        if at is None and not is_finished:
            later = PHASES.index(phase) + 1
            # The last files are removed before the last step.
            phase = PHASES[later] if later < len(PHASES) else "files"
        cursor = {"phase": phase, "at": at, "files": sorted(one.hex() for one in self._files)}
        return Progress(
            cursor, sum(counts.values()), 0, counts, is_finished=is_finished,
            result={"tenant": self._tenant, **counts} if is_finished else None, wait_s=wait_s,
        )  # fmt: skip

    async def close(self) -> None:
        """See `Work`: nothing is open."""

    def _piece(self, phase: str) -> Callable[[Conn, dict[str, Any]], Awaitable[Piece]]:
        pieces: Mapping[str, Callable[[Conn, dict[str, Any]], Awaitable[Piece]]] = {
            "jobs": self._jobs,
            "bodies": self._bodies,
            "records": self._records,
            "objects": self._objects,
            "trail": self._trail,
            "exports": self._exports,
        }
        return pieces[phase]

    async def _jobs(self, conn: Conn, at: dict[str, Any]) -> Piece:
        if await erasing.has_open_jobs(conn, self._names):
            return at, {}, 1.0
        gone, self._files = await erasing.erase_jobs(conn, self._names, EVENTS_AT_ONCE)
        if gone:
            return at, {"jobs": gone}, 0.0
        await erasing.erase_effects(conn, self._names)
        return None, {}, 0.0

    async def _bodies(self, conn: Conn, at: dict[str, Any]) -> Piece:
        since = datetime.fromisoformat(at["since"]) if at else datetime(1970, 1, 1, tzinfo=UTC)
        begins = await erasing.next_body(conn, since)
        if begins is None:
            if at.get("waits"):
                # Once more from the beginning: what waited may be settled by then.
                begin = datetime(1970, 1, 1, tzinfo=UTC).isoformat()
                return {"since": begin, "again": True}, {}, WAIT_S
            return None, {}, 0.0
        upto = begins + WINDOW
        found = await erasing.events_of(conn, self._names, begins, upto)
        open_ones = [one for one in found if one.is_unfinished]
        going = [one for one in found if not (one.is_unfinished or one.is_shared_held)]
        going_now = going[:EVENTS_AT_ONCE]
        self._files = await erasing.erase_events(conn, self._tenant, going_now)
        ids = [one.tracking_id for one in going_now]
        contents = await self._empty_of_events(conn, await erasing.runs_of(conn, ids))
        is_through = len(going) <= EVENTS_AT_ONCE
        held = len([one for one in found if one.is_shared_held]) if is_through else 0
        counts = {"events": len(going_now), "contents": contents}
        if held and not at.get("again"):
            counts["keptForHeld"] = held
        there = upto if is_through else begins
        waits = bool(at.get("waits")) or bool(open_ones)
        is_again = bool(at.get("again"))
        return {"since": there.isoformat(), "waits": waits, "again": is_again}, counts, 0.0

    async def _records(self, conn: Conn, at: dict[str, Any]) -> Piece:
        after = at.get("after", 0)
        upto = at["upto"] if at else await erasing.last_record(conn)
        gone = await erasing.erase_records(conn, self._names, after, after + RECORDS_AT_ONCE)
        after += RECORDS_AT_ONCE
        there = {"after": after, "upto": upto} if after < upto else None
        return there, {"records": gone}, 0.0

    async def _objects(self, conn: Conn, at: dict[str, Any]) -> Piece:
        keys = await erasing.customers_of(conn, self._names, CUSTOMERS_AT_ONCE)
        if keys:
            await customers.lock_customers(conn, keys)
            gone = await erasing.erase_customers(conn, self._names, columns_of(sorted(keys), 4))
            return at, {"objects": gone}, 0.0
        gone = await erasing.erase_orphans(conn, self._names, EVENTS_AT_ONCE)
        return (at if gone else None), {"objects": gone}, 0.0

    async def _trail(self, conn: Conn, at: dict[str, Any]) -> Piece:
        gone, last, runs = await erasing.empty_contents(
            conn, self._names, at.get("after", 0), CONTENTS_AT_ONCE
        )
        gone += await self._empty_of_events(conn, runs)
        if last is None:
            await erasing.erase_gifts(conn, self._names)
        return (None if last is None else {"after": last}), {"contents": gone}, 0.0

    async def _exports(self, conn: Conn, at: dict[str, Any]) -> Piece:
        # Those that begin from now on find nothing of the tenant; of one that is half done nobody
        # can say.
        upto = UUID(at["upto"]) if at else await erasing.first_id_now(conn)
        there = {"upto": str(upto)}
        if await erasing.has_open_exports(conn, upto):
            return there, {}, 1.0
        gone, self._files = await erasing.erase_exports(conn, upto, EVENTS_AT_ONCE)
        return (there if gone else None), {"exportsOfAll": gone}, 0.0

    async def _empty_of_events(self, conn: Conn, runs: Mapping[UUID, int]) -> int:
        """What is told of these events without a tenant: notes, and why they were replayed."""
        actions = [act_of(one) for one in runs]
        actions += [replay_action(one, run) for one, n in runs.items() for run in range(2, n + 1)]
        return await erasing.empty_contents_of_events(conn, list(runs), actions)


async def begin(tools: Tools, job: Job) -> Erasing:
    """See `Begin`."""
    tenant, names = job.arguments.get("tenant"), job.arguments.get("names")
    if not isinstance(tenant, str) or not isinstance(names, list):
        raise JobFailed("invalid_arguments", "only `sluice tenants erase` begins this job")
    return Erasing(tools, tenant, names)
