"""
From registers to access: links, grants, and what a tenant may use now.

Each object owns its grants, a full replacement every time; a tenant's entitlements are aggregated
from whatever grants are live, so that what one object ends cannot take what another gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from shared.domain.register import Register, Sighting
from shared.domain.states import ACCESS, FAMILIES, Item, Standing, standing_of

UNLIMITED = "unlimited"
DEFAULT_GRACE_S = 7 * 86_400

FeatureValue = bool | int | float | str

#: Why an object gives nothing yet; what `parked list` shows.
NEEDS_LINK = "needs:link"
NEEDS_MAPPING = "needs:mapping"
LINK_CONFLICT = "link_conflict"
UNKNOWN_STATUS = "unknown_status"
OTHER_MODE = "other_mode"
SOURCE_REMOVED = "source_removed"


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan of the catalog. `rank` decides between strings; `grace_s` is access past due."""

    name: str
    features: Mapping[str, FeatureValue]
    grace_s: int = DEFAULT_GRACE_S
    rank: int = 0


@dataclass(frozen=True)
class Catalog:
    """A version of the catalog. `plans_by_product` has keys like "stripe:prod_1"."""

    version: int
    plans_by_product: Mapping[str, tuple[Plan, ...]]

    @classmethod
    def read(cls, version: int, document: Mapping[str, Any]) -> "Catalog":
        """From a stored document: {"plans": {name: {"products", "features", "graceS", "rank"}}}."""
        plans: dict[str, tuple[Plan, ...]] = {}
        for name, entry in sorted(document.get("plans", {}).items()):
            plan = Plan(
                name=name,
                features=dict(entry.get("features", {})),
                grace_s=entry.get("graceS", DEFAULT_GRACE_S),
                rank=entry.get("rank", 0),
            )
            for product in entry.get("products", ()):
                plans[product] = (*plans.get(product, ()), plan)
        return cls(version, plans)

    def plans_for(self, origin: "Origin", item: Item) -> tuple[Plan, ...] | None:
        """The plans of an item, by the source's own keys first; None where nothing maps it."""
        for ref in item.refs:
            for owner in (origin.source, origin.provider):
                plans = self.plans_by_product.get(f"{owner}:{ref}")
                if plans is not None:
                    return plans
        return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object comes from, and whether its mode is the deployment's."""

    source: str
    provider: str
    is_of_mode: bool = True
    is_removed: bool = False


class Grant(msgspec.Struct, frozen=True):
    """What an object gives of one feature, by one plan. Times aware UTC; None is open."""

    tenant: str
    plan: str
    feature: str
    value: FeatureValue
    rank: int = 0
    valid_from: datetime | None = None
    valid_until: datetime | None = None

    @property
    def identity(self) -> tuple["Grant", type]:
        """What two grants must share to be the same: in Python, True equals 1."""
        return (self, type(self.value))

    def is_live(self, at: datetime) -> bool:
        """Whether it counts at that moment: from `valid_from` on, and before `valid_until`."""
        return (self.valid_from is None or self.valid_from <= at) and (
            self.valid_until is None or at < self.valid_until
        )


class Entitlement(msgspec.Struct, frozen=True):
    """What a tenant may use of a feature; `valid_until` is when that next changes."""

    value: FeatureValue
    valid_until: datetime | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What an object gives, and what it waits for (None: nothing)."""

    grants: tuple[Grant, ...] = ()
    parked: str | None = None


class Links(msgspec.Struct, frozen=True):
    """
    Who a customer may belong to, by rank: the operator's word, the customer's own, then what
    its earliest completed sessions say, which the buyer can write (more than one where several
    completed in the same second).
    """

    operator: str | None = None
    customer: str | None = None
    sessions: frozenset[str] = frozenset()


def resolve_tenant(own: str | None, links: Links) -> tuple[str | None, str | None]:
    """The tenant of an object that names `own`, or None and what it waits for."""
    for tenant in (links.operator, own, links.customer):
        if tenant is not None:
            return tenant, None
    if len(links.sessions) > 1:
        return None, LINK_CONFLICT
    if links.sessions:
        return next(iter(links.sessions)), None
    return None, NEEDS_LINK


def earliest_references(sessions: Iterable[Register]) -> frozenset[str]:
    """The references of the earliest completed sessions that have one."""
    earliest: int | None = None
    references: set[str] = set()
    for session in sessions:
        reference = session.newest.reference
        if reference is None:
            continue
        if earliest is None or session.version < earliest:
            earliest, references = session.version, {reference}
        elif session.version == earliest:
            references.add(reference)
    return frozenset(references)


def decide(
    kind: str, register: Register, links: Links, origin: Origin, catalog: Catalog
) -> tuple[str | None, Verdict]:
    """The tenant of an object and what it gives: the one place where access is decided."""
    tenant, waits_for = resolve_tenant(register.newest.tenant, links)
    if register.terminal:
        return tenant, Verdict()
    if kind not in FAMILIES[origin.provider]["subscriptions"]:
        # A session is a link, not somebody who waits for one.
        return tenant, Verdict(parked=waits_for if kind == "customer" else None)
    if tenant is None:
        return None, Verdict(parked=waits_for)
    if origin.is_removed or not origin.is_of_mode:
        return tenant, Verdict(parked=SOURCE_REMOVED if origin.is_removed else OTHER_MODE)
    parked = UNKNOWN_STATUS if register.unknown is not None else None
    for sighting in register.sightings:
        grants = _grants_of(tenant, sighting, kind, origin, catalog)
        if grants is not None:
            return tenant, Verdict(grants, parked)
        parked = parked or NEEDS_MAPPING
    return tenant, Verdict(parked=parked)


def _grants_of(
    tenant: str, sighting: Sighting, kind: str, origin: Origin, catalog: Catalog
) -> tuple[Grant, ...] | None:
    """What a state gives, or None where the catalog does not map all of its products."""
    standing = standing_of(origin.provider, kind, sighting.state.status)
    if standing is None or ACCESS[standing] == "none":
        return ()
    grants: dict[tuple[str, str], Grant] = {}
    for item in sighting.state.items:
        plans = catalog.plans_for(origin, item)
        if plans is None:
            return None
        for plan in plans:
            until = _end_of(sighting, standing, plan)
            for feature, value in plan.features.items():
                grants[plan.name, feature] = Grant(
                    tenant, plan.name, feature, value, plan.rank, None, until
                )
    return tuple(grants[key] for key in sorted(grants))


def _end_of(sighting: Sighting, standing: Standing, plan: Plan) -> datetime | None:
    ends = []
    if sighting.state.ends_at is not None:
        ends.append(sighting.state.ends_at)
    if ACCESS[standing] == "grace" and sighting.past_due_since is not None:
        ends.append(sighting.past_due_since + plan.grace_s)
    return _moment(min(ends)) if ends else None


def _moment(seconds: int) -> datetime:
    # Bounded: a provider's nonsense date must not become an overflow error.
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(0, min(seconds, 250_000_000_000)))


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
    return max(live, key=_weight).value


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
        for moment in (grant.valid_from, grant.valid_until)
        if moment is not None and moment > now
    }
    for turn in sorted(turns):
        live = [grant for grant in grants if grant.is_live(turn)]
        if not live or _combine(live) != value:
            return turn
    return None
