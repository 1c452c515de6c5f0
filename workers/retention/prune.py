"""
Forget what its time is over of, class by class: by the worker's sweep, hourly, or by hand.

One process at a time, in pieces that are a transaction each: killed anywhere, the next one goes on.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from shared.artifacts import ArtifactError, Artifacts, Stored
from shared.db import Conn
from shared.domain.register import fold
from shared.settings import Settings
from shared.store import ended_jobs, pruning, retention
from workers.retention.bodies import prune_days, prune_holds
from workers.retention.classes import CLASSES, days_of

log = logging.getLogger(__name__)

BLOCKS_AT_ONCE = 500
#: Of the ledger, how much one pass looks through: what is left is the next hour's.
BLOCKS_OF_PASS = 50_000
EVENTS_AT_ONCE = 500
EVENTS_OF_PASS = 100_000
OBJECTS_AT_ONCE = 200
OBJECTS_OF_PASS = 20_000
ROWS_AT_ONCE = 200
ITEMS_AT_ONCE = 5000
#: A tracking id begins with its milliseconds; so many bits are behind them.
_BELOW_MS = 80
#: What one listing of the store is asked about at once.
ARTIFACTS_AT_ONCE = 5000


class Busy(Exception):
    """Somebody else prunes."""


class Pruned(NamedTuple):
    """What became of a class. `gone` counts days of `standard`, and else rows or files."""

    name: str
    gone: int


class Tools(NamedTuple):
    """What pruning needs besides its connection."""

    settings: Settings
    artifacts: Artifacts


async def prune(conn: Conn, tools: Tools, names: Collection[str] = tuple(CLASSES)) -> list[Pruned]:
    """
    Forget of these classes what may go, in their order.

    Raises:
        Busy: nothing was done.
        Exception: what went wrong with the first class that failed; the others were pruned.
    """
    if not await retention.take_turn(conn):
        raise Busy("another process prunes")
    done: list[Pruned] = []
    failures: list[Exception] = []
    for name in CLASSES:
        if name in names:
            try:
                gone = await _BY_CLASS[name](conn, tools)
            except Exception as error:
                # What cannot be done of one class must not keep the others for ever.
                log.warning("a class stays for now", extra={"class": name, "error": repr(error)})
                failures.append(error)
                continue
            done.append(Pruned(name, gone))
            if gone:
                log.info("pruned", extra={"class": name, "gone": gone})
    if failures:
        # If the connection is lost, the turn went with it.
        with contextlib.suppress(Exception):
            await retention.end_turn(conn)
        raise failures[0]
    await retention.end_turn(conn)
    return done


async def _standard(conn: Conn, tools: Tools) -> int:
    return await prune_days(conn, tools.settings.keep_bodies_d)


async def _hold(conn: Conn, tools: Tools) -> int:
    return await prune_holds(conn, tools.settings.keep_bodies_d)


async def _ledger(conn: Conn, tools: Tools) -> int:
    before = await pruning.moment_before(conn, timedelta(days=tools.settings.keep_ledger_d))
    # By itself, and first: whoever applies an event that old must not trust the ledger any more.
    await pruning.move_horizon(conn, before)
    blocks = await pruning.blocks_of_ledger(conn)
    block, gone = await pruning.read_place(conn, "ledger"), 0
    for _ in range(0, min(blocks, BLOCKS_OF_PASS), BLOCKS_AT_ONCE):
        block = 0 if block >= blocks else block
        async with conn.transaction():
            gone += await pruning.forget_ledger(conn, before, block, block + BLOCKS_AT_ONCE)
            block += BLOCKS_AT_ONCE
            await pruning.save_place(conn, "ledger", block)
    # From where the last pass ended: what is held may be more than one looks through.
    after = UUID(int=await pruning.read_place(conn, "events") << _BELOW_MS)
    for _ in range(0, EVENTS_OF_PASS, EVENTS_AT_ONCE):
        found = await pruning.oldest_events(conn, before, EVENTS_AT_ONCE, after)
        after = found[-1] if found else UUID(int=0)
        async with conn.transaction():
            if found:
                going = await pruning.forgettable(conn, found, before)
                gone += await pruning.forget_events(conn, going)
            await pruning.save_place(conn, "events", after.int >> _BELOW_MS)
        if not found:
            break
    return gone


async def _observations(conn: Conn, tools: Tools) -> int:
    before = await pruning.moment_before(conn, timedelta(days=tools.settings.keep_ledger_d))
    place, gone = await pruning.read_place(conn, "observations"), 0
    for _ in range(0, OBJECTS_OF_PASS, OBJECTS_AT_ONCE):
        found, last = await pruning.old_observations(conn, before, place, OBJECTS_AT_ONCE)
        going = [
            (number, one.id)
            for number, seen in found.items()
            # What the object is now, and since when, is told by those that stay alone.
            if fold(seen.provider, seen.kind, [*seen.old, *seen.rest])
            == fold(seen.provider, seen.kind, seen.rest)
            for one in seen.old
        ]
        place = 0 if last is None else last
        async with conn.transaction():
            if going:
                gone += await pruning.forget_observations(conn, going)
            await pruning.save_place(conn, "observations", place)
        if last is None:
            break
    return gone


async def _jobs(conn: Conn, tools: Tools) -> int:
    before = await pruning.moment_before(conn, timedelta(days=tools.settings.keep_jobs_d))
    gone = await _while_full(conn, ROWS_AT_ONCE, partial(ended_jobs.forget_jobs, conn, before))
    # Also those of whoever was killed behind the jobs, and of tenants that were erased.
    for plan in await ended_jobs.plans_without_job(conn):
        await _while_full(conn, ITEMS_AT_ONCE, partial(ended_jobs.forget_items, conn, plan))
        async with conn.transaction():
            await ended_jobs.forget_plan(conn, plan)
    return gone


async def _messages(conn: Conn, tools: Tools) -> int:
    before = await pruning.moment_before(conn, timedelta(days=tools.settings.keep_messages_d))
    return await _while_full(conn, ROWS_AT_ONCE, partial(pruning.forget_messages, conn, before))


async def _artifacts(conn: Conn, tools: Tools) -> int:
    found: list[Stored] = []
    gone = 0
    try:
        async for stored in tools.artifacts.older_than(_grace()):
            found.append(stored)
            if len(found) == ARTIFACTS_AT_ONCE:
                gone += await _remove_unnamed(conn, tools, found)
                found = []
        gone += await _remove_unnamed(conn, tools, found)
    except ArtifactError as error:
        log.warning("the artifact store is away: its files stay", extra={"error": repr(error)})
    return gone


def _grace() -> timedelta:
    return timedelta(days=CLASSES["artifacts"].days or 0)


async def _remove_unnamed(conn: Conn, tools: Tools, found: list[Stored]) -> int:
    unnamed = await unnamed_of(conn, found)
    for stored in unnamed:
        await tools.artifacts.remove_stored(stored)
    return len(unnamed)


async def unnamed_of(conn: Conn, found: list[Stored]) -> list[Stored]:
    """Those that no row names; drafts are nobody's."""
    if not found:
        return []
    async with conn.transaction():
        await retention.allow_longer(conn)
        digests = [stored.digest for stored in found if stored.digest is not None]
        named = await pruning.named_artifacts(conn, digests)
    return [stored for stored in found if stored.digest not in named]


async def _while_full(conn: Conn, limit: int, forget: Callable[[int], Awaitable[int]]) -> int:
    gone, rows = 0, limit
    while rows == limit:
        async with conn.transaction():
            await retention.allow_longer(conn)
            rows = await forget(limit)
        gone += rows
    return gone


_BY_CLASS: Mapping[str, Callable[[Conn, Tools], Awaitable[int]]] = {
    "standard": _standard,
    "hold": _hold,
    "ledger": _ledger,
    "observations": _observations,
    "jobs": _jobs,
    "messages": _messages,
    "artifacts": _artifacts,
}


async def plan(conn: Conn, tools: Tools, name: str) -> dict[str, Any]:
    """
    What pruning a class would do: {"class", "days", "rows", "bytes", "keptHeld",
    "keptUnfinished"} as far as it can be counted; of `standard`, "rows" and "bytes" are those of
    whole days, what would stay included.
    """
    counted: dict[str, Any] = dict.fromkeys(("days", "rows", "bytes", "keptHeld", "keptUnfinished"))
    settings = tools.settings
    if name in ("standard", "hold"):
        due = [
            one
            for one in await retention.list_partitions(conn, settings.keep_bodies_d)
            if one.is_due and one.kind == name
        ]
        weighed = [await retention.weigh(conn, one.stretch) for one in due]
        counted["rows"] = sum(one.rows for one in weighed)
        counted["keptHeld"] = sum(one.held for one in weighed)
        counted["keptUnfinished"] = sum(one.unfinished for one in weighed)
        if name == "standard":
            counted |= {"days": len(due), "bytes": sum(one.size_bytes for one in due)}
    elif name == "artifacts":
        found = [stored async for stored in tools.artifacts.older_than(_grace())]
        unnamed = await unnamed_of(conn, found)
        counted |= {"rows": len(unnamed), "bytes": sum(stored.size_bytes for stored in unnamed)}
    else:
        before = await pruning.moment_before(conn, timedelta(days=days_of(name, settings) or 0))
        counted["rows"] = await _COUNTS[name](conn, before)
    return {"class": name, **counted}


_COUNTS: Mapping[str, Callable[..., Awaitable[int]]] = {
    "jobs": ended_jobs.count_jobs,
    "messages": pruning.count_messages,
    "ledger": pruning.count_events,
    "observations": pruning.count_observations,
}
