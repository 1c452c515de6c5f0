"""What is read of checkout sessions: links, and in mode payment purchases."""

from typing import Any

import pytest

from shared.domain.states import Item
from shared.providers.base import PayloadError
from tests.support.reading import asked_of, observed, told_in_any_order
from tests.support.stripe_events import (
    NOW_S,
    event,
    fetched,
    line_item,
    listed,
    purchase,
    session,
)

COMPLETED = "checkout.session.completed"
SUCCEEDED = "checkout.session.async_payment_succeeded"
FAILED = "checkout.session.async_payment_failed"
EXPIRED = "checkout.session.expired"


# Links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["subscription", "setup", None])
def test_a_session_that_sells_nothing_itself_carries_links(mode: str | None) -> None:
    content = session(reference="r", mode=mode, metadata={"tenant_id": "t", "sluice_plan": "pro"})
    seen = observed(COMPLETED, {**content, "payment_link": "plink_1", "payment_intent": "pi_1"})
    assert (seen.kind, seen.object_id, seen.shape) == ("checkout.session", "cs_1", "arrival")
    state = seen.after
    assert (state.status, state.customer) == ("complete", "cus_1")
    assert (state.reference, state.tenant, state.started_at) == ("r", "t", NOW_S - 150)
    assert (state.refs, state.plan, state.offer, state.items) == ((), None, None, ())
    assert (state.is_partial, state.amount) == (False, None)


def test_a_reference_that_no_index_holds_is_left_out() -> None:
    assert observed(COMPLETED, session(reference="r\0")).after.reference is None


@pytest.mark.parametrize("content", [session(reference="r"), purchase(reference="r")])
@pytest.mark.parametrize(
    ("kind", "status", "reference"),
    [(EXPIRED, "expired", None), (FAILED, "async_payment_failed", "r")],
)
def test_what_was_completed_links_and_what_was_never_paid_sells_nothing(
    kind: str, status: str, reference: str | None, content: dict[str, Any]
) -> None:
    state = observed(kind, {**content, "payment_status": "unpaid"}).after
    assert (state.status, state.reference, state.customer) == (status, reference, "cus_1")
    assert (state.refs, state.is_partial) == ((), False)


def test_without_a_customer_a_session_stands_alone() -> None:
    assert observed(COMPLETED, purchase(customer=None)).after.customer is None


# Purchases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["paid", "no_payment_required", "unpaid", "some_new_word"])
def test_a_purchase_has_its_payment_status(status: str) -> None:
    assert observed(COMPLETED, purchase(payment_status=status)).after.status == status


def test_a_purchase_names_its_payment_and_what_it_cost() -> None:
    state = observed(COMPLETED, purchase(reference="r", amount=4900, invoice="in_9")).after
    assert state.refs == ("invoice/in_9", "payment_intent/pi_1")
    assert (state.amount, state.reference, state.started_at) == (4900, "r", NOW_S - 150)


def test_a_purchase_of_nothing_to_pay_names_no_payment() -> None:
    content = purchase(payment_status="no_payment_required", payment_intent=None)
    assert observed(COMPLETED, content).after.refs == ()


def test_a_purchase_names_its_plan_and_needs_no_lines_then() -> None:
    state = observed(COMPLETED, purchase(plan="lifetime")).after
    assert (state.plan, state.is_partial) == ("lifetime", False)


@pytest.mark.parametrize("link", ["plink_1", {"id": "plink_1", "object": "payment_link"}])
def test_a_purchase_names_its_payment_link(link: Any) -> None:
    assert observed(COMPLETED, purchase(payment_link=link)).after.offer == "plink_1"


def test_no_event_carries_the_lines_of_a_purchase() -> None:
    state = observed(COMPLETED, purchase()).after
    assert (state.items, state.is_partial) == ((), True)


def test_lines_that_a_fetch_expanded_are_its_items() -> None:
    lines = [line_item("prod_b", 2), line_item("prod_a")]
    state = observed(COMPLETED, purchase(items=lines)).after
    assert state.items == (
        Item(("price_prod_a", "prod_a")),
        Item(("price_prod_b", "prod_b"), 2),
    )
    assert not state.is_partial


def test_lines_with_more_to_come_are_partial() -> None:
    content = purchase(line_items=listed([line_item()], has_more=True))
    assert observed(COMPLETED, content).after.is_partial


def test_a_purchase_must_say_whether_it_was_paid() -> None:
    with pytest.raises(PayloadError, match="payment_status"):
        asked_of(COMPLETED, event(COMPLETED, purchase(payment_status=None)))


# Delayed payments -----------------------------------------------------------------------------


def test_a_delayed_payment_was_unpaid_before() -> None:
    completed = observed(COMPLETED, purchase(payment_status="unpaid", reference="r"))
    succeeded = observed(SUCCEEDED, purchase(payment_status="paid", reference="r"))
    failed = observed(FAILED, purchase(payment_status="unpaid", reference="r"))
    assert completed.shape == "arrival"
    assert succeeded.shape == failed.shape == "edge"
    assert completed.after == succeeded.before == failed.before
    assert (succeeded.after.status, failed.after.status) == ("paid", "async_payment_failed")


def test_a_delayed_payment_of_a_subscription_changes_nothing_here() -> None:
    seen = observed(SUCCEEDED, session(reference="r"))
    assert seen.before == seen.after == observed(COMPLETED, session(reference="r")).after


@pytest.mark.parametrize(
    ("last", "paid", "status"),
    [(SUCCEEDED, "paid", "paid"), (FAILED, "unpaid", "async_payment_failed")],
)
def test_completed_and_paid_within_one_second_converge(last: str, paid: str, status: str) -> None:
    register = told_in_any_order(
        "checkout.session",
        [
            event(COMPLETED, purchase(payment_status="unpaid")),
            event(last, purchase(payment_status=paid)),
        ],
    )
    assert (register.newest.status, register.ambiguous) == (status, False)


# Fetched --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "reference"),
    [
        (purchase(reference="r", items=[line_item()]), "paid", "r"),
        (session(reference="r"), "complete", "r"),
        (session(reference="r", status="open"), "open", None),
        (purchase(reference="r", status="open", payment_status="unpaid"), "open", None),
        (purchase(reference="r", status="expired", payment_status="unpaid"), "expired", None),
        (session(reference="r", status=None), "complete", "r"),
    ],
)
def test_a_fetched_session_has_its_own_status_where_it_is_not_complete(
    content: dict[str, Any], status: str, reference: str | None
) -> None:
    body = fetched("checkout.session", "cs_1", content)
    (command,) = asked_of("sluice.fetched", body)
    assert (command.after.status, command.after.reference) == (status, reference)
