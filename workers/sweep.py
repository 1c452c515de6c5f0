"""
Everything that happens because time passed.

Each duty stands alone: one that fails is logged and tried again at the next turn, and keeps no
other from its own. With Redis gone, or a wake-up lost, this is what drains.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from shared import gauges, telemetry
from shared.db import Conn, is_platform_fault
from shared.domain.audit import Draft
from shared.domain.verdicts import LINK_CONFLICT, NEEDS_MAPPING, UNKNOWN_STATUS
from shared.store import (
    audit,
    backlog,
    grants,
    parked,
    partitions,
    refusals,
    rhythms,
    source_rows,
)
from workers import entitle, settling
from workers.crew import Crew
from workers.entries import NO_LOCKS, Locks, SetGrew
from workers.holdings import Holdings
from workers.retention.prune import Busy, Tools, prune
from workers.rounds import Rounds

log = logging.getLogger(__name__)

EVERY_S = 1.0
COUNT_EVERY_S = 15.0
PRUNE_REFUSALS_EVERY_S = 5.0
PARTITIONS_EVERY_S = 3600.0
LISTEN_EVERY_S = 60.0
#: So many events are listened through in a transaction, and in so many of them a minute at most.
HEARD_AT_ONCE = 20_000
MOST_AT_ONCE = 50
RETRY_S = 60.0
#: How long a tenant that could not be derived lets others go first.
STUCK_S = 5.0
TENANTS_AT_ONCE = 100

#: What no event to come will mend.
ALARMING = frozenset({NEEDS_MAPPING, UNKNOWN_STATUS, LINK_CONFLICT})


@dataclass
class Sweep:
    """
    The duties of one process. `ages` is the oldest unfinished event's, in seconds by source;
    `parked` are the objects that wait, by source and what for; `stuck` the tenants that could not
    be derived, with the moment from which they are tried again, in the loop's clock; `paused` the
    paused sources, and for how long they have been, in seconds; `silent` the same of silent ones.
    `pruning` is what pruning needs, None: this process does none; `pruned` is how much it has
    forgotten, by class.
    """

    crew: Crew
    rounds: Rounds
    ages: dict[str, float] = field(default_factory=dict)
    parked: dict[tuple[str, str], int] = field(default_factory=dict)
    stuck: dict[str, float] = field(default_factory=dict)
    paused: dict[str, float] = field(default_factory=dict)
    pruning: Tools | None = None
    pruned: dict[str, int] = field(default_factory=dict)
    silent: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Sweep until cancelled."""
        gauges.oldest_unfinished.read_from(lambda: self.ages)
        gauges.source_paused.read_from(lambda: self.paused)
        gauges.source_silent.read_from(lambda: self.silent)
        gauges.objects_parked.read_from(lambda: self.parked)
        gauges.pruned.read_from(lambda: self.pruned)
        prune_s = self.pruning.settings.prune_every_s if self.pruning is not None else 0.0
        async with asyncio.TaskGroup() as group:
            for every_s, duty in (
                (EVERY_S, self.learn),
                (EVERY_S, self.wake),
                (5 * EVERY_S, self.age),
                (EVERY_S, self.derive),
                (COUNT_EVERY_S, self.count),
                (COUNT_EVERY_S, self.listen),
                (EVERY_S, self.turn),
                (PARTITIONS_EVERY_S, self.make_partitions),
                *(((prune_s, self.prune),) if prune_s else ()),
                (PRUNE_REFUSALS_EVERY_S, self.prune_refusals),
            ):
                group.create_task(_keep(every_s, duty), name=duty.__name__)

    async def learn(self) -> None:
        """Notice a new configuration."""
        async with self.crew.db.connection() as conn:
            await self.crew.surroundings.refresh(conn)

    async def wake(self) -> None:
        """Visit every lane that has due work, whoever rang for it or did not."""
        async with self.crew.db.connection() as conn:
            self.rounds.wake(await backlog.lanes_with_due_work(conn))

    async def age(self) -> None:
        """Measure what pages somebody."""
        async with self.crew.db.connection() as conn:
            found = await backlog.oldest_unfinished_s(conn)
            self.paused = await source_rows.paused_s(conn)
        named = self.crew.surroundings.name_of
        self.ages = {named(source_id): age_s for source_id, age_s in found.items()}

    async def count(self) -> None:
        """Count what waits for somebody, and say aloud what only an operator can mend."""
        async with self.crew.db.connection() as conn:
            found = await parked.count_parked(conn)
        named = self.crew.surroundings.name_of
        counts = {(named(source_id), needs): count for (source_id, needs), count in found.items()}
        for (source, needs), count in counts.items():
            if needs in ALARMING and count > self.parked.get((source, needs), 0):
                log.error(
                    "objects wait for an operator: sluice parked list",
                    extra={"source": source, "needs": needs, "objects": count},
                )
        self.parked = counts

    async def listen(self) -> None:
        """
        Learn how often sources are heard, and say once that one has fallen silent. Of all workers
        one does it, once a minute; the others learn what it found.
        """
        for turn in range(MOST_AT_ONCE):
            async with self.crew.db.transaction() as conn:
                if turn == 0 and not await rhythms.take_turn(conn, LISTEN_EVERY_S):
                    break
                if await rhythms.listen(conn, HEARD_AT_ONCE, again=turn == 0) == HEARD_AT_ONCE:
                    continue
                for fallen in await rhythms.note_silent(conn):
                    log.warning(
                        "source is silent",
                        extra={
                            "source": fallen.source,
                            "heard": fallen.last_received_at.isoformat(),
                            "longest_gap_s": fallen.longest_gap.total_seconds(),
                        },
                    )
                await rhythms.tally(conn)
                break
        async with self.crew.db.connection() as conn:
            self.silent = await rhythms.silent_s(conn)

    async def derive(self) -> None:
        """Bring tenants to the current catalog."""
        now_s = asyncio.get_running_loop().time()
        self.stuck = {tenant: until_s for tenant, until_s in self.stuck.items() if until_s > now_s}
        async with self.crew.db.connection() as conn:
            outdated = await grants.outdated_tenants(conn, TENANTS_AT_ONCE, self.stuck)
        for tenant in outdated:
            # One that cannot be derived keeps no other on the old catalog, nor in line.
            if not await _guarded(f"derive {tenant}", derive_again(self.crew, tenant)):
                self.stuck[tenant] = now_s + STUCK_S

    async def turn(self) -> None:
        """Tell the trail what the clock did, to tenants that nothing else has locked since."""
        while True:
            async with self.crew.db.connection() as conn:
                turned = await grants.tenants_that_turned(conn, TENANTS_AT_ONCE)
            done = [
                await _guarded(f"turn {tenant}", turn_tenant(self.crew, tenant))
                for tenant in turned
            ]
            # What failed is still there: it waits for the next time.
            if len(turned) < TENANTS_AT_ONCE or not all(done):
                return

    async def make_partitions(self) -> None:
        """Keep the inbox's days ahead."""
        async with self.crew.db.connection() as conn:
            ahead = await partitions.make_partitions(conn)
        if ahead <= partitions.DAYS_AHEAD:
            log.error("inbox partitions are missing", extra={"days": ahead})

    async def prune(self) -> None:
        """Forget what its time is over of; one process at a time does."""
        assert self.pruning is not None
        async with self.crew.db.connection() as conn:
            try:
                done = await prune(conn, self.pruning)
            except Busy:
                return
        for one in done:
            self.pruned[one.name] = self.pruned.get(one.name, 0) + one.gone

    async def prune_refusals(self) -> None:
        """Keep the newest of what was refused at the door."""
        async with self.crew.db.connection() as conn:
            await refusals.prune_refusals(conn)


async def _keep(every_s: float, duty: Callable[[], Awaitable[None]]) -> None:
    """Do a duty again and again; after a failure, sooner."""
    while True:
        done = await _guarded(duty.__name__, duty())
        pause_s = every_s if done else min(every_s, RETRY_S)
        await asyncio.sleep(pause_s * (0.75 + random.random() / 2))  # noqa: S311 - jitter


async def _guarded(what: str, doing: Awaitable[None]) -> bool:
    try:
        await doing
    except Exception as error:
        if is_platform_fault(error):
            log.warning("sweep put off", extra={"duty": what, "error": repr(error)})
        else:
            log.exception("sweep failed", extra={"duty": what})
        return False
    return True


async def turn_tenant(crew: Crew, tenant: str) -> None:
    """Audit what began or ended for a tenant by the clock, in a transaction of its own."""
    async with crew.db.transaction() as conn:
        holdings = Holdings()
        await holdings.lock(conn, {tenant})
    for turn in holdings.turns:
        telemetry.turned((holdings.now - turn.at).total_seconds())


async def derive_again(crew: Crew, tenant: str) -> None:
    """Derive a tenant's grants with the current catalog, in a transaction of its own."""
    more = NO_LOCKS
    while True:
        try:
            async with crew.db.transaction() as conn:
                await _derive(conn, crew, tenant, more)
            return
        except SetGrew as grew:
            more = grew.locks


async def _derive(conn: Conn, crew: Crew, tenant: str, more: Locks) -> None:
    now, xid = await audit.moment(conn)
    changes, version = await entitle.derive_tenant(conn, crew.surroundings, now, tenant, more=more)
    like = Draft(
        chain="",
        cause="catalog",
        cause_id=str(version),
        run=1,
        tenant=tenant,
        step=0,
        action="",
        actor="system:sweep",
        catalog_version=version,
    )
    own = [change for change in changes if change.tenant == tenant]
    # An object that turned out to be another's: that tenant's own derivation numbers from 1 too.
    others = [change for change in changes if change.tenant != tenant]
    beside = msgspec.structs.replace(like, cause_id=f"{version}:{tenant}")
    drafts = settling.changes_to_drafts(own, first_step=1, draft=like)
    drafts += settling.changes_to_drafts(others, first_step=1, draft=beside)
    await audit.append(conn, drafts, now=now, xid=xid)
