"""A verified event becomes an audited entitlement."""

from tests.support.stack import Stack
from tests.support.stripe_events import customer, event, session, subscription


async def test_a_linked_subscription_grants_its_plan(stack: Stack) -> None:
    ids = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme")),
    )
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    assert await stack.outcomes(ids) == ["applied"]
    rows = await stack.fetch(
        "SELECT step, action, feature, cause_id FROM audit WHERE tenant = 'acme' ORDER BY step"
    )
    assert [(row["step"], row["action"], row["feature"]) for row in rows] == [
        (0, "event.applied", ""),
        (1, "entitlement.granted", "seats"),
        (2, "entitlement.granted", "sso"),
    ]
    assert {row["cause_id"] for row in rows} == {str(ids[0])}
    assert await stack.value("SELECT count(*) FROM work") == 0


async def test_an_unlinked_subscription_is_parked_until_its_customer_is_linked(
    stack: Stack,
) -> None:
    (parked,) = await stack.apply(event("customer.subscription.created", subscription()))
    assert await stack.outcomes([parked]) == ["parked"]
    assert await stack.value("SELECT parked FROM objects") == "needs:link"
    await stack.apply(event("customer.created", customer(tenant="acme")))
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    assert await stack.value("SELECT count(*) FROM objects WHERE parked IS NOT NULL") == 0


async def test_a_session_links_and_the_customers_own_word_overrides_it(stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription()),
        event("checkout.session.completed", session(reference="by-buyer")),
    )
    assert await stack.features("by-buyer") == {"seats": 10, "sso": True}
    await stack.apply(event("customer.updated", customer(tenant="acme")))
    assert await stack.features("by-buyer") == {}
    assert await stack.features("acme") == {"seats": 10, "sso": True}


async def test_two_subscriptions_of_one_customer_may_name_two_tenants(stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", tenant="a")),
        event(
            "customer.subscription.created",
            subscription("sub_2", tenant="b", product="prod_basic"),
        ),
    )
    assert await stack.features("a") == {"seats": 10, "sso": True}
    assert await stack.features("b") == {"seats": 1}
