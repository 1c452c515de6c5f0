"""What happens in generated lives: to subscriptions, purchases, refunds, disputes and links."""

import copy
from typing import Any

from tests.support.life import LATER, SOON, Life, Story
from tests.support.stripe_events import NOW_S
from tests.support.stripe_objects import DAY_S, Customer, Item, Payment, Session, Subscription

PRODUCTS = ["prod_free", "prod_basic", "prod_pro", "prod_team", "prod_extra", "prod_bundle",
            "prod_ent"]  # fmt: skip
#: What a subscription may go back to, as if nothing had been.
REVERSIBLE = ("items", "tenant", "cancel_at", "ends_with_period", "collection",
              "has_payment_method")  # fmt: skip


def begin(life: Life) -> None:
    """Somebody comes to the merchant: a customer of some tenant, or a guest."""
    if "purchases" in life.themes and life.chance(0.35):
        life.stories.append(_buy(life, None))
    tenant = life.tenants[0]
    ways = _ways(life)
    customer = life.merchant.customer(
        told=life.chance(0.9) or "customer" in ways or "trials" in life.themes,
        tenant=tenant if "customer" in ways and life.chance(0.6) else None,
    )
    if "customer" in ways and customer.tenant is None:
        life.stories.append(_name_later(life, customer, tenant))
    if "operator" in ways:
        life.operators[customer.id] = tenant if life.chance(0.8) else life.tenants[2]
    for way in ("session", "session-too", "session-expired"):
        if way in ways:
            life.stories.append(_check_out(life, customer, way))
    kinds = ["subscriptions", "subscriptions", "purchases"]
    kinds = [kind for kind in kinds if kind in life.themes]
    for _ in range(life.rng.choice([1, 1, 2]) if kinds else 0):
        own = tenant if "own" in ways else None
        if life.rng.choice(kinds) == "subscriptions":
            life.stories.append(_subscribe(life, customer, own))
        else:
            life.stories.append(_buy(life, customer, own))
    if life.chance(0.04):
        life.leaving.append(customer)


def _ways(life: Life) -> set[str]:
    """How the customer comes to its tenant: one way, or several that disagree."""
    first = life.rng.choice(["own", "own", "customer", "session", "operator", "nothing"])
    ways = {first}
    for other in ("own", "customer", "session", "operator"):
        if life.chance(0.12):
            ways.add(other)
    if "session" in ways and life.chance(0.4):
        ways.add("session-too")
    if life.chance(0.1):
        ways.add("session-expired")
    return ways


# Links --------------------------------------------------------------------------------------------


def _name_later(life: Life, customer: Customer, tenant: str) -> Story:
    """The customer's metadata come late, sometimes after another tenant's."""
    yield SOON
    if life.chance(0.3):
        life.merchant.update_customer(customer, tenant=life.tenants[1])
        yield SOON
    life.merchant.update_customer(customer, tenant=tenant)


def _check_out(life: Life, customer: Customer, way: str) -> Story:
    """A session that says whose the customer is; the earliest that completes counts."""
    reference = life.tenants[0 if way == "session" else 1]
    session = life.merchant.open_session("subscription", customer=customer, reference=reference)
    if life.chance(0.3):
        session.plan = "book"  # of a subscription's session it means nothing
    yield SOON
    if way == "session-expired":
        life.merchant.expire(session)
    else:
        life.merchant.complete(session)


# Subscriptions ------------------------------------------------------------------------------------


def _items(life: Life) -> list[tuple[str, int]]:
    count = life.rng.choice([1, 1, 1, 2, 3])
    return [(life.rng.choice(PRODUCTS), life.rng.choice([1, 1, 2, 7])) for _ in range(count)]


def _subscribe(life: Life, customer: Customer, own: str | None) -> Story:
    merchant, rng = life.merchant, life.rng
    named = own if life.chance(0.8) else None
    status = rng.choice(["incomplete", "active", "active", "trialing"])
    one = merchant.subscribe(
        customer,
        _items(life),
        status=status,
        tenant=named,
        trial_end=merchant.clock + 14 * DAY_S if status == "trialing" else None,
        starts_unseen=life.chance(0.05),
    )
    if one.starts_unseen:
        named = one.tenant
    bills = life.chance(0.5) and bool(life.themes & {"disputes", "warnings", "refunds"})
    yield SOON
    if status == "incomplete":
        if life.chance(0.1):
            merchant.change(one, status="incomplete_expired")
            return
        if life.chance(0.9):
            merchant.change(one, status="active")
            yield SOON
    if own is not None and named is None:
        merchant.change(one, tenant=own)
        yield SOON
    trail: list[Subscription] = []
    for _ in range(rng.randint(1, 6)):
        trail.append(copy.copy(one))
        yield _turn(life, one, trail, bills)
        if one.status == "canceled":
            return
    if life.chance(0.25):
        merchant.end(one)


def _turn(life: Life, one: Subscription, trail: list[Subscription], bills: bool) -> bool:
    """One thing that happens to a subscription. Whether the next needs another second."""
    merchant, rng = life.merchant, life.rng
    if life.chance(0.3):
        earlier = rng.choice(trail)
        merchant.change(one, **{name: getattr(earlier, name) for name in REVERSIBLE})
        return SOON
    moves = {
        "incomplete": ["active", "edit"],
        "trialing": ["active", "trial", "trial", "pause", "edit", "past_due"],
        "active": ["edit", "edit", "edit", "bill", "bill", "past_due"],
        "past_due": ["active", "unpaid", "canceled", "edit", "bill"],
        "unpaid": ["active", "canceled", "edit"],
        "paused": ["resume", "canceled", "edit"],
    }
    move = rng.choice(moves[one.status])
    if move == "edit":
        merchant.change(one, **_edit(life, one))
    elif move == "trial":
        _change_trial(life, one)
    elif move == "pause":
        merchant.change(one, "customer.subscription.paused", status="paused")
    elif move == "resume":
        merchant.change(one, "customer.subscription.resumed", status="active")
    elif move == "canceled":
        merchant.end(one)
    elif move == "bill":
        if bills:
            life.stories.append(_bill(life, one))
    else:
        merchant.change(one, status=move)
    return SOON


def _edit(life: Life, one: Subscription) -> dict[str, Any]:
    """A change that somebody makes by hand."""
    rng, items = life.rng, copy.deepcopy(one.items)
    draw = rng.randrange(8)
    if draw <= 1:
        rng.choice(items).product = rng.choice(PRODUCTS)
        return {"items": items}
    if draw == 2:
        rng.choice(items).quantity = rng.choice([1, 3, 12])
        return {"items": items}
    if draw == 3:
        return {"items": _more_or_less(life, items)}
    if draw <= 5:
        return _schedule(life)
    if draw == 6:
        behavior = rng.choice([None, "void", "keep_as_draft", "mark_uncollectible"])
        return {"collection": behavior}
    if one.tenant is None:
        return {"has_payment_method": not one.has_payment_method}
    return {"tenant": rng.choice(life.tenants[:2])}


def _more_or_less(life: Life, items: list[Item]) -> list[Item]:
    if len(items) > 1 and life.chance(0.5):
        return items[1:]
    return [*items, life.merchant.item(life.rng.choice(PRODUCTS), 2)]


def _schedule(life: Life) -> dict[str, Any]:
    """An end, in one of the ways that Stripe shows it, sometimes overdue; or none any more."""
    past = life.merchant.clock < NOW_S - 2 * DAY_S and life.chance(0.2)
    end = life.merchant.clock + DAY_S if past else NOW_S + 40 * DAY_S
    return life.rng.choice(
        [
            {"cancel_at": end, "ends_with_period": False},
            {"cancel_at": None, "ends_with_period": True, "period_end": end},
            {"cancel_at": end, "ends_with_period": True, "period_end": end},
            {"cancel_at": None, "ends_with_period": False},
            {"cancel_at": None, "ends_with_period": False},
        ]
    )


def _change_trial(life: Life, one: Subscription) -> None:
    """What a trial comes to, and whether there is anything to pay with."""
    merchant, rng = life.merchant, life.rng
    if "trials" not in life.themes:
        return
    draw = rng.randrange(4)
    if draw == 0:
        merchant.change(one, has_payment_method=not one.has_payment_method)
    elif draw == 1:
        method = not one.customer.has_payment_method
        merchant.update_customer(one.customer, has_payment_method=method)
    else:
        merchant.change(
            one,
            without_method=rng.choice(["cancel", "pause", "create_invoice"]),
            trial_end=rng.choice([merchant.clock + DAY_S, NOW_S + 30 * DAY_S]),
        )


def _bill(life: Life, one: Subscription) -> Story:
    """An invoice, paid at once, later or never; and what becomes of its payment."""
    merchant = life.merchant
    if one.status in ("canceled", "incomplete_expired"):
        return
    invoice = merchant.bill(one)
    if life.chance(0.3):
        yield SOON
        merchant.fail(invoice)
    if life.chance(0.1):
        yield SOON
        merchant.close(invoice, life.rng.choice(["void", "uncollectible"]))
        return
    if life.chance(0.6):
        yield SOON
    payment = merchant.pay(invoice)
    life.stories.extend(_aftermath(life, payment, whole=True))


# Purchases ----------------------------------------------------------------------------------------


def _buy(life: Life, customer: Customer | None, own: str | None = None) -> Story:
    merchant, rng = life.merchant, life.rng
    session = merchant.open_session(
        "payment",
        customer=customer,
        amount=rng.choice([500, 1000, 2500]),
        tenant=own,
        reference=life.tenants[1] if life.chance(0.3) else None,
        **rng.choice(
            [
                {"plan": "book"},
                {"plan": "pass"},
                {"link": "plink_pass"},
                {"link": "plink_week"},
                {"plan": "book", "link": "plink_pass"},
                {"link": "plink_unknown"},
                {},
            ]
        ),
    )
    if customer is None:
        # A guest is linked by nothing but the session.
        session.tenant = life.tenants[0] if life.chance(0.5) else None
        session.reference = rng.choice([life.tenants[0], life.tenants[1], None])
    yield SOON
    yield from _pay(life, session)


def _pay(life: Life, session: Session) -> Story:
    merchant = life.merchant
    way = life.rng.choice(["paid"] * 6 + ["unpaid", "unpaid", "no_payment_required", "expired"])
    if way == "expired":
        merchant.expire(session)
        return
    merchant.complete(session, way)
    if way == "unpaid":
        if life.chance(0.2):
            return  # it is still on its way
        yield SOON
        succeeds = life.chance(0.7)
        merchant.settle(session, succeeds=succeeds)
        if not succeeds:
            return
    if session.payment is not None:
        life.stories.extend(_aftermath(life, session.payment, whole=False))


# Refunds, disputes, warnings ----------------------------------------------------------------------


def _aftermath(life: Life, payment: Payment, *, whole: bool) -> list[Story]:
    """What may still happen to a payment. `whole`: a dispute is about all of it."""
    stories = []
    if "refunds" in life.themes and life.chance(0.35):
        stories.append(_refund(life, payment))
    if "disputes" in life.themes and life.chance(0.4):
        stories.append(_dispute(life, payment, whole))
    if "warnings" in life.themes and life.chance(0.15):
        stories.append(_warn(life, payment))
    return stories


def _refund(life: Life, payment: Payment) -> Story:
    """In full, in part, or in parts that add up; some fail long after."""
    merchant, rng = life.merchant, life.rng
    parts = rng.choice([[1.0], [1.0], [0.4], [0.4, 0.6], [0.2, 0.3], [0.5, 0.4, 0.1]])
    for part in parts:
        yield SOON
        status = rng.choice(["succeeded", "succeeded", "pending"])
        refund = merchant.refund(payment, round(payment.amount * part), status)
        if life.chance(0.65):
            continue
        yield LATER
        if status == "pending" and life.chance(0.5):
            merchant.move_refund(refund, "succeeded")
            yield LATER
        if life.chance(0.7):
            # A charge that does not tell of the failure stays stale: it is the last thing of it.
            is_stale = "refund.updated" not in merchant.deaf and life.chance(0.4)
            merchant.move_refund(refund, "failed", tells_charge=not is_stale)
            if is_stale:
                return


def _dispute(life: Life, payment: Payment, whole: bool) -> Story:
    merchant, rng = life.merchant, life.rng
    yield SOON
    amount = payment.amount if whole or life.chance(0.5) else payment.amount * 3 // 5
    is_inquiry = life.chance(0.3)
    dispute = merchant.dispute(
        payment, "warning_needs_response" if is_inquiry else "needs_response", amount
    )
    if is_inquiry:
        yield SOON
        if life.chance(0.4):
            merchant.move_dispute(dispute, "warning_under_review")
            yield SOON
        if life.chance(0.5):
            merchant.close_dispute(dispute, "warning_closed")
            return
        if life.chance(0.5):
            return  # still asking
        merchant.move_dispute(dispute, "needs_response")
    if life.chance(0.5):
        yield SOON
        merchant.move_dispute(dispute, "under_review")
    if life.chance(0.75):
        yield SOON
        merchant.close_dispute(dispute, rng.choice(["won", "lost", "lost"]))


def _warn(life: Life, payment: Payment) -> Story:
    yield SOON
    warning = life.merchant.warn(payment)
    if life.chance(0.6):
        yield SOON
        life.merchant.settle_warning(warning)
