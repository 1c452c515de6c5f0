"""`sluice tenants merge` and `link`: two tenants become one, and a customer goes to another."""

from typing import Any

import pytest

from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, customer, event, session, subscription
from workers.sweep import derive_again

WHY = ("--reason", "one company, two signups")
PRO = {"seats": 10, "sso": True}


async def merge(sluice: Sluice, tenant: str, into: str) -> Any:
    said = await sluice("tenants", "merge", tenant, into, *WHY, "--json")
    assert said.code == 0, said.err
    return said.json


async def chain(sluice: Sluice, tenant: str) -> list[dict[str, Any]]:
    """The tenant's chain, in its order."""
    listed = (await sluice("audit", "list", "--limit", 500, "--json")).json["items"]
    mine = [one for one in listed if one["chain"] == f"tenant:{tenant}"]
    return sorted(mine, key=lambda one: int(one["position"]))


def created(name: str, tenant: str | None, product: str = "prod_pro", **more: Any) -> bytes:
    content = subscription(
        f"sub_{name}", customer=f"cus_{name}", tenant=tenant, product=product, **more
    )
    return event("customer.subscription.created", content)


async def test_all_that_a_tenant_has_goes_to_the_other(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(
        created("1", "from"), created("2", "into", "prod_basic"), created("3", "from")
    )
    merged = await merge(sluice, "from", "into")
    assert (merged["objects"], merged["manualGrants"], merged["names"]) == (2, 0, [])
    assert await stack.value("SELECT count(*) FROM objects WHERE tenant <> 'into'") == 0
    assert await stack.value("SELECT count(*) FROM grants WHERE tenant <> 'into'") == 0
    assert await stack.features("into") == PRO

    gone = await chain(sluice, "from")
    assert [(one["action"], one["feature"]) for one in gone[-3:]] == [
        ("entitlement.revoked", "seats"),
        ("entitlement.revoked", "sso"),
        ("tenant.merged", None),
    ]
    assert gone[-1]["after"] == {"into": "into"}
    assert (gone[-1]["reason"], gone[-1]["actor"]) == ("one company, two signups", "operator:ada")
    assert gone[-1]["causeId"] == merged["actionId"]
    won = await chain(sluice, "into")
    assert [(one["action"], one["feature"]) for one in won[-3:]] == [
        ("tenant.absorbed", None),
        ("entitlement.changed", "seats"),
        ("entitlement.granted", "sso"),
    ]
    assert won[-3]["after"] == {"tenant": "from", "names": ["from"]}
    # Of two subscriptions, one record: what the tenants may use changed once.
    assert (won[-2]["before"]["value"], won[-2]["after"]["value"]) == (1, 10)
    assert (await sluice("audit", "verify")).code == 0


async def test_the_old_name_shows_the_other_and_when(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(created("1", "from"), created("2", "into", "prod_basic"))
    await sluice("tenants", "link", "from", "--source", "stripe", "--customer", "cus_9")
    await merge(sluice, "from", "into")
    old = (await sluice("tenants", "show", "from", "--json")).json
    new = (await sluice("tenants", "show", "into", "--json")).json
    at = await stack.value("SELECT merged_at FROM tenants WHERE tenant = 'from'")
    assert (old["tenant"], old["mergedInto"]) == ("from", "into")
    assert old["mergedAt"] == at.isoformat().replace("+00:00", "Z")
    assert (new["tenant"], new["mergedInto"], new["mergedAt"]) == ("into", None, None)
    for key in ("entitlements", "customers", "manualGrants"):
        assert old[key] == new[key], key
    # A customer that was linked to the old name, and is still to come, is among them.
    assert [(one["customer"], one["linkedBy"]) for one in new["customers"]] == [
        ("cus_1", "provider:stripe"),
        ("cus_2", "provider:stripe"),
        ("cus_9", "operator:ada"),
    ]
    text = await sluice("tenants", "show", "from")
    assert "from was merged into into at 20" in text.err
    listed = (await sluice("tenants", "list", "--json")).json["items"]
    assert [(one["tenant"], one["mergedInto"], one["features"]) for one in listed] == [
        ("from", "into", 0),
        ("into", None, 2),
    ]


async def test_whatever_names_the_old_one_comes_to_the_other(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(created("0", "from"), created("9", "into", "prod_basic"))
    await merge(sluice, "from", "into")
    length = len(await chain(sluice, "from"))
    # By the object's own word, the customer's, an operator's link, and a session's reference.
    await sluice("tenants", "link", "from", "--source", "stripe", "--customer", "cus_3")
    await stack.apply(
        created("1", "from"),
        created("2", None),
        event("customer.created", customer("cus_2", tenant="from")),
        created("3", None),
        created("4", None),
        event("checkout.session.completed", session("cs_4", customer="cus_4", reference="from")),
    )
    tenants = await stack.fetch("SELECT object_id, tenant FROM objects WHERE kind = 'subscription'")
    assert {row["object_id"]: row["tenant"] for row in tenants} == {
        f"sub_{number}": "into" for number in (0, 1, 2, 3, 4, 9)
    }
    assert await stack.value("SELECT count(*) FROM settlements WHERE tenant = 'from'") == 1
    await stack.configure()
    await derive_again(stack.crew, "from")
    assert len(await chain(sluice, "from")) == length
    said = await sluice("tenants", "link", "from", "--source", "stripe", "--customer", "cus_5")
    assert "from is another name of into" in said.err
    assert (await sluice("audit", "verify")).code == 0


async def test_two_references_that_are_one_tenant_are_no_conflict(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(
        created("8", "a"),
        created("9", "b"),
        event("checkout.session.completed", session("cs_1", reference="a")),
        event("checkout.session.completed", session("cs_2", reference="b")),
    )
    await merge(sluice, "a", "b")
    await stack.apply(created("1", None))
    assert await stack.value("SELECT tenant FROM objects WHERE object_id = 'sub_1'") == "b"


async def test_names_go_along_when_the_other_is_merged(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(created("1", "a"), created("2", "b"), created("3", "c"))
    await merge(sluice, "a", "b")
    second = await merge(sluice, "b", "c")
    assert second["names"] == ["a"]
    rows = await stack.fetch("SELECT tenant, merged_into FROM tenants ORDER BY tenant")
    assert [tuple(row.values()) for row in rows] == [("a", "c"), ("b", "c"), ("c", None)]
    await stack.apply(created("4", "a"))
    assert await stack.value("SELECT count(*) FROM objects WHERE tenant = 'c'") == 4
    assert await stack.features("a") == PRO
    assert (await chain(sluice, "a"))[-1]["after"] == {"into": "b"}
    assert (await chain(sluice, "b"))[-1]["after"] == {"into": "c"}
    absorbed = [one for one in await chain(sluice, "c") if one["action"] == "tenant.absorbed"]
    assert [one["after"] for one in absorbed] == [{"tenant": "b", "names": ["b", "a"]}]
    assert (await sluice("audit", "verify")).code == 0


@pytest.mark.parametrize(
    ("tenant", "into", "code", "expected"),
    [
        ("c", "c", 5, "'c' cannot be merged into itself"),
        ("a", "c", 5, "'a' was merged into 'b' at 20"),
        ("c", "a", 5, "'a' was merged into 'b' at 20"),
        ("b", "a", 5, "it is another name of 'b'"),
        ("nobody", "c", 3, "nothing ever named a tenant 'nobody'"),
        ("c", "nobody", 3, "nothing ever named a tenant 'nobody'"),
        ("", "c", 2, "FROM must be text"),
    ],
)
async def test_what_cannot_be_merged_is_refused(
    sluice: Sluice, stack: Stack, tenant: str, into: str, code: int, expected: str
) -> None:
    await stack.apply(created("1", "a"), created("2", "b"), created("3", "c"))
    await merge(sluice, "a", "b")
    before = await stack.value("SELECT count(*) FROM audit")
    said = await sluice("tenants", "merge", tenant, into, *WHY)
    assert said.code == code
    assert expected in said.err
    assert await stack.value("SELECT count(*) FROM audit") == before
    assert await stack.value("SELECT count(*) FROM tenants") == 3


async def test_a_merge_needs_a_reason(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(created("1", "a"), created("2", "b"))
    assert (await sluice("tenants", "merge", "a", "b")).code == 2
    assert (await sluice("tenants", "merge", "a", "b", "--reason", " ")).code == 2
    assert await stack.value("SELECT count(merged_into) FROM tenants") == 0


async def test_what_was_given_by_hand_goes_along(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(created("2", "into", "prod_basic"))
    given = await sluice("tenants", "grant", "from", "seats", "50", *WHY, "--json")
    await sluice("tenants", "grant", "from", "region", "eu", *WHY)
    merged = await merge(sluice, "from", "into")
    assert merged["manualGrants"] == 2
    assert await stack.features("into") == {"region": "eu", "seats": 50}
    # Under both names it is found, given and taken back.
    said = await sluice("tenants", "revoke", "from", given.json["id"], *WHY)
    assert said.code == 0, said.err
    assert await stack.features("into") == {"region": "eu", "seats": 1}
    more = (await sluice("tenants", "grant", "from", "seats", "7", *WHY, "--json")).json
    assert more["tenant"] == "into"
    assert await stack.features("into") == {"region": "eu", "seats": 7}
    shown = (await sluice("tenants", "show", "from", "--json")).json
    assert [one["feature"] for one in shown["manualGrants"]] == ["region", "seats"]
    assert (await chain(sluice, "from"))[-1]["action"] == "tenant.merged"
    assert (await sluice("audit", "verify")).code == 0


async def test_a_transfer_moves_access_and_is_told_on_both_sides(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(created("1", "one"), created("2", "one", "prod_basic"))
    said = await sluice(
        "tenants", "link", "two", "--source", "stripe", "--customer", "cus_1",
        "--reason", "sold", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert await stack.features("one") == {"seats": 1}
    assert await stack.features("two") == PRO
    sides = {
        name: [
            (one["action"], one["feature"])
            for one in await chain(sluice, name)
            if one["causeId"] == said.json["actionId"]
        ]
        for name in ("one", "two")
    }
    assert sides == {
        "one": [("entitlement.changed", "seats"), ("entitlement.revoked", "sso")],
        "two": [("entitlement.granted", "seats"), ("entitlement.granted", "sso")],
    }
    # The provider's word that names the first one does not bring it back.
    again = subscription("sub_1", customer="cus_1", tenant="one", quantity=2)
    await stack.apply(
        event("customer.subscription.updated", again, created=NOW_S + 5, previous={"quantity": 1})
    )
    assert await stack.features("two") == PRO
    assert (await sluice("audit", "verify")).code == 0


async def test_a_merged_tenant_follows_no_catalog(sluice: Sluice, stack: Stack) -> None:
    """Or `--wait` would wait for it for ever."""
    await stack.configure()
    await stack.apply(
        event("customer.created", customer("cus_1", tenant="old")),
        event("customer.created", customer("cus_2", tenant="new")),
    )
    assert (await sluice("tenants", "merge", "old", "new", "--reason", "one company")).code == 0
    await stack.configure()
    # Who has nothing because it is another's name does not look like one who was cut off.
    (listed,) = (
        one for one in (await sluice("tenants", "list")).out.splitlines() if one.startswith("old")
    )
    assert listed.split()[:3] == ["old", "0", "new"]
    await derive_again(stack.crew, "new")
    following = (await sluice("catalog", "status", "--json")).json
    assert (following["tenants"], following["remaining"]) == (1, 0)
    assert (await sluice("catalog", "status", "--watch")).code == 0
