"""What a tenant may use now, aggregated from whatever grants are live."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from shared.domain.catalog import UNLIMITED, Catalog, FeatureValue


class Grant(msgspec.Struct, frozen=True):
    """
    What an object gives of one feature, by one plan. Times aware UTC; None is open. What `adds`
    is added to what others give, the rest competes with it.
    """

    tenant: str
    plan: str
    feature: str
    value: FeatureValue
    rank: int = 0
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    adds: bool = False

    @property
    def identity(self) -> tuple["Grant", type]:
        """What two grants must share to be the same: in Python, True equals 1."""
        return (self, type(self.value))

    @property
    def moments(self) -> tuple[datetime, ...]:
        """When it begins or ends by the clock, in order."""
        return tuple(sorted({at for at in (self.valid_from, self.valid_until) if at is not None}))

    def next_turn(self, after: datetime) -> datetime | None:
        """The first of these moments after that one."""
        return next((at for at in self.moments if at > after), None)

    def is_live(self, at: datetime) -> bool:
        """Whether it counts at that moment: from `valid_from` on, and before `valid_until`."""
        return (self.valid_from is None or self.valid_from <= at) and (
            self.valid_until is None or at < self.valid_until
        )


#: What the grants of operators have for a plan. Of two texts, an operator's word counts.
MANUAL = "manual"
_MANUAL_RANK = 2**31 - 1


def grant_by_hand(
    tenant: str, feature: str, value: FeatureValue, until: datetime | None, catalog: Catalog
) -> Grant:
    """What an operator gives, until then or without an end."""
    adds = feature in catalog.added and is_number(value)
    return Grant(tenant, MANUAL, feature, value, _MANUAL_RANK, None, until, adds)


class Entitlement(msgspec.Struct, frozen=True):
    """What a tenant may use of a feature; `valid_until` is when that next changes."""

    value: FeatureValue
    valid_until: datetime | None = None


def aggregate(grants: Sequence[Grant], now: datetime) -> dict[str, Entitlement]:
    """What one tenant's grants amount to at `now`, by feature; without access it is absent."""
    by_feature: dict[str, list[Grant]] = {}
    for grant in grants:
        by_feature.setdefault(grant.feature, []).append(grant)
    entitlements = {}
    for feature, given in sorted(by_feature.items()):
        live = [grant for grant in given if grant.is_live(now)]
        if live:
            value = _combine(live)
            entitlements[feature] = Entitlement(value, _next_change(given, value, now))
    return entitlements


def _combine(live: Sequence[Grant]) -> FeatureValue:
    """`unlimited` beats numbers, larger beats smaller; of strings, the plan of highest rank."""
    if len(live) == 1:
        return live[0].value
    added = [grant for grant in live if grant.adds]
    if len(added) < 2:
        return max(live, key=_weight).value
    total = msgspec.structs.replace(added[0], value=sum(_number_of(grant) for grant in added))
    return max((total, *(grant for grant in live if not grant.adds)), key=_weight).value


def deciding(live: Sequence[Grant]) -> list[Grant]:
    """Of which of these, all of them live, their common value is made; of none, none."""
    if not live:
        return []
    value = _combine(live)
    added = [grant for grant in live if grant.adds]
    if len(added) > 1 and sum(_number_of(grant) for grant in added) == value:
        return added
    return [grant for grant in live if grant.value == value and type(grant.value) is type(value)]


def is_number(value: FeatureValue) -> bool:
    """Whether it can be added up: in Python, True is an int."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_of(grant: Grant) -> int | float:
    return grant.value if isinstance(grant.value, int | float) else 0


def _weight(grant: Grant) -> tuple[int, float, int, str]:
    value = grant.value
    if value == UNLIMITED and isinstance(value, str):
        return (2, 0.0, 0, "")
    if isinstance(value, str):
        return (1, 0.0, grant.rank, value)
    return (0, float(value), 0, "")


def _next_change(grants: Sequence[Grant], value: FeatureValue, now: datetime) -> datetime | None:
    turns = {
        moment
        for grant in grants
        if grant.valid_from is not None or grant.valid_until is not None
        for moment in grant.moments
        if moment > now
    }
    for turn in sorted(turns):
        live = [grant for grant in grants if grant.is_live(turn)]
        if not live or _combine(live) != value:
            return turn
    return None
