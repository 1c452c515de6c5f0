"""Records read again by today's mapping, by a job and one by one, and what is not taken back."""

import asyncio
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.artifacts import Artifacts
from shared.domain.commands import CancelJob, ReprocessRecord, StartJob
from shared.domain.events import new_tracking_id
from shared.store import steering
from tests.support.acme import EVENT, REPORTS, SIGNATURE, add_acme, remap, report
from tests.support.carrying import apply_order
from tests.support.ordering import Ordering
from tests.support.stack import Stack
from tests.support.working import finish
from workers.handlers.jobs import JobNotBegun
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.process import Progress, visit
from workers.surroundings import Surroundings
from workers.trail import verify

LOWER = {**REPORTS, "record": {**REPORTS["record"], "fields": {"title": "lower(data.title)"}}}


def loud(number: int, updated: int = 1, **data: Any) -> bytes:
    return report(number, updated, title=f"TITLE {number}", **data)


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    return stack


async def order(stack: Stack, what: Any, tenant: str | None = None) -> UUID:
    """Place an order, as the API does."""
    scope = "operator" if tenant is None else f"tenant:{tenant}"
    async with Ordering.open(stack) as ordering:
        return await ordering.order(what, scope=scope, name="test")


async def reprocess(stack: Stack, source: str | None = "acme", **arguments: Any) -> dict[str, Any]:
    """Have the job done; its row."""
    number = await order(stack, StartJob("reprocess", arguments, None, source))
    assert (await apply_order(stack.crew, number)).outcome == "applied"
    tools = Tools(stack.crew, Artifacts(None, Path("/nowhere")))
    await finish(stack, Turns(tools, asyncio.Event()))
    (row,) = await stack.fetch("SELECT * FROM jobs WHERE id = $1", number)
    assert row["state"] == "done", row["error"]
    return {**row, "counts": json.loads(row["counts"])}


async def titles(stack: Stack) -> dict[str, tuple[Any, Any]]:
    """What counts: record → (tenant, title)."""
    rows = await stack.fetch(
        "SELECT r.record_id, r.tenant, v.normalised FROM records r"
        " JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id"
        " WHERE r.version = v.version AND r.tenant IS NOT DISTINCT FROM v.tenant"
    )
    return {row[0]: (row[1], json.loads(row[2]).get("title")) for row in rows}


async def manifests(stack: Stack, job: UUID) -> list[tuple[str, Any]]:
    rows = await stack.fetch(
        "SELECT a.tenant, a.action, c.after FROM audit a JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.chain = $1 ORDER BY a.position",
        f"job:{job}",
    )
    assert {row["action"] for row in rows} <= {"records.reprocessed"}
    async with stack.owner.connection() as conn:
        assert [found async for found in verify(conn, None, lambda _: None)] == []
    return [(row["tenant"], json.loads(row["after"])) for row in rows]


async def test_what_an_older_mapping_read_is_read_again(acme: Stack) -> None:
    await acme.apply(
        *(loud(n, id=f"rep_{n}", tenant=f"t{n % 2}") for n in range(250)), source="acme"
    )
    await remap(acme, LOWER)
    await acme.apply(loud(900, id="rep_new"), source="acme")
    job = await reprocess(acme)
    found = await titles(acme)
    assert found["rep_7"] == ("t1", "title 7")
    assert {title for _, title in found.values()} == {f"title {n}" for n in (*range(250), 900)}
    # What today's mapping has read already is not looked at.
    assert (job["done"], job["counts"]) == (250, {"changed": 250, "kept": 0, "same": 0})
    told = await manifests(acme, job["id"])
    assert len(told) == 6  # three chunks, two tenants
    changes = {one["record"]: (tenant, one) for tenant, some in told for one in some}
    assert len(changes) == 250
    assert changes["rep_7"] == (
        "t1",
        {
            "record": "rep_7", "action": "record.changed",
            "before": {"title": "TITLE 7"}, "after": {"title": "title 7"},
        },
    )  # fmt: skip
    current = await acme.value("SELECT max(version) FROM configuration")
    assert await acme.value("SELECT min(mapped_by) FROM record_versions") == current
    again = await reprocess(acme)
    assert (again["done"], await manifests(acme, again["id"])) == (0, [])
    everything = await reprocess(acme, select="all")
    assert everything["counts"] == {"changed": 0, "kept": 0, "same": 251}
    assert await manifests(acme, everything["id"]) == []


async def test_those_that_wait_for_a_tenant(acme: Stack) -> None:
    await acme.apply(loud(1, tenant=None), loud(2, id="rep_2"), source="acme")
    owned = {**LOWER, "record": {**LOWER["record"], "tenant": "`beta`"}}
    await remap(acme, owned)
    job = await reprocess(acme, select="waiting", source=None)
    assert await titles(acme) == {"rep_1": ("beta", "title 1"), "rep_2": ("acme", "TITLE 2")}
    assert job["counts"] == {"changed": 1, "kept": 0, "same": 0}
    ((tenant, (change,)),) = await manifests(acme, job["id"])
    assert (tenant, change["action"], change["before"]) == ("beta", "record.imported", None)
    assert await acme.tenant("beta") is not None


async def test_a_record_that_moves_is_told_of_on_both_sides(acme: Stack) -> None:
    await acme.apply(loud(1), source="acme")
    moved = {**REPORTS, "record": {**REPORTS["record"], "tenant": "`beta`"}}
    await remap(acme, moved)
    job = await reprocess(acme)
    assert [(tenant, one[0]["action"]) for tenant, one in await manifests(acme, job["id"])] == [
        ("acme", "record.removed"),
        ("beta", "record.imported"),
    ]


async def test_what_cannot_be_read_stays(acme: Stack) -> None:
    """Another id, no mapping any more, what is not there, and a body that went by retention."""
    await acme.apply(
        loud(1), loud(2, id="rep_2"), loud(3, id="rep_3"), loud(4, id="rep_4"), source="acme"
    )
    before = await titles(acme)
    picky = {
        **LOWER,
        "when": "data.id != 'rep_2'",
        "record": {
            **LOWER["record"],
            "id": "(data.id == 'rep_1' && 'other') || data.id",
            "version": "(data.id == 'rep_3' && 'soon') || data.updated",
        },
    }
    await remap(acme, picky)
    await acme.fetch(
        "DELETE FROM inbox WHERE tracking_id = (SELECT tracking_id FROM record_versions v"
        " JOIN records r ON r.id = v.record WHERE r.record_id = 'rep_4')"
    )
    job = await reprocess(acme)
    assert await titles(acme) == before
    assert (job["failed"], job["counts"]) == (4, {"changed": 0, "kept": 4, "same": 0})
    rows = await acme.fetch("SELECT line, code, message FROM job_failures ORDER BY line")
    assert [row["line"] for row in rows] == [1, 2, 3, 4]
    codes = {row["message"].split(":")[0]: row["code"] for row in rows}
    assert codes == {
        "record/rep_1": "another_record",
        "record/rep_2": "not_mapped",
        "record/rep_3": "unreadable",
        "record/rep_4": "body_gone",
    }
    assert await acme.value("SELECT count(*) FROM record_versions") == 4


async def test_an_older_version_that_comes_to_count_is_read_too(acme: Stack) -> None:
    await acme.apply(loud(1, 10), loud(2, 20), loud(3, 30), source="acme")
    ends = "(data.title == 'TITLE 1' && data.updated) || `1000000000`"
    await remap(acme, {**LOWER, "record": {**LOWER["record"], "version": ends}})
    job = await reprocess(acme)
    assert await titles(acme) == {"rep_1": ("acme", "title 1")}
    ((_, (change,)),) = await manifests(acme, job["id"])
    assert (change["before"], change["after"]) == ({"title": "TITLE 3"}, {"title": "title 1"})
    assert await acme.value("SELECT count(*) FROM record_versions") == 3


async def test_rows_of_an_import_are_read_from_what_was_kept(acme: Stack) -> None:
    """Of one event there are many: each is replaced in its own place."""
    await acme.apply(*(loud(n, id=f"rep_{n}") for n in range(3)), source="acme")
    await acme.fetch(
        "UPDATE record_versions v SET line = r.id, tracking_id = $1, raw ="
        " json_build_object('id', r.record_id, 'at', '2026-06-01T00:00:00Z', 'title', 'NEW')"
        " FROM records r WHERE r.id = v.record",
        new_tracking_id(datetime.now(UTC), os.urandom(10)),
    )
    ingest = {"record": {"id": "id", "version": "at", "tenant": "`acme`",
                         "fields": {"title": "lower(title)"}}}  # fmt: skip
    await acme.set(
        "acme",
        signature=SIGNATURE,
        event=EVENT,
        ingest=ingest,
        mapping=[REPORTS],  # type: ignore[arg-type]
    )
    job = await reprocess(acme)
    assert job["counts"]["changed"] == 3
    assert set((await titles(acme)).values()) == {("acme", "new")}
    rows = await acme.fetch(
        "SELECT DISTINCT line > 0 AS is_row, raw->>'title' FROM record_versions"
    )
    assert [tuple(row.values()) for row in rows] == [(True, "NEW")]


async def test_reading_that_kills_leaves_the_record_out(acme: Stack) -> None:
    """After some deaths it stands alone; then it stays, and the others are read."""
    await acme.apply(loud(1), loud(2, id="rep_2"), source="acme")
    await remap(acme, LOWER)
    number = await order(acme, StartJob("reprocess", {}, None, "acme"))
    await apply_order(acme.crew, number)
    await acme.fetch("UPDATE jobs SET deaths = 4")
    tools = Tools(acme.crew, Artifacts(None, Path("/nowhere")))
    await finish(acme, Turns(tools, asyncio.Event()))
    found = sorted((await titles(acme)).values())
    assert [title.lower() == title for _, title in found] in ([True, False], [False, True])
    assert await acme.value("SELECT code FROM job_failures") == "process_died"


# One record -------------------------------------------------------------------------------------


def one(record_id: str = "rep_1") -> ReprocessRecord:
    return ReprocessRecord("acme", "", True, record_id)


async def test_one_record_is_read_again_and_its_tenant_told(acme: Stack) -> None:
    await acme.apply(loud(1), loud(2, id="rep_2"), source="acme")
    await remap(acme, LOWER)
    answer = await apply_order(acme.crew, await order(acme, one()))
    assert (answer.outcome, answer.tenant, answer.subject) == ("applied", "acme", "record/rep_1")
    ((told),) = answer.told
    assert (told.action, told.before, told.after) == (
        "record.changed", b'{"title":"TITLE 1"}', b'{"title":"title 1"}'
    )  # fmt: skip
    assert await titles(acme) == {"rep_1": ("acme", "title 1"), "rep_2": ("acme", "TITLE 2")}
    again = await apply_order(acme.crew, await order(acme, one()))
    assert (again.outcome, again.told) == ("unchanged", [])


async def test_orders_are_carried_out_by_whoever_visits_their_lanes(acme: Stack) -> None:
    """Several at once, some of one record and lane, and one that moves to another tenant."""
    await acme.apply(loud(1), loud(2, id="rep_2"), loud(3, id="rep_3"), source="acme")
    tenant = "data.id == 'rep_3' && 'beta' || data.tenant"
    await remap(acme, {**LOWER, "record": {**LOWER["record"], "tenant": tenant}})
    names = ("rep_1", "rep_1", "rep_2", "rep_3", "rep_9")
    placed = [await order(acme, one(name)) for name in names]
    await acme.drain()
    outcomes = {
        row["tracking_id"]: (row["outcome"], row["code"])
        for row in await acme.fetch("SELECT tracking_id, outcome, code FROM settlements")
    }
    applied = ("applied", None)
    assert sorted(outcomes[one] for one in placed[:2]) == [applied, ("unchanged", None)]
    assert [outcomes[one] for one in placed[2:]] == [
        applied, applied, ("ignored", "unknown_record"),
    ]  # fmt: skip
    assert await titles(acme) == {
        "rep_1": ("acme", "title 1"), "rep_2": ("acme", "title 2"), "rep_3": ("beta", "title 3"),
    }  # fmt: skip
    told = await acme.fetch(
        "SELECT tenant, action, actor FROM audit WHERE cause_id = ANY($1::text[]) AND step > 0"
        " ORDER BY tenant, action",
        [str(one) for one in placed],
    )
    assert [tuple(row.values()) for row in told] == [
        ("acme", "record.changed", "token:test"),
        ("acme", "record.changed", "token:test"),
        ("acme", "record.removed", "token:test"),
        ("beta", "record.imported", "token:test"),
    ]
    async with acme.owner.connection() as conn:
        assert [one async for one in verify(conn, None, lambda _: None)] == []


async def test_an_order_for_a_source_that_was_just_applied(stack: Stack) -> None:
    """A worker that has not looked since does so for it: the order would be refused for good."""
    crew = replace(stack.crew, surroundings=Surroundings())
    async with crew.db.connection() as conn:
        await crew.surroundings.refresh(conn)
    await add_acme(stack)
    placed = await order(stack, StartJob("reprocess", {}, None, "acme"))
    assert await visit(crew, await stack.value("SELECT lane FROM work")) is Progress.DONE
    assert await stack.value("SELECT state FROM jobs WHERE id = $1", placed) == "waiting"


async def test_what_comes_to_count_and_cannot_be_read_is_told_too(acme: Stack) -> None:
    """The newest version is read anew and older by now; the next one stays as it is, and counts."""
    await acme.apply(loud(1, 10), loud(2, 20), source="acme")
    ends = "(data.title == 'TITLE 1' && data.updated) || `1000000000`"
    await remap(acme, {**LOWER, "record": {**LOWER["record"], "version": ends}})
    await acme.fetch("DELETE FROM inbox WHERE event_id = 'evt_1'")
    answer = await apply_order(acme.crew, await order(acme, one()))
    assert await titles(acme) == {"rep_1": ("acme", "TITLE 1")}
    assert (answer.outcome, answer.code) == ("applied", None)
    ((told,),) = [answer.told]
    assert (told.action, told.before, told.after) == (
        "record.changed", b'{"title":"TITLE 2"}', b'{"title":"TITLE 1"}',
    )  # fmt: skip


async def test_orders_for_records_of_others_touch_nothing(acme: Stack) -> None:
    await acme.apply(loud(1), source="acme")
    await remap(acme, LOWER)
    for what, tenant, code in (
        (one(), "beta", "unknown_record"),
        (one("rep_9"), None, "unknown_record"),
        (ReprocessRecord("nowhere", "", True, "rep_1"), None, "unknown_source"),
        (ReprocessRecord("acme", "x", True, "rep_1"), None, "unknown_record"),
    ):
        answer = await apply_order(acme.crew, await order(acme, what, tenant))
        assert (answer.outcome, answer.code, answer.told) == ("ignored", code, [])
    assert await titles(acme) == {"rep_1": ("acme", "TITLE 1")}
    mine = await apply_order(acme.crew, await order(acme, one(), "acme"))
    assert mine.outcome == "applied"


async def test_one_record_that_moves_needs_both_tenants(acme: Stack) -> None:
    await acme.apply(loud(1), source="acme")
    await remap(acme, {**REPORTS, "record": {**REPORTS["record"], "tenant": "`beta`"}})
    answer = await apply_order(acme.crew, await order(acme, one()))
    assert [told.tenant for told in answer.told] == ["acme", "beta"]
    assert answer.tenant == "beta"
    await remap(acme, {**REPORTS, "record": {**REPORTS["record"], "tenant": "data.nobody"}})
    answer = await apply_order(acme.crew, await order(acme, one()))
    assert (answer.outcome, answer.code) == ("parked", "needs:tenant")


# Starting and ending ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "tenant", "code"),
    [
        (StartJob("none", {}), None, "unknown_kind"),
        (StartJob("import", {}), None, "unknown_kind"),
        (StartJob("export", {"what": "x"}), None, "invalid_arguments"),
        (StartJob("reprocess", {}, None, "nowhere"), None, "unknown_source"),
        (StartJob("reprocess", {}), "acme", "not_allowed"),
        (StartJob("export", {"what": "records"}, "beta"), "acme", "not_allowed"),
    ],
)
async def test_what_cannot_begin_has_failed(
    acme: Stack, what: StartJob, tenant: str | None, code: str
) -> None:
    number = await order(acme, what, tenant)
    answer = await apply_order(acme.crew, number)
    assert (answer.outcome, answer.code, answer.concerns) == ("ignored", code, tenant)
    (row,) = await acme.fetch("SELECT id, state, code, tenant, error FROM jobs")
    assert tuple(row.values())[:4] == (number, "failed", code, tenant)
    assert row["error"].startswith("/")


async def test_whose_jobs_an_order_may_end(acme: Stack) -> None:
    mine = await order(acme, StartJob("export", {"what": "records"}), "acme")
    with pytest.raises(JobNotBegun):
        await apply_order(acme.crew, await order(acme, CancelJob(mine), "acme"))
    begun = await apply_order(acme.crew, mine)
    assert (begun.outcome, begun.concerns) == ("applied", "acme")
    for job, tenant, outcome in (
        (mine, "beta", "ignored"),
        (uuid4(), None, "ignored"),
        (mine, "acme", "applied"),
        (mine, None, "unchanged"),
    ):
        answer = await apply_order(acme.crew, await order(acme, CancelJob(job), tenant))
        assert answer.outcome == outcome
    assert await acme.value("SELECT cancelled_by FROM jobs") == "token:test"
    async with acme.crew.db.transaction() as conn:
        assert await steering.read_state(conn, mine) == ("export", "waiting", "acme")
