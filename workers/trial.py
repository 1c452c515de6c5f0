"""
One transaction of a rehearsal: lock it all, apply, compare what tenants may use, roll back.

No lane is locked. A lane's lock is the right to finish its work, and nothing is finished here. What
two appliers may both change lies under locks that are taken here too, but for an object that names
neither customer nor joint, and for a lane's chain in the trail. The chain is not written to; who
meets us at such an object waits until we have rolled back, or we for them, and give up soon.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from shared.db import Conn, is_lock_timeout, is_platform_fault
from shared.domain.audit import changed_features
from shared.domain.entitlements import Entitlement, Grant, aggregate
from shared.domain.events import StoredEvent
from shared.domain.keys import CustomerKey
from shared.domain.outcomes import ATTEMPTS_EXHAUSTED, RetryPolicy
from shared.domain.turns import HeldGrant
from shared.store import audit, grants, rehearsals
from shared.store.rehearsals import Settled
from shared.store.work import LaneLock
from workers import applying, settling
from workers.crew import Crew
from workers.entries import NO_LOCKS, FeatureChange, SetGrew
from workers.surroundings import Surroundings
from workers.watched import TENANT, Node, Outgrown, Watched, lock_all

#: What an event comes to whose next attempt fails, and is not its last.
RETRYING = "retrying"
#: How often a batch may find out what else it needs.
_MOST_GROWTHS = 20

#: How a run ends: (outcome, code).
Ending = tuple[str, str | None]


class GiveWay(Exception):
    """Somebody waits for what we hold, or the configuration has moved on under us."""


class TookTooLong(Exception):
    """It used up its time."""


class _TakenBack(Exception):
    """Rolls back a transaction that has told what it would change."""


@dataclass(slots=True)
class Found:
    """
    What applying events came to, for them and for tenants; `gone` have lost their bodies meanwhile,
    those left `apart` are another process's to apply. `links` are operators' links of customers,
    `behind` tenants that were not derived with the current catalog yet: by whom they are first, the
    sweep or an event, decides what such an event comes to.
    """

    endings: dict[UUID, Ending] = field(default_factory=dict)
    changes: list[FeatureChange] = field(default_factory=list)
    gone: set[UUID] = field(default_factory=set)
    apart: set[UUID] = field(default_factory=set)
    links: dict[CustomerKey, str | None] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the transaction may last, and how long it keeps others waiting, if they do."""

    most_s: float
    holds_s: float = 0.0


async def apply_and_take_back(
    crew: Crew,
    batches: Sequence[Sequence[Settled]],
    nodes: frozenset[Node],
    patience: Patience,
) -> Found:
    """
    Apply settled events in their order, batch by batch under these locks, and roll back.

    Raises:
        Outgrown: there is more to lock.
        GiveWay, TookTooLong: see there.
        Exception: the platform's fault; `is_lost` tells those that live work is the cause of.
    """
    found = Found()
    tenants = {str(name) for kind, name in nodes if kind == TENANT}
    surroundings = crew.surroundings
    try:
        async with crew.db.transaction() as conn:
            await rehearsals.give_up_soon(conn)
            locked = await lock_all(conn, nodes)
            begun_s = _now_s()
            version = await _version(conn, surroundings)
            found.links = locked.links
            found.behind = {
                name
                for name, one in locked.tenants.items()
                if one.merged_into is None and one.catalog_version < version[1]
            }
            trial = _Trial(
                Watched(conn, nodes), crew, LaneLock(0, *await audit.moment(conn)), found
            )
            before = await grants.read_grants(conn, tenants)
            for number, batch in enumerate(batches):
                if number:
                    await _check(conn, patience, _now_s() - begun_s)
                await trial.apply(batch)
            after = await grants.read_grants(conn, tenants)
            if version != await _version(conn, surroundings):
                raise GiveWay  # its first events were read by another one than its last
            # By one clock for both: what ends meanwhile is nobody's doing.
            found.changes = _changes(before, after, await rehearsals.read_clock(conn))
            raise _TakenBack
    except _TakenBack:
        return found


def is_lost(error: Exception) -> bool:
    """Whether live work had what we wanted, or wants what we have; it is in the right."""
    is_deadlock = getattr(error, "sqlstate", None) == "40P01"
    return isinstance(error, GiveWay) or is_lock_timeout(error) or is_deadlock


def failed_with(error: Exception, retry: RetryPolicy) -> Ending:
    """What an event's next attempt comes to that fails like this."""
    if retry.is_exhausted(1):
        return "dead", ATTEMPTS_EXHAUSTED
    return RETRYING, applying.code_of(error)


async def _version(conn: Conn, surroundings: Surroundings) -> tuple[int, int]:
    await surroundings.refresh(conn)
    return surroundings.version, await grants.current_catalog_version(conn)


async def _check(conn: Conn, patience: Patience, held_s: float) -> None:
    if held_s > patience.most_s:
        raise TookTooLong
    if held_s >= patience.holds_s and await rehearsals.is_in_the_way(conn):
        raise GiveWay


@dataclass(frozen=True, slots=True)
class _Trial:
    """Batches of one transaction, each in a savepoint that stays until all is taken back."""

    conn: Conn
    crew: Crew
    held: LaneLock
    found: Found

    async def apply(self, settled: Sequence[Settled]) -> None:
        """Apply a batch."""
        events = await rehearsals.read_again(self.conn, settled)
        read = {event.tracking_id for event in events}
        self.found.gone.update(one.tracking_id for one in settled if one.tracking_id not in read)
        if events:
            await self._apply_or_isolate(events)

    async def _apply_or_isolate(self, events: Sequence[StoredEvent]) -> None:
        """As a worker does it: all at once, and if that fails one by one."""
        try:
            await self._apply_at_once(events)
        except Exception as error:
            # `Outgrown` and giving way are about the transaction, and no event's doing.
            if is_lost(error) or is_platform_fault(error) or isinstance(error, Outgrown):
                raise
            if len(events) > 1:
                for event in events:
                    await self._apply_or_isolate([event])
            else:
                self.found.endings[events[0].tracking_id] = failed_with(error, self.crew.retry)

    async def _apply_at_once(self, events: Sequence[StoredEvent]) -> None:
        """The trail's records are made, not written: whole lanes would wait for a chain's head."""
        surroundings, more = self.crew.surroundings, NO_LOCKS
        for _ in range(_MOST_GROWTHS):
            try:
                async with self.conn.transaction():
                    applied = await applying.apply(
                        self.conn, surroundings, self.held.now, events, more
                    )
                    _, ended = settling.conclude(
                        surroundings, self.held, applied.done, applied.refused
                    )
            except SetGrew as grew:
                # Where that is not locked already, the next attempt is `Outgrown`.
                more = grew.locks
            else:
                self.found.endings |= {one.tracking_id: (one.outcome, one.code) for one in ended}
                self.found.apart.update(event.tracking_id for event in applied.apart)
                return
        raise GiveWay


def _changes(
    before: Sequence[HeldGrant], after: Sequence[HeldGrant], now: datetime
) -> list[FeatureChange]:
    """What tenants may use otherwise, by their grants."""
    had, has = _entitled(before, now), _entitled(after, now)
    return [
        FeatureChange(tenant, *change)
        for tenant in sorted(had.keys() | has.keys())
        for change in changed_features(had.get(tenant, {}), has.get(tenant, {}))
    ]


def _entitled(held: Sequence[HeldGrant], now: datetime) -> dict[str, dict[str, Entitlement]]:
    grants_of: dict[str, list[Grant]] = {}
    for one in held:
        grants_of.setdefault(one.grant.tenant, []).append(one.grant)
    return {tenant: aggregate(given, now) for tenant, given in grants_of.items()}


def _now_s() -> float:
    return asyncio.get_running_loop().time()
