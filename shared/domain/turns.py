"""
Turns: the moments at which a grant begins or ends by the clock, and what they change.

Nothing is written at such a moment. Each stored grant says which of its turns comes next, and
whoever locks the tenant first after it has passed tells the trail: what the tenant could use just
before the moment, and from it on. Until then every write to the tenant's grants has told the turns
before it, so that what is stored now is what was stored at each of them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from shared.domain.audit import changed_features
from shared.domain.entitlements import Entitlement, Grant, aggregate

#: What Postgres' clock can tell apart.
_INSTANT = timedelta(microseconds=1)


class HeldGrant(msgspec.Struct, frozen=True):
    """A stored grant. `turns_at` is its next turn that no record tells of; None: there is none."""

    object_row: int
    grant: Grant
    turns_at: datetime | None

    def has_turned(self, by: datetime) -> bool:
        """Whether there is a turn to tell of, or to find out whether there is."""
        return self.turns_at is not None and self.turns_at <= by

    def turns(self, by: datetime) -> tuple[datetime, ...]:
        """
        Its turns up to `by` that no record tells of.

        A `turns_at` that is no turn was written by a version that does not know of them: what was
        told when is unknown, and nothing is told twice.
        """
        if self.turns_at is None or self.turns_at not in self.grant.moments:
            return ()
        return tuple(at for at in self.grant.moments if self.turns_at <= at <= by)


class Turn(msgspec.Struct, frozen=True):
    """What the clock did to a tenant's entitlement to one feature, by the grant that turned."""

    held: HeldGrant
    at: datetime
    action: str
    before: Entitlement | None
    after: Entitlement | None

    @property
    def cause_id(self) -> str:
        """The grant and which turn of it: OBJECT:PLAN:FEATURE:until:TIME, or from:TIME."""
        grant = self.held.grant
        side = "until" if self.at == grant.valid_until else "from"
        at = self.at.isoformat().replace("+00:00", "Z")
        return f"{self.held.object_row}:{grant.plan}:{grant.feature}:{side}:{at}"


def turns_of(held: Sequence[HeldGrant], by: datetime) -> list[Turn]:
    """
    What the turns up to `by` changed for the tenant that holds these grants, all of them, in order.

    One for each feature and moment at most; where several grants turn together, the first is named.
    """
    turning: dict[datetime, dict[str, HeldGrant]] = {}
    for one in held:
        for at in one.turns(by):
            turning.setdefault(at, {}).setdefault(one.grant.feature, one)
    found = []
    for at, first in sorted(turning.items()):
        bearing = [one.grant for one in held if one.grant.feature in first]
        changes = changed_features(aggregate(bearing, at - _INSTANT), aggregate(bearing, at))
        found += [
            Turn(first[feature], at, action, before, after)
            for feature, action, before, after in changes
        ]
    return found
