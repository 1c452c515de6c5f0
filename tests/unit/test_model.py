"""
The independent model against lives written by hand, and the simulator against itself.

What these say is what the thousands of generated lives are measured by.
"""

import json
import random
from collections import defaultdict
from typing import Any

import pytest

from tests.support.draw import is_decidable, live
from tests.support.lives import overlaid
from tests.support.model import CATALOG, Features, Model
from tests.support.stripe_events import NOW_S
from tests.support.stripe_objects import DAY_S, Generation
from tests.support.telling import Difference
from tests.support.world import Merchant

PRO = {"api_calls": 1000, "sso": True, "tier": "a-pro"}
BASIC = {"api_calls": 100, "tier": "basic"}
PASS = {"exports": True, "storage": 50}


@pytest.fixture
def shop() -> Merchant:
    return Merchant(random.Random(1), "t", NOW_S - 100 * DAY_S)


def features(shop: Merchant, tenant: str = "acme", **operators: str) -> Features:
    return Model(shop.has, operators, CATALOG).features(NOW_S).get(tenant, {})


# Subscriptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("incomplete", {}),
        ("trialing", PRO),
        ("active", PRO),
        ("past_due", PRO),
        ("unpaid", {}),
        ("paused", {}),
        ("incomplete_expired", {}),
        ("canceled", {}),
    ],
)
def test_a_status_gives_access_or_not(shop: Merchant, status: str, expected: Features) -> None:
    shop.subscribe(shop.customer(), [("prod_pro", 1)], tenant="acme", status=status)
    assert features(shop) == expected


def test_grace_counts_from_the_first_failure_of_the_unbroken_run(shop: Merchant) -> None:
    one = shop.subscribe(shop.customer(), [("prod_basic", 1)], tenant="acme")
    shop.clock = NOW_S - 8 * DAY_S
    shop.change(one, status="past_due")
    shop.clock = NOW_S - DAY_S
    shop.change(one, latest_invoice="in_2")
    assert features(shop) == {}
    shop.change(one, status="active")
    shop.change(one, status="past_due")
    assert features(shop) == BASIC


def test_without_grace_a_failed_payment_ends_access(shop: Merchant) -> None:
    shop.clock = NOW_S
    one = shop.subscribe(shop.customer(), [("prod_free", 1)], tenant="acme")
    shop.change(one, status="past_due")
    assert features(shop) == {}


@pytest.mark.parametrize(
    ("scheduled", "expected"),
    [
        ({"cancel_at": NOW_S + DAY_S}, PRO),
        ({"cancel_at": NOW_S - DAY_S}, {}),
        ({"ends_with_period": True, "period_end": NOW_S + DAY_S}, PRO),
        ({"ends_with_period": True, "period_end": NOW_S - DAY_S}, {}),
        ({"period_end": NOW_S - DAY_S}, PRO),
        ({"collection": "void"}, PRO),
    ],
)
def test_a_scheduled_end_counts_when_it_has_come(
    shop: Merchant, scheduled: dict[str, Any], expected: Features
) -> None:
    shop.subscribe(shop.customer(), [("prod_pro", 1)], tenant="acme", **scheduled)
    assert features(shop) == expected


@pytest.mark.parametrize(
    ("ends_in_s", "without_method", "subscription_pays", "customer_pays", "expected"),
    [
        (-1, "cancel", False, False, {}),
        (-1, "pause", False, False, {}),
        (1, "cancel", False, False, PRO),
        (-1, "create_invoice", False, False, PRO),
        (-1, "cancel", True, False, PRO),
        (-1, "cancel", False, True, PRO),
    ],
)
def test_a_trial_that_nothing_is_set_to_pay_for_ends(
    shop: Merchant,
    ends_in_s: int,
    without_method: str,
    subscription_pays: bool,
    customer_pays: bool,
    expected: Features,
) -> None:
    shop.subscribe(
        shop.customer(has_payment_method=customer_pays),
        [("prod_pro", 1)],
        tenant="acme",
        status="trialing",
        trial_end=NOW_S + ends_in_s,
        without_method=without_method,
        has_payment_method=subscription_pays,
    )
    assert features(shop) == expected


def test_the_old_one_ends_and_the_new_one_stays(shop: Merchant) -> None:
    customer = shop.customer()
    old = shop.subscribe(customer, [("prod_pro", 1)], tenant="acme")
    shop.subscribe(customer, [("prod_basic", 1)], tenant="acme")
    shop.end(old)
    assert features(shop) == BASIC


# Values -------------------------------------------------------------------------------------------


def test_values_are_combined_over_items_and_objects(shop: Merchant) -> None:
    customer = shop.customer()
    shop.subscribe(customer, [("prod_pro", 1), ("prod_team", 3)], tenant="acme")
    shop.subscribe(customer, [("prod_extra", 2), ("prod_basic", 9)], tenant="acme")
    assert features(shop) == {
        "api_calls": 1000,
        "sso": True,
        "tier": "a-pro",
        "seats": 3 + 2 * 5,
        "exports": True,
    }


def test_unlimited_beats_every_sum(shop: Merchant) -> None:
    items = [("prod_team", 3), ("prod_ent", 1)]
    shop.subscribe(shop.customer(), items, tenant="acme")
    assert features(shop) == {"api_calls": "unlimited", "seats": "unlimited", "tier": "ent"}


def test_one_product_may_give_several_plans(shop: Merchant) -> None:
    shop.subscribe(shop.customer(), [("prod_bundle", 2)], tenant="acme")
    assert features(shop) == {**PRO, "seats": 10, "exports": True}


# Links --------------------------------------------------------------------------------------------


def test_who_says_whose_a_customer_is_by_rank(shop: Merchant) -> None:
    customer = shop.customer()
    one = shop.subscribe(customer, [("prod_pro", 1)])
    assert Model(shop.has, {}, CATALOG).features(NOW_S) == {}
    for reference in ("buyer", "later"):
        shop.clock += 5
        session = shop.open_session("subscription", customer=customer, reference=reference)
        shop.complete(session)
    assert features(shop, "buyer") == PRO
    shop.update_customer(customer, tenant="customer")
    assert features(shop, "customer") == PRO
    shop.change(one, tenant="own")
    assert features(shop, "own") == PRO
    assert features(shop, "operator", **{customer.id: "operator"}) == PRO
    assert features(shop, "own", **{customer.id: "operator"}) == {}


def test_the_buyer_who_says_two_things_at_once_says_nothing(shop: Merchant) -> None:
    customer = shop.customer()
    shop.subscribe(customer, [("prod_pro", 1)])
    for reference in ("a", "b"):
        shop.complete(
            shop.open_session("subscription", customer=customer, reference=reference), "unpaid"
        )
    assert Model(shop.has, {}, CATALOG).features(NOW_S) == {}


def test_a_session_that_expired_links_nobody(shop: Merchant) -> None:
    customer = shop.customer()
    shop.subscribe(customer, [("prod_pro", 1)])
    shop.expire(shop.open_session("subscription", customer=customer, reference="a"))
    assert features(shop, "a") == {}


def test_a_session_completed_when_it_was_not_when_its_payment_came(shop: Merchant) -> None:
    customer = shop.customer()
    shop.subscribe(customer, [("prod_pro", 1)])
    first = shop.open_session("subscription", customer=customer, reference="first")
    shop.complete(first, "unpaid")
    shop.clock += 10
    shop.complete(shop.open_session("subscription", customer=customer, reference="second"))
    shop.clock += 10
    shop.settle(first, succeeds=True)
    assert features(shop, "first") == PRO


# Purchases ----------------------------------------------------------------------------------------


def bought(shop: Merchant, way: str = "paid", **fields: Any) -> Any:
    session = shop.open_session(
        "payment", **{"amount": 1000, "plan": "pass", "tenant": "acme", **fields}
    )
    shop.complete(session, way)
    return session


@pytest.mark.parametrize(
    ("way", "then", "expected"),
    [
        ("paid", None, PASS),
        ("no_payment_required", None, PASS),
        ("unpaid", None, {}),
        ("unpaid", True, PASS),
        ("unpaid", False, {}),
    ],
)
def test_a_purchase_gives_once_it_is_paid(
    shop: Merchant, way: str, then: bool | None, expected: Features
) -> None:
    session = bought(shop, way)
    if then is not None:
        shop.settle(session, succeeds=then)
    assert features(shop) == expected


def test_what_was_bought(shop: Merchant) -> None:
    bought(shop, plan="book", link="plink_pass", tenant="by-plan")
    bought(shop, plan=None, link="plink_pass", tenant="by-link")
    bought(shop, plan=None, link=None, tenant="by-nothing")
    bought(shop, plan=None, tenant=None, link="plink_pass", reference="guest")
    assert features(shop, "by-plan") == {"book": True, "storage": 20.5}
    assert features(shop, "by-link") == PASS
    assert features(shop, "by-nothing") == {}
    assert features(shop, "guest") == PASS


def test_what_was_bought_for_a_time_ends(shop: Merchant) -> None:
    shop.clock = NOW_S - 8 * DAY_S
    bought(shop, plan="week")
    assert features(shop) == {}
    late = bought(shop, "unpaid", plan="week")
    shop.clock = NOW_S - DAY_S
    shop.settle(late, succeeds=True)
    assert features(shop) == {"events": True, "storage": 80}


def test_the_sessions_of_subscriptions_buy_nothing(shop: Merchant) -> None:
    bought(shop)
    shop.complete(shop.open_session("subscription", plan="book", tenant="other"))
    assert features(shop, "other") == {}


# Refunds, disputes, warnings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refunds", "expected"),
    [
        ([(400, "succeeded")], PASS),
        ([(1000, "succeeded")], {}),
        ([(1000, "pending")], {}),
        ([(1000, "failed")], PASS),
        ([(1000, "canceled")], PASS),
        ([(400, "succeeded"), (600, "succeeded")], {}),
        ([(400, "succeeded"), (600, "failed")], PASS),
    ],
)
def test_a_purchase_ends_when_all_of_it_is_refunded(
    shop: Merchant, refunds: list[tuple[int, str]], expected: Features
) -> None:
    payment = bought(shop).payment
    for amount, status in refunds:
        refund = shop.refund(payment, amount)
        if status != "succeeded":
            shop.move_refund(refund, status)
    assert features(shop) == expected


@pytest.mark.parametrize(
    ("status", "amount", "expected"),
    [
        ("warning_needs_response", 1000, {}),
        ("warning_under_review", 1000, {}),
        ("needs_response", 1000, {}),
        ("under_review", 1, {}),
        ("won", 1000, PASS),
        ("warning_closed", 1000, PASS),
        ("lost", 1000, {}),
        ("lost", 999, {}),
    ],
)
def test_a_dispute_holds_while_it_is_open_and_revokes_when_it_is_lost(
    shop: Merchant, status: str, amount: int, expected: Features
) -> None:
    payment = bought(shop).payment
    bought(shop, tenant="neighbour")
    shop.dispute(payment, status, amount)
    assert features(shop) == expected
    assert features(shop, "neighbour") == PASS


def test_losing_what_was_not_refunded_yet_is_losing(shop: Merchant) -> None:
    payment = bought(shop).payment
    shop.refund(payment, 400)
    shop.dispute(payment, "lost", 600)
    assert features(shop) == {}


def test_a_warning_holds_while_it_is_actionable(shop: Merchant) -> None:
    warning = shop.warn(bought(shop).payment)
    assert features(shop) == {}
    shop.settle_warning(warning)
    assert features(shop) == PASS


def test_a_lost_dispute_ends_a_subscription_until_a_newer_invoice_is_paid(shop: Merchant) -> None:
    one = shop.subscribe(shop.customer(), [("prod_pro", 1)], tenant="acme")
    first = shop.bill(one)
    disputed = shop.pay(first)
    dispute = shop.dispute(disputed, "needs_response")
    shop.clock += DAY_S
    shop.pay(shop.bill(one))
    assert features(shop) == {}, "an open dispute holds whatever is paid meanwhile"
    shop.close_dispute(dispute, "lost")
    assert features(shop) == PRO
    shop.dispute(shop.has.invoices[1].payment or disputed, "lost")
    assert features(shop) == {}
    newer = shop.bill(one)
    assert features(shop) == {}
    shop.pay(newer)
    assert features(shop) == PRO


def test_the_refund_of_a_subscriptions_invoice_changes_nothing(shop: Merchant) -> None:
    one = shop.subscribe(shop.customer(), [("prod_pro", 1)], tenant="acme")
    shop.refund(shop.pay(shop.bill(one)), 1000)
    assert features(shop) == PRO


# The simulator ------------------------------------------------------------------------------------


def test_every_edge_leads_from_the_state_that_was_told_before() -> None:
    """And what is told last of an object is what it truly is."""
    edges = 0
    for number in range(300):
        life, _ = live(7, f"t{number}")
        latest: dict[str, Any] = {}
        for told in map(json.loads, life.told):
            content, previous = told["data"]["object"], told["data"].get("previous_attributes")
            # Of the others, endpoints do not hear everything.
            is_whole = content["object"] in ("subscription", "customer", "dispute")
            if is_whole and previous is not None and content["id"] in latest:
                seen = overlaid(content, previous)
                assert _without_nulls(seen) == _without_nulls(latest[content["id"]])
                edges += 1
            latest[content["id"]] = content
        for one in life.merchant.has.subscriptions:
            if one.id in latest:
                assert latest[one.id] == one.shape(life.merchant.generation)
    assert edges > 300


def _without_nulls(content: Any) -> Any:
    """In `previous_attributes`, null is how a key that was absent looks."""
    if not isinstance(content, dict):
        return content
    return {key: _without_nulls(value) for key, value in content.items() if value is not None}


def test_lives_have_everything_in_them() -> None:
    """A generator that left something out would prove nothing of it."""
    types: dict[str, int] = defaultdict(int)
    seconds, empty, in_vain = 0, 0, 0
    generations = set()
    for number in range(500):
        life, vain = live(11, f"t{number}")
        in_vain += vain
        bodies = [json.loads(body) for body in life.told]
        for body in bodies:
            types[body["type"]] += 1
        keys = [(body["created"], body["data"]["object"]["id"]) for body in bodies]
        seconds += len(keys) - len(set(keys))
        empty += not any(life.features(NOW_S).values())
        generations.add(life.merchant.generation)
    assert generations == set(Generation)
    assert seconds > 300, "many changes of one object fall into one second"
    assert 100 < empty < 300
    assert in_vain <= 15
    assert min(types.values()) >= 3
    assert len(types) == 35, sorted(types)


def test_a_life_is_drawn_from_its_seed_and_its_name() -> None:
    first, again = (live(5, "t1")[0] for _ in range(2))
    assert first.told == again.told
    assert first.told != live(6, "t1")[0].told


def test_a_difference_shows_the_life_in_order() -> None:
    shown = str(Difference(live(5, "t1")[0], "t1", {"sso": True}, {}))
    assert "life t1, tenant t1" in shown
    assert "expected {'sso': True}" in shown
    steps = [int(line.split("s ")[0]) for line in shown.splitlines() if line[:3] in ("  -", "  +")]
    assert len(steps) > 3
    assert steps == sorted(steps)


def test_a_loop_that_nobody_saw_begin_is_not_decidable() -> None:
    life, _ = live(5, "t1", ())
    shop = life.merchant
    one = shop.subscribe(shop.customer(), [("prod_pro", 1)], starts_unseen=True)
    assert not is_decidable(life)
    shop.change(one, cancel_at=NOW_S)
    assert is_decidable(life)
    shop.change(one, cancel_at=None)
    assert not is_decidable(life)
