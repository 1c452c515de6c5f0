"""Exports: as of when they are, which rows they have, and that no death costs or doubles any."""

import asyncio
import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared import db
from shared.artifacts import Artifacts
from shared.domain.jobs import Export, UnfitError, read_arguments
from shared.store import job_lists, jobs
from tests.support.acme import add_acme, report
from tests.support.stack import Stack
from tests.support.working import finish
from workers.granting import give
from workers.jobs import exporting
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns

SMALL = {"export": partial(exporting.begin, part_bytes=1, page_rows=3)}


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    return stack


def turns(stack: Stack, home: Path, kinds: Any = SMALL) -> Turns:
    return Turns(Tools(stack.crew, Artifacts(None, home)), asyncio.Event(), kinds)


async def begin(stack: Stack, what: str, *, tenant: str | None = None, source: str | None = None,
                **arguments: Any) -> UUID:  # fmt: skip
    job = uuid4()
    async with stack.crew.db.transaction() as conn:
        await jobs.begin(
            conn, job, "export", 1, actor="token:test", tenant=tenant,
            source_id=stack.sources[source] if source else None,
            arguments={"what": what, **arguments},
        )  # fmt: skip
    return job


async def rows_of(stack: Stack, home: Path, job: UUID) -> list[dict[str, Any]]:
    async with stack.owner.connection() as conn:
        (asset,) = await job_lists.read_assets(conn, job)
        row = await job_lists.read_job(conn, job)
        assert row is not None
    content = b""
    for digest in asset.parts or [asset.sha256]:
        content += b"".join([chunk async for chunk in Artifacts(None, home).read(digest)])
    found = [json.loads(line) for line in content.splitlines()]
    assert len(found) == row["done"]
    return found


async def export(stack: Stack, home: Path, what: str, **more: Any) -> list[dict[str, Any]]:
    job = await begin(stack, what, **more)
    await finish(stack, turns(stack, home))
    return await rows_of(stack, home, job)


async def test_entitlements_of_all_and_of_one(acme: Stack, tmp_path: Path) -> None:
    await acme.fetch("INSERT INTO tenants (tenant) SELECT 't' || n FROM generate_series(0, 9) n")
    await acme.fetch(
        "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
        " SELECT n, 'pro', 'seats', 't' || n, to_json(n)::text::jsonb, 0, 1"
        " FROM generate_series(0, 9) n"
    )
    await acme.fetch("UPDATE grants SET valid_until = now() - interval '1 s' WHERE tenant = 't3'")
    found = await export(acme, tmp_path, "entitlements")
    assert {row["tenant"]: row["value"] for row in found} == {
        f"t{n}": n for n in range(10) if n != 3
    }
    assert await export(acme, tmp_path, "entitlements", tenant="t4") == [
        {"tenant": "t4", "feature": "seats", "value": 4, "validUntil": None}
    ]


async def test_events_are_those_of_the_beginning(acme: Stack, tmp_path: Path) -> None:
    """What commits while it is under way is not in it, though its number may be smaller."""
    await acme.apply(*(report(n, id=f"rep_{n}") for n in range(10)), source="acme")
    async with acme.owner.connection() as conn:
        open_one = conn.transaction()
        await open_one.__aenter__()
        await conn.execute("SELECT pg_current_xact_id()")
        before = await acme.value("SELECT count(*) FROM audit")
        await acme.apply(report(90, id="late"), source="acme")
        job = await begin(acme, "events")
        one = turns(acme, tmp_path)
        one.turn_s = 0.0
        await one.turn_of_each()
        await acme.apply(report(91, id="later"), source="acme")
        await open_one.__aexit__(None, None, None)
    await finish(acme, one)
    found = await rows_of(acme, tmp_path, job)
    assert len(found) == before
    assert "record/late" not in {row["subject"] for row in found}


async def test_filters(acme: Stack, tmp_path: Path) -> None:
    await add_acme(acme, name="other")
    await acme.apply(*(report(n, id=f"rep_{n}") for n in range(20)), source="acme")
    await acme.apply(report(1, id="theirs"), source="other")
    await acme.fetch("UPDATE records SET updated_at = '2026-01-01' WHERE record_id = 'rep_7'")
    found = await export(acme, tmp_path, "records", source="other")
    assert [row["record"] for row in found] == ["theirs"]
    found = await export(
        acme, tmp_path, "records", since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00+00:00"
    )
    assert [row["record"] for row in found] == ["rep_7"]
    assert await export(acme, tmp_path, "records", tenant="nobody") == []
    events = await export(acme, tmp_path, "events", source="other")
    assert {row["source"] for row in events} == {"other"}
    latest = await acme.value("SELECT max(at) FROM audit")
    after = (latest + timedelta(microseconds=1)).isoformat()
    assert await export(acme, tmp_path, "events", since=after) == []


async def test_a_merged_tenants_rows_are_the_others(acme: Stack, tmp_path: Path) -> None:
    await acme.apply(report(1), report(2, id="rep_2", tenant="beta"), source="acme")
    await acme.fetch(
        "UPDATE tenants SET merged_into = 'beta', merged_at = now() WHERE tenant = 'acme'"
    )
    for tenant in ("acme", "beta"):
        for what in ("records", "events"):
            found = await export(acme, tmp_path, what, tenant=tenant)
            assert {row["tenant"] for row in found} == {"acme", "beta"}


async def test_of_its_events_a_tenant_is_told_what_the_feed_tells_it(
    acme: Stack, tmp_path: Path
) -> None:
    """Neither what operators are called and note, nor numbers of rows, which count everybody's."""
    await acme.apply(report(1), source="acme")
    async with (
        db.connect(acme.endpoints.database["operator"], "operator") as conn,
        conn.transaction(),
    ):
        await give(conn, "acme", "calls", 5, None, "operator:ana", "a note")
    of_all = await export(acme, tmp_path, "events")
    (noted,) = [row for row in of_all if row["action"] == "grant.given"]
    assert (noted["actor"], noted["reason"]) == ("operator:ana", "a note")
    rows = {row["action"]: row for row in await export(acme, tmp_path, "events", tenant="acme")}
    assert {row["actor"] for row in rows.values()} == {"provider:hmac", "operator"}
    told = {name: {one[name] for one in rows.values()} for name in ("reason", "run", "step")}
    assert told == {"reason": {None}, "run": {None}, "step": {None}}
    assert "manual/" not in json.dumps(rows)
    given = rows["grant.given"]
    assert (given["before"], given["after"], given["causeId"]) == (None, None, None)
    assert rows["entitlement.granted"]["after"] == {"value": 5, "validUntil": None}
    assert rows["record.imported"]["after"] == {"title": "title 1"}
    assert rows["record.imported"]["causeId"]


async def test_a_death_in_every_part_costs_and_doubles_nothing(acme: Stack, tmp_path: Path) -> None:
    """Each step by another process, which knows nothing of the one before."""
    await acme.apply(*(report(n, id=f"rep_{n}") for n in range(40)), source="acme")
    job = await begin(acme, "records")
    states: set[str] = set()
    for _ in range(60):
        one = turns(acme, tmp_path)
        one.turn_s = 0.0
        await one.turn_of_each()
        state = await acme.value("SELECT state FROM jobs")
        states.add(state)
        if state == "done":
            break
        # It has begun the next step, and died.
        await acme.fetch("UPDATE jobs SET mark = $1, updated_at = now()", uuid4())
        await turns(acme, tmp_path).turn_of_each()
        assert await acme.value("SELECT deaths FROM jobs") == 1
        await acme.fetch("UPDATE jobs SET due_at = now()")
    assert states == {"running", "done"}
    found = await rows_of(acme, tmp_path, job)
    assert sorted(row["record"] for row in found) == sorted(f"rep_{n}" for n in range(40))


async def test_a_part_that_is_gone_fails_it(acme: Stack, tmp_path: Path) -> None:
    await acme.apply(*(report(n, id=f"rep_{n}") for n in range(9)), source="acme")
    await begin(acme, "records")
    one = turns(acme, tmp_path)
    one.turn_s = 0.0
    await one.turn_of_each()
    for file in (tmp_path / "artifacts").rglob("*"):
        if file.is_file():
            file.unlink()
    await finish(acme, one)
    (row,) = await acme.fetch("SELECT state, code FROM jobs")
    assert tuple(row.values()) == ("failed", "artifact_gone")
    assert await acme.value("SELECT count(*) FROM job_assets") == 0


async def test_a_later_run_makes_a_new_asset(acme: Stack, tmp_path: Path) -> None:
    await acme.apply(report(1), source="acme")
    job = await begin(acme, "records")
    await finish(acme, turns(acme, tmp_path))
    await acme.apply(report(2, id="rep_2"), source="acme")
    async with acme.crew.db.transaction() as conn:
        await jobs.begin(
            conn, job, "export", 2, actor="operator:ana", arguments={"what": "records"}
        )
    await finish(acme, turns(acme, tmp_path))
    found = await rows_of(acme, tmp_path, job)
    assert [row["record"] for row in found] == ["rep_1", "rep_2"]


def test_arguments_are_read_as_they_are_written() -> None:
    read = read_arguments("export", {"what": "events", "format": "csv"}, "acme", None)
    assert read == Export("events", "csv")
    with pytest.raises(UnfitError) as raised:
        read_arguments("export", {"what": 7}, None, None)
    assert (raised.value.code, raised.value.pointer) == ("invalid_arguments", "/arguments/what")
