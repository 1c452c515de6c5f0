"""A rehearsal leaves no trace, gives way to live work, and says of what it cannot tell."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from shared import telemetry
from shared.domain.commands import Observe
from shared.domain.keys import CustomerKey
from shared.domain.selection import Selection
from shared.store.selecting import Selected, select_events
from tests.support.acme import LICENCES, add_acme, licence, remap, report
from tests.support.stack import Stack
from tests.support.stripe_events import customer, event, subscription
from workers import handlers, rehearsal
from workers.process import Progress, visit
from workers.rehearsal import rehearse

TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 1
"""


def created(name: str, tenant: str | None = None, product: str = "prod_pro") -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant, product=product)
    return event("customer.subscription.created", content)


async def settled(stack: Stack, ids: Sequence[UUID]) -> list[Selected]:
    async with stack.crew.db.connection() as conn:
        return await select_events(conn, Selection(ids=tuple(ids)), None, 20_000)


async def everything(stack: Stack) -> dict[str, tuple[int, str]]:
    """By table: how many rows, and a checksum over all of them."""
    found = {}
    for row in await stack.fetch(TABLES):
        table = row["relname"]
        (sums,) = await stack.fetch(
            f"SELECT count(*) AS rows, md5(coalesce(string_agg(t::text, '' ORDER BY t::text), ''))"
            f" AS sum FROM {table} AS t"
        )
        found[table] = sums["rows"], sums["sum"]
    return found


def values(found: rehearsal.Rehearsed) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {
        (one.tenant, one.feature): (
            one.before.value if one.before else None,
            one.after.value if one.after else None,
        )
        for one in found.changes
    }


async def test_no_table_and_no_counter_knows_of_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_acme(stack)
    ids = await stack.apply(created("a", "a"), created("b"), b"not json")
    ids += await stack.apply(licence(1), licence(2, 2, tenant="b"), report(3), source="acme")
    # Licences become nothing, and so take back what they did; reports become other records.
    await remap(stack, {**LICENCES, "types": ["other.*"]})
    counted: list[str] = []
    for name in ("settled", "batch", "end_to_end", "attempt_failed", "handled", "conflict_found"):
        monkeypatch.setattr(telemetry, name, lambda *_, name=name: counted.append(name))
    before = await everything(stack)
    assert len(before) > 30
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert await everything(stack) == before
    assert counted == []
    assert values(found) == {("b", "seats"): (10, None), ("b", "sso"): (True, None)}
    assert found.outcomes[ids[3]] == ("ignored", "unmapped")
    assert await stack.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_one_that_fails_spoils_nobody(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await stack.apply(*(created(name, "t") for name in "abc"))
    await stack.configure(plans={"pro": {"products": ["stripe:prod_pro"], "features": {"seats": 3},
                                         "graceS": 0}})  # fmt: skip
    applied = handlers.HANDLERS[Observe]

    async def observe(conn: Any, scope: Any, asked: Any) -> Any:
        answers = await applied(conn, scope, asked)
        if any(one.event.tracking_id == ids[1] for one in asked):
            raise ValueError("poison")
        return answers

    monkeypatch.setitem(handlers.HANDLERS, Observe, observe)
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert found.outcomes == {
        ids[0]: ("applied", None),
        ids[1]: ("retrying", "ValueError"),
        ids[2]: ("applied", None),
    }
    # The one that fails goes on giving what it gave.
    assert values(found) == {}


async def test_what_is_left_out_and_of_whom_nothing_is_known(stack: Stack) -> None:
    ids = await stack.apply(created("a", "a"), created("b", "b"), created("c", "c"))
    await stack.fetch(
        "INSERT INTO attempts (tracking_id, run, number, code, error, worker)"
        " VALUES ($1, 1, 1, 'process_died', 'x', 'w')",
        ids[0],
    )
    await stack.fetch("DELETE FROM inbox WHERE tracking_id = $1", ids[1])
    events = await settled(stack, [ids[0], ids[2]])
    gone = events[0]._replace(tracking_id=ids[1])
    unfinished = events[0]._replace(tracking_id=UUID(int=7), is_unfinished=True)
    found = await rehearse(stack.crew, [*events, gone, unfinished])
    assert found.left_out == {
        ids[0]: "killed_a_process",
        ids[1]: "body_expired",
        UUID(int=7): "unfinished",
    }
    assert found.missed == {"a": "killed_a_process"}
    assert (found.tenants, found.outcomes) == ({"c"}, {ids[2]: ("unchanged", None)})


async def test_pieces_that_turn_out_to_meet_are_joined(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guess from what stands there is only a guess: nothing is known of tenants here."""
    ids = await stack.apply(created("a"), created("b"), created("c"))
    for name in "ab":
        key = CustomerKey(stack.sources["stripe"], "", True, f"cus_{name}")
        await stack.link(key, "t")
    ids += await stack.apply(event("customer.created", customer("cus_c", tenant="t")))
    await stack.configure(plans={})

    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(rehearsal, "find_tenants", nothing)
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert values(found) == {("t", "seats"): (10, None), ("t", "sso"): (True, None)}
    assert len(found.outcomes) == 4
    assert found.tenants == {"t"}


async def test_too_many_are_left_out_and_their_tenant_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MOST_EVENTS", 2)
    ids = await stack.apply(*(created(name, "t") for name in "abc"), created("d", "d"))
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert set(found.left_out.values()) == {"too_many"}
    assert len(found.left_out) == 3
    assert (found.missed, found.tenants) == ({"t": "too_many"}, {"d"})


async def test_one_that_takes_too_long_is_left_out(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MOST_S", 0.0)
    monkeypatch.setattr(rehearsal, "BATCH", 2)
    ids = await stack.apply(*(created(name, "t") for name in "abc"), created("d", "d"))
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert (found.missed, found.tenants) == ({"t": "too_many"}, {"d"})


async def test_a_tenant_that_somebody_holds_is_busy_and_the_others_are_told(stack: Stack) -> None:
    ids = await stack.apply(created("a", "a"), created("b", "b"))
    async with stack.owner.transaction() as conn:
        await conn.execute("SELECT FROM tenants WHERE tenant = 'a' FOR UPDATE")
        found = await rehearse(stack.crew, await settled(stack, ids))
    assert found.left_out == {ids[0]: "busy"}
    assert found.missed == {"a": "busy"}
    assert found.outcomes == {ids[1]: ("unchanged", None)}


async def test_live_events_of_the_tenant_are_not_kept_waiting(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives way, and comes to its end all the same."""
    monkeypatch.setattr(rehearsal, "BATCH", 10)
    ids = await stack.apply(*(created(f"a{number}", "t") for number in range(200)))
    events = await settled(stack, ids)
    task = asyncio.create_task(rehearse(stack.crew, events))
    waits_s = []
    number = 0
    loop = asyncio.get_running_loop()
    while not task.done() and number < 20:
        number += 1
        (receipt,) = await stack.receive(created(f"a{number}", "t", "prod_basic"))
        lane = await stack.value(
            "SELECT lane FROM work WHERE tracking_id = $1", receipt.tracking_id
        )
        begun_s = loop.time()
        while await visit(stack.crew, lane) is Progress.MORE:
            pass
        waits_s.append(loop.time() - begun_s)
        await asyncio.sleep(0.05)
    found = await task
    assert max(waits_s) < 1.5
    assert set(found.left_out.values()) <= {"busy"}
    attempts = await stack.value("SELECT count(*) FROM attempts")
    assert attempts == 0


CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice test'
"""


async def test_connections_that_are_cut_cost_time_and_nothing_else(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "BATCH", 10)
    ids = await stack.apply(*(created(f"a{number}", f"t{number}") for number in range(150)))
    events = await settled(stack, ids)
    before = await everything(stack)
    task = asyncio.create_task(rehearse(stack.crew, events))
    cut = 0
    while not task.done() and cut < 3:
        await asyncio.sleep(0.05)
        cut += len(await stack.fetch(CUT)) > 0
    found = await task
    assert cut == 3
    assert found.outcomes == dict.fromkeys(ids, ("unchanged", None))
    assert await everything(stack) == before
