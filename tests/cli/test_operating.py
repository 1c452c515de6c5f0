"""Sources that are paused and secrets that are rotated, as the command line meets them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.domain.commands import PauseSource, ResumeSource
from tests.cli.conftest import Sluice
from tests.support.ordering import Ordering
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription

FILE = """
[sources.stripe]
provider = "stripe"
secrets = ["env:STRIPE_SECRET"]
livemode = true
"""


@pytest.fixture
async def ordering(stack: Stack) -> AsyncIterator[Ordering]:
    async with Ordering.open(stack) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRIPE_SECRET", "whsec_old")
    path = tmp_path / "sluice.toml"
    path.write_text(FILE)
    return path


async def test_pause_and_resume(sluice: Sluice, ordering: Ordering) -> None:
    stack = ordering.stack
    assert (await sluice("sources", "pause", "stripe", "--reason", "migrates")).code == 0
    body = event("customer.subscription.created", subscription(tenant="acme"))
    [tracking_id] = await stack.apply(body)
    assert await stack.outcomes([tracking_id]) == ["unfinished"]
    [listed] = (await sluice("sources", "list", "--json")).json["items"]
    assert listed["pausedBy"] == "operator:ada"
    table = await sluice("sources", "list")
    assert "operator:ada" in table.out
    assert "paused since" in table.err
    again = await sluice("sources", "pause", "stripe", "--reason", "x", "--json")
    assert again.json == {"source": "stripe", "isPaused": True, "changed": False}
    assert (await sluice("sources", "resume", "stripe", "--reason", "done")).code == 0
    await stack.drain()
    assert await stack.outcomes([tracking_id]) == ["applied"]

    said = (await sluice("audit", "list", "--json")).json["items"]
    found = {one["action"]: one for one in said if one["source"] == "stripe"}
    assert found["source.paused"]["reason"] == "migrates"
    assert found["source.resumed"]["actor"] == "operator:ada"
    assert found["source.resumed"]["before"]["pausedBy"] == "operator:ada"
    assert (await sluice("audit", "verify")).code == 0


async def test_a_command_comes_after_every_order_before_it(
    sluice: Sluice, ordering: Ordering
) -> None:
    """An order that was placed before and is carried out later does not undo it."""
    tracking_id = await ordering.order(PauseSource("stripe"))
    await sluice("sources", "pause", "stripe", "--reason", "x")
    await sluice("sources", "resume", "stripe", "--reason", "x")
    await ordering.stack.drain()
    assert await ordering.stack.outcomes([tracking_id]) == ["superseded"]
    assert (await ordering.carry_out(PauseSource("stripe")))["outcome"] == "applied"
    assert (await ordering.carry_out(ResumeSource("stripe")))["outcome"] == "applied"


@pytest.mark.parametrize("name", ["nobody", "operator", "sluice-handlers"])
async def test_what_is_no_source_is_not_found(sluice: Sluice, stack: Stack, name: str) -> None:
    said = await sluice("sources", "pause", name, "--reason", "x")
    assert said.code == 3


async def test_an_order_is_shown_with_who_and_why(sluice: Sluice, ordering: Ordering) -> None:
    tracking_id = await ordering.order(PauseSource("stripe"), reason="the vendor migrates")
    await ordering.stack.drain()
    shown = await sluice("events", "show", tracking_id)
    assert shown.code == 0, shown.err
    said = await sluice("audit", "list", "--json")
    actions = {one["action"]: one for one in said.json["items"]}
    assert actions["source.paused"]["actor"] == "token:ci"
    assert actions["event.applied"]["reason"] == "the vendor migrates"
    assert (await sluice("audit", "verify")).code == 0


async def test_an_apply_leaves_a_pause_and_a_rotation_alone(
    sluice: Sluice, ordering: Ordering, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a file that is older than the rotation, and whoever says yes to everything."""
    stack = ordering.stack
    assert (await sluice("apply", file)).code == 0
    version = await stack.value("SELECT secret_version FROM sources WHERE name = 'stripe'")
    rotation = ordering.rotation(
        "whsec_new", version=version + 1, replaces=(0, version), overlap_s=0
    )
    assert (await ordering.carry_out(rotation))["outcome"] == "applied"
    await ordering.carry_out(PauseSource("stripe"))
    held = await stack.fetch("SELECT slot, version, retires_at FROM source_secrets ORDER BY slot")

    said = await sluice("apply", file, "--yes")
    assert said.code == 0
    assert f"0.{version}, which was rotated out" in said.out
    file.write_text(FILE + 'tenant = "acme"\n')
    assert (await sluice("apply", file, "--yes")).code == 0
    after = await stack.fetch("SELECT slot, version, retires_at FROM source_secrets ORDER BY slot")
    assert after == held
    assert await stack.value("SELECT paused_by FROM sources WHERE name = 'stripe'") == "token:ci"

    # A third secret: nobody is asked here, so nothing is thrown away.
    monkeypatch.setenv("STRIPE_SECRET", "whsec_third")
    refused = await sluice("apply", file)
    assert refused.code == 2
    assert "rotated in" in refused.err
    assert await stack.value("SELECT count(*) FROM source_secrets") == 2

    monkeypatch.setenv("STRIPE_SECRET", "whsec_new")
    adopted = await sluice("apply", file, "--json")
    assert adopted.code == 0
    assert await stack.value("SELECT added_by FROM source_secrets WHERE slot = 1") is None
    left = await stack.fetch("SELECT slot FROM source_secrets")
    assert [row["slot"] for row in left] == [1]
    changes = json.dumps(adopted.json["changes"])
    assert "from now on the file's" in changes

    # And from then on, the file's word is what counts.
    monkeypatch.setenv("STRIPE_SECRET", "whsec_third")
    assert (await sluice("apply", file)).code == 0
    newest = await stack.value("SELECT max(version) FROM configuration")
    rows = await stack.fetch("SELECT version, secret_version FROM source_secrets"
                             " JOIN sources ON sources.id = source_id")  # fmt: skip
    assert [tuple(row.values()) for row in rows] == [(newest, newest)]


async def test_a_rotation_that_was_sealed_before_an_apply_is_refused(
    sluice: Sluice, ordering: Ordering, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sluice("apply", file)
    version = await ordering.stack.value("SELECT max(version) FROM source_secrets")
    tracking_id = await ordering.order(
        ordering.rotation("whsec_new", version=version + 1, replaces=(0, version))
    )
    monkeypatch.setenv("STRIPE_SECRET", "whsec_other")
    assert (await sluice("apply", file)).code == 0
    await ordering.stack.drain()
    assert (await ordering.settled(tracking_id))["code"] == "secret_moved_on"
