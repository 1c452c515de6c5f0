"""Objects and gifts as an answer shows them."""

from datetime import datetime

from shared.domain.explanation import Against, Facts, Gift, Given, Thing
from shared.domain.reasons import Sight, beginning, standing
from shared.domain.register import Sighting
from shared.domain.situations import Situation
from shared.domain.standings import seconds_of
from shared.domain.states import CHARGE_KIND, ORDER_KIND, ObjectState
from shared.domain.verdicts import linked_by, moment_of


def thing_of(facts: Facts, situation: Situation, state: ObjectState | None = None) -> Thing:
    """An object at that state of it: unless given, the one that its verdict stands on."""
    register = situation.register
    sighting = situation.verdict.stands_on or next(iter(register.sightings), None)
    if state is None:
        state = register.newest if sighting is None else sighting.state
    if sighting is not None and sighting.state != state:
        sighting = None
    at, first = _since(facts, situation, sighting)
    owner = situation.neighbour.owner
    by = linked_by(register.newest.tenant, situation.links)
    link = facts.operator_links.get(owner) if owner is not None and by == "operator" else None
    return Thing(
        object=situation.key.name,
        source=situation.origin.source,
        account=situation.key.account,
        livemode=situation.key.livemode,
        customer=None if owner is None else owner.customer,
        status=state.status,
        standing=standing(situation, state),
        collection=state.collection,
        since=at,
        event=None if first is None else first.tracking_id,
        event_id=None if first is None else first.observation.id,
        linked_by=by,
        linked_actor=None if link is None else link.actor,
        linked_at=None if link is None else link.at,
    )


def against_of(facts: Facts, situation: Situation) -> Against:
    """A refund, dispute or warning; or a charge or order, which stands as before its refund."""
    register = situation.register
    at, first = _since(facts, situation, next(iter(register.sightings), None))
    if situation.key.kind in (CHARGE_KIND, ORDER_KIND):
        sights = facts.sights.get(situation.key, ())
        at = moment_of(seconds_of(situation.origin.provider, register.version))
        first = next((one for one in sights if one.observation.version == register.version), None)
    return Against(
        object=situation.key.name,
        status=register.newest.status,
        standing=standing(situation, register.newest),
        since=at,
        event=None if first is None else first.tracking_id,
        event_id=None if first is None else first.observation.id,
    )


def gift_of(given: Given) -> Gift:
    """What an operator gave."""
    return Gift(
        actor=given.actor,
        reason=given.reason,
        at=given.granted_at,
        revoked_at=given.revoked_at,
        revoked_by=given.revoked_by,
        revoke_reason=given.revoke_reason,
    )


def _since(
    facts: Facts, situation: Situation, sighting: Sighting | None
) -> tuple[datetime | None, Sight | None]:
    if sighting is None:  # only hints came, or nothing of known status
        return None, None
    seconds, first = beginning(situation, sighting, facts.sights.get(situation.key, ()))
    return moment_of(seconds), first
