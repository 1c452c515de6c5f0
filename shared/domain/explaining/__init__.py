"""
From what was read to an answer: which grants count and what is behind them, what could give the
feature and does not, and what would change that.

Pure. What counts is read back from what was decided, never decided again here.
"""

from collections.abc import Iterable
from itertools import chain
from typing import get_args
from uuid import UUID

from shared.domain.catalog import UNLIMITED
from shared.domain.entitlements import MANUAL, Entitlement, aggregate, deciding
from shared.domain.explaining.changes import period_s, remedies, turns
from shared.domain.explaining.scene import Scene
from shared.domain.explaining.things import against_of, gift_of, thing_of
from shared.domain.explanation import (
    Because,
    Combined,
    EventRead,
    EventShown,
    Evidence,
    Explanation,
    Facts,
    Note,
    NotGiving,
    Offered,
    Provisional,
)
from shared.domain.keys import ObjectKey
from shared.domain.reasons import Missing, Reason, ends_by
from shared.domain.situations import Situation
from shared.domain.standings import microseconds_of
from shared.domain.states import ObjectState
from shared.domain.turns import HeldGrant
from shared.domain.verdicts import NEEDS_MAPPING

#: How much of a list is shown.
SHOWN = 10

#: Why something does not count that says itself when it was over.
_ENDS = frozenset({"ended", "never_started"})
_URGENCY = {reason: place for place, reason in enumerate(get_args(Reason))}


def bearing(facts: Facts) -> list[ObjectKey]:
    """Of which objects the answer speaks: whose sights `explain` wants to have."""
    return Scene(facts).bearing()


def evidence(facts: Facts) -> list[UUID]:
    """The newest events behind these, by tracking id: what `explain` wants to have of `events`."""
    latest, _ = Scene(facts).latest()
    return [sight.tracking_id for sight in latest[:SHOWN]]


def explain(facts: Facts) -> Explanation:
    """The answer."""
    scene = Scene(facts)
    entitlement, notes = _entitlement(scene)
    provisional = tuple(_provisional(scene))
    not_giving = [*_objects_not_giving(scene), *_gifts_not_giving(scene)]
    shown = tuple(not_giving[:SHOWN])
    return Explanation(
        tenant=facts.tenant,
        feature=facts.feature,
        at=facts.at,
        tense=facts.tense,
        mode=facts.mode,
        value=None if entitlement is None else entitlement.value,
        valid_until=None if entitlement is None else entitlement.valid_until,
        combined=_combined(scene),
        catalog_version=facts.catalog.version,
        newest_catalog_version=facts.newest_catalog,
        is_provisional=bool(provisional),
        is_known=any(facts.feature in plan.features for plan in facts.catalog.plans.values()),
        features=tuple(aggregate([one.grant for one in facts.held], facts.at)),
        because=tuple(_because(scene)),
        not_giving=shown,
        not_giving_total=len(not_giving),
        provisional=provisional,
        loose=tuple(against_of(facts, one) for one in scene.loose()),
        changes=tuple(chain(turns(scene), remedies(shown))),
        record=facts.record,
        evidence=_evidence(scene),
        notes=notes,
    )


def _entitlement(scene: Scene) -> tuple[Entitlement | None, tuple[Note, ...]]:
    """The value, and what has to be said of it. Of the past, the trail's word holds."""
    facts, record = scene.facts, scene.facts.record
    derived = aggregate(scene.grants, facts.at).get(facts.feature)
    if facts.tense != "past":
        if facts.catalog.version < facts.newest_catalog:
            return derived, ("recomputing",)
        return derived, () if scene.is_written() else ("not_written",)
    if not facts.knew:
        return None, ("nothing_known",)
    if record is not None and record.is_erased:
        return derived, ("erased",)
    told = None
    if record is not None and record.value is not None:
        if record.valid_until is not None and record.valid_until <= facts.at:
            # The clock ended what the record tells of; what was left follows from the rest.
            return derived, ()
        told = Entitlement(record.value, record.valid_until)
    return told, () if _is_same(told, derived) else ("disagrees",)


def _combined(scene: Scene) -> Combined:
    if len(scene.live) < 2:
        return "alone"
    winners = deciding([one.grant for one in scene.live])
    if len(winners) > 1 and all(grant.adds for grant in winners):
        return "added"
    value = winners[0].value
    if isinstance(value, bool):
        return "any"
    return "highest_rank" if isinstance(value, str) and value != UNLIMITED else "largest"


def _because(scene: Scene) -> list[Because]:
    winners = {grant.identity for grant in deciding([one.grant for one in scene.live])}
    found = [_reason(scene, one, one.grant.identity in winners) for one in scene.live]
    return sorted(found, key=lambda one: (not one.counts, one.object is None))


def _reason(scene: Scene, held: HeldGrant, counts: bool) -> Because:
    grant, catalog = held.grant, scene.facts.catalog
    situation, gift = scene.by_row.get(held.object_row), scene.gifts.get(held.object_row)
    by = ends_by(situation, grant, catalog) if situation is not None else None
    return Because(
        plan=grant.plan,
        value=grant.value,
        counts=counts,
        valid_from=grant.valid_from,
        valid_until=grant.valid_until,
        ends_by=by,
        period_s=period_s(catalog, grant.plan, by),
        object=None if situation is None else thing_of(scene.facts, situation),
        operator=None if gift is None else gift_of(gift),
    )


def _objects_not_giving(scene: Scene) -> list[NotGiving]:
    newest_first = sorted(scene.lacking, key=lambda one: -_changed_us(one[0]))
    newest_first.sort(key=lambda one: _URGENCY[one[1].reason])
    return [_not_giving(scene, situation, found) for situation, found in newest_first]


def _not_giving(scene: Scene, situation: Situation, found: Missing) -> NotGiving:
    thing = thing_of(scene.facts, situation, found.state)
    return NotGiving(
        reason=found.reason,
        offers=tuple(
            Offered(plan=offer.plan.name, value=offer.value, period_s=offer.plan.grace_s)
            for offer in found.offers
        ),
        # An end that is not for good is over where it began.
        at=thing.since if found.moment is None and found.reason in _ENDS else found.moment,
        by=tuple(against_of(scene.facts, one) for one in scene.holding(situation)),
        products=_unmapped(scene, situation, found.state),
        object=thing,
        operator=None,
    )


def _changed_us(situation: Situation) -> int:
    return microseconds_of(situation.origin.provider, situation.register.version)


def _gifts_not_giving(scene: Scene) -> list[NotGiving]:
    over = [one for one in scene.facts.given if one.object_row not in scene.giving]
    return [
        NotGiving(
            reason="given_until" if one.revoked_at is None else "revoked",
            offers=(Offered(plan=MANUAL, value=one.value, period_s=0),),
            at=one.revoked_at or one.valid_until,
            by=(),
            products=(),
            object=None,
            operator=gift_of(one),
        )
        for one in sorted(over, key=lambda one: one.granted_at, reverse=True)
    ]


def _unmapped(scene: Scene, situation: Situation, state: ObjectState) -> tuple[str, ...]:
    """The products of a state that no plan has, as a catalog would name them."""
    if situation.verdict.parked != NEEDS_MAPPING:
        return ()
    catalog, origin = scene.facts.catalog, situation.origin
    refs = [item.refs[-1] for item in state.items if catalog.plans_for(origin, item) is None]
    return tuple(map(origin.product, dict.fromkeys(refs)))


def _provisional(scene: Scene) -> Iterable[Provisional]:
    lacking = {situation.neighbour.id: found for situation, found in scene.lacking}
    for row, situation in scene.by_row.items():
        verdict = situation.verdict
        if row not in scene.giving and row not in lacking:
            continue
        needs = verdict.parked if row in scene.giving else None
        is_told = row in lacking and lacking[row].reason.startswith("needs:")
        if needs is not None or (verdict.wants is not None and not is_told):
            yield Provisional(
                object=situation.key.name,
                wants=verdict.wants,
                needs=needs,
                status=situation.register.newest.status,
            )


def _evidence(scene: Scene) -> Evidence:
    events = scene.facts.events
    latest, objects = scene.latest()
    shown = [
        _shown(events[one.tracking_id], objects[one.tracking_id])
        for one in latest[:SHOWN]
        if one.tracking_id in events
    ]
    return Evidence(total=len(latest), events=tuple(shown))


def _shown(event: EventRead, objects: list[str]) -> EventShown:
    return EventShown(
        tracking_id=event.tracking_id,
        received_at=event.received_at,
        event_id=event.event_id,
        type=event.type,
        occurred_at=event.occurred_at,
        settled_at=event.settled_at,
        outcome=event.outcome,
        objects=tuple(objects),
    )


def _is_same(some: Entitlement | None, other: Entitlement | None) -> bool:
    if some is None or other is None:
        return some is other
    # In Python, True equals 1.
    return some.value == other.value and type(some.value) is type(other.value)
