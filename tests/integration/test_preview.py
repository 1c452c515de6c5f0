"""What `sluice apply` says it would change is what deriving the tenants again then changes."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared import db
from shared.db import Conn
from shared.domain.keys import CustomerKey
from shared.providers import providers
from shared.sealing import KeyRing, new_key
from shared.store import catalogs, objects
from tests.support.stack import Stack
from tests.support.stripe_events import (
    NOW_S,
    customer,
    dispute,
    event,
    invoice,
    invoice_payment,
    subscription,
)
from workers import configure
from workers.declaration import Declaration, read_declaration
from workers.entitle import link_customer
from workers.granting import give
from workers.preview import LISTED, Preview, preview
from workers.sweep import derive_again

KEYS = KeyRing.parse(new_key())
SOURCES = """
[sources.stripe]
provider = "stripe"
secrets = ["whsec_1"]
livemode = true
[sources.sandbox]
provider = "stripe"
secrets = ["whsec_2"]
livemode = false
"""
PRO = '[plans.pro]\nproducts = ["stripe:prod_pro"]\nfeatures = { seats = 10, sso = true }\n'


@pytest.fixture
async def operator(stack: Stack) -> AsyncIterator[Conn]:
    async with db.connect(stack.endpoints.database["operator"], "operator") as conn:
        yield conn


async def look(
    conn: Conn, text: str, *, prune: bool = False, report: Any = lambda done, total: None
) -> tuple[Declaration, Preview]:
    declared = read_declaration(text.encode(), providers())
    secrets = {name: list(source.secrets) for name, source in declared.sources.items()}
    stored, found = await configure.difference(
        conn, declared, secrets, KEYS, providers(), prune=prune
    )
    return declared, await preview(conn, stored, declared, found, report)


async def write(conn: Conn, declared: Declaration, *, prune: bool = False) -> int | None:
    """Apply; returns the catalog's version where it is a new one."""
    secrets = {name: list(source.secrets) for name, source in declared.sources.items()}
    async with conn.transaction():
        _, found = await configure.apply(
            conn, declared, secrets, KEYS, providers(), prune=prune, actor="operator:test",
            shown_version=None,
        )  # fmt: skip
    return found.catalog_version if found.derives_again else None


async def derive_all(stack: Stack) -> None:
    for row in await stack.fetch(
        "SELECT tenant FROM tenants WHERE catalog_version < (SELECT max(version) FROM catalogs)"
    ):
        await derive_again(stack.crew, row["tenant"])


Told = dict[tuple[str, str], tuple[Any, Any]]


def told(seen: Preview) -> Told:
    """(tenant, feature) → its entitlement before and after."""
    return {
        (change["tenant"], change["feature"]): (change["before"], change["after"])
        for change in seen.shown()["changes"]
    }


async def audited(stack: Stack, version: int) -> Told:
    """The same, from the audit trail: from the first record of each to its last."""
    rows = await stack.fetch(
        "SELECT a.tenant, a.feature, c.before, c.after FROM audit a"
        " JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.cause = 'catalog' AND split_part(a.cause_id, ':', 1) = $1 ORDER BY a.id",
        str(version),
    )
    found: Told = {}
    for row in rows:
        before, after = (json.loads(row[one]) if row[one] else None for one in ("before", "after"))
        key = row["tenant"], row["feature"]
        found[key] = (found[key][0] if key in found else before, after)
    return {key: pair for key, pair in found.items() if json.dumps(pair[0]) != json.dumps(pair[1])}


KINDS: dict[str, list[Any]] = {
    "seats": [1, 5, 10, "unlimited"],
    "sso": [True, False],
    "tier": ["gold", "silver"],
}
PRODUCTS = ["stripe:prod_pro", "stripe:prod_basic", "stripe:prod_other", "sandbox:prod_pro",
            "stripe:price_prod_basic", "stripe:prod_nobodys"]  # fmt: skip


class File:
    """A file that is edited again and again, a little each time."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.mode = "live"
        self.has_sandbox = True
        self.disputes = "hold"
        self.combine: str | None = None
        self.plans = {name: self._plan() for name in ("basic", "pro", "team")}
        self.out: set[str] = set()

    def _plan(self) -> dict[str, Any]:
        rng = self.rng
        return {
            "products": rng.sample(PRODUCTS, rng.randint(1, 2)),
            "features": {"seats": rng.choice(KINDS["seats"])},
            "grace": "7d",
            "rank": 0,
        }

    def edit(self) -> None:
        rng = self.rng
        plan = rng.choice(list(self.plans.values()))
        feature = rng.choice(sorted(KINDS))
        match rng.randrange(12):
            case 0 | 1 | 2:
                plan["features"][feature] = rng.choice(KINDS[feature])
            case 3:
                if len(plan["features"]) > 1:
                    plan["features"].pop(feature, None)
            case 4 | 5:
                plan["products"] = rng.sample(PRODUCTS, rng.randint(1, 3))
            case 6:
                plan["grace"] = rng.choice(["0", "1h", "7d", "30d"])
            case 7:
                plan["rank"] = rng.randrange(3)
            case 8:
                self.out ^= {rng.choice(sorted(self.plans))}
            case 9:
                self.has_sandbox = not self.has_sandbox
            case 10:
                self.mode = {"live": "test", "test": "live"}[self.mode]
            case 11:
                self.disputes = rng.choice(["hold", "keep"])
                self.combine = rng.choice([None, "sum", "max"])

    def text(self) -> str:
        text = f'mode = "{self.mode}"\n' + SOURCES[: SOURCES.index("[sources.sandbox]")]
        text += f'settings.disputes = "{self.disputes}"\n'
        text += SOURCES[SOURCES.index("[sources.sandbox]") :] if self.has_sandbox else ""
        given: set[str] = set()
        for name, plan in self.plans.items():
            if name in self.out:
                continue
            products = [
                one for one in plan["products"] if self.has_sandbox or not one.startswith("sand")
            ]
            features = plan["features"]
            values = ", ".join(f"{key} = {json.dumps(one)}" for key, one in features.items())
            given |= features.keys()
            text += f"[plans.{name}]\nproducts = {products or ['stripe:prod_nobodys']}\n"
            text += f'features = {{ {values} }}\ngrace = "{plan["grace"]}"\nrank = {plan["rank"]}\n'
        if self.combine is not None and "seats" in given:
            text += f'[features.seats]\ncombine = "{self.combine}"\n'
        return text


async def populate(stack: Stack, rng: random.Random) -> None:
    """A dozen tenants, with one to three subscriptions each: fewer than are listed."""
    live, sandbox = [], []
    for number in range(12):
        for nth in range(rng.randint(1, 3)):
            is_live = rng.random() < 0.8
            name, who = f"{number}_{nth}", f"cus_{number}"
            named = rng.random() < 0.7
            content = subscription(
                f"sub_{name}",
                customer=who,
                status=rng.choice(["active", "active", "trialing", "past_due", "unpaid"]),
                product=rng.choice(["prod_pro", "prod_basic", "prod_other", "prod_unmapped"]),
                quantity=rng.randint(1, 3),
                tenant=f"t{number:02}" if named else None,
                cancel_at=rng.choice([None, None, NOW_S + 10**6]),
            )
            body = event("customer.subscription.created", content, livemode=is_live)
            (live if is_live else sandbox).append(body)
            if not named and rng.random() < 0.5:
                linking = event(
                    "customer.created", customer(who, tenant=f"t{number:02}"), livemode=is_live
                )
                (live if is_live else sandbox).append(linking)
    await stack.apply(*live)
    await stack.apply(*sandbox, source="sandbox")
    key = CustomerKey(stack.sources["stripe"], "", True, "cus_3")
    async with stack.crew.db.transaction() as conn:
        await link_customer(
            conn, stack.crew.surroundings, await conn.fetchval("SELECT now()"), key, "linked", "o"
        )


async def test_what_is_shown_is_what_happens(stack: Stack, operator: Conn) -> None:
    """Whatever the catalogs, also where some tenants have not followed the one before yet."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    await stack.configure({"stripe": True, "sandbox": False})
    await populate(stack, rng)
    await stack.apply(
        event("customer.subscription.created",
              subscription("sub_d", customer="cus_d", tenant="contested")),
        event("invoice.paid", invoice("in_d", customer="cus_d", subscription="sub_d")),
        event("invoice_payment.paid", invoice_payment("inpay_d", invoice="in_d")),
        event("charge.dispute.created", dispute("du_d")),
    )  # fmt: skip
    async with operator.transaction():
        for value in (5, 10):
            await give(operator, "by-hand", "seats", value, None, "operator:test", "a pilot")
    file, total = File(rng), 0
    for turn in range(24):
        file.edit()
        text, prune = file.text(), rng.random() < 0.4
        declared, seen = await look(operator, text, prune=prune)
        version = await write(operator, declared, prune=prune)
        if rng.random() < 0.3:
            # Another one before all tenants have followed: they go to the last at once.
            for row in await stack.fetch("SELECT tenant FROM tenants ORDER BY random() LIMIT 5"):
                await derive_again(stack.crew, row["tenant"])
            continue
        await derive_all(stack)
        expected = await audited(stack, version) if version is not None else {}
        assert told(seen) == expected, f"seed {seed}, turn {turn}, {prune}\n{text}"
        assert seen.tenants == len({tenant for tenant, _ in expected})
        assert sum(seen.actions.values()) == len(expected)
        assert seen.busy == 0
        total += len(expected)
    assert total > 0, f"seed {seed}: catalogs that change something"


async def state_of(stack: Stack) -> list[Any]:
    return [
        await stack.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("grants", "tenants", "objects", "customers", "audit", "catalogs", "sources")
    ]


async def test_looking_writes_nothing_and_leaves_no_lock(stack: Stack, operator: Conn) -> None:
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in "abc"
        )
    )
    before = await state_of(stack)
    free: list[int] = []
    loop = asyncio.get_running_loop()
    locked: list[asyncio.Task[None]] = []

    async def lock_all() -> None:
        """As a worker would, between one tenant and the next."""
        async with stack.owner.transaction() as conn:
            rows = await conn.fetch("SELECT tenant FROM tenants FOR UPDATE NOWAIT")
            await conn.execute("SELECT customer FROM customers FOR UPDATE NOWAIT")
            free.append(len(rows))

    def report(done: int, total: int | None) -> None:
        if total is not None and done == total:
            locked.append(loop.create_task(lock_all()))

    _, seen = await look(operator, SOURCES + PRO.replace("10", "20"), report=report)
    await asyncio.gather(*locked)
    assert free == [3]
    assert told(seen) == {
        (name, "seats"): ({"value": 10, "validUntil": None}, {"value": 20, "validUntil": None})
        for name in "abc"
    }
    assert (seen.tenants, seen.looked_at, seen.actions) == (3, 3, {"entitlement.changed": 3})
    assert await state_of(stack) == before
    assert await stack.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_only_whom_it_could_concern_is_derived(stack: Stack, operator: Conn) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_a", tenant="a")),
        event(
            "customer.subscription.created",
            subscription("sub_b", customer="cus_b", tenant="b", product="prod_basic"),
        ),
        event(
            "customer.subscription.created",
            subscription("sub_c", customer="cus_c", tenant="c", product="prod_unmapped"),
        ),
    )
    basic = '[plans.basic]\nproducts = ["stripe:prod_basic"]\nfeatures = { seats = 1 }\ngrace = 0\n'
    for text, concerned, changed in [
        (PRO + basic, 0, set()),
        (PRO.replace("10", "20"), 1, {"a"}),
        (PRO.replace("true", "1"), 1, {"a"}),  # in Python, True equals 1
        (PRO + 'lasts = "30d"\n', 1, set()),
        (PRO.replace("prod_pro", "prod_unmapped"), 2, {"a", "c"}),
        (PRO.replace('"]', '", "stripe:price_prod_basic"]'), 1, {"b"}),
        (PRO.replace('"]', '", "stripe:prod_new"]'), 0, set()),
        ('[features.seats]\ncombine = "sum"\n', 2, set()),
        (PRO + '[features.sso]\ncombine = "max"\n', 0, set()),
        ('mode = "test"\n', 3, {"a", "b"}),
        (SOURCES + 'settings.disputes = "keep"\n', 0, set()),
        (SOURCES.replace("[sources.sandbox]", 'settings.disputes = "keep"\n[sources.sandbox]'), 3,
         set()),
    ]:  # fmt: skip
        _, seen = await look(operator, text)
        assert (seen.looked_at, {tenant for tenant, _ in told(seen)}) == (concerned, changed), text
    declared, seen = await look(operator, 'mode = "live"\n', prune=True)
    assert (seen.looked_at, seen.tenants) == (3, 2)
    # Whoever has not followed yet is looked at, whatever the difference is about.
    await write(operator, declared, prune=True)
    _, seen = await look(operator, SOURCES + PRO)
    assert seen.looked_at == 3
    assert told(seen)["b", "seats"][1] is None


async def test_a_tenant_that_somebody_holds_is_counted_and_the_others_are_told(
    stack: Stack, operator: Conn
) -> None:
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in "ab"
        )
    )
    async with stack.owner.transaction() as conn:
        await conn.execute("SELECT FROM tenants WHERE tenant = 'a' FOR UPDATE")
        _, seen = await look(operator, PRO.replace("10", "20"))
    assert (seen.tenants, seen.looked_at, seen.busy) == (1, 2, 1)
    assert told(seen).keys() == {("b", "seats")}


async def test_many_tenants_are_counted_and_the_first_are_listed(
    stack: Stack, operator: Conn
) -> None:
    names = [f"t{number:02}" for number in range(LISTED + 5)]
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in names
        )
    )
    _, seen = await look(operator, PRO.replace("10", "20").replace(", sso = true", ""))
    assert [change.tenant for change in seen.changes[::2]] == names[:LISTED]
    assert (seen.tenants, seen.listed) == (LISTED + 5, LISTED)
    assert seen.actions == {
        "entitlement.changed": LISTED + 5,
        "entitlement.revoked": LISTED + 5,
    }


async def test_objects_and_tenants_are_read_in_pieces(
    stack: Stack, operator: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "_AT_ONCE", 2)
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in "abcde"
        ),
        event("customer.subscription.created", subscription("sub_f", customer="cus_f")),
    )
    pieces = [piece async for piece in catalogs.owned_objects(operator)]
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    read = {one.tenant: one for piece in pieces for one in piece}
    assert sorted(read) == list("abcde")
    assert [one async for one in catalogs.tenants_behind(operator, 99)] == list("abcde")
    (owned,) = await objects.read_objects_of_tenant(operator, "e")
    assert (read["e"].id, read["e"].register) == (owned.id, owned.register)
