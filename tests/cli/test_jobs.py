"""`sluice jobs`: what is listed and shown, and an end before its time."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.artifacts import Artifacts
from shared.domain.commands import StartJob
from shared.store import jobs
from tests.cli.conftest import Sluice
from tests.integration.test_reprocessing import order
from tests.support.acme import add_acme, report
from tests.support.carrying import apply_order
from tests.support.stack import Stack
from tests.support.working import finish
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    await stack.apply(*(report(n, id=f"rep_{n}") for n in range(3)), source="acme")
    return stack


async def export(stack: Stack, home: Path, **arguments: Any) -> UUID:
    number = await order(stack, StartJob("export", {"what": "records", **arguments}))
    await apply_order(stack.crew, number)
    await finish(stack, Turns(Tools(stack.crew, Artifacts(None, home)), asyncio.Event()))
    return number


async def begin(stack: Stack, kind: str = "export", **more: Any) -> UUID:
    number = uuid4()
    async with stack.crew.db.transaction() as conn:
        await jobs.begin(conn, number, kind, 1, actor="token:test", **more)
    return number


async def test_jobs_are_listed_in_pages(sluice: Sluice, acme: Stack) -> None:
    ids = [str(await begin(acme, tenant="acme" if n % 2 else None)) for n in range(5)]
    await begin(acme, "reprocess")
    seen, cursor = [], None
    while True:
        more = ["--cursor", cursor] if cursor else []
        page = (
            await sluice("jobs", "list", "--kind", "export", "--limit", 2, "--json", *more)
        ).json
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == sorted(ids, reverse=True)
    text = await sluice("jobs", "list", "--tenant", "acme", "--state", "waiting")
    assert text.out.count("export") == 2
    assert (await sluice("jobs", "list", "--state", "done")).err == "no such jobs\n"
    assert (await sluice("jobs", "list", "--state", "lost")).code == 2
    assert (await sluice("jobs", "list", "--cursor", "x")).code == 2


async def test_a_job_is_shown_with_its_progress(sluice: Sluice, acme: Stack, home: Path) -> None:
    waiting = await order(acme, StartJob("export", {"what": "records"}))
    shown = (await sluice("jobs", "show", waiting, "--json")).json
    assert (shown["state"], shown["kind"]) == ("waiting", "export")
    done = await export(acme, home)
    shown = (await sluice("jobs", "show", done, "--follow", "--json")).json
    assert shown["result"]["rows"] == shown["progress"]["done"] == 3
    assert "3 of 3" in (await sluice("jobs", "show", done)).out
    assert (await sluice("jobs", "show", uuid4())).code == 3
    assert (await sluice("jobs", "show", "x")).code == 2
    failed = await begin(acme)
    async with acme.crew.db.transaction() as conn:
        await jobs.fail(conn, failed, "artifact_gone", "no artifact 00")
    told = await sluice("jobs", "show", failed, "--follow")
    assert told.code == 1
    assert "artifact_gone" in told.out


async def test_a_paused_source_shows(sluice: Sluice, acme: Stack) -> None:
    job = await begin(acme, source_id=acme.sources["acme"])
    await acme.fetch("UPDATE sources SET paused_at = now()")
    assert (await sluice("jobs", "show", job, "--json")).json["state"] == "paused"
    (item,) = (await sluice("jobs", "list", "--state", "paused", "--json")).json["items"]
    assert (item["id"], item["source"]) == (str(job), "acme")


async def test_cancel(sluice: Sluice, acme: Stack) -> None:
    job = await begin(acme)
    said = await sluice("jobs", "cancel", job, "--reason", "the wrong one", "--json")
    assert said.code == 0, said.err
    assert said.json["job"] == str(job)
    assert (await sluice("jobs", "cancel", job, "--reason", "again")).code == 5
    await finish(acme, Turns(Tools(acme.crew, Artifacts(None, Path("/x"))), asyncio.Event()))
    shown = (await sluice("jobs", "show", job, "--json")).json
    assert (shown["state"], shown["cancelledBy"]) == ("cancelled", "operator:ada")
    assert (await sluice("jobs", "cancel", job, "--reason", "again")).code == 5
    assert (await sluice("jobs", "cancel", uuid4(), "--reason", "x")).code == 3
    (row,) = await acme.fetch("SELECT actor, subject FROM audit WHERE action = 'job.cancelled'")
    assert tuple(row.values()) == ("operator:ada", f"job/{job}")


async def test_assets_are_listed_and_fetched(sluice: Sluice, acme: Stack, home: Path) -> None:
    job = await export(acme, home)
    (item,) = (await sluice("jobs", "assets", job, "--json")).json["items"]
    assert (item["name"], item["mediaType"]) == ("records.ndjson", "application/x-ndjson")
    assert item["sha256"][:8] in (await sluice("jobs", "assets", job)).out
    assert (await sluice("jobs", "assets", job, "--fetch", "x")).code == 3
    assert (await sluice("jobs", "assets", uuid4())).code == 3
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "workers.cli",
            "jobs",
            "assets",
            str(job),
            "--fetch",
            "records.ndjson",
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert len(out) == item["sizeBytes"]
    assert {json.loads(line)["record"] for line in out.splitlines()} == {"rep_0", "rep_1", "rep_2"}


async def test_a_job_is_paused_and_resumed(sluice: Sluice, stack: Stack) -> None:
    job = await begin(stack)
    why = ("--reason", "a busy hour", "--actor", "ana")
    tried = await sluice("jobs", "pause", str(job), *why, "--dry-run", "--json")
    assert (tried.code, tried.json["dryRun"]) == (0, True)
    assert await stack.value("SELECT paused_by FROM jobs") is None
    assert (await sluice("jobs", "pause", str(job), *why)).code == 0
    shown = (await sluice("jobs", "show", str(job), "--json")).json
    assert (shown["state"], shown["pausedBy"]) == ("paused", "operator:ana")
    assert (await sluice("jobs", "pause", str(job), *why)).code == 5
    assert (await sluice("jobs", "resume", str(job), *why)).code == 0
    assert (await sluice("jobs", "resume", str(job), *why)).code == 5
    assert (await sluice("jobs", "resume", str(uuid4()), *why)).code == 3
