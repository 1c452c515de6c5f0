"""`sluice tenants grant` and `revoke`: what operators give by hand."""

import asyncio
import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.store.tenants import read_tenant
from tests.cli.conftest import Sluice
from tests.cli.test_terminal import on_a_terminal
from tests.support.stack import PLANS, Stack
from tests.support.stripe_events import event, subscription
from workers.sweep import derive_again, turn_tenant

WHY = ("--reason", "they asked nicely")


async def grant(sluice: Sluice, *args: object) -> Any:
    said = await sluice("tenants", "grant", *args, *WHY, "--json")
    assert said.code == 0, said.err
    return said.json


async def records(sluice: Sluice) -> list[dict[str, Any]]:
    """In the order in which they were written."""
    listed: list[dict[str, Any]] = (await sluice("audit", "list", "--json")).json["items"]
    return listed[::-1]


async def with_features(stack: Stack, features: dict[str, Any]) -> None:
    """A catalog whose features say how they are combined."""
    await stack.fetch(
        "INSERT INTO catalogs (version, actor, document)"
        " SELECT max(version) + 1, 'test', $1 FROM catalogs",
        {"plans": PLANS, "features": features},
    )


async def test_a_grant_counts_at_once_and_is_shown_and_audited(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    given = await grant(sluice, "acme", "seats", "25")
    assert (given["tenant"], given["feature"], given["value"]) == ("acme", "seats", 25)
    assert [change["action"] for change in given["changes"]] == ["entitlement.changed"]
    assert await stack.features("acme") == {"seats": 25, "sso": True}

    shown = (await sluice("tenants", "show", "acme", "--json")).json
    (manual,) = shown["manualGrants"]
    assert (manual["id"], manual["actor"], manual["reason"], manual["validUntil"]) == (
        given["id"], "operator:ada", "they asked nicely", None,
    )  # fmt: skip
    seats = shown["entitlements"][0]
    assert [(one["plan"], one["source"], one["object"]) for one in seats["grants"]] == [
        ("manual", "operator", f"manual/{given['id']}"),
        ("pro", "stripe", "subscription/sub_1"),
    ]
    text = (await sluice("tenants", "show", "acme")).out
    assert "they asked nicely" in text
    # The read API's role sees what it gives, and not why.
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        found = await read_tenant(conn, "acme")
    assert found is not None
    assert "they asked nicely" not in str(found)
    assert f"manual/{given['id']}" in str(found)

    action, change = (await records(sluice))[-2:]
    assert (action["action"], action["step"], action["tenant"]) == ("grant.given", 0, "acme")
    assert action["chain"] == f"operator:{given['actionId']}"
    assert action["after"] == {
        "id": given["id"], "feature": "seats", "value": 25, "validUntil": None,
    }  # fmt: skip
    assert action["reason"] == "they asked nicely"
    assert (change["action"], change["chain"]) == ("entitlement.changed", "tenant:acme")
    assert (change["before"]["value"], change["after"]["value"]) == (10, 25)
    assert change["subject"] == f"manual/{given['id']}"
    assert (await sluice("audit", "verify")).code == 0


async def test_a_tenant_exists_from_its_first_grant_on(sluice: Sluice, stack: Stack) -> None:
    assert (await sluice("tenants", "show", "new")).code == 3
    await grant(sluice, "new", "sso", "true")
    assert await stack.features("new") == {"sso": True}
    (listed,) = (await sluice("tenants", "list", "--json")).json["items"]
    assert (listed["tenant"], listed["features"]) == ("new", 1)


async def test_given_twice_is_two_grants(sluice: Sluice, stack: Stack) -> None:
    first = await grant(sluice, "acme", "seats", "3")
    second = await grant(sluice, "acme", "seats", "3")
    assert first["id"] != second["id"]
    assert second["changes"] == []
    said = await sluice("tenants", "revoke", "acme", first["id"], *WHY, "--json")
    assert said.code == 0, said.err
    assert said.json["changes"] == []
    assert await stack.features("acme") == {"seats": 3}
    # Its name in the list of grants is understood as well.
    said = await sluice("tenants", "revoke", "acme", f"manual/{second['id']}", *WHY)
    assert "acme: seats: 3 → nothing" in said.err
    assert await stack.features("acme") == {}
    shown = (await sluice("tenants", "show", "acme", "--json")).json
    assert shown["manualGrants"] == []
    action = next(one for one in await records(sluice) if one["action"] == "grant.revoked")
    assert (action["before"]["id"], action["reason"]) == (first["id"], "they asked nicely")
    rows = await stack.fetch("SELECT revoked_by, revoke_reason FROM manual_grants")
    assert [tuple(row.values()) for row in rows] == [("operator:ada", "they asked nicely")] * 2


async def test_only_what_was_given_can_be_taken_back_and_once(sluice: Sluice, stack: Stack) -> None:
    given = await grant(sluice, "acme", "seats", "3")
    before = await stack.value("SELECT count(*) FROM audit")
    for args, code in [
        (("acme", given["id"] + 1), 3),
        (("other", given["id"]), 3),
        (("acme", "seats"), 2),
        (("acme", "9" * 30), 2),
    ]:
        assert (await sluice("tenants", "revoke", *args, *WHY)).code == code, args
    assert await stack.value("SELECT count(*) FROM tenants") == 1
    assert await stack.value("SELECT count(*) FROM audit") == before
    assert (await sluice("tenants", "revoke", "acme", given["id"], *WHY)).code == 0
    again = await sluice("tenants", "revoke", "acme", given["id"], *WHY)
    assert again.code == 5
    assert "was revoked by operator:ada" in again.err


async def test_a_terminal_is_asked_about_what_there_is(
    home: Path, sluice: Sluice, stack: Stack
) -> None:
    """A mistyped id is refused before the question, and the question says what is taken."""
    given = await grant(sluice, "acme", "seats", "3")
    ask = functools.partial(asyncio.to_thread, on_a_terminal, wait_for=b"[y/N]")
    wrong = ["tenants", "revoke", "acme", str(given["id"] + 1), *WHY]
    code, said = await ask(wrong, answer=b"y\n")
    assert (code, b"[y/N]" in said) == (3, False)
    right = ["tenants", "revoke", "acme", str(given["id"]), *WHY]
    code, said = await ask(right, answer=b"n\n")
    assert code == 1
    assert f"Take grant {given['id']}, seats 3, back from acme?".encode() in said
    assert await stack.features("acme") == {"seats": 3}


async def test_a_dry_run_says_so_beside_what_it_would_do(sluice: Sluice, stack: Stack) -> None:
    said = await sluice("tenants", "grant", "acme", "seats", "3", *WHY, "--dry-run")
    assert said.code == 0
    assert said.out == "dry run: acme would be given seats 3, until it is revoked\n"
    assert await stack.value("SELECT count(*) FROM tenants") == 0


async def test_a_reason_is_required(sluice: Sluice, stack: Stack) -> None:
    assert (await sluice("tenants", "grant", "acme", "seats", "3")).code == 2
    assert (await sluice("tenants", "grant", "acme", "seats", "3", "--reason", " ")).code == 2
    given = await grant(sluice, "acme", "seats", "3")
    assert (await sluice("tenants", "revoke", "acme", given["id"])).code == 2
    assert (await sluice("tenants", "revoke", "acme", given["id"], "--reason", "")).code == 2
    assert await stack.features("acme") == {"seats": 3}


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        ("seats", "true", "seats is a number in plans.basic of the catalog, not true or false"),
        ("seats", "many", "not text"),
        ("sso", "1", "sso is true or false in plans.pro of the catalog, not a number"),
        ("seats", str(2**53), "larger than"),
        ("seats", " ", "VALUE must be text"),
        ("se ats", "1", "a feature's name"),
    ],
)
async def test_a_value_fits_its_feature(
    sluice: Sluice, stack: Stack, feature: str, value: str, expected: str
) -> None:
    said = await sluice("tenants", "grant", "acme", feature, value, *WHY)
    assert said.code == 2
    assert expected in said.err
    assert await stack.value("SELECT count(*) FROM manual_grants") == 0
    assert await stack.value("SELECT count(*) FROM tenants") == 0


async def test_values_are_read_as_people_write_them(sluice: Sluice, stack: Stack) -> None:
    await grant(sluice, "acme", "seats", "unlimited")
    said = await sluice("tenants", "grant", "acme", "region", "eu", *WHY)
    assert "no plan of the catalog has region" in said.err
    await grant(sluice, "acme", "gigabytes", "2.5")
    assert await stack.features("acme") == {
        "gigabytes": 2.5, "region": "eu", "seats": "unlimited",
    }  # fmt: skip


async def test_an_operators_text_is_the_one_that_counts(sluice: Sluice, stack: Stack) -> None:
    plan = {"products": ["stripe:prod_pro"], "features": {"region": "us"}, "rank": 1000}
    await stack.configure(plans={"pro": plan})
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    await grant(sluice, "acme", "region", "eu")
    assert await stack.features("acme") == {"region": "eu"}


async def test_an_end_lies_ahead(sluice: Sluice, stack: Stack) -> None:
    for until in ("2020-01-01T00:00:00Z", "0", "2030-01-01T00:00:00", "soon", "2030-01-01"):
        said = await sluice("tenants", "grant", "acme", "seats", "3", "--until", until, *WHY)
        assert said.code == 2, until
    assert await stack.value("SELECT count(*) FROM manual_grants") == 0
    given = await grant(sluice, "acme", "seats", "3", "--until", "2100-01-01T02:00:00+02:00")
    assert given["validUntil"] == "2100-01-01T00:00:00Z"
    given = await grant(sluice, "acme", "seats", "4", "--until", "7d")
    ahead = datetime.fromisoformat(given["validUntil"]) - datetime.now(UTC)
    assert timedelta(days=6) < ahead <= timedelta(days=7)


async def test_its_end_is_audited_like_any_other(sluice: Sluice, stack: Stack) -> None:
    given = await grant(sluice, "acme", "seats", "3", "--until", "1s")
    await stack.fetch("SELECT pg_sleep(1.1)")
    assert await stack.features("acme") == {}
    await turn_tenant(stack.crew, "acme")
    ended = (await records(sluice))[-1]
    assert (ended["cause"], ended["action"]) == ("end", "entitlement.revoked")
    assert ended["subject"] == f"manual/{given['id']}"
    # What has ended can still be taken out of the list.
    said = await sluice("tenants", "revoke", "acme", given["id"], *WHY, "--json")
    assert said.json["changes"] == []
    assert await stack.value("SELECT count(*) FROM grants") == 0


async def test_it_is_added_where_the_catalog_adds(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    await with_features(stack, {"seats": {"combine": "sum"}})
    await derive_again(stack.crew, "acme")
    await grant(sluice, "acme", "seats", "5")
    assert await stack.features("acme") == {"seats": 15, "sso": True}


async def test_a_new_catalog_leaves_it_alone_but_for_how_it_combines(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    await grant(sluice, "acme", "seats", "5")
    await grant(sluice, "acme", "region", "eu")
    assert await stack.features("acme") == {"region": "eu", "seats": 10, "sso": True}
    await with_features(stack, {"seats": {"combine": "sum"}})
    await derive_again(stack.crew, "acme")
    assert await stack.features("acme") == {"region": "eu", "seats": 15, "sso": True}
    await stack.configure(plans={})
    await derive_again(stack.crew, "acme")
    assert await stack.features("acme") == {"region": "eu", "seats": 5}
    assert (await sluice("audit", "verify")).code == 0


async def test_pruning_a_plan_does_not_touch_it(sluice: Sluice, stack: Stack) -> None:
    """A plan may even be called like what operators give by."""
    await stack.configure(plans={"manual": PLANS["pro"]})
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    given = await grant(sluice, "acme", "seats", "99")
    await stack.configure(plans={})
    await derive_again(stack.crew, "acme")
    assert await stack.features("acme") == {"seats": 99}
    said = await sluice("tenants", "revoke", "acme", given["id"], *WHY)
    assert said.code == 0, said.err
    assert await stack.features("acme") == {}
