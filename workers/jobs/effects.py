"""What replaying a plan's events would change: the rehearsal of them all, as a plan shows it."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from shared.domain.entitlements import Entitlement
from shared.domain.keys import CustomerKey
from shared.store import replay_plans
from shared.store.jobs import Job
from shared.store.paging import iso
from shared.store.replay_plans import Item, Place
from shared.store.selecting import Selected
from workers.crew import Crew
from workers.rehearsal import Rehearsal, Rehearsed

#: Changes that a plan lists; it counts them all.
MOST_CHANGES = 500
#: After so many processes have died at it, nothing is rehearsed any more.
DEATHS = 3
KILLED_A_PROCESS = "killed_a_process"
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Effect:
    """`place` and `configuration` are from before anything was found out."""

    place: Place
    configuration: int
    tenants: Collection[str]
    links: Mapping[CustomerKey, str | None]
    outcomes: Mapping[str, int]
    shown: Mapping[str, Any]


class Finding:
    """An effect that is being found out, piece by piece; writes nothing."""

    def __init__(self, place: Place, configuration: int, found: Rehearsal | Rehearsed) -> None:
        self._place = place
        self._configuration = configuration
        self._found = found

    @classmethod
    async def begin(cls, crew: Crew, job: Job) -> Self:
        """Of what the plan has frozen."""
        async with crew.db.connection() as conn:
            place = await replay_plans.read_place(conn)
            await crew.surroundings.refresh(conn)
            events: list[Selected] = []
            after = -1
            while items := await replay_plans.read_replayable(conn, job.id, after, _AT_ONCE):
                after = items[-1].position
                events += [_selected(item) for item in items]
        if job.deaths < DEATHS:
            return cls(place, crew.surroundings.version, Rehearsal(crew, events))
        left_out = {one.tracking_id: KILLED_A_PROCESS for one in events}
        return cls(place, crew.surroundings.version, Rehearsed({}, (), frozenset(), left_out))

    @property
    def done(self) -> int:
        """Of how many events it is known what they would do."""
        return self._found.done if isinstance(self._found, Rehearsal) else len(self._found.left_out)

    async def go_on(self, for_s: float) -> bool:
        """Go on for so long, in about; whether there is more to do."""
        until_s = asyncio.get_running_loop().time() + for_s
        while isinstance(self._found, Rehearsal) and await self._found.go_on():
            if asyncio.get_running_loop().time() >= until_s:
                return True
        return False

    def effect(self) -> Effect:
        """What was found, once there is no more to do."""
        found = self._found.result() if isinstance(self._found, Rehearsal) else self._found
        outcomes = Counter(outcome for outcome, _ in found.outcomes.values())
        shown = _shown(found, outcomes)
        return Effect(self._place, self._configuration, found.tenants, found.links, outcomes, shown)


def _shown(found: Rehearsed, outcomes: Mapping[str, int]) -> dict[str, Any]:
    """
    {"outcomes", "codes", "tenants", "features", "changes": [{"tenant", "feature", "action",
    "from", "to"}], "notListed", "notRehearsed", "missed", "missedBy"}: counts of all, and the first
    of the changes. Of `missed` tenants not everything is known, and `missedBy` counts why.
    """
    changes = sorted(found.changes, key=lambda one: (one.tenant, one.feature))
    return {
        "outcomes": dict(outcomes),
        "codes": dict(Counter(code for _, code in found.outcomes.values() if code is not None)),
        "tenants": len({one.tenant for one in changes}),
        "features": len(changes),
        "changes": [
            {
                "tenant": one.tenant,
                "feature": one.feature,
                "action": one.action,
                "from": _value(one.before),
                "to": _value(one.after),
            }
            for one in changes[:MOST_CHANGES]
        ],
        "notListed": max(0, len(changes) - MOST_CHANGES),
        "notRehearsed": dict(Counter(found.left_out.values())),
        "missed": len(found.missed),
        "missedBy": dict(Counter(found.missed.values())),
    }


def _selected(item: Item) -> Selected:
    assert item.source_id is not None  # of what can be applied again a CHECK says so
    assert item.lane is not None
    return Selected(item.received_at, item.tracking_id, item.source_id, item.lane, item.run, False)


def _value(one: Entitlement | None) -> Any:
    """{"value", "validUntil"}, or None for nothing."""
    if one is None:
        return None
    return {"value": one.value, "validUntil": iso(one.valid_until)}
