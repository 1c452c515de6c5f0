"""
What a tenant pays for and how that stands: what an application's billing page shows.

Pure. Read back from what was decided, and never decided again here: whether something gives access
is whether its stored grants are live.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from shared.domain.billing.answer import (
    SHOWN,
    Action,
    BilledItem,
    Billing,
    Decider,
    Facts,
    Purchase,
    Scheduled,
    Subscription,
)
from shared.domain.billing.statuses import (
    GIVING,
    LACKING,
    STANDING_STILL,
    Status,
    Why,
    gives_access,
    place_of,
)
from shared.domain.catalog import Plan
from shared.domain.entitlements import Grant, aggregate
from shared.domain.reasons import is_candidate, standing, why_nothing
from shared.domain.register import Sighting
from shared.domain.situations import Situation
from shared.domain.standings import ACCESS, Standing, microseconds_of
from shared.domain.states import (
    ORDER_KIND,
    SESSION_KIND,
    SUBSCRIPTION_ITEM_KIND,
    SUBSCRIPTION_KIND,
    UNOBSERVED,
    ObjectState,
)
from shared.domain.turns import HeldGrant
from shared.domain.verdicts import moment_of, offers_of

_SUBSCRIPTION_KINDS = frozenset({SUBSCRIPTION_KIND, SUBSCRIPTION_ITEM_KIND})
_PURCHASE_KINDS = frozenset({ORDER_KIND, SESSION_KIND})
_RENEWING = frozenset({Standing.TRIAL, Standing.ACTIVE, Standing.PAST_DUE})
_NEVER = datetime.max.replace(tzinfo=UTC)


class _Thing(NamedTuple):
    """An object of which the answer speaks, with its live grants."""

    situation: Situation
    live: list[Grant]
    sighting: Sighting | None
    standing: Standing | None
    status: Status
    reason: Why | None
    reason_at: datetime | None

    @property
    def state(self) -> ObjectState:
        return self.situation.register.newest

    @property
    def changed_us(self) -> int:
        situation = self.situation
        return microseconds_of(situation.origin.provider, situation.register.version)


def billing_of(
    facts: Facts, name: str, merged_into: str | None = None, merged_at: datetime | None = None
) -> Billing:
    """The answer, under the name that was asked for: the tenant's, or one merged into it."""
    things = list(_things(facts))
    things.sort(key=lambda one: (place_of(one.status), -one.changed_us, one.situation.key))
    subscriptions = _of_kinds(things, _SUBSCRIPTION_KINDS)
    bought = _of_kinds(things, _PURCHASE_KINDS)
    purchases = [one for one in bought if one.live or one.status in ("withheld", "pending")]
    rest = _SUBSCRIPTION_KINDS | _PURCHASE_KINDS
    benefits = [one for one in things if one.live and one.situation.key.kind not in rest]
    status, by = _overall([*subscriptions, *bought], benefits)
    return Billing(
        tenant=name,
        merged_into=merged_into,
        merged_at=merged_at,
        status=status,
        decided_by=None if by is None else _decider(by.situation),
        next_change_at=next_change(facts.held, facts.at),
        subscriptions=tuple(_subscription(facts, one) for one in subscriptions[:SHOWN]),
        subscriptions_total=len(subscriptions),
        purchases=tuple(_purchase(facts, one) for one in purchases[:SHOWN]),
        purchases_total=len(purchases),
        benefits=tuple(_purchase(facts, one) for one in benefits[:SHOWN]),
        benefits_total=len(benefits),
    )


def next_change(held: Iterable[HeldGrant], at: datetime) -> datetime | None:
    """The first moment at which the clock changes what these give."""
    grants = [one.grant for one in held]

    def given(moment: datetime) -> list[tuple[str, object, type]]:
        found = aggregate(grants, moment)
        # In Python, True equals 1.
        return [(name, one.value, type(one.value)) for name, one in found.items()]

    now = given(at)
    turns = {moment for grant in grants for moment in grant.moments if moment > at}
    return next((moment for moment in sorted(turns) if given(moment) != now), None)


def _overall(paid: Sequence[_Thing], benefits: Sequence[_Thing]) -> tuple[Status, _Thing | None]:
    """The best of what is paid for; what is given counts where nothing of that gives access."""
    best = min(paid, key=lambda one: place_of(one.status), default=None)
    if benefits and (best is None or not gives_access(best.status)):
        best = benefits[0]
    if best is None or best.status == "none":
        return "none", None
    return best.status, best


def _things(facts: Facts) -> Iterable[_Thing]:
    customers = frozenset(
        one.neighbour.owner
        for one in facts.situations.values()
        if one.tenant == facts.tenant and one.neighbour.owner is not None
    )
    live: dict[int, list[Grant]] = {}
    for held in facts.held:
        if held.grant.is_live(facts.at):
            live.setdefault(held.object_row, []).append(held.grant)
    candidates = [
        one
        for one in facts.situations.values()
        if is_candidate(one, facts.tenant, customers) and not _was_taken_back(one)
    ]
    giving = {
        _customer_of(one)
        for one in candidates
        if one.neighbour.id in live and one.key.kind in one.origin.granting_kinds
    }
    for one in candidates:
        yield _thing(facts, one, live.get(one.neighbour.id, []), _customer_of(one) in giving)


def _was_taken_back(situation: Situation) -> bool:
    """By a replay: there is no such object any more."""
    return situation.register.terminal and situation.register.newest.status == UNOBSERVED


def _customer_of(situation: Situation) -> object:
    return situation.neighbour.owner or situation.key


def _thing(facts: Facts, one: Situation, live: list[Grant], is_told_by_others: bool) -> _Thing:
    newest = next(iter(one.register.sightings), None)
    sighting = one.verdict.stands_on or newest
    stands = None if sighting is None else standing(one, sighting.state)
    if live:
        # Stands at what gives nothing: a newer state, that is being written.
        status = "active" if stands is None else GIVING.get(stands, "active")
        return _Thing(one, live, sighting, stands, status, None, None)
    given = [held.grant for held in facts.held if held.object_row == one.neighbour.id]
    reason, at = why_nothing(one, given, facts.at, facts.catalog)
    why: Why = reason
    status = LACKING[reason]
    may_give = stands is not None and ACCESS[stands] != "none"
    if reason == "other_family" and stands is not None:
        # Others give what it is about, so that only how it stands is asked.
        if is_told_by_others and may_give:
            status = GIVING[stands]
        elif not may_give:
            status = STANDING_STILL.get(stands, "none")
    elif reason == "reversed" and one.key.kind in _PURCHASE_KINDS:
        status = "canceled"  # it is over, and no invoice comes that may be paid
    elif reason == "cancelled" and sighting is not None and sighting.state.pauses:
        status = "paused"
    elif reason == "voided" and stands is not None and _gives_no_features(facts, one, sighting):
        why = "no_features"
        is_default = sighting is not None and sighting.state.is_default
        status = "none" if is_default else GIVING[stands]
        status = "past_due" if status == "grace" else status
    return _Thing(one, live, sighting, stands, status, why, at)


def _gives_no_features(facts: Facts, one: Situation, sighting: Sighting | None) -> bool:
    return sighting is not None and not offers_of(
        one.origin, one.key.kind, sighting.state, facts.catalog
    )


def _subscription(facts: Facts, thing: _Thing) -> Subscription:
    one, state = thing.situation, thing.state
    key, owner = one.key, one.neighbour.owner
    stands = standing(one, state)
    scheduled = tuple(_scheduled(facts, one, state, stands))
    since = thing.sighting.since if thing.standing is Standing.PAST_DUE and thing.sighting else None
    period_ends_at = _moment(state.period_ends_at)
    goes_on_until = min((one.at for one in scheduled if one.action != "resume"), default=_NEVER)
    renews_at = None
    if stands in _RENEWING and period_ends_at is not None:
        renews_at = period_ends_at if facts.at < period_ends_at < goes_on_until else None
    is_trial = stands is Standing.TRIAL
    trial_ends = state.lapses_at if state.lapses_at is not None else state.period_ends_at
    graces = [plan.grace_s for plan in _plans_of(facts, one, state)]
    return Subscription(
        provider=one.origin.provider,
        source=one.origin.source,
        account=key.account,
        livemode=key.livemode,
        object=key.name,
        customer=None if owner is None else owner.customer,
        status=thing.status,
        provider_status=state.status,
        standing=stands,
        plans=_names_of(facts, one, state),
        items=_items(facts, one, state),
        started_at=_moment(state.started_at),
        period_ends_at=period_ends_at,
        renews_at=renews_at,
        trial_ends_at=_moment(trial_ends) if is_trial else None,
        scheduled=scheduled,
        past_due_since=_moment(since),
        grace_until=_moment(since + max(graces)) if since is not None and graces else None,
        grants=bool(thing.live),
        grants_until=_until(thing.live),
        reason=thing.reason,
        reason_at=thing.reason_at,
        needs=one.verdict.parked,
        wants=one.verdict.wants,
    )


def _purchase(facts: Facts, thing: _Thing) -> Purchase:
    one, state = thing.situation, thing.state
    key, owner = one.key, one.neighbour.owner
    return Purchase(
        provider=one.origin.provider,
        source=one.origin.source,
        account=key.account,
        livemode=key.livemode,
        object=key.name,
        customer=None if owner is None else owner.customer,
        status=thing.status,
        provider_status=state.status,
        plans=_names_of(facts, one, state),
        items=_items(facts, one, state),
        bought_at=_moment(state.started_at),
        grants=bool(thing.live),
        grants_until=_until(thing.live),
        reason=thing.reason,
        needs=one.verdict.parked,
    )


def _scheduled(
    facts: Facts, one: Situation, state: ObjectState, stands: Standing | None
) -> Iterable[Scheduled]:
    """What comes by itself; of what is over, nothing."""
    if one.register.terminal or stands is None or stands is Standing.ENDED:
        return
    lapses_at = state.lapses_at if stands is Standing.TRIAL else None
    if one.around.customer_pays:
        lapses_at = None
    coming: tuple[tuple[Action, int | None], ...] = (
        ("pause" if state.pauses else "cancel", state.ends_at),
        ("lapse", lapses_at),
        ("resume", state.resumes_at),
    )
    for action, at in coming:
        if at is not None and facts.at < moment_of(at):
            yield Scheduled(
                action=action, at=moment_of(at), at_period_end=at == state.period_ends_at
            )


def _plans_of(facts: Facts, one: Situation, state: ObjectState) -> list[Plan]:
    """All that any of it is worth, whether or not all of it is mapped."""
    whole = facts.catalog.plans_of(one.origin, one.key.kind, state)
    if whole is not None:
        return [plan for plan, _ in whole]
    return [
        plan for item in state.items for plan in facts.catalog.plans_for(one.origin, item) or ()
    ]


def _names_of(facts: Facts, one: Situation, state: ObjectState) -> tuple[str, ...]:
    return tuple(sorted({plan.name for plan in _plans_of(facts, one, state)}))


def _items(facts: Facts, one: Situation, state: ObjectState) -> tuple[BilledItem, ...]:
    return tuple(
        BilledItem(
            product=one.origin.product(item.refs[-1]) if item.refs else None,
            quantity=item.quantity,
            plans=tuple(plan.name for plan in facts.catalog.plans_for(one.origin, item) or ()),
        )
        for item in state.items
    )


def _until(live: Sequence[Grant]) -> datetime | None:
    """When the last of these ends; None where one does not, or where there are none."""
    ends = [grant.valid_until for grant in live if grant.valid_until is not None]
    return max(ends) if ends and len(ends) == len(live) else None


def _of_kinds(things: Sequence[_Thing], kinds: frozenset[str]) -> list[_Thing]:
    return [one for one in things if one.situation.key.kind in kinds]


def _decider(one: Situation) -> Decider:
    return Decider(source=one.origin.source, object=one.key.name)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else moment_of(seconds)
