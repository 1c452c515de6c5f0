"""What refunds, disputes and warnings do to what was paid for, whatever else is known."""

import itertools
import random

import pytest

from shared.domain.payments import Circumstances, Policy, Seen, circumstances, joints_of
from shared.domain.register import Register, Sighting
from shared.domain.states import ObjectState


def seen(kind: str, name: str, status: str, version: int = 100, **fields: object) -> Seen:
    state = ObjectState(status, **fields)  # type: ignore[arg-type]
    return Seen(kind, name, Register(version, (Sighting(version, state),)))


def purchase(amount: int | None = 1000, status: str = "paid") -> Seen:
    return seen("checkout.session", "cs", status, amount=amount, refs=("payment_intent/pi",))


def charge(amount: int = 1000, refunded: int = 0, version: int = 100) -> Seen:
    return seen("charge", "ch", "succeeded", version, amount=amount, refunded=refunded,
                refs=("payment_intent/pi",))  # fmt: skip


def refund(name: str, amount: int, status: str = "succeeded", version: int = 100) -> Seen:
    return seen("refund", name, status, version, amount=amount,
                refs=("charge/ch", "payment_intent/pi"))  # fmt: skip


def dispute(status: str, amount: int = 1000, name: str = "du") -> Seen:
    return seen("dispute", name, status, amount=amount, refs=("charge/ch", "payment_intent/pi"))


def of(target: str, *objects: Seen, policy: Policy | None = None) -> Circumstances:
    """The target's circumstances, the same in every order of the objects."""
    found = {
        circumstances("stripe", policy or Policy(), some)[target]
        for some in itertools.islice(itertools.permutations(objects), 24)
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(("others", "reversals"), [
    ([refund("a", 400)], ()),
    ([refund("a", 1000)], ("refund/a",)),
    ([refund("a", 400), refund("b", 600)], ("refund/a", "refund/b")),
    ([refund("a", 1000, "pending")], ("refund/a",)),
    ([refund("a", 1000, "failed")], ()),
    ([refund("a", 1000, "canceled"), refund("b", 300)], ()),
    ([charge(refunded=400)], ()),
    ([charge(refunded=1000)], ("charge/ch",)),
    # The charge said so before the refund failed …
    ([charge(refunded=1000, version=100), refund("a", 1000, "failed", 200)], ()),
    # … and this charge knows of the failure: what it says now is another refund.
    ([charge(refunded=1000, version=300), refund("a", 1000, "failed", 200)], ("charge/ch",)),
    # What was charged counts, not what the session was opened for.
    ([charge(amount=800), refund("a", 800)], ("refund/a",)),
    ([dispute("lost")], ("dispute/du",)),
    # Its amount is in the currency of the day; whatever it is, the dispute was lost.
    ([dispute("lost", 998)], ("dispute/du",)),
    ([dispute("lost", 300), refund("a", 700)], ("dispute/du",)),
    ([dispute("lost", 300), refund("a", 1000)], ("dispute/du", "refund/a")),
    ([dispute("won")], ()),
])  # fmt: skip
def test_a_purchase_is_reversed_by_its_whole_price_only(
    others: list[Seen], reversals: tuple[str, ...]
) -> None:
    assert of("checkout.session/cs", purchase(), *others).reversals == reversals


def test_what_cost_nothing_cannot_be_refunded() -> None:
    free = purchase(0, "no_payment_required")
    assert of("checkout.session/cs", free, refund("a", 0)).reversals == ()


@pytest.mark.parametrize(("policy", "holds"), [
    (Policy(), ("dispute/du", "radar.early_fraud_warning/w")),
    (Policy(disputes="keep"), ("radar.early_fraud_warning/w",)),
    (Policy(fraud_warnings="keep"), ("dispute/du",)),
])  # fmt: skip
def test_policy_says_what_holds(policy: Policy, holds: tuple[str, ...]) -> None:
    warned = seen("radar.early_fraud_warning", "w", "actionable", refs=("charge/ch",))
    around = of(
        "checkout.session/cs", purchase(), charge(), warned, dispute("needs_response"),
        policy=policy,
    )  # fmt: skip
    assert around.holds == holds


def test_a_hold_ends_with_the_last_that_holds() -> None:
    both = [purchase(), dispute("won"), dispute("under_review", name="du2")]
    assert of("checkout.session/cs", *both).holds == ("dispute/du2",)
    assert of("checkout.session/cs", purchase(), dispute("won")).holds == ()


def invoice(name: str, created: int, status: str = "paid") -> Seen:
    return seen("invoice", name, status, refs=("subscription/sub",), started_at=created)


def paid_by(name: str, number: str) -> Seen:
    return seen("invoice_payment", f"inpay_{name}", "paid",
                refs=(f"invoice/{name}", f"payment_intent/{number}"))  # fmt: skip


SUBSCRIPTION = seen("subscription", "sub", "active")


def test_a_dispute_reaches_its_own_subscription_and_no_other_payment_of_it() -> None:
    objects = [SUBSCRIPTION, invoice("in_1", 1), invoice("in_2", 2), paid_by("in_1", "pi"),
               paid_by("in_2", "pi2"), dispute("needs_response")]  # fmt: skip
    around = circumstances("stripe", Policy(), objects)
    assert around["subscription/sub"].holds == ("dispute/du",)
    assert around["dispute/du"].bought == ("subscription/sub",)
    assert around["invoice/in_2"].holds == ()


@pytest.mark.parametrize(("later", "reversed_by"), [
    ([], ("dispute/du",)),
    ([invoice("in_2", 2, "open")], ("dispute/du",)),
    ([invoice("in_0", 0)], ("dispute/du",)),
    ([invoice("in_2", 2)], ()),
])  # fmt: skip
def test_a_lost_dispute_stands_until_a_later_invoice_is_paid(
    later: list[Seen], reversed_by: tuple[str, ...]
) -> None:
    objects = [SUBSCRIPTION, invoice("in_1", 1), paid_by("in_1", "pi"), dispute("lost"), *later]
    assert of("subscription/sub", *objects).reversals == reversed_by


def test_a_refunded_invoice_leaves_its_subscription_alone() -> None:
    objects = [SUBSCRIPTION, invoice("in_1", 1), paid_by("in_1", "pi"), refund("a", 1000)]
    around = of("subscription/sub", *objects)
    assert (around.holds, around.reversals) == ((), ())


def test_what_joins_nothing_has_bought_nothing() -> None:
    assert of("dispute/du", dispute("needs_response"), charge()).bought == ()
    only_links = seen("checkout.session", "cs", "complete", refs=("payment_intent/pi",))
    assert of("dispute/du", dispute("needs_response"), only_links).bought == ()


def test_joints_are_what_payments_meet_by() -> None:
    refs = ("invoice/in_1", "payment_intent/pi_1", "subscription/sub_1")
    assert joints_of("charge", "ch_1", refs) == (
        "charge/ch_1", "invoice/in_1", "payment_intent/pi_1",
    )  # fmt: skip
    assert joints_of("subscription", "sub_1", ()) == ()
    # A guest's that cost nothing would have no lock to stand under.
    assert joints_of("checkout.session", "cs_1", ()) == ("checkout.session/cs_1",)


def test_any_mixture_says_the_same_in_any_order() -> None:
    rng = random.Random(3)
    statuses = ["needs_response", "won", "lost", "warning_closed"]
    for _ in range(200):
        objects = [purchase(rng.choice([None, 0, 1000])), SUBSCRIPTION, invoice("in_1", 1)]
        objects += [paid_by("in_1", rng.choice(["pi", "pi2"]))]
        objects += [dispute(rng.choice(statuses), rng.choice([300, 1000]))]
        objects += [refund(f"re{n}", rng.choice([300, 700])) for n in range(rng.randrange(3))]
        first = circumstances("stripe", Policy(), objects)
        for _ in range(4):
            rng.shuffle(objects)
            assert circumstances("stripe", Policy(), objects) == first
