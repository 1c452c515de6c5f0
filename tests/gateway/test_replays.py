"""Replays over the API: planned, carried out, refused, paused and resumed as jobs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.settings import Endpoints
from tests.gateway.conftest import assert_envelope, running_gateway
from tests.gateway.test_jobs import JOBS, Scene
from tests.support.carrying import apply_order
from tests.support.replaying import broken, finish, later_runs, mend
from tests.support.stack import Stack


@pytest.fixture
async def scene(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Scene]:
    """Nine events that are dead by a bug which is mended."""
    async with running_gateway(endpoints, tmp_path) as gateway, Stack.open(endpoints) as stack:
        await stack.configure()
        yield Scene(gateway, stack, tmp_path)


async def do(scene: Scene, kind: str, **arguments: Any) -> dict[str, Any]:
    """Order it, and have it done; the job as the API shows it."""
    ordered = await scene.order({"kind": kind, "arguments": arguments})
    await apply_order(scene.stack.crew, UUID(ordered["trackingId"]))
    await finish(scene.stack, UUID(ordered["jobId"]))
    return assert_envelope(await scene.ask("GET", ordered["statusUrl"]), 200, None)


async def test_planned_and_carried_out(scene: Scene) -> None:
    ids = await broken(scene.stack, 9)
    await mend(scene.stack)
    made = await do(scene, "replay-plan", select={"source": "acme", "status": "dead"})
    assert (made["state"], made["result"]["replayable"]) == ("done", 9)
    assert made["result"]["effect"]["tenants"] == 3
    again = {"plan": made["id"], "reason": "mended", "rate": 500}
    done = await do(scene, "replay", **again)
    assert done["progress"] == {"done": 9, "failed": 0, "total": 9, "counts": {"applied": 9}}
    assert await later_runs(scene.stack) == {one: [1, 2] for one in ids}
    actors = await scene.stack.fetch(
        "SELECT DISTINCT actor FROM audit WHERE cause = 'event' AND run = 2 AND step = 0"
    )
    assert [one["actor"] for one in actors] == ["token:test"]
    refused = await do(scene, "replay", **again)
    assert (refused["state"], refused["error"]["code"]) == ("failed", "plan_was_run")
    listed = (await scene.ask("GET", f"{JOBS}?kind=replay")).json()["data"]
    assert {one["id"] for one in listed} == {done["id"], refused["id"]}


async def test_an_overtaken_plan_is_a_failed_job(scene: Scene) -> None:
    await broken(scene.stack, 3)
    made = await do(scene, "replay-plan", all=True)
    await mend(scene.stack)
    refused = await do(scene, "replay", plan=made["id"], reason="mended")
    assert (refused["state"], refused["error"]["code"]) == ("failed", "plan_overtaken")
    assert "configuration" in refused["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "arguments", "pointer"),
    [
        ("replay-plan", {}, "/arguments/select"),
        ("replay-plan", {"select": {}}, "/arguments/select"),
        ("replay-plan", {"select": {"colour": "red"}}, "/arguments/select/colour"),
        ("replay-plan", {"select": {"status": "lost"}}, "/arguments/select/status"),
        ("replay-plan", {"select": {"ids": ["x"]}}, "/arguments/select/ids"),
        ("replay-plan", {"select": {"ids": []}}, "/arguments/select/ids"),
        ("replay-plan", {"select": {"conflicts": False}}, "/arguments/select"),
        ("replay-plan", {"select": {"type": "*"}}, "/arguments/select/type"),
        ("replay-plan", {"select": {"source": "nosuch"}}, "/arguments/select/source"),
        ("replay-plan", {"select": {"code": "a\0b"}}, "/arguments/select/code"),
        ("replay-plan", {"select": {"source": "acme"}, "all": True}, "/arguments/all"),
        ("replay", {}, "/arguments"),
        ("replay", {"plan": "x", "reason": "x"}, "/arguments/plan"),
        ("replay", {"plan": str(uuid4()), "reason": " "}, "/arguments/reason"),
        ("replay", {"plan": str(uuid4()), "reason": "x", "rate": 0}, "/arguments/rate"),
    ],
)
async def test_what_is_not_understood_is_said_before(
    scene: Scene, kind: str, arguments: dict[str, Any], pointer: str
) -> None:
    answer = await scene.ask("POST", JOBS, json={"kind": kind, "arguments": arguments})
    assert_envelope(answer, 422, "invalid_body")
    (detail,) = answer.json()["error"]["details"]
    assert detail["pointer"].startswith(pointer)


async def test_only_operators_replay(scene: Scene) -> None:
    for scope in ("service", "tenant:acme"):
        for kind, arguments in (
            ("replay-plan", {"all": True}),
            ("replay", {"plan": str(uuid4()), "reason": "x"}),
        ):
            answer = await scene.ask(
                "POST", JOBS, scope, json={"kind": kind, "arguments": arguments}
            )
            assert_envelope(answer, 403, "forbidden")
    ordered = await scene.order({"kind": "replay-plan", "arguments": {"all": True}})
    for what in ("pause", "resume", "cancel"):
        url = f"{ordered['statusUrl']}/{what}"
        assert_envelope(await scene.ask("POST", url, "service"), 403, "forbidden")
        assert_envelope(await scene.ask("POST", url, "tenant:acme"), 404, "not_found")


async def test_paused_and_resumed(scene: Scene) -> None:
    """In the order in which it was said, once each, by whoever it was."""
    await broken(scene.stack, 3)
    ordered = await scene.order({"kind": "replay-plan", "arguments": {"all": True}})
    job, url = UUID(ordered["jobId"]), ordered["statusUrl"]
    crew = scene.stack.crew
    paused = assert_envelope(await scene.ask("POST", f"{url}/pause"), 202, None)
    with pytest.raises(Exception, match="has not begun yet"):
        await apply_order(crew, UUID(paused["trackingId"]))
    await apply_order(crew, UUID(ordered["trackingId"]))
    assert (await apply_order(crew, UUID(paused["trackingId"]))).outcome == "applied"
    shown = assert_envelope(await scene.ask("GET", url), 200, None)
    assert (shown["state"], shown["pausedBy"]) == ("paused", "token:test")
    again = assert_envelope(await scene.ask("POST", f"{url}/pause"), 202, None)
    assert (await apply_order(crew, UUID(again["trackingId"]))).outcome == "unchanged"
    resumed = assert_envelope(await scene.ask("POST", f"{url}/resume"), 202, None)
    assert (await apply_order(crew, UUID(resumed["trackingId"]))).outcome == "applied"
    await finish(scene.stack, job)
    shown = assert_envelope(await scene.ask("GET", url), 200, None)
    assert (shown["state"], shown["pausedBy"]) == ("done", None)
