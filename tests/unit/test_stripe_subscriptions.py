"""What is read of subscriptions and customers, of several generations of payloads."""

import json
from typing import Any

import pytest

from shared.domain.commands import Observe
from shared.domain.states import Item
from tests.support.reading import observed
from tests.support.stripe_events import NOW_S, customer, subscription

END_S = NOW_S + 30 * 86400


def updated(content: dict[str, Any], previous: dict[str, Any] | None = None) -> Observe:
    return observed("customer.subscription.updated", content, previous=previous)


# When it ends ---------------------------------------------------------------------------------


def test_period_end_on_items() -> None:
    """Since basil the period is the items'; the last of them counts."""
    two = with_items("prod_a", "prod_b", cancel_at_period_end=True)
    two["items"]["data"][1]["current_period_end"] = END_S + 7
    assert updated(two).after.ends_at == END_S + 7


def test_the_period_end_of_older_payloads_is_on_the_subscription() -> None:
    old = subscription(cancel_at_period_end=True, current_period_end=END_S + 5)
    del old["items"]["data"][0]["current_period_end"]
    assert updated(old).after.ends_at == END_S + 5


@pytest.mark.parametrize("at_period_end", [False, None])
def test_cancel_at_only_means_scheduled(at_period_end: bool | None) -> None:
    """Flexible billing: the portal sets `cancel_at` and leaves `cancel_at_period_end` false."""
    content = subscription(cancel_at=END_S, cancel_at_period_end=at_period_end)
    assert updated(content).after.ends_at == END_S


def test_cancel_at_zero_is_none() -> None:
    assert updated(subscription(cancel_at=0)).after.ends_at is None


def test_nothing_scheduled_has_no_end() -> None:
    assert updated(subscription()).after.ends_at is None


# What it is of --------------------------------------------------------------------------------


def with_items(*products: str, **more: Any) -> dict[str, Any]:
    content = subscription(**more)
    (first,) = content["items"]["data"]
    content["items"]["data"] = [
        {**first, "price": {"id": f"price_{product}", "product": product}} for product in products
    ]
    return content


def test_multi_item_union() -> None:
    """All items count, and their order does not."""
    two, turned = with_items("prod_b", "prod_a"), with_items("prod_a", "prod_b")
    assert updated(two).after.items == (
        Item(("price_prod_a", "prod_a")),
        Item(("price_prod_b", "prod_b")),
    )
    assert updated(two).after == updated(turned).after
    assert not updated(two).after.is_partial


def test_more_items_than_the_event_holds_are_partial() -> None:
    content = with_items("prod_a")
    content["items"]["has_more"] = True
    assert updated(content).after.is_partial


def test_an_older_plan_stands_for_its_price() -> None:
    old = subscription()
    item = old["items"]["data"][0]
    item["plan"] = {"id": "plan_1", "product": "prod_pro"}
    del item["price"]
    assert updated(old).after.items == (Item(("plan_1", "prod_pro")),)


def test_a_plan_on_the_subscription_stands_for_its_items() -> None:
    old = subscription(plan={"id": "plan_1", "product": "prod_pro"})
    del old["items"]
    assert updated({**old, "quantity": 3}).after.items == (Item(("plan_1", "prod_pro"), 3),)


def test_a_price_without_a_product_has_one_name() -> None:
    content = subscription()
    content["items"]["data"][0]["price"] = {"id": "price_1", "product": None}
    assert updated(content).after.items == (Item(("price_1",)),)


def test_names_that_no_index_holds_are_left_out() -> None:
    content = subscription(pause_collection={"behavior": "v\0", "resumes_at": None})
    content["items"]["data"][0]["price"] = {"id": "p\0", "product": "p" * 300}
    state = updated(content).after
    assert (state.items, state.collection) == ((Item(()),), None)


def test_expanded_objects_are_their_ids() -> None:
    content = subscription()
    content["customer"] = customer("cus_9")
    content["items"]["data"][0]["price"]["product"] = {"id": "prod_x", "object": "product"}
    state = updated(content).after
    assert (state.customer, state.items[0].refs) == ("cus_9", ("price_prod_pro", "prod_x"))


# Pauses and trials ----------------------------------------------------------------------------


@pytest.mark.parametrize("behavior", ["void", "keep_as_draft", "mark_uncollectible"])
def test_paused_collection_is_told_with_its_end(behavior: str) -> None:
    paused = subscription(pause_collection={"behavior": behavior, "resumes_at": END_S})
    state = updated(paused).after
    assert (state.status, state.collection, state.resumes_at) == ("active", behavior, END_S)


def test_collection_goes_on_where_nothing_paused_it() -> None:
    state = updated(subscription(pause_collection=None)).after
    assert (state.collection, state.resumes_at) == (None, None)


def trial(missing: str | None = "cancel", **more: Any) -> dict[str, Any]:
    settings = {"end_behavior": {"missing_payment_method": missing}} if missing else None
    return subscription(
        **{"status": "trialing", "trial_end": END_S, "trial_settings": settings, **more}
    )


@pytest.mark.parametrize("missing", ["cancel", "pause"])
def test_a_trial_without_a_payment_method_lapses(missing: str) -> None:
    assert updated(trial(missing)).after.lapses_at == END_S
    del (old := trial(missing))["default_payment_method"]
    assert updated(old).after.lapses_at == END_S


@pytest.mark.parametrize(
    "content",
    [
        trial("create_invoice"),
        trial(None),
        trial(default_payment_method="pm_1"),
        trial(default_payment_method={"id": "pm_1", "object": "payment_method"}),
        trial(default_source="card_1"),
        trial(status="active"),
        trial(trial_settings={"end_behavior": None}),
    ],
)
def test_another_trial_does_not_lapse(content: dict[str, Any]) -> None:
    assert updated(content).after.lapses_at is None


def test_a_payment_method_ends_the_lapse_and_the_edge_says_so() -> None:
    seen = updated(trial(default_payment_method="pm_1"), {"default_payment_method": None})
    assert seen.before is not None
    assert (seen.shape, seen.before.lapses_at, seen.after.lapses_at) == ("edge", END_S, None)


# Before and after -----------------------------------------------------------------------------


def test_an_update_is_an_edge_from_the_state_before() -> None:
    seen = updated(
        subscription(status="active", tenant="acme"),
        {"status": "trialing", "metadata": {"tenant_id": None}},
    )
    assert seen.shape == "edge"
    assert seen.before is not None
    assert (seen.before.status, seen.before.tenant) == ("trialing", None)
    assert (seen.after.status, seen.after.tenant) == ("active", "acme")


def test_an_array_of_the_state_before_is_whole() -> None:
    content = with_items("prod_a", "prod_b")
    before = {"items": {"data": json.loads(json.dumps(content["items"]["data"][:1]))}}
    seen = updated(content, before)
    assert seen.before is not None
    assert (len(seen.before.items), len(seen.after.items)) == (1, 2)


def test_an_update_of_what_does_not_matter_leads_nowhere() -> None:
    seen = updated(subscription(), {"latest_invoice": "in_0"})
    assert seen.before == seen.after


def test_an_update_that_does_not_say_what_changed_is_a_point() -> None:
    assert updated(subscription()).shape == "point"
    assert updated(subscription(), {"status": 7}).shape == "point"


@pytest.mark.parametrize(
    ("verb", "shape"),
    [
        ("created", "arrival"),
        ("updated", "edge"),
        ("paused", "point"),
        ("resumed", "point"),
        ("pending_update_applied", "point"),
        ("pending_update_expired", "point"),
        ("trial_will_end", "point"),
        ("deleted", "point"),
    ],
)
def test_every_type_observes_the_subscription(verb: str, shape: str) -> None:
    content = subscription("sub_9", status="canceled" if verb == "deleted" else "paused")
    seen = observed(
        f"customer.subscription.{verb}", content, previous={"status": "active"}, created=NOW_S + 3
    )
    assert (seen.kind, seen.object_id, seen.version) == ("subscription", "sub_9", NOW_S + 3)
    assert (seen.shape, seen.after.status) == (shape, content["status"])


def test_a_deleted_object_is_gone_whatever_its_snapshot_says() -> None:
    assert observed("customer.subscription.deleted", subscription()).after.status == "canceled"
    assert observed("customer.deleted", customer()).after.status == "deleted"


# Customers ------------------------------------------------------------------------------------


def test_a_customer_names_its_tenant() -> None:
    assert observed("customer.created", customer(tenant="t")).shape == "arrival"
    assert observed("customer.updated", customer(tenant="t")).after.tenant == "t"
    assert observed("customer.updated", customer(tenant="t\0")).after.tenant is None


@pytest.mark.parametrize(
    ("more", "has_one"),
    [
        ({}, False),
        ({"invoice_settings": {"default_payment_method": None}, "default_source": None}, False),
        ({"invoice_settings": {"default_payment_method": "pm_1"}}, True),
        ({"invoice_settings": {"default_payment_method": {"id": "pm_1"}}}, True),
        ({"default_source": "card_1"}, True),
    ],
)
def test_a_customer_says_whether_it_can_pay(more: dict[str, Any], has_one: bool) -> None:
    assert observed("customer.updated", customer(**more)).after.has_payment_method is has_one


def test_a_customers_new_payment_method_is_an_edge() -> None:
    seen = observed(
        "customer.updated",
        customer(invoice_settings={"default_payment_method": "pm_1", "footer": None}),
        previous={"invoice_settings": {"default_payment_method": None}},
    )
    assert seen.before is not None
    assert (seen.before.has_payment_method, seen.after.has_payment_method) == (False, True)
