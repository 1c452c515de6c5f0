"""What is read of invoices, charges, refunds, disputes and warnings: who names whom, and order."""

from typing import Any

import pytest

from shared.domain.standings import STANDINGS
from shared.domain.states import ObjectState
from tests.support.reading import content_of, observed, told_in_any_order
from tests.support.stripe_events import (
    NOW_S,
    charge,
    dispute,
    event,
    invoice,
    invoice_payment,
    listed,
    refund,
    warning,
)

EXPANDED_INTENT = {"id": "pi_1", "object": "payment_intent"}


@pytest.mark.parametrize(
    ("kind", "content", "shape", "status"),
    [
        ("invoice.finalized", invoice(status="open"), "edge", "open"),
        ("invoice.updated", invoice(status="open"), "edge", "open"),
        ("invoice.paid", invoice(), "edge", "paid"),
        ("invoice.payment_succeeded", invoice(), "edge", "paid"),
        ("invoice.payment_failed", invoice(status="open"), "edge", "open"),
        ("invoice.payment_action_required", invoice(status="open"), "edge", "open"),
        ("invoice.overdue", invoice(status="open"), "point", "open"),
        ("invoice.voided", invoice(status="void"), "point", "void"),
        ("invoice.marked_uncollectible", invoice(status="uncollectible"), "point",
         "uncollectible"),
        ("invoice_payment.paid", invoice_payment(), "point", "paid"),
        ("charge.succeeded", charge(), "arrival", "succeeded"),
        ("charge.captured", charge(), "edge", "succeeded"),
        ("charge.updated", charge(), "edge", "succeeded"),
        ("charge.refunded", charge(refunded=1000), "edge", "succeeded"),
        ("refund.created", refund(status="pending"), "arrival", "pending"),
        ("refund.updated", refund(), "edge", "succeeded"),
        ("charge.refund.updated", refund(), "edge", "succeeded"),
        ("refund.failed", refund(status="failed"), "edge", "failed"),
        ("charge.dispute.created", dispute(), "arrival", "needs_response"),
        ("charge.dispute.updated", dispute(status="under_review"), "edge", "under_review"),
        ("charge.dispute.closed", dispute(status="won"), "edge", "won"),
        ("charge.dispute.funds_withdrawn", dispute(), "edge", "needs_response"),
        ("charge.dispute.funds_reinstated", dispute(status="won"), "edge", "won"),
        ("radar.early_fraud_warning.created", warning(), "arrival", "actionable"),
        ("radar.early_fraud_warning.updated", warning(actionable=False), "edge",
         "not_actionable"),
    ],
)  # fmt: skip
def test_every_type_observes_its_object(
    kind: str, content: dict[str, Any], shape: str, status: str
) -> None:
    seen = observed(kind, content, previous={"metadata": {"a": None}}, created=NOW_S + 9)
    assert (seen.kind, seen.object_id) == (content["object"], content["id"])
    assert (seen.version, seen.shape, seen.after.status) == (NOW_S + 9, shape, status)
    assert status in STANDINGS["stripe", seen.kind]


@pytest.mark.parametrize(
    "kind",
    ["refund.updated", "refund.failed", "charge.updated", "charge.refunded",
     "charge.dispute.updated", "charge.dispute.closed", "charge.dispute.funds_withdrawn"],
)  # fmt: skip
def test_an_update_that_does_not_say_what_changed_is_a_point(kind: str) -> None:
    assert observed(kind, content_of(kind)).shape == "point"


# Invoices -------------------------------------------------------------------------------------


def refs(kind: str, content: dict[str, Any]) -> tuple[str, ...]:
    return observed(kind, content).after.refs


def test_an_invoice_names_its_subscription_in_its_parent() -> None:
    assert refs("invoice.paid", invoice(subscription="sub_7")) == ("subscription/sub_7",)
    expanded = invoice()
    expanded["parent"]["subscription_details"]["subscription"] = {"id": "sub_7"}
    assert refs("invoice.paid", expanded) == ("subscription/sub_7",)


def test_an_older_invoice_names_everything_itself() -> None:
    old = invoice(subscription=None, payment_intent="pi_1", charge={"id": "ch_1"})
    old["subscription"] = "sub_1"
    del old["parent"]
    assert refs("invoice.paid", old) == (
        "charge/ch_1", "payment_intent/pi_1", "subscription/sub_1",
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        {"id": "il_1", "subscription": "sub_8"},
        {"id": "il_1", "parent": {"subscription_item_details": {"subscription": "sub_8"}}},
        {"id": "il_1", "parent": {"invoice_item_details": {"subscription": "sub_8"},
                                  "subscription_item_details": None}},
    ],
)  # fmt: skip
def test_an_invoice_may_name_its_subscription_on_its_lines_only(line: dict[str, Any]) -> None:
    content = invoice(subscription=None, lines=listed([{"id": "il_0", "parent": None}, line]))
    assert refs("invoice.paid", content) == ("subscription/sub_8",)
    own = invoice(subscription="sub_1", lines=listed([line]))
    assert refs("invoice.paid", own) == ("subscription/sub_1",)


def test_an_invoice_names_its_payments_where_they_are_expanded() -> None:
    payments = [
        invoice_payment("inpay_1", payment_intent="pi_2"),
        invoice_payment("inpay_2", charge="ch_2"),
    ]
    content = invoice(subscription=None, payments=payments)
    assert refs("invoice.paid", content) == ("charge/ch_2", "payment_intent/pi_2")


def test_an_invoices_amount_is_what_was_due() -> None:
    state = observed("invoice.paid", invoice(amount=700)).after
    assert (state.amount, state.customer, state.started_at) == (700, "cus_1", NOW_S - 90)
    assert observed("invoice.finalized", invoice(amount=700, status="open")).after.amount == 700


OLD = {"subscription": "sub_1", "parent": None, "payment_intent": "pi_1"}


@pytest.mark.parametrize("more", [{}, OLD], ids=["basil", "older"])
@pytest.mark.parametrize(
    ("then", "status"),
    [
        (["invoice.paid"], "paid"),
        (["invoice.paid", "invoice.payment_succeeded"], "paid"),
        (["invoice.payment_failed"], "open"),
        (["invoice.payment_action_required"], "open"),
    ],
)
@pytest.mark.parametrize("says_what_changed", [True, False])
def test_finalized_and_charged_within_one_second_converge(
    more: dict[str, Any], then: list[str], status: str, *, says_what_changed: bool
) -> None:
    charged = {"charge": "ch_1"} if more else {}
    content = invoice(status=status, **more, **charged)
    bodies = [event("invoice.finalized", invoice(status="open", **more))]
    bodies += [event(kind, content) for kind in then]
    if says_what_changed:
        previous: dict[str, Any] = {"attempted": False, "attempt_count": 0}
        previous |= {"charge": None} if more else {}
        previous |= {"status": "open", "amount_paid": 0} if status == "paid" else {}
        bodies.append(event("invoice.updated", content, previous=previous))
    register = told_in_any_order("invoice", bodies)
    expected = observed("invoice.overdue", content).after
    assert (register.newest, register.ambiguous) == (expected, False)


def test_an_invoice_payment_joins_an_invoice_and_a_payment() -> None:
    state = observed("invoice_payment.paid", invoice_payment(amount=300)).after
    assert state == ObjectState("paid", refs=("invoice/in_1", "payment_intent/pi_1"), amount=300)
    by_charge = invoice_payment(charge="ch_1")
    assert refs("invoice_payment.paid", by_charge) == ("charge/ch_1", "invoice/in_1")
    expanded = invoice_payment(payment_intent=EXPANDED_INTENT)  # type: ignore[arg-type]
    assert refs("invoice_payment.paid", expanded) == ("invoice/in_1", "payment_intent/pi_1")


# Charges --------------------------------------------------------------------------------------


def test_a_charge_names_its_payment_intent_and_an_older_one_its_invoice() -> None:
    assert refs("charge.succeeded", charge()) == ("payment_intent/pi_1",)
    old = charge(invoice="in_1", payment_intent=EXPANDED_INTENT)  # type: ignore[arg-type]
    assert refs("charge.succeeded", old) == ("invoice/in_1", "payment_intent/pi_1")
    assert refs("charge.succeeded", charge(payment_intent=None)) == ()
    assert observed("charge.succeeded", charge(customer=None)).after.customer is None


@pytest.mark.parametrize(
    ("amount", "refunded", "content"),
    [
        (1000, 0, charge()),
        (1000, 400, charge(refunded=400)),
        (1000, 1000, charge(refunded=1000)),
        # Authorized only.
        (1000, 0, charge(captured=False, amount_captured=0)),
        # 400 of 1000 captured: the rest was never paid, whether it is counted as refunded or not.
        (400, 0, charge(amount_captured=400, refunded=600) | {"refunded": False}),
        (400, 0, charge(amount_captured=400)),
        (400, 150, charge(amount_captured=400, refunded=750) | {"refunded": False}),
        (400, 400, charge(amount_captured=400, refunded=1000)),
        (400, 400, charge(amount_captured=400, refunded=400) | {"refunded": True}),
    ],
)  # fmt: skip
def test_a_charge_says_what_was_paid_and_how_much_of_it_went_back(
    amount: int, refunded: int, content: dict[str, Any]
) -> None:
    state = observed("charge.refunded", content).after
    assert (state.amount, state.refunded) == (amount, refunded)


def test_partial_refunds_within_one_second_add_up() -> None:
    bodies = [
        event("charge.succeeded", charge()),
        event("charge.refunded", charge(refunded=300), previous={"amount_refunded": 0}),
        event("charge.refunded", charge(refunded=1000),
              previous={"amount_refunded": 300, "refunded": False}),
    ]  # fmt: skip
    register = told_in_any_order("charge", bodies)
    assert (register.newest.refunded, register.ambiguous) == (1000, False)


# What speaks against a payment ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("refund.created", refund),
        ("charge.dispute.created", dispute),
        ("radar.early_fraud_warning.created", warning),
    ],
)
def test_it_names_the_charge_and_the_payment(kind: str, build: Any) -> None:
    both = ("charge/ch_1", "payment_intent/pi_1")
    assert refs(kind, build()) == both
    assert refs(kind, build(charge={"id": "ch_1"}, payment_intent=EXPANDED_INTENT)) == both
    assert refs(kind, build(payment_intent=None)) == ("charge/ch_1",)
    assert refs(kind, build(charge="c\0", payment_intent="p" * 300)) == ()


def test_refunds_and_disputes_have_an_amount() -> None:
    assert observed("refund.created", refund(amount=250)).after.amount == 250
    assert observed("charge.dispute.created", dispute(amount=250)).after.amount == 250


def test_a_refund_told_by_two_types_converges() -> None:
    """`refund.updated` and `charge.refund.updated` are of one change, and `failed` of it too."""
    pending, succeeded = {"status": "pending"}, {"status": "succeeded"}
    register = told_in_any_order(
        "refund",
        [
            event("refund.created", refund(status="pending")),
            event("refund.updated", refund(), previous=pending),
            event("charge.refund.updated", refund(), previous=pending),
            event("refund.updated", refund(status="failed"), previous=succeeded),
            event("refund.failed", refund(status="failed")),
            event("charge.refund.updated", refund(status="failed"), previous=succeeded),
        ],
    )
    assert (register.newest.status, register.ambiguous) == ("failed", False)


def test_a_dispute_opened_and_charged_within_one_second_converges() -> None:
    register = told_in_any_order(
        "dispute",
        [
            event("charge.dispute.created", dispute()),
            event("charge.dispute.funds_withdrawn", dispute()),
            event(
                "charge.dispute.updated",
                dispute(status="under_review"),
                previous={"status": "needs_response", "evidence": {"receipt": None}},
            ),
        ],
    )
    assert (register.newest.status, register.ambiguous) == ("under_review", False)


def test_a_dispute_won_within_the_second_of_its_review_converges() -> None:
    register = told_in_any_order(
        "dispute",
        [
            event("charge.dispute.created", dispute(), created=NOW_S - 5),
            event("charge.dispute.updated", dispute(status="under_review"),
                  previous={"status": "needs_response"}),
            event("charge.dispute.closed", dispute(status="won"),
                  previous={"status": "under_review"}),
            event("charge.dispute.funds_reinstated", dispute(status="won")),
        ],
    )  # fmt: skip
    assert (register.newest.status, register.ambiguous) == ("won", False)
