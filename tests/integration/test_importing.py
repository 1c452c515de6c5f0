"""Imports: rows that were pushed become what tenants have; once, in every order, and told of."""

import asyncio
import contextlib
import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from shared.domain.outcomes import RetryPolicy
from shared.store import recorded, trail
from tests.support.acme import replay, report
from tests.support.importing import (
    BEGAN_S,
    INGEST,
    Importer,
    add_pushed,
    chunks_of,
    ndjson,
    row,
)
from tests.support.stack import Stack, drain, new_crew
from workers.cli.events import tell
from workers.jobs import importing
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns
from workers.trail import verify


@pytest.fixture
async def importer(stack: Stack, tmp_path: Path) -> Importer:
    await add_pushed(stack)
    return Importer(stack, tmp_path)


async def counting(stack: Stack) -> dict[str, tuple[Any, ...]]:
    """What counts: record → (tenant, title, event, version), and that the pointer agrees."""
    rows = await stack.fetch(
        "SELECT r.record_id, r.tenant, v.normalised, r.event_id, r.version, v.tenant AS named,"
        " v.version AS of FROM records r"
        " JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id"
    )
    assert all((one["tenant"], one["version"]) == (one["named"], one["of"]) for one in rows)
    return {
        one["record_id"]: (
            one["tenant"], json.loads(one["normalised"])["title"], one["event_id"], one["version"]
        )
        for one in rows
    }  # fmt: skip


async def told(stack: Stack) -> dict[tuple[int, str], str]:
    """
    What manifests say of records: (record, tenant) → the digest that counts.

    Each change follows the last one of its record and tenant, and the chains verify.
    """
    rows = await stack.fetch(
        "SELECT a.tenant, a.chain, a.cause_id, a.step, a.run, a.action, c.after FROM audit a"
        " JOIN audit_content c ON c.audit_id = a.id WHERE a.action LIKE 'records.%' ORDER BY a.id"
    )
    known: dict[tuple[int, str], str] = {}
    for one in rows:
        assert one["chain"] == f"import:{one['cause_id']}"
        assert one["step"] >= 1
        manifest = json.loads(one["after"])
        assert manifest["changes"]
        for change in manifest["changes"]:
            named = dict(zip(manifest["columns"], change, strict=True))
            key = (named["record"], one["tenant"])
            assert known.pop(key, None) == named["sha256Before"]
            outcome = {(True, False): "imported", (False, True): "removed"}.get(
                (named["sha256Before"] is None, named["sha256After"] is None), "changed"
            )
            assert named["outcome"] == outcome
            assert named["sha256Before"] != named["sha256After"]
            if named["sha256After"] is not None:
                known[key] = named["sha256After"]
    async with stack.owner.connection() as conn:
        assert [found async for found in verify(conn, None, lambda _: None)] == []
    return known


async def digests(stack: Stack) -> dict[tuple[int, str], str]:
    rows = await stack.fetch(
        "SELECT r.id, coalesce(r.tenant, ''),"
        " encode(sha256(convert_to(v.normalised::text, 'UTF8')), 'hex')"
        " FROM records r JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id"
    )
    return {(one[0], one[1]): one[2] for one in rows}


async def test_rows_become_records(importer: Importer) -> None:
    body = ndjson([row(1), row(2, tenant=None), row(1, 5), row(1, 3), {"id": 7}])
    job = await importer.imported(body, key="push-1")
    assert job["state"] == "done", job
    assert (job["done"], job["failed"], job["total"]) == (5, 1, 5)
    assert job["counts"] == {"imported": 1, "parked": 1, "changed": 1, "superseded": 1}
    assert job["result"] == {"rows": 5, "failed": 1, **job["counts"]}
    version = (BEGAN_S + 5) * 1_000_000
    assert (await counting(importer.stack))["rep_1"] == ("acme", "title 1.5", "push-1", version)
    rows = await importer.stack.fetch(
        "SELECT line, run, mapped_by, raw FROM record_versions WHERE version = $1", version
    )
    current = await importer.stack.value("SELECT max(version) FROM configuration")
    assert [tuple(one.values())[:3] for one in rows] == [(3, 1, current)]
    assert json.loads(rows[0]["raw"]) == row(1, 5)
    assert [failure[:3] for failure in await importer.failures(job["id"])] == [(5, "mapping", "")]
    assert await told(importer.stack) == await digests(importer.stack)
    first = await importer.stack.fetch(
        "SELECT action, actor, source, tenant, chain LIKE 'lane:%' AS of_lane FROM audit"
        " WHERE step = 0"
    )
    assert [tuple(one.values()) for one in first] == [
        ("event.applied", "provider:hmac", "acme", "", True)
    ]
    manifests = await importer.stack.fetch(
        "SELECT tenant, actor, source, run, step FROM audit WHERE step > 0 ORDER BY step"
    )
    assert [tuple(one.values()) for one in manifests] == [
        ("", "provider:hmac", "acme", 1, 1), ("acme", "provider:hmac", "acme", 1, 2),
    ]  # fmt: skip


async def test_nothing_changed_says_nothing(importer: Importer) -> None:
    body = ndjson([row(1), row(2)])
    await importer.imported(body)
    before = await importer.stack.value("SELECT count(*) FROM audit WHERE step > 0")
    job = await importer.imported(body)
    outcomes = set(job["counts"])
    assert outcomes <= {"unchanged", "superseded"}
    assert await importer.stack.value("SELECT count(*) FROM audit WHERE step > 0") == before == 1


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("apart", [False, True])
async def test_bodies_wherever_they_lie(
    importer: Importer, encoding: str | None, apart: bool
) -> None:
    body = ndjson(row(number) for number in range(2500))
    if encoding is not None:
        body = gzip.compress(body)
    job = await importer.imported(body, encoding=encoding, apart=apart)
    assert (job["state"], job["done"]) == ("done", 2500), job["error"]
    assert await importer.stack.value("SELECT count(*) FROM records") == 2500
    steps = await importer.stack.value(
        "SELECT max(step) FROM audit WHERE cause_id = $1", str(job["id"])
    )
    assert steps == 3


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
async def test_another_body_under_the_same_key_is_a_conflict(
    importer: Importer, first: bool, second: bool
) -> None:
    """Wherever the two lie: of an artifact, the event and its redelivery have only the digest."""
    one, other = ndjson([row(1)]), ndjson([row(2)])
    tracking_id = await importer.push(one, key="push-1", apart=first)
    for body, apart in ((one, first), (other, second)):
        assert await importer.push(body, key="push-1", apart=apart) == tracking_id
    await importer.stack.drain()
    await importer.work()
    assert set(await counting(importer.stack)) == {"rep_1"}
    assert await importer.stack.value("SELECT count(*) FROM deliveries") == 2
    assert await importer.stack.value("SELECT count(*) FROM conflicts") == 1
    assert await importer.stack.value("SELECT count(*) FROM work") == 0


async def test_an_artifact_that_is_gone_is_no_empty_body(importer: Importer) -> None:
    tracking_id = await importer.push(ndjson([row(1)]), apart=True)
    await importer.stack.drain()
    for file in importer.home.rglob("*"):
        if file.is_file():
            file.unlink()
    await importer.work()
    job = await importer.job(tracking_id)
    assert (job["state"], job["code"], job["done"]) == ("failed", "artifact_gone", 0)


async def test_good_rows_before_the_damage_are_imported(importer: Importer) -> None:
    body = gzip.compress(ndjson(row(number, pad=os.urandom(100).hex()) for number in range(3000)))
    job = await importer.imported(body[: len(body) // 2], encoding="gzip", apart=True)
    assert (job["state"], job["code"]) == ("failed", "bad_encoding")
    assert 1000 < job["done"] < 2000
    assert await importer.stack.value("SELECT count(*) FROM records") == job["done"]
    job = await importer.imported(b'[{"id": 1}, {', "application/json")
    assert (job["state"], job["code"], job["done"]) == ("failed", "damaged_document", 1)
    job = await importer.imported(b"", "text/xml")
    assert (job["state"], job["code"]) == ("failed", "unsupported_media_type")


async def test_a_schema_names_each_place(stack: Stack, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "string"}, "a/b": {"type": "integer", "minimum": 3}},
    }
    await add_pushed(stack, {**INGEST, "schema": schema})
    importer = Importer(stack, tmp_path)
    rows = [row(1, **{"a/b": 3}), row(2, **{"a/b": "x\0"}), {"id": 7, "a/b": 1}, row(4)]
    body = json.dumps(rows).encode().replace(b"title 4.1", b"\\ud800")
    job = await importer.imported(body, "application/json")
    assert (job["state"], job["done"], job["failed"]) == ("done", 4, 3), job
    failures = await importer.failures(job["id"])
    assert [failure[:3] for failure in failures] == [
        (2, "mapping", ""), (3, "schema", "/id"), (3, "schema", "/a~1b"), (4, "mapping", ""),
    ] or sorted(failure[:3] for failure in failures) == [
        (2, "mapping", ""), (3, "schema", "/a~1b"), (3, "schema", "/id"), (4, "mapping", ""),
    ]  # fmt: skip


async def test_rows_without_fields_are_kept_whole_and_looked_at(
    stack: Stack, tmp_path: Path
) -> None:
    await add_pushed(stack, {"record": {"id": "id"}}, tenant="acme")
    importer = Importer(stack, tmp_path)
    deep: Any = 1
    for _ in range(65):
        deep = [deep]
    rows = [{"id": "a", "n": 1}, {"id": "b", "n": 2**64}, {"id": "c", "t": "\0"}, {"id": "d"}]
    job = await importer.imported(ndjson([*rows, {"id": "e", "deep": deep}]))
    assert (job["done"], job["failed"], job["tenant"]) == (5, 3, "acme")
    kept = await stack.fetch("SELECT normalised, raw FROM record_versions ORDER BY record")
    assert [json.loads(one["normalised"]) for one in kept] == [rows[0], rows[3]]
    assert all(one["normalised"] == one["raw"] for one in kept)


async def test_failures_are_kept_up_to_a_number(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MOST_FAILURES", 5)
    with chunks_of(3):
        job = await importer.imported(b"x\n" * 9 + ndjson([row(1)]))
    assert (job["failed"], job["done"], job["counts"]) == (9, 10, {"imported": 1})
    assert [failure[0] for failure in await importer.failures(job["id"])] == [1, 2, 3, 4, 5]


async def test_what_postgres_refuses_is_one_row(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await importer.stack.fetch(
        "ALTER TABLE record_versions ADD CONSTRAINT test CHECK (normalised::text NOT LIKE '%bad%')"
    )
    rows = [row(number, title="bad" if number in (3, 17) else "good") for number in range(20)]
    job = await importer.imported(ndjson(rows))
    assert (job["state"], job["done"], job["failed"]) == ("done", 20, 2)
    assert [failure[:2] for failure in await importer.failures(job["id"])] == [
        (4, "not_stored"), (18, "not_stored"),
    ]  # fmt: skip
    assert await importer.stack.value("SELECT count(*) FROM record_versions") == 18
    assert await told(importer.stack) == await digests(importer.stack)


async def test_tenants_are_read_through_their_names(importer: Importer) -> None:
    stack = importer.stack
    await importer.imported(ndjson([row(1, tenant="old"), row(2, tenant="new")]))
    await stack.fetch("UPDATE tenants SET merged_into = 'new', merged_at = now()"
                      " WHERE tenant = 'old'")  # fmt: skip
    job = await importer.imported(ndjson([row(1, 2, tenant="new", title="title 1.1")]))
    assert job["counts"] == {"unchanged": 1}
    job = await importer.imported(ndjson([row(2, 2, tenant="old")]))
    assert job["counts"] == {"changed": 1}
    last = await stack.value("SELECT tenant FROM audit WHERE action = 'records.imported'"
                             " ORDER BY id DESC LIMIT 1")  # fmt: skip
    assert last == "new"


async def test_the_trail_is_read_in_bounded_pieces(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await importer.imported(ndjson(row(number) for number in range(3000)), apart=True)
    monkeypatch.setattr(trail, "_PAGE_BYTES", 100_000)
    async with importer.stack.owner.connection() as conn:
        links = await trail.read_links(conn, "import:", 0, 1000)
        assert len(links) == 1  # its content alone is more than may be had at once
        assert [found async for found in verify(conn, None, lambda _: None)] == []
        page = await trail.list_records_of_event(conn, job["id"], [], None, None, 50)
        assert [one["action"] for one in page.items] == ["records.imported"] * 3 + ["event.applied"]
        (size,) = page.items[0]["after"].values()
        assert size > 100_000
        whole = await trail.read_record(conn, page.items[0]["id"])
        assert whole is not None
        assert len(whole["after"]["changes"]) == 1000
        assert await trail.read_record(conn, 0) is None
        # Nor is a body that lies elsewhere told of as if there were none.
        story = await tell(conn, job["id"])
        assert story["bodyBytes"] > 100_000
        assert (importer.home / "artifacts" / "sha256" / story["artifact"][:2]).is_dir()
        assert [one["command"] for one in story["commands"]] == ["import_results"]
    async with importer.stack.owner.connection() as conn:
        (found,) = await recorded.find_records(conn, "rep_7", None, None)
        (version,) = await recorded.read_history(conn, found["id"], 5)
        assert (version["run"], version["line"]) == (1, 8)


async def test_what_is_no_import_is_not_read_from_an_artifact(importer: Importer) -> None:
    tracking_id = await importer.push(ndjson([row(1)]), apart=True)
    await importer.stack.fetch("UPDATE inbox SET event_type = 'report.ready'")
    await importer.stack.drain()
    assert await importer.stack.outcomes([tracking_id]) == ["dead"]
    error = await importer.stack.value("SELECT error FROM settlements")
    assert "artifact store" in error


class Killed(BaseException):
    """Stands for the death of the process: nothing after it is run, and nothing is taken back."""


async def test_a_row_that_kills_is_left_out(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = importing.examine
    deaths = 0

    def deadly(one: Any, *more: Any) -> Any:
        nonlocal deaths
        if one.line in (400, 403, 2000):
            deaths += 1
            raise Killed
        return examine(one, *more)

    monkeypatch.setattr(importing, "examine", deadly)
    importer.stack.crew.retry = RetryPolicy(12, 0.02, 0.1)
    tracking_id = await importer.push(ndjson(row(number) for number in range(1, 2501)))
    await importer.stack.drain()
    while (await importer.job(tracking_id))["state"] in ("waiting", "running"):
        with contextlib.suppress(Killed):
            await importer.work()
        assert deaths < 30
    job = await importer.job(tracking_id)
    assert (job["state"], job["done"], job["failed"]) == ("done", 2500, 3)
    assert job["counts"] == {"imported": 2497}
    assert [failure[:2] for failure in await importer.failures(tracking_id)] == [
        (400, "process_died"), (403, "process_died"), (2000, "process_died"),
    ]  # fmt: skip
    # Four until a row stands alone, and then those of the row itself.
    assert deaths <= 3 * (3 + 3)
    assert await told(importer.stack) == await digests(importer.stack)


async def test_a_replay_does_it_all_again_and_takes_back_what_it_does_not_find(
    importer: Importer,
) -> None:
    stack = importer.stack
    await importer.imported(ndjson([row(1), row(2), row(3, 9)]), key="a")
    tracking_id = await importer.push(
        ndjson([row(1, 5), row(2, 1), row(3, 5), row(4, tenant=None), row(5)]), key="b"
    )
    await stack.drain()
    await importer.work()
    assert {name: one[2] for name, one in (await counting(stack)).items()} == {
        "rep_1": "b", "rep_2": "b", "rep_3": "a", "rep_4": "b", "rep_5": "b",
    }  # fmt: skip
    # Read by another mapping, only some of the rows say anything of anybody.
    record = {**INGEST["record"], "id": "id && (tenant && title != 'title 1.5' && id) || missing"}
    await stack.set("acme", **{**await settings(stack), "ingest": {"record": record}})
    with chunks_of(2):
        await replay(stack, tracking_id)
        await importer.work()
    job = await importer.job(tracking_id)
    assert (job["state"], job["run"], job["done"], job["failed"]) == ("done", 2, 5, 2), job
    assert job["counts"] == {"unchanged": 2, "superseded": 1, "takenBack": 2}
    assert {name: one[2] for name, one in (await counting(stack)).items()} == {
        "rep_1": "a", "rep_2": "b", "rep_3": "a", "rep_5": "b",
    }  # fmt: skip
    assert await told(stack) == await digests(stack)
    runs = await stack.fetch("SELECT DISTINCT run FROM record_versions WHERE tracking_id = $1",
                             tracking_id)  # fmt: skip
    assert [one["run"] for one in runs] == [2]


async def settings(stack: Stack) -> Any:
    return await stack.value("SELECT settings FROM sources WHERE name = 'acme'")


# Every order, multiplicity, chunk and death ------------------------------------------------------


async def test_all_ways_lead_to_the_same(stack: Stack, tmp_path: Path) -> None:
    """Imports and webhooks of one source, in pieces, at once, replayed, killed: against a model."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    rng = random.Random(seed)
    print(f"TEST_SEED={seed}")
    await add_pushed(stack)
    tenants = ["acme", "beta", None]
    pushes: dict[str, list[Any]] = {}
    hooks: dict[str, Any] = {}
    for number in range(12):
        pushes[f"push-{number}"] = [
            row(rng.randrange(60), rng.randrange(5), tenant=rng.choice(tenants),
                title=f"t{rng.randrange(4)}")
            if rng.random() < 0.95 else {"id": rng.randrange(9)}
            for _ in range(rng.randrange(1, 80))
        ]  # fmt: skip
    for number in range(40):
        hooks[f"evt_{number}"] = {
            "id": f"rep_{rng.randrange(60)}", "updated": rng.randrange(5),
            "tenant": rng.choice(tenants), "title": f"t{rng.randrange(4)}",
        }  # fmt: skip
    async with new_crew(stack.endpoints, "second") as second:
        ids = await told_in_any_way(stack, second, tmp_path, rng, pushes, hooks)
        model = expected(pushes, hooks)
        assert await counting(stack) == model, f"TEST_SEED={seed}"
        assert await told_with_hooks(stack) == {
            (one["record_id"], one["tenant"]) for one in await stack.fetch(
                "SELECT record_id, tenant FROM records WHERE tenant IS NOT NULL"
            )
        }  # fmt: skip
        for name, rows in pushes.items():
            job = await Importer(stack, tmp_path).job(ids[name])
            bad = sum("updated" not in one for one in rows)
            assert (job["state"], job["done"], job["failed"]) == ("done", len(rows), bad), job
            counts = Counter(job["counts"])
            counts.pop("takenBack", None)
            assert sum(counts.values()) == len(rows) - bad
    assert await stack.value(
        "SELECT count(*) FROM (SELECT record, event_id FROM record_versions"
        " GROUP BY record, event_id HAVING count(*) > 1) AS twice"
    ) == 0  # fmt: skip


def expected(
    pushes: dict[str, list[Any]], hooks: dict[str, Any]
) -> dict[str, tuple[str | None, str, str, int]]:
    """The model: of each event the newest row, the later line of equals; then of all events."""
    best: dict[str, tuple[tuple[int, str], tuple[str | None, str, str, int]]] = {}

    def see(record: str, version: int, event: str, tenant: str | None, title: str) -> None:
        one = ((version, event), (tenant, title, event, version))
        if record not in best or best[record][0] < one[0]:
            best[record] = one

    for event, rows in pushes.items():
        own: dict[str, Any] = {}
        for one in rows:
            known = own.get(one["id"]) if "updated" in one else one
            if known is None or ("updated" in one and known["updated"] <= one["updated"]):
                own[one["id"]] = one
        for one in own.values():
            see(one["id"], one["updated"] * 1_000_000, event, one["tenant"], one["title"])
    for event, one in hooks.items():
        version = (BEGAN_S + one["updated"]) * 1_000_000
        see(one["id"], version, event, one["tenant"], one["title"])
    return {record: found for record, (_, found) in best.items()}


async def told_in_any_way(
    stack: Stack,
    second: Any,
    home: Path,
    rng: random.Random,
    pushes: dict[str, list[Any]],
    hooks: dict[str, Any],
) -> dict[str, UUID]:
    """Everything, in some order, some of it again and again; its tracking ids."""
    importer = Importer(stack, home)
    ids: dict[str, UUID] = {}
    todo = [*pushes, *hooks, *rng.choices([*pushes, *hooks], k=20)]
    rng.shuffle(todo)

    async def work() -> None:
        """A process that is gone after a few steps, and another one after it."""
        for number in range(8):
            crew = (stack.crew, second)[number % 2]
            turns = Turns(Tools(crew, importer.artifacts), asyncio.Event())
            for _ in range(rng.randrange(1, 6)):
                await turns.turn_of_each()

    with chunks_of(rng.choice([1, 3, 7, 1000])):
        for first in range(0, len(todo), 18):
            for name in todo[first : first + 18]:
                if name in pushes:
                    body = ndjson(pushes[name])
                    ids[name] = await importer.push(body, key=name, apart=rng.random() < 0.5)
                else:
                    await stack.receive(
                        report(name.removeprefix("evt_"), **hooks[name], subject=name),
                        source="acme",
                    )
            await asyncio.gather(drain(stack.crew), drain(second), work())
            await importer.work()
            if rng.random() < 0.5:
                again = rng.sample(sorted(ids), min(2, len(ids)))
                await replay(stack, *(ids[name] for name in again))
    await importer.work()
    return ids


async def told_with_hooks(stack: Stack) -> set[tuple[str, str]]:
    """Whom the trail says to have which record, by manifests and single records alike."""
    rows = await stack.fetch(
        "SELECT a.action, a.tenant, a.subject, c.after FROM audit a"
        " LEFT JOIN audit_content c ON c.audit_id = a.id"
        " WHERE a.step > 0 AND a.tenant <> '' ORDER BY a.id"
    )
    names = {one["id"]: one["record_id"] for one in await stack.fetch("SELECT * FROM records")}
    has: set[tuple[str, str]] = set()
    for one in rows:
        changes = [(one["subject"].removeprefix("record/"), one["action"].partition(".")[2])]
        if one["action"].startswith("records."):
            changes = [(names[part[0]], part[1]) for part in json.loads(one["after"])["changes"]]
        for record, outcome in changes:
            if outcome == "removed":
                has.discard((record, one["tenant"]))
            else:
                has.add((record, one["tenant"]))
    async with stack.owner.connection() as conn:
        assert [found async for found in verify(conn, None, lambda _: None)] == []
    return has
