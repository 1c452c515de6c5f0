"""A tenant is erased: nothing of it is left but that it was, and nothing brings it back."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared.artifacts import ArtifactGone, Artifacts
from shared.store import job_lists
from tests.integration.test_exporting import begin as begin_export
from tests.integration.test_exporting import export
from tests.support.acme import add_acme, report
from tests.support.importing import Importer, add_pushed, ndjson, row
from tests.support.keeping import LONG_AGO, add_day, at, partitions
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from tests.support.working import finish
from workers.erasure import Begun, Unerasable, begin_erasure
from workers.granting import give
from workers.holding import NotSo, hold
from workers.holdings import TenantErased
from workers.jobs import erasing
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.merge import merge
from workers.replay import open_run
from workers.tending import note_event
from workers.trail import verify


def created(name: str, tenant: str | None, kind: str = "created", **more: Any) -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant, **more)
    return event(f"customer.subscription.{kind}", content)


async def begin(stack: Stack, tenant: str = "gone") -> Begun:
    async with stack.owner.transaction() as conn:
        return await begin_erasure(conn, tenant, "operator:test", "request 4711")


async def erase(stack: Stack, home: Path, tenant: str = "gone") -> dict[str, Any]:
    """Erase, and what the job came to."""
    begun = await begin(stack, tenant)
    await finish(stack, turns(stack, home))
    async with stack.owner.connection() as conn:
        row = await job_lists.read_job(conn, begun.job)
    assert row is not None
    assert row["state"] == "done", dict(row)
    return dict(json.loads(row["result"]))


def turns(stack: Stack, home: Path) -> Turns:
    return Turns(Tools(stack.crew, Artifacts(None, home)), asyncio.Event())


async def everything(stack: Stack) -> str:
    """All that any table holds, but what has ids alone: the trail's rows, the ledger, locks."""
    tables = await stack.fetch(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT IN"
        " ('audit', 'audit_heads', 'tenants', 'ledger', 'customers', 'joints')"
    )
    found = []
    for table in tables:
        rows = await stack.fetch(f"SELECT t::text AS line FROM {table['relname']} t")
        found += [f"{table['relname']}: {row['line']}" for row in rows]
    contents = await stack.fetch(
        "SELECT coalesce(convert_from(before, 'UTF8'), '') || coalesce(convert_from(after, 'UTF8'),"
        " '') || coalesce(convert_from(reason, 'UTF8'), '') AS text FROM audit_content"
    )
    bodies = await stack.fetch("SELECT convert_from(body, 'UTF8') AS text FROM inbox")
    again = await stack.fetch(
        "SELECT convert_from(body, 'UTF8') AS text FROM deliveries WHERE body IS NOT NULL"
    )
    return "\n".join([*found, *(row["text"] for row in (*contents, *bodies, *again))])


async def findings(stack: Stack) -> list[Any]:
    async with stack.owner.connection() as conn:
        return [one async for one in verify(conn, None, lambda _: None)]


async def test_nothing_of_it_is_left_and_the_chains_verify(stack: Stack, tmp_path: Path) -> None:
    ids = await stack.apply(created("1", "gone"), created("2", "gone"), created("3", "stays"))
    async with stack.owner.transaction() as conn:
        await give(conn, "gone", "calls", 5, None, "operator:test", "secret-pilot")
    result = await erase(stack, tmp_path)
    assert (result["events"], result["objects"]) == (2, 2)
    left = await everything(stack)
    for word in ("sub_1", "sub_2", "cus_1", "cus_2", "secret-pilot"):
        assert [line for line in left.split("\n") if word in line] == []
    assert "sub_3" in left
    assert await stack.features("gone") == {}
    assert await stack.features("stays") == {"seats": 10, "sso": True}
    assert await findings(stack) == []
    assert await stack.outcomes(ids) == ["applied"] * 3
    told = await stack.fetch(
        "SELECT a.actor, a.subject, convert_from(c.reason, 'UTF8') AS reason FROM audit a"
        " JOIN audit_content c ON c.audit_id = a.id WHERE a.action = 'tenant.erased'"
    )
    assert [tuple(row) for row in told] == [("operator:test", "tenant/gone", "request 4711")]


async def test_a_redelivery_is_a_duplicate_and_brings_nothing_back(
    stack: Stack, tmp_path: Path
) -> None:
    body = created("1", "gone")
    (first,) = await stack.receive(body)
    await stack.drain()
    await erase(stack, tmp_path)
    for again in (body, body.replace(b'"pending_webhooks"', b'"pending_webhooks" ')):
        (receipt,) = await stack.receive(again)
        assert (receipt.status, receipt.tracking_id) == ("duplicate", first.tracking_id)
    (other,) = await stack.receive(body + b" ")
    assert (other.status, other.is_other) == ("duplicate", True)
    await stack.drain()
    assert "sub_1" not in await everything(stack)
    assert await stack.value("SELECT count(*) FROM work") == 0


async def test_a_later_event_resurrects_nothing(stack: Stack, tmp_path: Path) -> None:
    await stack.apply(created("1", "gone"))
    await erase(stack, tmp_path)
    ids = await stack.apply(created("1", "gone", kind="updated"), created("9", "gone"))
    assert await stack.outcomes(ids) == ["parked", "parked"]
    assert await stack.features("gone") == {}
    waits = await stack.fetch("SELECT DISTINCT parked, tenant FROM objects")
    assert [tuple(row) for row in waits] == [("tenant_erased", None)]
    assert await stack.value("SELECT count(*) FROM grants") == 0
    async with stack.owner.transaction() as conn:
        with pytest.raises(TenantErased):
            await give(conn, "gone", "calls", 5, None, "operator:test", "again")
    # Once more: what has come since goes too.
    result = await erase(stack, tmp_path)
    assert (result["events"], result["objects"], result["contents"]) == (2, 2, 2)
    assert await stack.value("SELECT count(*) FROM inbox") == 0


async def test_names_that_were_merged_go_along(stack: Stack, tmp_path: Path) -> None:
    await stack.apply(created("1", "alias"), created("2", "gone"))
    async with stack.owner.transaction() as conn:
        await merge(conn, "alias", "gone", "operator:test", "one")
    await erase(stack, tmp_path)
    assert "sub_1" not in await everything(stack)
    ids = await stack.apply(created("3", "alias"))
    assert await stack.outcomes(ids) == ["parked"]
    with pytest.raises(Unerasable, match="another name"):
        await begin(stack, "alias")


async def test_who_is_held_is_not_erased(stack: Stack) -> None:
    await stack.apply(created("1", "gone"))
    async with stack.owner.transaction() as conn:
        await hold(conn, "gone", None, "operator:test", "a dispute")
    with pytest.raises(Unerasable, match="a dispute"):
        await begin(stack)
    assert await stack.value("SELECT count(*) FROM jobs") == 0


async def test_who_is_erased_cannot_be_held(stack: Stack, tmp_path: Path) -> None:
    await stack.apply(created("1", "gone"))
    await erase(stack, tmp_path)
    async with stack.owner.transaction() as conn:
        with pytest.raises(NotSo, match="was erased"):
            await hold(conn, "gone", None, "operator:test", "late")


async def test_an_unfinished_event_is_waited_for(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "WAIT_S", 0.1)
    await stack.apply(created("1", "gone"))
    (late,) = await stack.receive(created("1", "gone", kind="updated"))
    begun = await begin(stack)
    running = turns(stack, tmp_path)
    for _ in range(20):
        await running.turn_of_each()
        await asyncio.sleep(0.02)
    assert await stack.value("SELECT state FROM jobs WHERE id = $1", begun.job) == "running"
    assert await stack.value("SELECT count(*) FROM inbox") == 1
    await stack.drain()
    await finish(stack, running)
    assert await stack.value("SELECT count(*) FROM inbox") == 0
    assert await stack.outcomes([late.tracking_id]) == ["parked"]


async def test_nothing_comes_back_with_a_day_that_moves(stack: Stack, tmp_path: Path) -> None:
    """Erased between the copy of what has to stay and its change of places."""
    await add_day(stack, LONG_AGO.date())
    with at(LONG_AGO):
        await stack.apply(created("1", "gone"), created("2", "kept"))
    for name in ("gone", "kept"):
        async with stack.owner.transaction() as conn:
            await hold(conn, name, None, "operator:test", "a dispute")
    async with stack.crew.db.connection() as conn:
        since, upto = await conn.fetchrow("SELECT * FROM begin_inbox_move(30)")
        await conn.fetchval("SELECT copy_kept_bodies($1, $2)", since, upto)
        assert await stack.value("SELECT count(*) FROM inbox_moving") == 2
        await stack.fetch("UPDATE tenants SET held_at = NULL, held_by = NULL, hold_reason = NULL"
                          " WHERE tenant = 'gone'")  # fmt: skip
        await erase(stack, tmp_path)
        assert await conn.fetchval("SELECT finish_inbox_move(30, 200)") == 1
    assert list((await partitions(stack)).values()) == [1]
    assert "sub_1" not in await everything(stack)


async def test_records_and_files_of_it_go(stack: Stack, tmp_path: Path) -> None:
    await add_acme(stack)
    await stack.apply(
        report("a", id="a", tenant="gone"), report("b", id="b", tenant="stays"), source="acme"
    )
    result = await erase(stack, tmp_path)
    assert result["records"] == 1
    assert await stack.value("SELECT string_agg(record_id, ',') FROM records") == "b"
    assert await findings(stack) == []


async def test_of_an_import_with_rows_of_several_the_body_goes(
    stack: Stack, tmp_path: Path
) -> None:
    """What the others had of it stays; that body, whole, named the one that is erased."""
    await add_pushed(stack)
    importer = Importer(stack, tmp_path)
    body = ndjson([row("1", tenant="gone", title="of gone"), row("2", tenant="stays")])
    job = await importer.imported(body, apart=True)
    digest = sha256(body).digest()
    result = await erase(stack, tmp_path)
    assert (result["events"], result["records"]) == (1, 1)
    assert "of gone" not in await everything(stack)
    assert await stack.value("SELECT string_agg(record_id, ',') FROM records") == "rep_2"
    with pytest.raises(ArtifactGone):
        _ = [chunk async for chunk in importer.artifacts.read(digest)]
    assert job["state"] == "done"
    assert await findings(stack) == []


async def test_what_lies_beside_its_events_goes_too(stack: Stack, tmp_path: Path) -> None:
    """Another body under the same id, what failed with it, and what was said to the outside."""
    body = created("1", "gone")
    one, other = await stack.apply(body, created("2", "stays"))
    await stack.receive(body.replace(b'"cus_1"', b'"cus_beside"'))
    await stack.drain()
    assert await stack.value("SELECT count(*) FROM conflicts") == 1
    for event_of, whose in ((one, "gone"), (other, "stays")):
        await stack.fetch(
            "UPDATE settlements SET error = $2 WHERE tracking_id = $1",
            event_of, f"error of {whose}",
        )  # fmt: skip
        await stack.fetch(
            "INSERT INTO attempts (tracking_id, run, number, code, error, worker)"
            " VALUES ($1, 1, 1, 'x', $2, 'w')",
            event_of, f"attempt of {whose}",
        )  # fmt: skip
        await stack.fetch(
            "INSERT INTO messages (id, handler, key, tracking_id, payload)"
            " VALUES (nextval('message_numbers'), 'slack', $2, $1, $3)",
            event_of, whose, json.dumps(f"message of {whose}").encode(),
        )  # fmt: skip
    messages = "SELECT string_agg(convert_from(payload, 'UTF8'), ' ' ORDER BY id) FROM messages"
    assert await stack.value(messages) == '"message of gone" "message of stays"'
    left = await everything(stack)
    for word in ("cus_beside", "error of gone", "attempt of gone"):
        assert word in left
    await erase(stack, tmp_path)
    left = await everything(stack)
    for word in ("cus_beside", "error of gone", "attempt of gone"):
        assert word not in left
    for word in ("error of stays", "attempt of stays"):
        assert word in left
    assert await stack.value(messages) == 'null "message of stays"'
    assert await findings(stack) == []


async def test_what_others_made_of_it_goes_too(stack: Stack, tmp_path: Path) -> None:
    """What no webhook brought, what was compared, and what plans of replays say of it."""
    one, other = await stack.apply(created("1", "gone"), created("2", "stays"))
    plan = uuid4()
    for event_of in (one, other):
        await stack.fetch("INSERT INTO missed_events (tracking_id, source_id, account, event_id,"
                          " event_type) VALUES ($1, 1, '', 'x', 'x')", event_of)  # fmt: skip
    await stack.fetch("INSERT INTO compared_objects SELECT id, 1 FROM objects")
    changes = [{"tenant": name, "feature": "seats", "from": None, "to": {"value": 4711}}
               for name in ("gone", "stays")]  # fmt: skip
    await stack.fetch(
        "INSERT INTO jobs (id, kind, actor, state, finished_at, result)"
        " VALUES ($1, 'replay-plan', 'x', 'done', now(), $2::json)",
        plan, json.dumps({"events": 2, "effect": {"features": 2, "changes": changes}}),
    )  # fmt: skip
    await stack.fetch("INSERT INTO replay_tenants SELECT $1, unnest(ARRAY['gone', 'stays'])", plan)
    await erase(stack, tmp_path)
    assert await stack.value("SELECT tracking_id FROM missed_events") == other
    assert await stack.value("SELECT count(*) FROM compared_objects") == 1
    result = json.loads(await stack.value("SELECT result::text FROM jobs WHERE id = $1", plan))
    assert result == {"events": 2, "effect": {"features": 2, "changes": changes[1:]}}


async def test_notes_on_its_events_and_exports_of_all_go(stack: Stack, tmp_path: Path) -> None:
    """What operators wrote names no tenant, and what was exported of all is of it too."""
    one, other = await stack.apply(created("1", "gone"), created("2", "stays"))
    async with stack.owner.transaction() as conn:
        for event_of, text in ((one, "calls of cus_1"), (other, "of the other")):
            await note_event(conn, event_of, text, "operator:test", None)
        await open_run(conn, one, "operator:test", "mrs Smith of cus_1 asked")
    await stack.drain()
    files = tmp_path / "artifacts"
    await export(stack, tmp_path, "entitlements")
    for table, column in (("jobs", "id"), ("job_assets", "job")):  # as those of orders are
        await stack.fetch(f"UPDATE {table} SET {column} = first_id('2026-01-01')")
    assert [path for path in files.rglob("*") if path.is_file()]
    assert "cus_1 asked" in await everything(stack)
    result = await erase(stack, tmp_path)
    left = await everything(stack)
    assert "cus_1" not in left
    assert "of the other" in left
    assert result["exportsOfAll"] == 1
    assert [path for path in files.rglob("*") if path.is_file()] == []
    assert len(await export(stack, tmp_path, "entitlements")) > 0
    assert await findings(stack) == []


async def test_an_export_that_is_under_way_is_waited_for(stack: Stack, tmp_path: Path) -> None:
    await stack.apply(created("1", "gone"))
    job = await begin_export(stack, "entitlements")
    await stack.fetch("UPDATE jobs SET id = first_id(now()), state = 'paused' WHERE id = $1", job)
    begun = await begin(stack, "gone")
    state = "SELECT state FROM jobs WHERE id = $1"
    several = turns(stack, tmp_path)
    for _ in range(12):
        await stack.fetch("UPDATE jobs SET due_at = now() WHERE id = $1", begun.job)
        await several.turn_of_each()
    assert await stack.value(state, begun.job) == "running"
    await stack.fetch("UPDATE jobs SET state = 'waiting', due_at = now() WHERE kind = 'export'")
    await finish(stack, several)
    assert await stack.value(state, begun.job) == "done"
    assert await stack.value("SELECT count(*) FROM job_assets") == 0


async def test_a_body_that_a_held_tenant_shares_stays(stack: Stack, tmp_path: Path) -> None:
    await add_pushed(stack)
    importer = Importer(stack, tmp_path)
    await importer.imported(ndjson([row("1", tenant="gone"), row("2", tenant="held")]))
    async with stack.owner.transaction() as conn:
        await hold(conn, "held", None, "operator:test", "a dispute")
    result = await erase(stack, tmp_path)
    assert (result["events"], result["keptForHeld"]) == (0, 1)
    assert await stack.value("SELECT count(*) FROM inbox") == 1
