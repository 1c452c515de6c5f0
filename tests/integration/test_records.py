"""Records: versions from anywhere become what a tenant has, once, in every order, and told of."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.acme import (
    LICENCES,
    REPORTS,
    add_acme,
    licence,
    remap,
    replay,
    report,
    told_to_tenants,
)
from tests.support.stack import Stack, drain, new_crew

BOTH = {
    **LICENCES,
    "record": {
        "id": "data.record",
        "version": "data.updated",
        "tenant": "data.for",
        "fields": {"state": "data.state"},
    },
}


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    return stack


async def records(stack: Stack) -> dict[str, tuple[Any, ...]]:
    """What counts: record → (tenant, title, event)."""
    rows = await stack.fetch(
        "SELECT r.record_id, r.tenant, v.normalised, r.event_id, r.version = v.version AS agrees"
        " FROM records r JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id"
    )
    assert all(row["agrees"] for row in rows)
    return {
        row["record_id"]: (row["tenant"], json.loads(row["normalised"])["title"], row["event_id"])
        for row in rows
    }


async def actions(stack: Stack, tenant: str = "acme") -> list[str]:
    rows = await stack.fetch(
        "SELECT action, subject, source, feature FROM audit"
        " WHERE chain = $1 AND step > 0 ORDER BY id",
        f"tenant:{tenant}",
    )
    assert {row["subject"][:7] for row in rows} <= {"record/"}
    assert {(row["source"], row["feature"]) for row in rows} <= {("acme", "")}
    return [row["action"] for row in rows]


async def test_the_newest_counts_whatever_comes_last(acme: Stack) -> None:
    ids = await acme.apply(report(2, 20), source="acme")
    ids += await acme.apply(report(1, 10), source="acme")
    ids += await acme.apply(report(3, 30), source="acme")
    ids += await acme.apply(report(4, 40, title="title 3"), source="acme")
    assert await acme.outcomes(ids) == ["applied", "superseded", "applied", "unchanged"]
    assert await records(acme) == {"rep_1": ("acme", "title 3", "evt_4")}
    assert await actions(acme) == ["record.imported", "record.changed"]
    assert await acme.value("SELECT count(*) FROM record_versions") == 4
    assert await told_to_tenants(acme) == {("rep_1", "acme"): '{"title":"title 3"}'}
    by = await acme.fetch("SELECT DISTINCT mapped_by, raw::text FROM record_versions")
    current = await acme.value("SELECT max(version) FROM configuration")
    assert [tuple(row.values()) for row in by] == [(current, None)]


async def test_of_equal_versions_the_event_id_decides(acme: Stack) -> None:
    await acme.apply(report("b"), source="acme")
    await acme.apply(report("a"), report("c"), source="acme")
    assert await records(acme) == {"rep_1": ("acme", "title c", "evt_c")}


async def test_a_record_of_nobody_waits_for_its_tenant(acme: Stack) -> None:
    (one,) = await acme.apply(report(1, tenant=None), source="acme")
    row = await acme.fetch("SELECT status, outcome, code, tenant FROM settlements")
    assert tuple(row[0].values()) == ("processed", "parked", "needs:tenant", None)
    assert await records(acme) == {"rep_1": (None, "title 1", "evt_1")}
    # Said by a newer version, or by a mapping that knows better.
    await acme.apply(report(2, 2), source="acme")
    assert await records(acme) == {"rep_1": ("acme", "title 2", "evt_2")}
    knowing = {**REPORTS, "record": {**REPORTS["record"], "tenant": "data.id", "version": "at"}}
    await remap(acme, knowing)
    (two,) = await acme.apply(report(3, id="rep_2", at="2026-11-03"), source="acme")
    assert await actions(acme, "rep_2") == ["record.imported"]
    assert await acme.outcomes([one, two]) == ["parked", "applied"]


async def test_a_record_goes_from_tenant_to_tenant(acme: Stack) -> None:
    await acme.apply(report(1), source="acme")
    await acme.apply(report(2, 2, tenant="beta", title="title 1"), source="acme")
    assert await actions(acme) == ["record.imported", "record.removed"]
    assert await actions(acme, "beta") == ["record.imported"]
    await acme.apply(report(3, 3, tenant=None), source="acme")
    assert await actions(acme, "beta") == ["record.imported", "record.removed"]
    assert await told_to_tenants(acme) == {}


async def test_a_record_grants_nothing_and_the_tenant_is_there(acme: Stack) -> None:
    await acme.apply(report(1, title="😀"), source="acme")
    assert await acme.features("acme") == {}
    assert await acme.tenant("acme") is not None


async def test_a_replay_replaces_its_own_version(acme: Stack) -> None:
    one, two = await acme.apply(report(1, 1), report(2, 2), source="acme")
    other = {**REPORTS, "record": {**REPORTS["record"], "fields": {"title": "lower(data.id)"}}}
    await remap(acme, other)
    await replay(acme, two)
    assert await records(acme) == {"rep_1": ("acme", "rep_1", "evt_2")}
    # Another time, so that the first is now the newer; then another record.
    older = {**other, "record": {**other["record"], "version": "`1000000000`"}}
    await remap(acme, older)
    await replay(acme, two)
    assert await records(acme) == {"rep_1": ("acme", "title 1", "evt_1")}
    renamed = {**other, "record": {**other["record"], "id": "data.title"}}
    await remap(acme, renamed)
    await replay(acme, one, two)
    assert await records(acme) == {
        "title 1": ("acme", "rep_1", "evt_1"),
        "title 2": ("acme", "rep_1", "evt_2"),
    }
    assert await acme.value("SELECT count(*) FROM record_versions") == 2
    assert await acme.value("SELECT count(*) FROM records WHERE event_id IS NULL") == 1
    assert set(await told_to_tenants(acme)) == {("title 1", "acme"), ("title 2", "acme")}


async def test_replays_of_a_whole_history_in_one_batch_change_nothing(acme: Stack) -> None:
    ids = await acme.apply(*(report(n, n % 7) for n in range(30)), source="acme")
    before, told = await records(acme), await actions(acme)
    await replay(acme, *ids)
    assert await records(acme) == before
    assert await actions(acme) == told
    assert await acme.value("SELECT count(*) FROM record_versions") == 30


async def test_a_replay_that_cannot_read_takes_its_version_back(acme: Stack) -> None:
    one, two = await acme.apply(report(1), report(2, 2), source="acme")
    broken = {**REPORTS, "record": {**REPORTS["record"], "id": "data.nothing"}}
    await remap(acme, broken)
    await replay(acme, two)
    assert await acme.outcomes([one, two]) == ["applied", "dead"]
    assert await records(acme) == {"rep_1": ("acme", "title 1", "evt_1")}
    assert await actions(acme) == ["record.imported", "record.changed", "record.changed"]
    assert await told_to_tenants(acme) == {("rep_1", "acme"): '{"title":"title 1"}'}


async def test_sources_and_accounts_keep_their_records_apart(acme: Stack) -> None:
    await add_acme(acme, REPORTS, name="other")
    await acme.apply(report(1), source="acme")
    await acme.apply(report(1, title="theirs"), source="other")
    rows = await acme.fetch("SELECT source_id, record_id FROM records")
    assert len(rows) == 2
    assert await actions_of_all(acme) == ["record.imported"] * 2


async def actions_of_all(stack: Stack) -> list[str]:
    rows = await stack.fetch("SELECT action FROM audit WHERE action LIKE 'record.%'")
    return [row["action"] for row in rows]


async def test_the_chain_of_a_merged_tenant_goes_on_in_the_other(acme: Stack) -> None:
    await acme.apply(report(1), source="acme")
    await acme.fetch("INSERT INTO tenants (tenant) VALUES ('beta')")
    await acme.fetch(
        "UPDATE tenants SET merged_into = 'beta', merged_at = now() WHERE tenant = 'acme'"
    )
    (two,) = await acme.apply(report(2, 2), source="acme")
    assert await acme.outcomes([two]) == ["applied"]
    assert await actions(acme) == ["record.imported"]
    assert await actions(acme, "beta") == ["record.changed"]
    # As it was said: whoever reads goes through the names.
    assert await records(acme) == {"rep_1": ("acme", "title 2", "evt_2")}
    assert await acme.value("SELECT tenant FROM settlements WHERE tracking_id = $1", two) == "beta"


async def test_many_workers_meet_at_few_records(acme: Stack) -> None:
    """Subjects in all lanes name the same records and tenants, with objects between them."""
    await remap(acme, BOTH, REPORTS)
    bodies = []
    for n in range(400):
        whose, other = f"t{n % 3}", f"t{(n * 7 + n // 5) % 3}"
        bodies.append(
            licence(n, n, "live" if n % 2 else "stopped", id=f"lic_{n % 5}", account=None,
                    tenant=whose, record=f"rep_{n % 4}", **{"for": other})
        )  # fmt: skip
        bodies.append(
            report(1000 + n, n, subject=f"s{n}", id=f"rep_{n % 4}", tenant=other, title="x")
        )
    await acme.receive(*bodies, source="acme")
    async with AsyncExitStack() as opened:
        crews = [
            await opened.enter_async_context(new_crew(acme.endpoints, f"w{n}", batch_size=7))
            for n in range(3)
        ]
        await asyncio.gather(*(drain(crew) for crew in crews))
    assert await acme.value("SELECT count(*) FROM settlements") == 800
    assert await acme.value("SELECT count(*) FROM settlements WHERE outcome = 'dead'") == 0
    assert await acme.value("SELECT count(*) FROM attempts") == 0
    rows = await acme.fetch("SELECT record_id, event_id FROM records ORDER BY record_id")
    assert {row["record_id"]: row["event_id"] for row in rows} == {
        f"rep_{n % 4}": f"evt_{n}" for n in range(396, 400)
    }
    await told_to_tenants(acme)
    assert await deadlocks(acme) == 0


async def test_tenants_of_objects_and_records_are_locked_together(acme: Stack) -> None:
    """Two lanes, each with the one's object and the other's record in every event."""
    await remap(acme, BOTH)
    bodies = []
    for n in range(60):
        for whose, other in (("a", "b"), ("b", "a")):
            bodies.append(
                licence(f"{whose}{n}", n, "live" if n % 2 else "stopped", subject=f"s{whose}",
                        id=f"lic_{whose}", account=None, tenant=whose, record=f"rep_{whose}",
                        **{"for": other})
            )  # fmt: skip
    await acme.receive(*bodies, source="acme")
    async with AsyncExitStack() as opened:
        crews = [
            await opened.enter_async_context(new_crew(acme.endpoints, f"w{n}", batch_size=2))
            for n in range(2)
        ]
        await asyncio.gather(*(drain(crew) for crew in crews))
    assert await acme.value("SELECT count(*) FROM settlements WHERE outcome = 'dead'") == 0
    assert await deadlocks(acme) == 0


async def deadlocks(stack: Stack) -> int:
    found: int = await stack.value(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    return found
