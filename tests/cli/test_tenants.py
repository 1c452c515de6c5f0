"""`sluice tenants` and `tokens`."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

from shared import db
from shared.store.tenants import read_tenant
from shared.store.tokens import digest_of, find_by_digest
from tests.cli.conftest import Sluice
from tests.support import clerk
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription


async def test_a_tenant_is_shown_with_its_grants_and_customers(
    sluice: Sluice, stack: Stack
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", tenant="acme")),
        event(
            "customer.subscription.created",
            subscription(
                "sub_2", tenant="acme", product="prod_basic", cancel_at=int(ends.timestamp())
            ),
        ),
    )
    shown = (await sluice("tenants", "show", "acme", "--json")).json
    assert shown["tenant"] == "acme"
    seats, sso = shown["entitlements"]
    assert (seats["feature"], seats["value"], seats["validUntil"]) == ("seats", 10, None)
    assert (sso["feature"], sso["value"]) == ("sso", True)
    assert [(one["plan"], one["object"], one["value"]) for one in seats["grants"]] == [
        ("basic", "subscription/sub_2", 1),
        ("pro", "subscription/sub_1", 10),
    ]
    assert seats["grants"][0]["validUntil"] == ends.isoformat().replace("+00:00", "Z")
    assert seats["grants"][0]["source"] == "stripe"
    assert shown["customers"] == [
        {
            "source": "stripe",
            "account": "",
            "livemode": True,
            "customer": "cus_1",
            "linkedBy": "provider:stripe",
            "linkedAt": None,
            "isDeleted": False,
        }
    ]
    text = await sluice("tenants", "show", "acme")
    assert "subscription/sub_1" in text.out


async def test_the_read_apis_role_may_read_a_tenant(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        found = await read_tenant(conn, "acme")
    assert found is not None
    assert [one["feature"] for one in found["entitlements"]] == ["seats", "sso"]


async def test_never_named_is_not_found_and_without_access_is_empty(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(
        event("customer.subscription.deleted", subscription(tenant="gone", status="canceled"))
    )
    assert (await sluice("tenants", "show", "nobody", "--json")).code == 3
    shown = await sluice("tenants", "show", "gone", "--json")
    assert shown.code == 0
    assert shown.json["entitlements"] == []


async def test_grants_count_from_and_until_by_the_databases_clock(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    await stack.fetch(
        "UPDATE grants SET valid_until = now() - interval '1 s' WHERE feature = 'sso'"
    )
    await stack.fetch(
        "UPDATE grants SET valid_from = now() + interval '1 h' WHERE feature = 'seats'"
    )
    assert (await sluice("tenants", "show", "acme", "--json")).json["entitlements"] == []
    (listed,) = (await sluice("tenants", "list", "--json")).json["items"]
    assert (listed["tenant"], listed["features"]) == ("acme", 0)


async def test_only_live_grants_are_shown_and_the_next_change_is_told(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", tenant="acme")),
        event(
            "customer.subscription.created",
            subscription("sub_2", tenant="acme", product="prod_basic"),
        ),
    )
    await stack.fetch("UPDATE grants SET valid_from = '2100-01-01T00:00:00Z' WHERE plan = 'pro'")
    (seats,) = (await sluice("tenants", "show", "acme", "--json")).json["entitlements"]
    assert (seats["value"], seats["validUntil"]) == (1, "2100-01-01T00:00:00Z")
    assert [grant["plan"] for grant in seats["grants"]] == ["basic"]


async def test_a_link_gives_access_at_once_and_is_audited(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription()))
    said = await sluice(
        "tenants", "link", "acme", "--source", "stripe", "--customer", "cus_1",
        "--reason", "they called", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert [change["action"] for change in said.json["changes"]] == ["entitlement.granted"] * 2
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    assert (await sluice("parked", "list", "--json")).json["items"] == []
    shown = (await sluice("tenants", "show", "acme", "--json")).json
    assert [one["linkedBy"] for one in shown["customers"]] == ["operator:ada"]
    records = (await sluice("audit", "list", "--json")).json["items"]
    mine = [one for one in records if one["cause"] == "operator"]
    assert [(one["step"], one["action"], one["tenant"]) for one in mine[::-1]] == [
        (0, "customer.linked", "acme"),
        (1, "entitlement.granted", "acme"),
        (2, "entitlement.granted", "acme"),
    ]
    assert mine[-1]["after"] == {"tenant": "acme"}
    assert mine[-1]["reason"] == "they called"
    assert (await sluice("audit", "verify")).code == 0


async def test_a_link_may_come_first_and_may_move(sluice: Sluice, stack: Stack) -> None:
    args = ("--source", "stripe", "--customer", "cus_1")
    first = await sluice("tenants", "link", "one", *args)
    assert "the link waits for it" in first.err
    await stack.apply(event("customer.subscription.created", subscription()))
    assert await stack.features("one") == {"seats": 10, "sso": True}
    moved = await sluice("tenants", "link", "two", *args)
    assert "it belonged to one before" in moved.err
    assert await stack.features("one") == {}
    assert await stack.features("two") == {"seats": 10, "sso": True}


async def test_a_link_to_nowhere_is_refused(sluice: Sluice, stack: Stack) -> None:
    args = ("--customer", "cus_1")
    assert (await sluice("tenants", "link", "a", "--source", "nope", *args)).code == 3
    assert (await sluice("tenants", "link", "", "--source", "stripe", *args)).code == 2
    assert (await sluice("tenants", "link", "x" * 256, "--source", "stripe", *args)).code == 2
    assert await stack.value("SELECT count(*) FROM customers") == 0


async def test_tenants_are_paged(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in ("b", "a", "c")
        )
    )
    first = (await sluice("tenants", "list", "--limit", "2", "--json")).json
    assert [one["tenant"] for one in first["items"]] == ["a", "b"]
    second = (await sluice("tenants", "list", "--cursor", first["next"], "--json")).json
    assert [one["tenant"] for one in second["items"]] == ["c"]
    assert second["next"] is None


async def test_a_token_is_shown_once_and_kept_as_its_digest(sluice: Sluice, stack: Stack) -> None:
    said = await sluice("tokens", "create", "billing", "--scope", "tenant:acme", "--expires", "90d")
    token = said.out.strip()
    assert token.startswith("slu_")
    assert len(token) == 4 + 43
    assert await stack.value("SELECT digest FROM tokens") == sha256(token.encode()).digest()
    listed = await sluice("tokens", "list", "--json")
    assert token not in listed.out
    (item,) = listed.json["items"]
    assert (item["name"], item["scope"], item["createdBy"]) == (
        "billing",
        "tenant:acme",
        "operator:ada",
    )
    assert item["lastUsedAt"] is None
    await stack.fetch("UPDATE tokens SET last_used_at = '2026-11-01T12:00:00Z'")
    assert "2026-11-01" in (await sluice("tokens", "list")).out
    for named in ("billing", item["id"]):
        shown = (await sluice("tokens", "show", named, "--json")).json
        assert shown == {**item, "lastUsedAt": "2026-11-01T12:00:00Z"}
    plain = (await sluice("tokens", "show", "billing")).out
    assert "tenant:acme" in plain
    assert token not in plain
    assert (await sluice("tokens", "show", "nobody")).code == 3
    assert token not in (await sluice("audit", "list", "--json")).out
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        found = await find_by_digest(conn, digest_of(token))
        assert found is not None
        assert found.scope == "tenant:acme"
        assert await find_by_digest(conn, digest_of(token + "x")) is None
        assert (await sluice("tokens", "revoke", "billing")).code == 0
        assert await find_by_digest(conn, digest_of(token)) is None
    assert (await sluice("tokens", "list", "--json")).json["items"] == []
    assert len((await sluice("tokens", "list", "--all", "--json")).json["items"]) == 1
    assert "before" in (await sluice("tokens", "revoke", item["id"])).err
    actions = [one["action"] for one in (await sluice("audit", "list", "--json")).json["items"]]
    assert actions == ["token.revoked", "token.created"]


async def test_an_expired_token_is_not_found(sluice: Sluice, stack: Stack) -> None:
    token = (await sluice("tokens", "create", "t", "--scope", "service", "--expires", "1s")).out
    await stack.fetch("UPDATE tokens SET expires_at = now() - interval '1 s'")
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        assert await find_by_digest(conn, digest_of(token.strip())) is None


async def test_token_arguments_are_checked(sluice: Sluice, stack: Stack) -> None:
    for args, code in [
        (("create", "t", "--scope", "admin"), 2),
        (("create", "t", "--scope", "tenant:"), 2),
        (("create", "t", "--scope", "service", "--expires", "soon"), 2),
        (("create", "t", "--scope", "service", "--expires", "0"), 2),
        (("create", "a\nb", "--scope", "service"), 2),
        (("revoke", "nothing"), 3),
    ]:
        assert (await sluice("tokens", *args)).code == code, args
    await sluice("tokens", "create", "twice", "--scope", "service")
    await sluice("tokens", "create", "twice", "--scope", "service")
    said = await sluice("tokens", "revoke", "twice")
    assert said.code == 5
    assert "give an id" in said.err


async def test_members_are_listed_and_shown(sluice: Sluice, stack: Stack) -> None:
    await stack.add_source("clerk", "clerk", True)
    sent = [
        clerk.event("organization.created", clerk.organization("org_1"), clerk.NOW_MS),
        *(
            clerk.event(
                "organizationMembership.created",
                clerk.membership("org_1", f"user_{number}", "org:admin"),
                clerk.NOW_MS,
            )
            for number in range(3)
        ),
    ]
    bodies, headers = [one.body for one in sent], [one.headers for one in sent]
    await stack.apply(*bodies, source="clerk", headers=headers)
    first = (await sluice("tenants", "members", "org_1", "--limit", 2, "--json")).json
    last = await sluice("tenants", "members", "org_1", "--cursor", first["next"], "--json")
    found = [*first["items"], *last.json["items"]]
    assert sorted(one["member"] for one in found) == ["user_0", "user_1", "user_2"]
    assert {(one["role"], one["customer"]) for one in found} == {("org:admin", "org_1")}
    assert last.json["next"] is None
    text = await sluice("tenants", "members", "org_1", "--limit", 1)
    assert "user_" in text.out
    assert "--cursor" in text.err
    shown = (await sluice("tenants", "show", "org_1", "--json")).json
    assert (len(shown["members"]["items"]), shown["members"]["next"]) == (3, None)
    assert "org:admin" in (await sluice("tenants", "show", "org_1")).out


async def test_members_of_nobody(sluice: Sluice, stack: Stack) -> None:
    assert (await sluice("tenants", "members", "nobody")).code == 3
    for cursor in ("x", "Wy0xXQ", "WyJ4Il0"):
        assert (await sluice("tenants", "members", "nobody", "--cursor", cursor)).code == 2
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    none = await sluice("tenants", "members", "acme")
    assert (none.code, none.out, none.err) == (0, "", "no members\n")


async def test_a_customer_that_its_provider_deleted_is_said_to_be(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.add_source("clerk", "clerk", True)
    sent = [
        clerk.event("organization.created", clerk.organization("org_1"), clerk.NOW_MS),
        clerk.event(
            "organization.deleted", clerk.deleted("organization", "org_1"), clerk.NOW_MS + 1
        ),
    ]
    bodies, headers = [one.body for one in sent], [one.headers for one in sent]
    await stack.apply(*bodies, source="clerk", headers=headers)
    bought = subscription(tenant="org_1")
    await stack.apply(event("customer.subscription.created", bought))
    shown = (await sluice("tenants", "show", "org_1", "--json")).json
    assert {one["customer"]: one["isDeleted"] for one in shown["customers"]} == {
        "org_1": True,
        "cus_1": False,
    }
    assert [one["feature"] for one in shown["entitlements"]] == ["seats", "sso"]
    assert "org_1 was deleted at clerk" in (await sluice("tenants", "show", "org_1")).err
