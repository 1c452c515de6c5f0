"""`sluice tenants hold`, `release`, `erase` and `sluice db prune`."""

from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError
from tests.cli.conftest import Sluice
from tests.support.keeping import LONG_AGO, add_day, at, partitions
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.retention.classes import CLASSES, days_of

WHY = ("--reason", "case 11/2026")


def created(name: str, tenant: str) -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant)
    return event("customer.subscription.created", content)


@pytest.fixture
async def old(stack: Stack) -> Stack:
    await add_day(stack, LONG_AGO.date())
    with at(LONG_AGO):
        await stack.apply(created("1", "acme"), created("2", "other"))
    return stack


async def test_a_hold_is_shown_and_audited(sluice: Sluice, old: Stack) -> None:
    del old
    held = (await sluice("tenants", "hold", "acme", *WHY, "--until", "30d", "--json")).json
    assert (held["hold"]["by"], held["hold"]["reason"]) == ("operator:ada", "case 11/2026")
    assert held["hold"]["until"] is not None
    shown = (await sluice("tenants", "show", "acme", "--json")).json
    assert (shown["hold"], shown["isHeld"], shown["erasedAt"]) == (held["hold"], True, None)
    listed = (await sluice("tenants", "list", "--json")).json["items"]
    assert {one["tenant"]: one["isHeld"] for one in listed} == {"acme": True, "other": False}
    assert "case 11/2026" in (await sluice("tenants", "show", "acme")).err

    refused = await sluice("tenants", "erase", "acme", *WHY)
    assert (refused.code, "held" in refused.err) == (5, True)
    assert (await sluice("tenants", "release", "acme", *WHY, "--json")).json["hold"] is None
    assert (await sluice("tenants", "release", "acme", *WHY)).code == 5
    actions = [one["action"] for one in (await sluice("audit", "list", "--json")).json["items"]]
    assert actions[:2] == ["tenant.released", "tenant.held"]


@pytest.mark.parametrize("command", ["hold", "release", "erase"])
async def test_what_is_not_there(sluice: Sluice, stack: Stack, command: str) -> None:
    del stack
    assert (await sluice("tenants", command, "nobody", *WHY)).code == 3
    assert (await sluice("tenants", command, "nobody")).code == 2
    assert (await sluice("tenants", command, "nobody", "--reason", " ")).code == 2


async def test_a_dry_run_writes_nothing(sluice: Sluice, old: Stack) -> None:
    held = (await sluice("tenants", "hold", "acme", *WHY, "--dry-run", "--json")).json
    assert (held["dryRun"], held["hold"]["reason"]) == (True, "case 11/2026")
    would = (await sluice("tenants", "erase", "acme", *WHY, "--dry-run", "--json")).json
    assert (would["dryRun"], would["job"]) == (True, None)
    assert would["counts"]["objects"] == 1
    told = await sluice("tenants", "erase", "acme", *WHY, "--dry-run")
    assert told.out.startswith("dry run: acme would be erased")
    assert "would go" in told.out
    assert "nothing of it was written" in told.err
    told = await sluice("tenants", "hold", "acme", *WHY, "--dry-run")
    assert told.out == "dry run: acme would be held until it is released\n"
    assert await old.features("acme") == {"seats": 10, "sso": True}
    assert await old.value("SELECT count(*) FROM tenants WHERE held_at IS NOT NULL") == 0
    assert await old.value("SELECT count(*) FROM jobs") == 0
    assert await old.value("SELECT count(*) FROM audit WHERE cause = 'operator'") == 0


async def test_erasing_begins_a_job_and_ends_what_it_may_use(sluice: Sluice, old: Stack) -> None:
    begun = (await sluice("tenants", "erase", "acme", *WHY, "--yes", "--json")).json
    assert await old.features("acme") == {}
    assert await old.value("SELECT kind FROM jobs WHERE id::text = $1", begun["job"]) == "erase"
    assert (await sluice("tenants", "show", "acme", "--json")).json["erasedAt"] is not None
    given = await sluice("tenants", "grant", "acme", "seats", "5", *WHY)
    assert (given.code, "erased" in given.err) == (5, True)
    assert (await sluice("tenants", "hold", "acme", *WHY)).code == 5
    # Nobody comes to have anything under its name again.
    for pair in (("acme", "other"), ("other", "acme")):
        said = await sluice("tenants", "merge", *pair, *WHY)
        assert (said.code, "was erased" in said.err) == (5, True)
    linked = await sluice("tenants", "link", "acme", "--source", "stripe", "--customer", "cus_1")
    assert (linked.code, "was erased" in linked.err) == (5, True)


async def test_pruning_by_hand(sluice: Sluice, old: Stack) -> None:
    await sluice("tenants", "hold", "acme", *WHY)
    planned = {
        one["class"]: one
        for one in (await sluice("db", "prune", "--dry-run", "--json")).json["items"]
    }
    assert planned.keys() == CLASSES.keys()
    day = planned["standard"]
    assert (day["days"], day["rows"], day["keptHeld"], day["keptUnfinished"]) == (1, 2, 1, 0)
    assert day["bytes"] > 0
    told = await sluice("db", "prune", "--dry-run", "--class", "standard")
    heading, row = (line.split("  ") for line in told.out.splitlines())
    shown = dict(
        zip(
            [one.strip() for one in heading if one],
            [one.strip() for one in row if one],
            strict=True,
        )
    )
    # What is held is not among what would go, although its day does.
    assert (shown["days"], shown["would go"], shown["held: stay"]) == ("1", "1", "1")
    assert "nothing of it was written" in told.err
    assert len(await partitions(old)) == 1
    said = await sluice("db", "prune", "--class", "standard", "--json")
    assert said.json["items"] == [{"class": "standard", "gone": 1}]
    assert list((await partitions(old)).values()) == [1]
    assert (await sluice("db", "prune", "--class", "everything")).code == 2
    assert (await sluice("db", "prune")).code == 0


async def test_a_store_that_is_away_is_said(
    sluice: Sluice, old: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_ARTIFACTS_URL", "file:///proc/nowhere")
    said = await sluice("db", "prune", "--dry-run", "--class", "artifacts")
    assert (said.code, "SLUICE_ARTIFACTS_URL" in said.err) == (7, True)


async def test_two_do_not_prune_at_once(sluice: Sluice, old: Stack) -> None:
    async with old.crew.db.connection() as conn:
        await conn.fetchval("SELECT pg_advisory_lock(hashtext('sluice.prune'))")
        said = await sluice("db", "prune")
    assert (said.code, "another process prunes" in said.err) == (5, True)


def test_the_classes_are_documented_as_they_are() -> None:
    """The table of docs/retention.md is that of the code."""
    text = (Path(__file__).parents[2] / "docs/retention.md").read_text()
    for one in CLASSES.values():
        days = "no end" if one.days is None else str(one.days)
        setting = f"`SLUICE_{one.setting.upper()}` " if one.setting else ""
        assert f"| `{one.name}` | {one.what} | {days} | {setting}|" in text
        assert days_of(one.name, Settings()) == one.days


@pytest.mark.parametrize(
    "environ",
    [
        {"SLUICE_KEEP_BODIES_D": "6"},
        {"SLUICE_KEEP_LEDGER_D": "89"},
        {"SLUICE_KEEP_BODIES_D": "400"},
    ],
)
def test_times_that_lose_something_are_refused(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="SLUICE_KEEP"):
        Settings.read()
