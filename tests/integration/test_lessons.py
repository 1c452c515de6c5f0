"""
What teams got wrong, by the names under which `entitlements.md` lists it.

Each story is told in every order that its length allows (at most 12), to as many tenants at once.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.support.stack import PLANS, Stack, drain, new_crew
from tests.support.stripe_events import (
    NOW_S,
    charge,
    customer,
    dispute,
    event,
    fetched,
    invoice,
    invoice_payment,
    purchase,
    refund,
    session,
    subscription,
    summary,
    warning,
)
from workers.sweep import derive_again

PRO = {"seats": 10, "sso": True}
PASS = {"archive": True}
CATALOG = {
    **PLANS,
    "pass": {"products": ["stripe:plink_pass", "stripe:prod_pass"], "features": PASS},
    "extra": {
        "products": ["stripe:prod_extra", "stripe:feat_export"],
        "features": {"export": True},
    },
    "sso-key": {"products": ["stripe:sso"], "features": {"sso": True}},
}
Story = Callable[[str], Sequence[bytes]]


async def told(
    stack: Stack,
    story: Story,
    expected: dict[str, Any],
    *,
    orders: int = 12,
    ready: bool = False,
    prefix: str = "",
) -> None:
    """Tell the story of each tenant `t0`, `t1` … in another order; all end as expected."""
    if not ready:
        await stack.configure(plans=CATALOG)
    length = len(story(f"{prefix}0"))
    ways = list(itertools.islice(itertools.permutations(range(length)), 5000))
    ways = [ways[0], *random.Random(5).sample(ways[1:], min(orders, len(ways)) - 1)]
    stories = [[story(f"{prefix}{n}")[turn] for turn in way] for n, way in enumerate(ways)]
    for together in zip(*stories, strict=True):
        await stack.apply(*together)
    for number, way in enumerate(ways):
        assert await stack.features(f"t{prefix}{number}") == expected, f"order {way}"
    dead = await stack.fetch("SELECT code, error FROM settlements WHERE status = 'dead'")
    assert dead == []


async def parked(stack: Stack) -> dict[str, str]:
    rows = await stack.fetch("SELECT kind, object_id, parked FROM objects WHERE parked IS NOT NULL")
    return {f"{row['kind']}/{row['object_id']}": row["parked"] for row in rows}


def sub(n: str, status: str = "active", **more: Any) -> dict[str, Any]:
    more = {"tenant": f"t{n}", **more}
    return subscription(f"sub_{n}", customer=f"cus_{n}", status=status, **more)


async def test_late_created_does_not_regress(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        return [
            event("customer.subscription.created", sub(n, "incomplete"), created=NOW_S),
            event("customer.subscription.updated", sub(n), created=NOW_S + 1,
                  previous={"status": "incomplete"}),
        ]  # fmt: skip

    await told(stack, story, PRO)


async def test_same_second_pair_converges(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        return [
            event("customer.subscription.created", sub(n, "incomplete")),
            event("customer.subscription.updated", sub(n), previous={"status": "incomplete"}),
            event("customer.subscription.updated", sub(n, product="prod_basic"),
                  previous={"items": sub(n)["items"]}),
        ]  # fmt: skip

    await told(stack, story, {"seats": 1})


async def test_deleted_then_updated_stays_dead(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        return [
            event("customer.subscription.created", sub(n), created=NOW_S - 9),
            event("customer.subscription.deleted", sub(n, "canceled"), created=NOW_S),
            event("customer.subscription.updated", sub(n), created=NOW_S + 5,
                  previous={"metadata": {}}),
        ]  # fmt: skip

    await told(stack, story, {})


async def test_old_sub_deleted_keeps_new(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        new = {**sub(n), "id": f"sub_new_{n}"}
        return [
            event("customer.subscription.created", sub(n, product="prod_basic"), created=NOW_S - 9),
            event("customer.subscription.created", new, created=NOW_S - 1),
            event("customer.subscription.deleted", sub(n, "canceled"), created=NOW_S),
        ]

    await told(stack, story, PRO)


async def test_checkout_before_subscription_parks(stack: Stack) -> None:
    """Neither is lost: whichever comes first waits, visibly, for the other."""

    def story(n: str) -> list[bytes]:
        return [
            event("checkout.session.completed",
                  session(f"cs_{n}", customer=f"cus_{n}", reference=f"t{n}")),
            event("customer.subscription.created", sub(n, tenant=None)),
        ]  # fmt: skip

    await told(stack, story, PRO)
    await stack.apply(
        event("customer.subscription.created", subscription("sub_x", customer="cus_x"))
    )
    assert await parked(stack) == {"subscription/sub_x": "needs:link"}


async def test_unknown_customer_parks_and_is_listed(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription()))
    assert await parked(stack) == {"subscription/sub_1": "needs:link"}
    await stack.apply(event("customer.created", customer(tenant="acme")))
    assert await stack.features("acme") == PRO
    assert await parked(stack) == {}


async def test_cancel_at_only_means_scheduled(stack: Stack) -> None:
    ends_at = NOW_S + 40 * 86_400
    body = subscription(tenant="acme", cancel_at=ends_at, cancel_at_period_end=False)
    await stack.apply(event("customer.subscription.updated", body, previous={"cancel_at": None}))
    assert await stack.features("acme") == PRO
    until = await stack.value("SELECT DISTINCT extract(epoch FROM valid_until)::bigint FROM grants")
    assert until == ends_at


async def test_period_end_on_items(stack: Stack) -> None:
    body = subscription(tenant="acme", cancel_at_period_end=True)
    assert "current_period_end" not in body
    await stack.apply(event("customer.subscription.created", body))
    until = await stack.value("SELECT DISTINCT extract(epoch FROM valid_until)::bigint FROM grants")
    assert until == NOW_S + 30 * 86_400


async def test_multi_item_union(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        both = sub(n)
        both["items"]["data"] += sub(n, product="prod_extra")["items"]["data"]
        return [
            event("customer.subscription.created", sub(n), created=NOW_S - 5),
            event("customer.subscription.updated", both, previous={"items": sub(n)["items"]}),
        ]

    await told(stack, story, {**PRO, "export": True})


async def test_test_event_on_live_source_rejected(stack: Stack) -> None:
    test = event("customer.subscription.created", subscription(tenant="a"), livemode=False)
    await stack.apply(test)
    assert await stack.features("a") == {}
    assert await stack.value("SELECT code FROM settlements") == "mode_mismatch"


def bought(n: str, **more: Any) -> bytes:
    """A purchase by a customer, whose product is its payment link's."""
    content = purchase(f"cs_{n}", customer=f"cus_{n}", payment_intent=f"pi_{n}", reference=f"t{n}",
                       payment_link="plink_pass", amount=1000)  # fmt: skip
    return event("checkout.session.completed", content, created=NOW_S - 50, **more)


async def test_partial_refund_keeps(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [
            bought(n),
            event("refund.created", refund(f"re_{n}", amount=400, **names)),
            event("charge.refunded", charge(f"ch_{n}", customer=f"cus_{n}", refunded=400,
                                            payment_intent=f"pi_{n}")),
        ]  # fmt: skip

    await told(stack, story, PASS)


async def test_full_refund_revokes(stack: Stack) -> None:
    """By the charge's account, by its refunds, by two of them together."""

    def by_refunds(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [
            bought(n),
            event("refund.created", refund(f"re_{n}", amount=400, **names)),
            event("refund.created", refund(f"re_b{n}", amount=600, **names), created=NOW_S + 9),
        ]

    await told(stack, by_refunds, {})

    def by_charge(n: str) -> list[bytes]:
        full = charge(f"ch_{n}", customer=f"cus_{n}", refunded=1000, payment_intent=f"pi_{n}")
        return [bought(n), event("charge.refunded", full)]

    await told(stack, lambda n: by_charge(n)[:1], PASS, ready=True, prefix="c")
    await told(stack, lambda n: by_charge(n)[1:], {}, ready=True, orders=1, prefix="c")
    await told(stack, by_charge, {}, ready=True, prefix="d")


async def test_refund_failed_restores(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [
            bought(n),
            event("refund.created", refund(f"re_{n}", status="pending", **names), created=NOW_S),
            event("charge.refunded", charge(f"ch_{n}", customer=f"cus_{n}", refunded=1000,
                                            payment_intent=f"pi_{n}"), created=NOW_S),
            event("refund.failed", refund(f"re_{n}", status="failed", **names), created=NOW_S + 90),
        ]  # fmt: skip

    await told(stack, story, PASS)


async def test_dispute_holds_and_lost_revokes(stack: Stack) -> None:
    def opened(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [bought(n), event("charge.dispute.created", dispute(f"du_{n}", **names))]

    await told(stack, opened, {})

    def lost(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        closed = dispute(f"du_{n}", status="lost", **names)
        return [event("charge.dispute.closed", closed, created=NOW_S + 99)]

    await told(stack, lost, {}, ready=True, orders=1)
    held = await stack.value("SELECT count(*) FROM objects WHERE kind = 'dispute' AND adverse")
    assert held == 2


async def test_dispute_won_restores(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [
            bought(n),
            event("charge.dispute.created", dispute(f"du_{n}", **names), created=NOW_S),
            event("charge.dispute.closed", dispute(f"du_{n}", status="won", **names),
                  created=NOW_S + 90),
        ]  # fmt: skip

    await told(stack, story, PASS)


async def test_disputed_invoice_holds_its_subscription_and_no_other(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        other = {**sub(n, product="prod_extra"), "id": f"sub_other_{n}"}
        return [
            event("customer.subscription.created", sub(n)),
            event("customer.subscription.created", other),
            event("invoice.paid", invoice(f"in_{n}", customer=f"cus_{n}", subscription=f"sub_{n}")),
            event("invoice_payment.paid",
                  invoice_payment(f"inpay_{n}", invoice=f"in_{n}", payment_intent=f"pi_{n}")),
            event("charge.dispute.created",
                  dispute(f"du_{n}", charge=f"ch_{n}", payment_intent=f"pi_{n}")),
        ]  # fmt: skip

    await told(stack, story, {"export": True})
    assert await parked(stack) == {}


async def test_disputed_invoice_of_an_older_api_version(stack: Stack) -> None:
    """Before basil the charge names its invoice, and the invoice its subscription."""

    def story(n: str) -> list[bytes]:
        old = invoice(f"in_{n}", customer=f"cus_{n}", subscription=None)
        del old["parent"]
        old |= {"subscription": f"sub_{n}", "charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        paid = charge(f"ch_{n}", customer=f"cus_{n}", payment_intent=f"pi_{n}", invoice=f"in_{n}")
        return [
            event("customer.subscription.created", sub(n)),
            event("invoice.paid", old),
            event("charge.succeeded", paid),
            event("radar.early_fraud_warning.created",
                  warning(f"issfr_{n}", charge=f"ch_{n}", payment_intent=f"pi_{n}")),
        ]  # fmt: skip

    await told(stack, story, {})


async def test_lost_dispute_is_over_with_the_next_paid_invoice(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        disputed = invoice(f"in_{n}", customer=f"cus_{n}", subscription=f"sub_{n}")
        renewed = {**disputed, "id": f"in_next_{n}", "created": disputed["created"] + 86_400}
        return [
            event("customer.subscription.created", sub(n)),
            event("invoice.paid", disputed),
            event("invoice_payment.paid",
                  invoice_payment(f"inpay_{n}", invoice=f"in_{n}", payment_intent=f"pi_{n}")),
            event("charge.dispute.closed",
                  dispute(f"du_{n}", status="lost", charge=f"ch_{n}", payment_intent=f"pi_{n}")),
            event("invoice.paid", renewed),
        ]  # fmt: skip

    await told(stack, lambda n: story(n)[:4], {})
    await told(stack, lambda n: story(n)[4:], PRO, ready=True, orders=1)


async def test_a_guest_s_purchase_and_its_refund(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        guest = purchase(f"cs_{n}", customer=None, payment_intent=f"pi_{n}", reference=f"t{n}",
                         plan="pass", amount=1000)  # fmt: skip
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        return [
            event("checkout.session.completed", guest),
            event("refund.created", refund(f"re_{n}", **names)),
        ]

    await told(stack, lambda n: story(n)[:1], PASS)
    await told(stack, lambda n: story(n)[1:], {}, ready=True, orders=1)
    await told(stack, story, {}, ready=True, prefix="b")


async def test_a_refund_that_joins_nothing_waits_for_its_payment(stack: Stack) -> None:
    await stack.configure(plans=CATALOG)
    await stack.apply(event("refund.created", refund("re_1", payment_intent="pi_1")))
    assert await parked(stack) == {"refund/re_1": "needs:payment"}
    content = purchase(
        customer=None, payment_intent="pi_1", plan="pass", reference="a", amount=1000
    )
    await stack.apply(event("checkout.session.completed", content))
    assert await parked(stack) == {}
    assert await stack.features("a") == {}


async def test_delayed_payment_grants_when_it_arrives(stack: Stack) -> None:
    def story(n: str) -> list[bytes]:
        unpaid = purchase(f"cs_{n}", customer=f"cus_{n}", payment_intent=f"pi_{n}", plan="pass",
                          reference=f"t{n}", payment_status="unpaid")  # fmt: skip
        paid = {**unpaid, "payment_status": "paid"}
        return [
            event("checkout.session.completed", unpaid),
            event("checkout.session.async_payment_succeeded", paid),
        ]

    await told(stack, lambda n: story(n)[:1], {})
    await told(stack, story, PASS, ready=True, prefix="b")


async def test_a_purchase_without_a_key_waits_for_its_line_items(stack: Stack) -> None:
    await stack.configure(plans=CATALOG)
    content = purchase(customer="cus_1", reference="a")
    await stack.apply(event("checkout.session.completed", content))
    assert await parked(stack) == {"checkout.session/cs_1": "needs:line_items"}
    assert await stack.value("SELECT wants FROM objects") == "line_items"


async def test_summary_removal_removes(stack: Stack) -> None:
    await stack.configure(plans=CATALOG)
    await stack.set(grants_from="summary")

    def story(n: str) -> list[bytes]:
        both, one = summary(f"cus_{n}", ["sso", "export"]), summary(f"cus_{n}", ["sso"])
        return [
            event("customer.created", customer(f"cus_{n}", tenant=f"t{n}")),
            event("entitlements.active_entitlement_summary.updated", both, created=NOW_S - 5),
            event("entitlements.active_entitlement_summary.updated", one, created=NOW_S),
        ]

    await told(stack, story, {"sso": True}, ready=True)


async def test_summary_paged(stack: Stack) -> None:
    """A summary with more pages adds what it lists, and takes nothing away before it is whole."""
    await stack.configure(plans=CATALOG)
    await stack.set(grants_from="summary")
    await stack.apply(
        event("customer.created", customer(tenant="a")),
        event("entitlements.active_entitlement_summary.updated", summary("cus_1", ["export"]),
              created=NOW_S - 5),
        event("entitlements.active_entitlement_summary.updated",
              summary("cus_1", ["sso"], has_more=True)),
    )  # fmt: skip
    assert await stack.features("a") == {"sso": True, "export": True}
    assert await stack.value("SELECT wants FROM objects WHERE wants IS NOT NULL") == "list"
    assert list((await parked(stack)).values()) == ["needs:fetch"]


async def test_a_paused_trial_s_summary_grants_nothing(stack: Stack) -> None:
    """Stripe leaves entitlements in place where a trial ends without a payment method."""
    await stack.configure(plans=CATALOG)
    await stack.set(grants_from="summary")

    def story(n: str) -> list[bytes]:
        return [
            event("customer.subscription.updated", sub(n, "paused")),
            event("entitlements.active_entitlement_summary.updated", summary(f"cus_{n}", ["sso"])),
            event("customer.created", customer(f"cus_{n}", tenant=f"t{n}")),
        ]

    await told(stack, story, {}, ready=True)


async def test_concurrent_refetch_inversion(stack: Stack) -> None:
    """Two workers asked for one object; the older answer comes last."""
    basic = sub("0", product="prod_basic")
    older = fetched("subscription", "sub_0", basic, number=1, floor=NOW_S + 1, ceiling=NOW_S + 30)
    newer = fetched("subscription", "sub_0", sub("0"), number=2, floor=NOW_S + 3, ceiling=NOW_S + 4)
    created = event("customer.subscription.created", sub("0", "incomplete"), created=NOW_S)
    await stack.apply(created)
    await stack.apply(newer)
    await stack.apply(older)
    assert await stack.features("t0") == PRO


async def test_a_dispute_and_its_purchase_never_pass_each_other(stack: Stack) -> None:
    """From two workers at once, 200 pairs: each dispute finds its payment, or is found by it."""
    await stack.configure(plans=CATALOG)
    rng = random.Random(11)
    bodies = []
    for number in range(200):
        names = {"charge": f"ch_{number}", "payment_intent": f"pi_{number}"}
        bodies += [
            bought(str(number)),
            event("charge.dispute.created", dispute(f"du_{number}", **names)),
        ]
    rng.shuffle(bodies)
    async with new_crew(stack.endpoints, "second") as second:
        for first in range(0, len(bodies), 50):
            await stack.receive(*bodies[first : first + 50])
            await asyncio.gather(drain(stack.crew), drain(second))
    assert await stack.value("SELECT count(*) FROM grants") == 0
    assert await parked(stack) == {}


async def test_a_guest_turns_out_to_be_a_customer(stack: Stack) -> None:
    """A charge that names the customer later makes the guest's session that customer's link."""

    def story(n: str) -> list[bytes]:
        guest = purchase(f"cs_{n}", customer=None, payment_intent=f"pi_{n}", reference=f"t{n}",
                         plan="pass", amount=1000)  # fmt: skip
        known = charge(f"ch_{n}", customer=f"cus_{n}", payment_intent=f"pi_{n}")
        return [
            event("checkout.session.completed", guest),
            event("customer.subscription.created", sub(n, tenant=None)),
            event("charge.updated", known),
        ]

    await told(stack, story, {**PRO, **PASS})
    assert await parked(stack) == {}


async def test_two_customers_of_one_payment_and_its_dispute(stack: Stack) -> None:
    """Whatever that may mean: it means the same in every order."""

    def story(n: str) -> list[bytes]:
        names = {"charge": f"ch_{n}", "payment_intent": f"pi_{n}"}
        mine = purchase(f"cs_{n}", customer=f"cus_a{n}", payment_intent=f"pi_{n}", plan="pass",
                        reference=f"t{n}", amount=1000)  # fmt: skip
        theirs = {**mine, "id": f"cs_b{n}", "customer": f"cus_b{n}"}
        return [
            event("checkout.session.completed", mine),
            event("checkout.session.completed", theirs),
            event("charge.dispute.created", dispute(f"du_{n}", **names)),
        ]

    await stack.configure(plans=CATALOG)
    found = set()
    for number, way in enumerate(itertools.permutations(range(3))):
        bodies = story(str(number))
        for turn in way:
            await stack.apply(bodies[turn])
        rows = await stack.fetch(
            "SELECT o.kind, rtrim(o.object_id, '012345') AS name, left(o.customer, 5) AS owner,"
            " o.parked, count(g.object) AS grants"
            " FROM objects o LEFT JOIN grants g ON g.object = o.id"
            " WHERE right(o.object_id, 1) = $1 GROUP BY o.id ORDER BY o.kind, o.object_id",
            str(number),
        )
        found.add(tuple(tuple(row.values()) for row in rows))
    assert len(found) == 1, found


async def test_a_summary_says_the_same_to_an_event_and_to_a_new_catalog(stack: Stack) -> None:
    """The subscription that has lapsed is another tenant's: it counts all the same."""
    await stack.configure(plans=CATALOG)
    await stack.set(grants_from="summary")
    await stack.apply(
        event("customer.created", customer("cus_1", tenant="a")),
        event("customer.subscription.updated", subscription("sub_1", status="paused", tenant="b")),
        event("entitlements.active_entitlement_summary.updated", summary("cus_1", ["sso"])),
    )
    assert await stack.features("a") == {}
    await stack.configure(plans=CATALOG)
    await derive_again(stack.crew, "a")
    assert await stack.features("a") == {}
