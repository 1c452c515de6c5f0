"""
The pure rules alone against the independent model: no database, no worker, no order of arrival.

What differs here is a rule that is wrong, and not the machinery that applies it. `TEST_SEED=N`
draws the same lives again.
"""

import json
from collections import defaultdict
from datetime import UTC, datetime

from shared.domain.catalog import Catalog, Origin
from shared.domain.commands import Observe
from shared.domain.entitlements import Grant, aggregate
from shared.domain.payments import DEFAULT_POLICY, Seen, circumstances
from shared.domain.register import Observation, fold
from shared.domain.states import digest_of
from shared.domain.verdicts import Links, decide, earliest_references
from tests.support.draw import live, seed_of_run
from tests.support.life import Life
from tests.support.model import CATALOG, Features
from tests.support.reading import asked_of
from tests.support.stripe_events import NOW_S
from tests.support.telling import Difference, report

LIVES = 2000
ORIGIN = Origin("stripe", "stripe")


def observed(life: Life) -> list[Seen]:
    """Every object of a life, folded from all that was told of it."""
    by_object: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for body in life.told:
        told = json.loads(body)
        for command in asked_of(told["type"], body):
            if isinstance(command, Observe):
                before = command.before
                by_object[command.kind, command.object_id].append(
                    Observation(
                        told["id"],
                        command.version,
                        command.shape,
                        None if before is None else digest_of(before),
                        digest_of(command.after),
                        command.after,
                    )
                )
    return [
        Seen(kind, number, fold("stripe", kind, observations))
        for (kind, number), observations in by_object.items()
    ]


def decided(life: Life, catalog: Catalog) -> dict[str, Features]:
    """What the rules give each tenant of a life."""
    seen = observed(life)
    given: dict[str, list[Grant]] = defaultdict(list)
    for one in seen:
        customer = one.register.newest.customer
        # Refunds, disputes and the like name no customer.
        near = [other for other in seen if other.register.newest.customer in (customer, None)]
        around = circumstances("stripe", DEFAULT_POLICY, near)[one.name]
        links = _links(life, one, near)
        _, verdict = decide(one.kind, one.register, links, ORIGIN, catalog, around)
        for grant in verdict.grants:
            given[grant.tenant].append(grant)
    now = datetime.fromtimestamp(NOW_S, UTC)
    return {
        tenant: {
            feature: entitlement.value
            for feature, entitlement in aggregate(given[tenant], now).items()
        }
        for tenant in life.tenants
    }


def _links(life: Life, one: Seen, near: list[Seen]) -> Links:
    customer = one.register.newest.customer
    if customer is None:
        reference = one.register.newest.reference
        return Links(sessions=frozenset(() if reference is None else (reference,)))
    named = [
        other.register.newest.tenant
        for other in near
        if other.kind == "customer" and other.object_id == customer
    ]
    sessions = [
        other.register
        for other in near
        if other.kind == "checkout.session" and other.register.newest.customer == customer
    ]
    return Links(
        life.operators.get(customer), named[0] if named else None, earliest_references(sessions)
    )


def test_the_rules_say_what_the_model_says() -> None:
    seed = seed_of_run()
    catalog = Catalog.read(1, CATALOG)
    wrong = []
    for number in range(LIVES):
        life, _ = live(seed, f"t{number}")
        found = decided(life, catalog)
        wrong += [
            Difference(life, tenant, expected, found[tenant])
            for tenant, expected in life.features(NOW_S).items()
            if repr(sorted(found[tenant].items())) != repr(sorted(expected.items()))
        ]
    assert not wrong, report(seed, wrong)
