"""
What Polar publishes of its objects, as the fold and the verdict have it.

Source: polarsource/polar, `docs/integrate/webhooks/events.mdx`, `server/polar/refund/service.py`
and `server/polar/customer` (read 2026-11).
"""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.domain.catalog import Catalog, Origin
from shared.domain.commands import Observe
from shared.domain.events import FETCHED, Arrival, Identity
from shared.domain.payments import Policy, Seen, circumstances
from shared.domain.register import Observation, Register, fold
from shared.domain.states import ObjectState, digest_of
from shared.domain.verdicts import Links, Verdict, decide
from shared.providers import providers
from tests.support.polar_lives import CATALOG
from tests.support.polar_payloads import (
    DAY_US,
    NOW_US,
    US,
    benefit_grant,
    customer,
    customer_state,
    event,
    iso,
    order,
    refund,
    subscription,
    uuid_of,
)

POLAR = providers()["polar"]
READ = Catalog.read(1, CATALOG)
END_US = NOW_US + 20 * DAY_US


def sights(kind: str, body: bytes, name: str) -> list[tuple[str, str, Observation]]:
    """What an event has of each object: its kind, its id, the observation."""
    found = []
    for command in POLAR.translate(Arrival(Identity(name, kind, name), body)):
        assert isinstance(command, Observe)
        found.append(
            (
                command.kind,
                command.object_id,
                Observation(
                    name,
                    command.version,
                    command.shape,
                    None,
                    digest_of(command.after),
                    command.after,
                    command.ceiling,
                    command.number,
                ),
            )
        )
    return found


def of_event(kind: str, data: dict[str, Any], name: str = "evt") -> Observation:
    return sights(kind, event(kind, data), name)[0][2]


def of_fetch(kind: str, object_id: str, result: Any, number: int, at_s: int) -> Observation:
    content = {
        "object": FETCHED, "kind": kind, "id": object_id, "number": number, "floor": at_s,
        "ceiling": at_s + 1, "result": result,
    }  # fmt: skip
    return sights(FETCHED, json.dumps(content).encode(), f"fetch/{number}")[0][2]


def folded(kind: str, *observations: Observation) -> Register:
    """The register, whatever the order they came in."""
    registers = [fold("polar", kind, list(one)) for one in itertools.permutations(observations)]
    assert all(one == registers[0] for one in registers)
    return registers[0]


def verdict_on(kind: str, register: Register) -> Verdict:
    origin = Origin("polar", "polar")
    return decide(kind, register, Links(operator="acme"), origin, READ)[1]


def until(verdict: Verdict) -> set[datetime | None]:
    return {grant.valid_until for grant in verdict.grants}


def at(moment_us: int) -> datetime:
    return datetime.fromtimestamp(moment_us // US, UTC)


ACTIVE = of_event("subscription.active", subscription(modified_us=NOW_US), "active")


def test_canceled_is_scheduled_and_still_active() -> None:
    canceled = of_event(
        "subscription.canceled",
        subscription(modified_us=NOW_US + 1, cancel_at_period_end=True, ends_at=iso(END_US)),
        "canceled",
    )
    assert until(verdict_on("subscription", folded("subscription", ACTIVE))) == {None}
    assert until(verdict_on("subscription", folded("subscription", ACTIVE, canceled))) == {
        at(END_US)
    }
    uncanceled = of_event("subscription.uncanceled", subscription(modified_us=NOW_US + 2), "un")
    register = folded("subscription", ACTIVE, canceled, uncanceled)
    assert until(verdict_on("subscription", register)) == {None}


def test_past_due_keeps_its_grace_from_when_it_began() -> None:
    began = NOW_US - 3 * DAY_US
    past_due = subscription(status="past_due", past_due_at=iso(began), modified_us=NOW_US + 1)
    again = {**past_due, "modified_at": iso(NOW_US + 2 * DAY_US)}
    first = of_event("subscription.past_due", past_due, "first")
    second = of_event("subscription.updated", again, "second")
    for told in ([first], [second], [ACTIVE, first, second]):
        verdict = verdict_on("subscription", folded("subscription", *told))
        assert until(verdict) == {at(began + 7 * DAY_US)}


def test_a_run_of_failures_whose_recovery_was_lost_is_another() -> None:
    runs = [
        of_event("subscription.past_due",
                 subscription(status="past_due", past_due_at=iso(when), modified_us=when), name)
        for when, name in ((NOW_US - 40 * DAY_US, "old"), (NOW_US, "new"))
    ]  # fmt: skip
    verdict = verdict_on("subscription", folded("subscription", *runs))
    assert until(verdict) == {at(NOW_US + 7 * DAY_US)}


@pytest.mark.parametrize("status", ["canceled", "unpaid"])
def test_a_late_older_active_does_not_resurrect_what_was_revoked(status: str) -> None:
    ended = of_event(
        "subscription.revoked", subscription(status=status, modified_us=NOW_US + 1), "revoked"
    )
    register = folded("subscription", ended, ACTIVE)
    assert register.newest.status == status
    assert not verdict_on("subscription", register).grants
    # Its version is all that says what is newest: what comes back, comes back.
    back = of_event("subscription.active", subscription(modified_us=NOW_US + 2), "back")
    assert verdict_on("subscription", folded("subscription", ended, ACTIVE, back)).grants


def test_the_three_events_of_a_revocation_say_one_thing() -> None:
    gone = subscription(status="canceled", modified_us=NOW_US + 1)
    told = [
        of_event(f"subscription.{name}", gone, name) for name in ("updated", "canceled", "revoked")
    ]
    register = folded("subscription", ACTIVE, *told)
    assert not register.ambiguous
    assert register.newest.status == "canceled"


# Ties and fetches ---------------------------------------------------------------------------------

TIED = [
    of_event("order.updated", order(modified_us=NOW_US, status=status), status)
    for status in ("paid", "refunded")
]


def test_one_version_with_two_contents_is_ambiguous() -> None:
    register = folded("order", *TIED)
    assert (register.ambiguous, register.wants) == (True, "order")
    # Also where one of them looks final: Polar goes on from there.
    assert register.newest.status == "refunded"


@pytest.mark.parametrize("status", ["paid", "refunded"])
def test_a_fetch_settles_a_tie_until_something_newer_comes(status: str) -> None:
    result = order(modified_us=NOW_US, status=status)
    answer = of_fetch("order", uuid_of("order"), result, 7, NOW_US // US + 60)
    settled = folded("order", *TIED, answer)
    assert (settled.ambiguous, settled.wants, settled.newest.status) == (False, None, status)
    newer = of_event("order.updated", order(modified_us=NOW_US + 1, status="void"), "newer")
    assert folded("order", *TIED, answer, newer).newest.status == "void"


def test_an_answer_from_a_replica_that_lags_takes_nothing_back() -> None:
    result = order(modified_us=NOW_US, status="refunded")
    late = order(modified_us=NOW_US - 5, status="paid")
    answers = [
        of_fetch("order", uuid_of("order"), result, 7, NOW_US // US + 60),
        of_fetch("order", uuid_of("order"), late, 8, NOW_US // US + 70),
    ]
    assert folded("order", *TIED, *answers).newest.status == "refunded"
    assert not folded("order", *TIED, *answers).ambiguous


def test_what_the_api_does_not_have_is_gone_unless_it_comes_back() -> None:
    gone = of_fetch("subscription", uuid_of("sub"), None, 7, NOW_US // US + 60)
    register = folded("subscription", ACTIVE, gone)
    assert register.newest == ObjectState("deleted")
    assert not verdict_on("subscription", register).grants
    back = subscription(modified_us=NOW_US)
    found = of_fetch("subscription", uuid_of("sub"), back, 8, NOW_US // US + 70)
    assert verdict_on("subscription", folded("subscription", ACTIVE, gone, found)).grants
    newer = of_event("subscription.updated", subscription(modified_us=NOW_US + 90 * US), "newer")
    assert verdict_on("subscription", folded("subscription", ACTIVE, gone, newer)).grants


def state_at(moment_us: int, *benefits: str) -> Observation:
    name = f"{moment_us}/{benefits}"
    kind = "customer.state_changed"
    return sights(kind, event(kind, customer_state(benefits=benefits), moment_us), name)[0][2]


def test_a_fetched_state_contains_what_was_before_it() -> None:
    result = customer_state(benefits=("sso-benefit",))
    answer = of_fetch("customer_state", uuid_of("ada"), result, 7, NOW_US // US)
    before = state_at(NOW_US // US * US - 1, "book-benefit")
    within = state_at(NOW_US // US * US + 5, "book-benefit")
    after = state_at(NOW_US + 3 * US, "book-benefit")
    names = {True: "sso-benefit", False: "book-benefit"}
    for other, holds, wants in ((before, True, None), (within, False, "order"),
                                (after, False, None)):  # fmt: skip
        register = folded("customer_state", answer, other)
        assert register.newest.items[0].refs == (uuid_of(names[holds]),)
        assert register.wants == wants


# Refunds ------------------------------------------------------------------------------------------


def kept(refunds: str, *told: tuple[str, dict[str, Any]]) -> bool:
    """Whether an order still gives what was bought, after these events."""
    found: dict[tuple[str, str], list[Observation]] = {}
    for number, (kind, data) in enumerate(told):
        for one, name, observation in sights(kind, event(kind, data), f"evt_{number}"):
            found.setdefault((one, name), []).append(observation)
    policy = Policy(refunds=refunds)
    near = [Seen(kind, name, fold("polar", kind, seen)) for (kind, name), seen in found.items()]
    around = circumstances("polar", policy, near)
    origin = Origin("polar", "polar", policy=policy)
    links = Links(operator="acme")
    given = False
    for one in near:
        _, verdict = decide(one.kind, one.register, links, origin, READ, around[one.name])
        assert verdict.parked is None
        given = given or bool(verdict.grants)
    return given


PAID = ("order.paid", order(modified_us=NOW_US))
PART = ("order.updated", order(modified_us=NOW_US + 2, status="partially_refunded", refunded=1000))
WHOLE = ("order.refunded", order(modified_us=NOW_US + 2, status="refunded", refunded=5000))


@pytest.mark.parametrize(
    ("told", "whole", "flagged"),
    [
        ([PAID], True, True),
        ([PAID, PART], True, True),
        ([PAID, WHOLE], False, True),
        ([WHOLE], False, True),
        ([PAID, ("refund.created", refund(amount=1000))], True, True),
        ([PAID, ("refund.created", refund(amount=5000))], False, True),
        ([PAID, ("refund.created", refund(amount=1000, revokes=True))], False, False),
        ([PAID, ("refund.created", refund(status="pending", revokes=True))], False, False),
        ([PAID, ("refund.updated", refund(status="failed", revokes=True))], True, True),
        # It succeeded, and failed after that.
        ([WHOLE, ("refund.updated", refund(status="failed", modified_us=NOW_US + 9))], True, True),
        ([("order.created", order(status="pending"))], False, False),
        ([("order.paid", order(subscription_name="sub"))], False, False),
    ],
)
def test_what_refunds_take_back(
    told: list[tuple[str, dict[str, Any]]], whole: bool, flagged: bool
) -> None:
    assert kept("whole", *told) is whole
    assert kept("flagged", *told) is flagged


@pytest.mark.parametrize("refunds", ["whole", "flagged"])
def test_the_refund_of_a_renewal_ends_no_subscription(refunds: str) -> None:
    """A dispute's refund names no subscription, and says that it revokes."""
    renewal = order(status="refunded", subscription_name="sub", refunded=5000)
    told = [
        ("subscription.active", subscription()),
        ("order.refunded", renewal),
        ("refund.created", refund(revokes=True)),
    ]
    assert kept(refunds, *told)


# Customers and grants -----------------------------------------------------------------------------


def test_a_customer_that_shows_no_link_in_an_old_event_keeps_it() -> None:
    late = customer(modified_us=NOW_US)
    linked = of_event("customer.updated", late, "linked")
    created = of_event("customer.created", customer(external_id=None), "created")
    assert folded("customer", linked, created).newest.tenant == "acme"
    # An event that shows it, of whatever object, links as well.
    kind = "order.paid"
    embedded = sights(kind, event(kind, order(of=late)), "order")[1][2]
    assert folded("customer", created, embedded).newest.tenant == "acme"


def test_a_deleted_customer_stays_deleted_and_whose_it_was() -> None:
    linked = of_event("customer.updated", customer(modified_us=NOW_US), "linked")
    gone = customer(external_id=None, modified_us=NOW_US + 1, deleted_at=iso(NOW_US + 1))
    deleted = of_event("customer.deleted", gone, "deleted")
    register = folded("customer", linked, deleted)
    assert register.terminal
    assert register.newest.tenant == "acme"
    missing = of_fetch("customer", uuid_of("ada"), None, 7, NOW_US // US + 60)
    assert folded("customer", linked, missing).newest.tenant == "acme"


def test_a_grant_gives_while_it_is_granted_and_not_revoked() -> None:
    origin = Origin("polar", "polar", policy=Policy(grants_from="benefits"))
    stages = [
        (False, False, False), (True, False, True), (False, True, False), (True, False, True),
    ]  # fmt: skip
    told = []
    for number, (granted, revoked, gives) in enumerate(stages):
        content = benefit_grant(
            to="sso-benefit", granted=granted, revoked=revoked, modified_us=NOW_US + number
        )
        told.append(of_event("benefit_grant.updated", content, f"evt_{number}"))
        register = folded("benefit_grant", *told)
        links = Links(customer="acme")
        tenant, verdict = decide("benefit_grant", register, links, origin, READ)
        assert (tenant, bool(verdict.grants)) == ("acme", gives)
