"""
Why an object gives a feature, or why it does not although it could: in codes.

Nothing is decided here. What `verdicts.decide` came to is read back, together with what it was
decided by; `shared.domain.prose` has the sentences.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from shared.domain.catalog import Catalog
from shared.domain.entitlements import Grant
from shared.domain.register import Observation, Sighting, fold
from shared.domain.situations import Situation
from shared.domain.standings import ACCESS, Standing, families_of, seconds_of, standing_of
from shared.domain.states import SESSION_KIND, ObjectState
from shared.domain.verdicts import (
    LINK_CONFLICT,
    NEEDS_FETCH,
    NEEDS_LINE_ITEMS,
    NEEDS_LINK,
    NEEDS_MAPPING,
    OTHER_MODE,
    SOURCE_REMOVED,
    UNKNOWN_STATUS,
    EndsBy,
    Offer,
    endings_of,
    moment_of,
    offers_of,
)

#: Why something does not count. Codes with a colon, and those of parked objects, are the same
#: words as in `parked list`.
Reason = Literal[
    "held", "reversed", "lapsed",
    "needs:link", "link_conflict", "needs:mapping", "needs:line_items", "needs:fetch",
    "unknown_status", "other_mode", "source_removed", "other_family",
    "unpaid", "pending", "paused", "refunded", "voided", "no_end", "no_access",
    "grace_over", "trial_over", "cancelled", "time_over", "not_yet",
    "never_started", "given_until", "revoked", "ended", "not_written",
]  # fmt: skip

_ENDED: dict[EndsBy, Reason] = {
    "scheduled": "cancelled",
    "trial": "trial_over",
    "grace": "grace_over",
    "lasts": "time_over",
}
_BY_STANDING: dict[Standing, Reason] = {
    Standing.UNPAID: "unpaid",
    Standing.PENDING: "pending",
    Standing.NEVER_STARTED: "never_started",
    Standing.PAUSED: "paused",
    Standing.ENDED: "ended",
    Standing.REFUNDED: "refunded",
}
_PARKED: dict[str, Reason] = {
    NEEDS_LINK: "needs:link",
    LINK_CONFLICT: "link_conflict",
    NEEDS_MAPPING: "needs:mapping",
    NEEDS_LINE_ITEMS: "needs:line_items",
    NEEDS_FETCH: "needs:fetch",
    UNKNOWN_STATUS: "unknown_status",
    OTHER_MODE: "other_mode",
    SOURCE_REMOVED: "source_removed",
}
_ELSEWHERE = frozenset({OTHER_MODE, SOURCE_REMOVED})
#: What waits for one of these, and has products that nothing maps, could give any feature.
_COULD_BE_ANYTHING = frozenset(
    {NEEDS_LINK, LINK_CONFLICT, NEEDS_MAPPING, NEEDS_LINE_ITEMS, UNKNOWN_STATUS}
)
#: And so could what has changed to something that is not understood, whatever it gave before.
_CHANGED = frozenset({NEEDS_MAPPING, NEEDS_FETCH})


class Sight(NamedTuple):
    """An observation and the event that it came with."""

    tracking_id: UUID
    observation: Observation


class Missing(NamedTuple):
    """Why an object gives nothing of a feature now, what it would give, and by which state."""

    reason: Reason
    offers: tuple[Offer, ...]
    state: ObjectState
    moment: datetime | None  # when it ended, or begins


def standing(situation: Situation, state: ObjectState) -> Standing | None:
    """What a state of the object means."""
    return standing_of(situation.origin.provider, situation.key.kind, state.status)


def is_candidate(
    situation: Situation, tenant: str, customers: frozenset[tuple[object, ...]]
) -> bool:
    """Whether the object is the tenant's, or nobody's yet and of one of its customers."""
    if situation.tenant != tenant and not (
        situation.tenant is None and situation.neighbour.owner in customers
    ):
        return False
    families = families_of(situation.origin.provider).values()
    if not any(situation.key.kind in family for family in families):
        return False
    # A session of a subscription, or one that nobody paid, says nothing of what may be used.
    state = situation.register.newest
    return situation.key.kind != SESSION_KIND or not (
        standing(situation, state) is Standing.PRESENT or state.status in ("open", "expired")
    )


def missing(
    situation: Situation, feature: str, given: Sequence[Grant], at: datetime, catalog: Catalog
) -> Missing | None:
    """
    Why the object gives nothing of the feature at that moment; None where it never could.

    `given` are its grants of the feature, none of them live.
    """
    verdict, register = situation.verdict, situation.register
    sighting = verdict.stands_on
    state = sighting.state if sighting is not None else register.newest
    offers = _offered(situation, feature, state, catalog)
    if offers:
        reason, moment = _reason(situation, feature, given, at, catalog)
        return Missing(reason, offers, state, moment)
    parked = verdict.parked or ""
    if parked in _CHANGED or (offers is None and parked in _COULD_BE_ANYTHING):
        return Missing(_PARKED[parked], (), register.newest, None)
    return None


def why_nothing(
    situation: Situation, given: Sequence[Grant], at: datetime, catalog: Catalog
) -> tuple[Reason, datetime | None]:
    """
    Why the object gives nothing at all at that moment, and since or from when, where that is told.

    `given` are all its grants, none of them live.
    """
    return _reason(situation, None, given, at, catalog)


def _offered(
    situation: Situation, feature: str, state: ObjectState, catalog: Catalog
) -> tuple[Offer, ...] | None:
    offers = offers_of(situation.origin, situation.key.kind, state, catalog)
    if offers is None:
        return None
    return tuple(offer for offer in offers if offer.feature == feature)


def _reason(
    situation: Situation,
    feature: str | None,
    given: Sequence[Grant],
    at: datetime,
    catalog: Catalog,
) -> tuple[Reason, datetime | None]:
    if situation.register.terminal:
        last = situation.register.sightings[0]
        ended = standing(situation, last.state)
        at = moment_of(seconds_of(situation.origin.provider, last.version))
        return "ended" if ended is None else _BY_STANDING[ended], at
    barred = _barred(situation)
    if barred is not None:
        return barred, None
    if given:
        return _not_live(situation, given, at, catalog)
    return _without_access(situation, feature), None


def _barred(situation: Situation) -> Reason | None:
    """What keeps it from giving anything, whatever it says."""
    verdict, around = situation.verdict, situation.around
    parked = _PARKED.get(verdict.parked or "")
    if parked is not None and (situation.tenant is None or parked in _ELSEWHERE):
        return parked
    if situation.key.kind not in situation.origin.granting_kinds:
        return "other_family"
    if verdict.stands_on is None:
        return parked
    found = standing(situation, verdict.stands_on.state)
    if verdict.withheld and found is not None and ACCESS[found] != "none":
        return "reversed" if around.reversals else "held" if around.holds else "lapsed"
    return None


def _without_access(situation: Situation, feature: str | None) -> Reason:
    sighting = situation.verdict.stands_on
    if any(feature in (None, grant.feature) for grant in situation.verdict.grants):
        return "not_written"
    state = sighting.state if sighting is not None else situation.register.newest
    found = standing(situation, state)
    if found is None:
        return "unknown_status"
    if ACCESS[found] == "until_end" and state.ends_at is None:
        return "no_end"
    return _BY_STANDING.get(found, "no_access" if ACCESS[found] == "none" else "voided")


def _not_live(
    situation: Situation, given: Sequence[Grant], at: datetime, catalog: Catalog
) -> tuple[Reason, datetime | None]:
    ahead = [grant.valid_from for grant in given if grant.valid_from and at < grant.valid_from]
    if ahead:
        return "not_yet", min(ahead)
    ended = [(grant.valid_until, grant) for grant in given if grant.valid_until is not None]
    until, last = max(ended, key=lambda end: end[0])
    by = ends_by(situation, last, catalog)
    return "cancelled" if by is None else _ENDED[by], until


def ends_by(situation: Situation, grant: Grant, catalog: Catalog) -> EndsBy | None:
    """What ends a grant of the object at its `valid_until`; None where nothing known does."""
    sighting, plan = situation.verdict.stands_on, catalog.plans.get(grant.plan)
    if grant.valid_until is None or sighting is None or plan is None:
        return None
    found = standing(situation, sighting.state)
    if found is None:
        return None
    endings = endings_of(sighting, found, plan, situation.around)
    return next(
        (ending.by for ending in sorted(endings) if moment_of(ending.at) == grant.valid_until), None
    )


def beginning(
    situation: Situation, sighting: Sighting, sights: Sequence[Sight]
) -> tuple[int, Sight | None]:
    """
    Since when the object stands as in that sighting, in unix seconds, and what said so first.

    Where it has been seen to change within a second, the fold says how that second ended.
    """
    provider, kind = situation.origin.provider, situation.key.kind

    def in_seconds(one: Sight) -> int:
        return seconds_of(provider, one.observation.version)

    wanted = standing(situation, sighting.state)
    told = [one for one in sights if one.observation.shape != "hint"]
    told = [one for one in told if one.observation.version <= sighting.version]
    same = [one for one in told if standing(situation, one.observation.state) is wanted]
    if sighting.since is not None:
        run = [one for one in same if in_seconds(one) >= sighting.since]
    else:
        other = [
            one.observation.version
            for one in told
            if standing(situation, one.observation.state) is not wanted
            and one.observation.version < sighting.version
        ]
        since = -1
        if other:
            until = [one.observation for one in told if one.observation.version <= max(other)]
            ended_in = fold(provider, kind, until).newest
            since = max(other) + (standing_of(provider, kind, ended_in.status) is not wanted)
        run = [one for one in same if one.observation.version >= since]
    if not run:
        return seconds_of(provider, sighting.version), None
    first = min(run, key=lambda one: (one.observation.version, one.observation.id))
    # Some say themselves since when they are past due, whenever it was that they were seen so.
    told_since = sighting.state.past_due_at if wanted is Standing.PAST_DUE else None
    return in_seconds(first) if told_since is None else told_since, first
