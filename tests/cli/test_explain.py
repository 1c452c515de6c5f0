"""`sluice tenants explain`."""

from datetime import UTC, datetime, timedelta

from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription


async def test_it_is_printed_to_be_sent_on(sluice: Sluice, stack: Stack) -> None:
    pro = subscription("sub_" + "1" * 24, tenant="acme")
    await stack.apply(event("customer.subscription.created", pro))
    given = await sluice("tenants", "grant", "acme", "seats", "25", "--reason", "pilot\x1b[2J")
    assert given.code == 0, given.err
    shown = await sluice("tenants", "explain", "acme", "seats")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(
        "acme may use seats: 25.\n\nWhy, of which the largest counts:\n- 25 "
    )
    assert "given by operator ada on" in shown.out
    assert "pilot\\x1b[2J" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


async def test_json_has_the_structure_and_the_prose(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    found = (await sluice("tenants", "explain", "acme", "sso", "--json")).json
    assert (found["value"], found["tense"], found["notes"]) == (True, "now", [])
    assert found["because"][0]["object"]["object"] == "subscription/sub_1"
    assert found["text"].startswith("acme may use sso.\n\nWhy:\n")
    text = (await sluice("tenants", "explain", "acme", "sso")).out
    assert text == found["text"] + "\n"


async def test_what_may_not_be_used_is_an_answer_too(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    said = await sluice("tenants", "explain", "acme", "seatz")
    assert said.code == 0
    assert said.out.startswith("acme may not use seatz.\n\nNo plan of the catalog has seatz.\n")
    assert "What acme may use: seats, sso." in said.out
    assert "sluice parked list" in said.err


async def test_a_moment_is_read_as_people_write_it(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    for at, tense in (("2 days ago", "past"), ("48h", "past"), (tomorrow, "future")):
        said = await sluice("tenants", "explain", "acme", "seats", "--at", at, "--json")
        assert said.json["tense"] == tense, at
    said = await sluice("tenants", "explain", "acme", "seats", "--at", "last tuesday")
    assert said.code == 2
    assert "--at: 'last tuesday' is not a time" in said.err


async def test_who_nobody_named_is_not_found(sluice: Sluice, stack: Stack) -> None:
    assert await stack.features("nobody") == {}
    assert (await sluice("tenants", "explain", "nobody", "seats")).code == 3
    assert (await sluice("tenants", "explain", "nobody", "")).code == 2
