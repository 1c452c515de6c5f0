"""
From registers to grants: whose an object is, and what it gives.

Each object owns its grants, a full replacement every time, so that what one object ends cannot
take what another gives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from shared.domain.catalog import Catalog, FeatureValue, Origin, Plan
from shared.domain.entitlements import Grant, is_number
from shared.domain.payments import NO_CIRCUMSTANCES, SPEAKS_AGAINST, Circumstances
from shared.domain.register import Register, Seen, Sighting, Want
from shared.domain.standings import ACCESS, Standing, standing_of
from shared.domain.states import (
    ADVERSE_KINDS,
    CUSTOMER_KIND,
    SESSION_KIND,
    SUMMARY_KIND,
    UNOBSERVED,
    ObjectState,
)

#: Why an object gives nothing yet; what `parked list` shows.
NEEDS_LINK = "needs:link"
NEEDS_MAPPING = "needs:mapping"
LINK_CONFLICT = "link_conflict"
NEEDS_LINE_ITEMS = "needs:line_items"
NEEDS_PAYMENT = "needs:payment"
NEEDS_FETCH = "needs:fetch"
UNKNOWN_STATUS = "unknown_status"
OTHER_MODE = "other_mode"
SOURCE_REMOVED = "source_removed"
TENANT_ERASED = "tenant_erased"

#: Whose word says which tenant an object belongs to, and why what it gives ends by itself.
LinkedBy = Literal["operator", "object", "customer", "session"]
EndsBy = Literal["scheduled", "trial", "grace", "lasts"]


class Verdict(msgspec.Struct, frozen=True):
    """
    What an object gives, what it waits for, and why a fetch of it would help (None: nothing).

    `stands_on` is the sighting that the grants were read from, and `withheld` are the objects
    ("kind/id") that keep it from giving what it says.
    """

    grants: tuple[Grant, ...] = ()
    parked: str | None = None
    wants: Want | None = None
    stands_on: Sighting | None = None
    withheld: tuple[str, ...] = ()


class Offer(NamedTuple):
    """What a plan gives of one feature, by a state that is worth it."""

    plan: Plan
    feature: str
    value: FeatureValue
    adds: bool


class Ending(NamedTuple):
    """When what a state gives ends, in unix seconds, if nothing else is observed before."""

    at: int
    by: EndsBy


class Links(msgspec.Struct, frozen=True):
    """
    Who a customer may belong to, by rank: the operator's word, the customer's own, then what
    its earliest completed sessions say, which the buyer can write (more than one where several
    completed in the same second).
    """

    operator: str | None = None
    customer: str | None = None
    sessions: frozenset[str] = frozenset()


#: By the name of a merged tenant, the one that it was merged into; of an erased one `ERASED`.
Aliases = Mapping[str, str]
#: Nobody's name: a tenant's has a byte at least.
ERASED = ""
NO_ALIASES: Aliases = MappingProxyType({})


def resolve_tenant(
    own: str | None, links: Links, aliases: Aliases = NO_ALIASES
) -> tuple[str | None, str | None]:
    """The tenant of an object that names `own`, or None and what it waits for."""
    for _, tenant in _ranked(own, links):
        if tenant is not None:
            return _known_as(tenant, aliases)
    referenced = {aliases.get(tenant, tenant) for tenant in links.sessions}
    if len(referenced) > 1:
        return None, LINK_CONFLICT
    if referenced:
        return _known_as(referenced.pop(), aliases)
    return None, NEEDS_LINK


def _known_as(tenant: str, aliases: Aliases) -> tuple[str | None, str | None]:
    name = aliases.get(tenant, tenant)
    return (None, TENANT_ERASED) if name == ERASED else (name, None)


def linked_by(own: str | None, links: Links) -> LinkedBy | None:
    """Whose word `resolve_tenant` follows; None where there is none to follow."""
    for by, tenant in _ranked(own, links):
        if tenant is not None:
            return by
    return "session" if links.sessions else None


def _ranked(own: str | None, links: Links) -> tuple[tuple[LinkedBy, str | None], ...]:
    return ("operator", links.operator), ("object", own), ("customer", links.customer)


def links_of(seen: Seen, of_customer: Iterable[Seen] | None, operator: str | None) -> Links:
    """
    The links of an object: `of_customer` are all objects of its customer, itself included, and
    `operator` that customer's link. None: nobody's, as a guest's purchase, which is its own link.
    """
    if of_customer is None:
        register = seen.register
        own_word = None if register.is_empty else register.newest.reference
        return Links(sessions=frozenset(() if own_word is None else (own_word,)))
    own = None
    sessions = []
    for near in of_customer:
        if near.kind == CUSTOMER_KIND:
            own = near.register.newest.tenant
        elif near.kind == SESSION_KIND:
            sessions.append(near.register)
    references = earliest_references(sessions) if sessions else frozenset()
    return Links(operator, own, references)


def earliest_references(sessions: Iterable[Register]) -> frozenset[str]:
    """The references of the earliest completed sessions that have one."""
    earliest: int | None = None
    references: set[str] = set()
    for session in sessions:
        reference = session.newest.reference
        if reference is None:
            continue
        since = session.version if session.referenced_since is None else session.referenced_since
        if earliest is None or since < earliest:
            earliest, references = since, {reference}
        elif since == earliest:
            references.add(reference)
    return frozenset(references)


def decide(
    kind: str,
    register: Register,
    links: Links,
    origin: Origin,
    catalog: Catalog,
    around: Circumstances = NO_CIRCUMSTANCES,
    aliases: Aliases = NO_ALIASES,
) -> tuple[str | None, Verdict]:
    """The tenant of an object and what it gives: the one place where access is decided."""
    tenant, waits_for = resolve_tenant(register.newest.tenant, links, aliases)
    if register.terminal:
        return tenant, Verdict()
    if kind in ADVERSE_KINDS:
        return tenant, _adverse(kind, register, origin, around)
    if kind not in origin.granting_kinds or _only_links(kind, register, origin):
        # A session is a link, not somebody who waits for one.
        parked = waits_for if kind == CUSTOMER_KIND else None
        return tenant, Verdict(parked=parked, wants=register.wants)
    if tenant is None:
        wants = register.wants or _line_items(kind, register, origin, catalog)
        return None, Verdict(parked=waits_for, wants=wants)
    if origin.is_removed or not origin.is_of_mode:
        return tenant, Verdict(parked=SOURCE_REMOVED if origin.is_removed else OTHER_MODE)
    return tenant, _granting(tenant, kind, register, origin, catalog, around)


def _adverse(kind: str, register: Register, origin: Origin, around: Circumstances) -> Verdict:
    """A refund, dispute or warning gives nothing; it may wait for what its payment was for."""
    parked = _without_state(register)
    standing = standing_of(origin.provider, kind, register.newest.status)
    if standing in SPEAKS_AGAINST and not around.bought:
        parked = NEEDS_PAYMENT
    elif standing is None:
        parked = parked or UNKNOWN_STATUS
    return Verdict(parked=parked, wants=register.wants)


def _granting(
    tenant: str,
    kind: str,
    register: Register,
    origin: Origin,
    catalog: Catalog,
    around: Circumstances,
) -> Verdict:
    wants = register.wants or _line_items(kind, register, origin, catalog)
    if around.is_missing:
        wants = wants or "missing"
    withheld = around.reversals or around.holds
    if kind == SUMMARY_KIND and around.is_lapsed:
        # Stripe leaves entitlements in place where a trial ends in `paused`.
        withheld = withheld or (SUMMARY_KIND,)
    parked = _without_state(register) or (UNKNOWN_STATUS if register.unknown is not None else None)
    for sighting in register.sightings:
        grants = _grants_of(tenant, sighting, kind, origin, catalog, around)
        if grants is not None:
            return Verdict(() if withheld else grants, parked, wants, sighting, withheld)
        is_untold = kind == SESSION_KIND and wants == "line_items"
        parked = parked or (NEEDS_LINE_ITEMS if is_untold else NEEDS_MAPPING)
    return Verdict(parked=parked, wants=wants)


def _without_state(register: Register) -> str | None:
    is_unseen = register.unknown is not None and register.unknown.status == UNOBSERVED
    return NEEDS_FETCH if is_unseen or register.wants == "list" else None


def _only_links(kind: str, register: Register, origin: Origin) -> bool:
    if kind != SESSION_KIND or register.unknown is not None:
        return False
    standing = standing_of(origin.provider, kind, register.newest.status)
    return standing in (Standing.PRESENT, Standing.PENDING)


def _line_items(kind: str, register: Register, origin: Origin, catalog: Catalog) -> Want | None:
    """A purchase that tells neither plan nor mapped link must be asked what was bought."""
    if kind != SESSION_KIND or not register.newest.is_partial:
        return None
    is_known = catalog.plans_of(origin, kind, register.newest) is not None
    return None if is_known else "line_items"


def _grants_of(
    tenant: str,
    sighting: Sighting,
    kind: str,
    origin: Origin,
    catalog: Catalog,
    around: Circumstances,
) -> tuple[Grant, ...] | None:
    """
    What a state gives, or None where the catalog does not map all of its products. The plan that
    everybody has who has no other need not be mapped.
    """
    state = sighting.state
    standing = standing_of(origin.provider, kind, state.status)
    if standing is None or ACCESS[standing] == "none":
        return ()
    if ACCESS[standing] == "until_end" and state.ends_at is None:
        return ()
    offers = offers_of(origin, kind, state, catalog)
    if offers is None:
        return () if state.is_default else None
    begins_at = None
    if state.collection == "void" and origin.policy.voided_collection == "revoke":
        if state.resumes_at is None:
            return ()
        begins_at = moment_of(state.resumes_at)
    plans = {offer.plan.name: offer.plan for offer in offers}
    ends_at = {name: _end_of(sighting, standing, plan, around) for name, plan in plans.items()}
    return tuple(
        Grant(tenant, plan.name, feature, value, plan.rank, begins_at, ends_at[plan.name], adds)
        for plan, feature, value, adds in offers
    )


def offers_of(
    origin: Origin, kind: str, state: ObjectState, catalog: Catalog
) -> list[Offer] | None:
    """What the plans of a state are worth, whether it gives access or not; None as `plans_of`."""
    worth = catalog.plans_of(origin, kind, state)
    if worth is None:
        return None
    quantities: Counter[str] = Counter()
    for plan, quantity in worth:
        quantities[plan.name] += quantity
    offers = []
    for _, plan in sorted({plan.name: plan for plan, _ in worth}.items()):
        for feature, value in sorted(plan.features.items()):
            adds = feature in catalog.added and is_number(value)
            given = quantities[plan.name] * value if adds and not isinstance(value, str) else value
            offers.append(Offer(plan, feature, given, adds))
    return offers


def endings_of(
    sighting: Sighting, standing: Standing, plan: Plan, around: Circumstances
) -> list[Ending]:
    """All that ends what a state gives by `plan`; the earliest decides."""
    ends: list[Ending] = []
    state, since = sighting.state, sighting.since
    if state.ends_at is not None:
        ends.append(Ending(state.ends_at, "scheduled"))
    if state.lapses_at is not None and standing is Standing.TRIAL and not around.customer_pays:
        ends.append(Ending(state.lapses_at, "trial"))
    if ACCESS[standing] == "grace" and since is not None:
        ends.append(Ending(since + plan.grace_s, "grace"))
    if standing is Standing.PAID and since is not None and plan.lasts_s is not None:
        ends.append(Ending(since + plan.lasts_s, "lasts"))
    return ends


def _end_of(
    sighting: Sighting, standing: Standing, plan: Plan, around: Circumstances
) -> datetime | None:
    ends = endings_of(sighting, standing, plan, around)
    return moment_of(min(ends).at) if ends else None


def moment_of(seconds: int) -> datetime:
    """Unix seconds as aware UTC. Bounded: a provider's nonsense date must not be an overflow."""
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=max(0, min(seconds, 250_000_000_000)))
