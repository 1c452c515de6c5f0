"""`sluice catalog`: what holds, what held, and who has followed."""

import asyncio
from pathlib import Path

import pytest

from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.cli import following
from workers.sweep import derive_again

FILE = """
[plans.pro]
products = ["stripe:prod_pro", "stripe:plink_1"]
features = { seats = 20, sso = true }
grace = "36h"
lasts = "30d"
rank = 2

[plans.basic]
products = ["stripe:prod_basic"]
features = { seats = "unlimited" }

[features.seats]
combine = "sum"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sluice.toml"
    path.write_text(FILE)
    return path


async def two_tenants(stack: Stack) -> None:
    await stack.apply(
        *(
            event(
                "customer.subscription.created",
                subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
            )
            for name in ("acme", "globex")
        )
    )


async def test_versions_are_listed_newest_first(sluice: Sluice, stack: Stack, file: Path) -> None:
    await two_tenants(stack)
    assert (await sluice("apply", file)).code == 0
    await derive_again(stack.crew, "acme")
    said = await sluice("catalog", "list", "--json")
    told = [
        tuple(item[key] for key in ("version", "plans", "tenants", "isCurrent", "actor"))
        for item in said.json["items"]
    ]
    assert told == [
        (2, 2, 1, True, "operator:ada"),
        (1, 2, 1, False, "test"),
        (0, 0, 0, False, "system:migrate"),
    ]
    assert all(item["appliedAt"].endswith("Z") for item in said.json["items"])
    first = (await sluice("catalog", "list", "--limit", "2", "--json")).json
    assert [item["version"] for item in first["items"]] == [2, 1]
    rest = (await sluice("catalog", "list", "--cursor", first["next"], "--json")).json
    assert ([item["version"] for item in rest["items"]], rest["next"]) == ([0], None)
    lines = (await sluice("catalog", "list")).out.splitlines()
    assert lines[0].split() == ["version", "current", "tenants", "plans", "applied", "at", "by"]
    assert lines[1].split()[:4] == ["2", "yes", "1", "2"]
    assert max(map(len, lines)) <= 80


async def test_a_cursor_of_another_list_is_refused(sluice: Sluice, stack: Stack) -> None:
    for cursor in ("nonsense", "WyJ4Il0", "WzFlOTld", "Wy0xXQ"):  # ["x"], [1e99], [-1]
        said = await sluice("catalog", "list", "--cursor", cursor)
        assert (said.code, said.out) == (2, ""), cursor
        assert "--cursor" in said.err


async def test_a_version_is_shown_as_it_was(sluice: Sluice, stack: Stack, file: Path) -> None:
    await sluice("apply", file)
    shown = (await sluice("catalog", "show", "--json")).json
    assert (shown["version"], shown["isCurrent"], shown["actor"]) == (2, True, "operator:ada")
    assert shown["plans"]["pro"] == {
        "products": ["stripe:prod_pro", "stripe:plink_1"],
        "features": {"seats": 20, "sso": True},
        "graceS": 129_600,
        "lastsS": 30 * 86_400,
        "rank": 2,
    }
    assert shown["features"] == {"seats": {"combine": "sum"}}
    before = (await sluice("catalog", "show", "1", "--json")).json
    assert (before["version"], before["isCurrent"]) == (1, False)
    assert before["plans"]["pro"]["features"] == {"seats": 10, "sso": True}
    assert before["features"] == {}
    assert (await sluice("catalog", "show", "3")).code == 3
    for version in ("-1", "one", str(2**63)):
        assert (await sluice("catalog", "show", version)).code == 2


async def test_a_version_is_shown_to_people(sluice: Sluice, stack: Stack, file: Path) -> None:
    await sluice("apply", file)
    said = await sluice("catalog", "show")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines[0] == "catalog 2 (current)"
    assert lines[lines.index("Plans") :] == [
        "Plans",
        "plan products grace lasts rank",
        "basic stripe:prod_basic 7d - 0",
        "pro stripe:prod_pro, stripe:plink_1 36h 30d 2",
        "",
        "Features",
        "feature combine by plan",
        "seats sum basic unlimited, pro 20",
        "sso max pro true",
    ]
    assert max(len(line.rstrip()) for line in said.out.splitlines()) <= 80
    assert "superseded" in (await sluice("catalog", "show", "1")).out
    empty = await sluice("catalog", "show", "0")
    assert (empty.code, "no plans" in empty.err) == (0, True)


async def test_who_has_followed_is_counted(sluice: Sluice, stack: Stack, file: Path) -> None:
    status = (await sluice("catalog", "status", "--json")).json
    assert (status["tenants"], status["remaining"], status["oldest"]) == (0, 0, None)
    await two_tenants(stack)
    await sluice("apply", file)
    await derive_again(stack.crew, "acme")
    status = (await sluice("catalog", "status", "--json")).json
    assert {**status, "appliedAt": "…"} == {
        "version": 2,
        "appliedAt": "…",
        "tenants": 2,
        "upToDate": 1,
        "remaining": 1,
        "oldest": 1,
    }
    said = await sluice("catalog", "status")
    assert "1 of 2" in said.out
    assert "--watch" in said.err


async def test_watching_ends_when_all_have_followed(
    sluice: Sluice, stack: Stack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    await two_tenants(stack)
    await sluice("apply", file)
    watching = asyncio.ensure_future(sluice("catalog", "status", "--watch", "--json"))
    await derive_again(stack.crew, "acme")
    await asyncio.sleep(0.5)
    assert not watching.done()
    await derive_again(stack.crew, "globex")
    said = await watching
    assert said.code == 0, said.err
    assert (said.json["upToDate"], said.json["remaining"], said.json["oldest"]) == (2, 0, 2)
    assert said.err == ""
