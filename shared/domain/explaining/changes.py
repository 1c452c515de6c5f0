"""What would change an answer: the clock, or somebody who does what is lacking."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from shared.domain.catalog import Catalog, FeatureValue
from shared.domain.entitlements import aggregate
from shared.domain.explaining.scene import Scene
from shared.domain.explanation import Change, NotGiving, Turn
from shared.domain.reasons import Reason, ends_by
from shared.domain.turns import HeldGrant

#: What somebody can do something about, so that the object gives (again).
_REMEDIED: frozenset[Reason] = frozenset({
    "held", "unpaid", "pending", "paused", "voided", "grace_over", "needs:link", "link_conflict",
    "needs:mapping",
})  # fmt: skip


def period_s(catalog: Catalog, name: str, by: str | None) -> int | None:
    """How long a plan's grace is, or what a purchase of it gives, where that ends something."""
    plan = catalog.plans.get(name)
    if plan is None:
        return None
    return {"grace": plan.grace_s, "lasts": plan.lasts_s}.get(by or "")


def turns(scene: Scene) -> Iterable[Change]:
    """What the clock will change, in its order, and what is left then."""
    found: dict[datetime, list[HeldGrant]] = {}
    for one in scene.held:
        for moment in {one.grant.valid_from, one.grant.valid_until}:
            if moment is not None and moment > scene.facts.at:
                found.setdefault(moment, []).append(one)
    for moment, held in sorted(found.items()):
        after = aggregate(scene.grants, moment).get(scene.facts.feature)
        for one in held:
            yield _turn(scene, one, moment, None if after is None else after.value)


def remedies(not_giving: Sequence[NotGiving]) -> Iterable[Change]:
    """What would have to happen for objects to give (again)."""
    for one in not_giving:
        if one.reason in _REMEDIED and one.object is not None:
            yield Change(
                reason=one.reason,
                object=one.object.object,
                by=tuple(against.object for against in one.by),
                products=one.products,
                customer=one.object.customer,
            )


def _turn(scene: Scene, held: HeldGrant, moment: datetime, value: FeatureValue | None) -> Change:
    situation, gift = scene.by_row.get(held.object_row), scene.gifts.get(held.object_row)
    reason: Turn = "begins" if moment == held.grant.valid_from else "ends"
    if reason == "ends" and gift is not None:
        reason = "given"
    elif reason == "ends" and situation is not None:
        reason = ends_by(situation, held.grant, scene.facts.catalog) or "ends"
    return Change(
        reason=reason,
        object=None if situation is None else situation.key.name,
        at=moment,
        value=value,
        actor=None if gift is None else gift.actor,
        period_s=period_s(scene.facts.catalog, held.grant.plan, reason),
    )
