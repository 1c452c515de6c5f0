"""`sluice apply` against a database."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared import db
from shared.sealing import API_KEY_SLOT, KeyRing, new_key
from shared.settings import Endpoints
from shared.store.source_keys import read_keys
from shared.store.source_rows import read_sources
from shared.store.sources import load_configuration
from tests.cli.conftest import Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, event, subscription
from workers import preview
from workers.cli import following
from workers.sweep import derive_again

FILE = """
[sources.stripe]
provider = "stripe"
secrets = ["env:STRIPE_SECRET", "file:second.txt"]
livemode = true

[plans.pro]
products = ["stripe:prod_pro"]
features = { seats = 10, sso = true }
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRIPE_SECRET", "whsec_from_env")
    (tmp_path / "second.txt").write_text("whsec_from_file\n")
    path = tmp_path / "sluice.toml"
    path.write_text(FILE)
    return path


async def value(endpoints: Endpoints, query: str) -> object:
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        return await conn.fetchval(query)


async def secrets_of(endpoints: Endpoints, source: str) -> dict[str, str]:
    """label → secret, as the gateway reads them."""
    async with db.connect(endpoints.database["gateway"], "gateway") as conn:
        read = await load_configuration(conn, KeyRing.parse(endpoints.secret_key))
    return {secret.label: secret.plaintext for secret in read.sources[source].secrets}


async def test_a_first_apply_is_read_by_the_gateway(
    sluice: Sluice, endpoints: Endpoints, file: Path
) -> None:
    said = await sluice("apply", file, "--json")
    assert said.code == 0, said.err
    assert said.json["version"] == 1
    assert said.json["written"] is True
    assert [change["action"] for change in said.json["changes"]] == ["added", "added"]
    assert "whsec" not in said.out + said.err
    assert "/api/v1/webhooks/stripe" in said.err
    async with db.connect(endpoints.database["gateway"], "gateway") as conn:
        read = await load_configuration(conn, KeyRing.parse(endpoints.secret_key))
    assert read.version == 1
    assert read.sources["stripe"].readable
    assert len(read.sources["stripe"].lanes) == 16
    assert await secrets_of(endpoints, "stripe") == {
        "0.1": "whsec_from_env",
        "1.1": "whsec_from_file",
    }
    assert await value(endpoints, "SELECT document FROM catalogs WHERE version = 1") == {
        "plans": {
            "pro": {
                "products": ["stripe:prod_pro"],
                "features": {"seats": 10, "sso": True},
                "graceS": 604_800,
                "rank": 0,
            }
        },
        "features": {},
    }
    records = (await sluice("audit", "list", "--json")).json["items"]
    assert [(one["action"], one["cause"], one["step"], one["actor"]) for one in records] == [
        ("configuration.applied", "operator", 0, "operator:ada")
    ]
    assert records[0]["before"] == {"version": 0, "catalogVersion": 0, "mode": "live"}
    assert records[0]["after"]["version"] == 1
    assert "whsec" not in str(records)
    assert (await sluice("audit", "verify")).code == 0


async def test_the_same_again_writes_nothing(
    sluice: Sluice, endpoints: Endpoints, file: Path
) -> None:
    await sluice("apply", file)
    again = await sluice("apply", file)
    assert again.code == 0
    assert "nothing changes: version 1 holds" in again.err
    assert await value(endpoints, "SELECT max(version) FROM configuration") == 1
    assert await value(endpoints, "SELECT count(*) FROM audit") == 1


async def test_a_rotated_secret_leaves_the_other_and_the_catalog(
    sluice: Sluice, endpoints: Endpoints, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sluice("apply", file)
    monkeypatch.setenv("STRIPE_SECRET", "whsec_rotated")
    said = await sluice("apply", file, "--json")
    assert said.json["changes"][0]["details"] == ["secrets: 1 written, 0 removed"]
    assert await secrets_of(endpoints, "stripe") == {
        "0.2": "whsec_rotated",
        "1.1": "whsec_from_file",
    }
    assert await value(endpoints, "SELECT max(version) FROM catalogs") == 1


async def test_a_dry_run_writes_nothing(sluice: Sluice, endpoints: Endpoints, file: Path) -> None:
    said = await sluice("apply", file, "--dry-run")
    assert said.code == 0
    assert "stripe" in said.out
    assert "would become version 1" in said.err
    assert await value(endpoints, "SELECT max(version) FROM configuration") == 0
    assert await value(endpoints, "SELECT count(*) FROM sources WHERE removed_at IS NULL") == 0


def tenants(*names: str) -> list[bytes]:
    """A subscription for each, to prod_pro."""
    return [
        event(
            "customer.subscription.created",
            subscription(f"sub_{name}", customer=f"cus_{name}", tenant=name),
        )
        for name in names
    ]


async def follow(stack: Stack) -> None:
    """What workers do, in time."""
    for row in await stack.fetch("SELECT tenant FROM tenants ORDER BY tenant"):
        await derive_again(stack.crew, row["tenant"])


async def test_who_gets_what_is_shown_before_it_is_so(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    await stack.apply(*tenants("acme", "globex"))
    await sluice("apply", file)
    await follow(stack)
    file.write_text(FILE.replace("seats = 10, sso = true", 'seats = 20, tier = "gold"'))
    said = await sluice("apply", file, "--dry-run")
    assert said.out.splitlines()[-9:] == [
        "What tenants may use",
        "tenant  feature  from → to  ",
        "acme    seats    10 → 20    ",
        "acme    sso      true → none",
        "acme    tier     none → gold",
        "globex  seats    10 → 20    ",
        "globex  sso      true → none",
        "globex  tier     none → gold",
        "2 tenants in all: 2 changed, 2 granted, 2 revoked",
    ]
    assert "2 tenants to derive again, with a new catalog" in said.err
    assert (await stack.features("acme")) == {"seats": 10, "sso": True}
    applied = (await sluice("apply", file, "--json")).json
    assert (applied["catalogVersion"], applied["toDerive"]) == (2, 2)
    assert {**applied["preview"], "changes": len(applied["preview"]["changes"])} == {
        "tenants": 2,
        "listed": 2,
        "lookedAt": 2,
        "busy": 0,
        "actions": {
            "entitlement.changed": 2,
            "entitlement.granted": 2,
            "entitlement.revoked": 2,
        },
        "changes": 6,
    }
    assert applied["preview"]["changes"][0] == {
        "tenant": "acme",
        "feature": "seats",
        "action": "entitlement.changed",
        "before": {"value": 10, "validUntil": None},
        "after": {"value": 20, "validUntil": None},
    }
    await follow(stack)
    assert (await stack.features("acme")) == {"seats": 20, "tier": "gold"}


async def test_an_end_is_shown_with_its_day(sluice: Sluice, stack: Stack, file: Path) -> None:
    ends = NOW_S + 10**6
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme", cancel_at=ends))
    )
    file.write_text(FILE.replace("seats = 10, sso = true", "seats = 20"))
    said = await sluice("apply", file, "--dry-run")
    until = f"until {datetime.fromtimestamp(ends, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert f"10 {until} → 20 {until}" in " ".join(said.out.split())


async def test_more_tenants_than_fit_are_counted(
    sluice: Sluice, stack: Stack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "LISTED", 2)
    await stack.apply(*tenants("a", "b", "c", "d"))
    file.write_text(FILE.replace("10", "20"))
    said = await sluice("apply", file, "--dry-run")
    assert said.out.endswith(
        "b       seats    10 → 20  \nand 2 more tenants\n4 tenants in all: 4 changed\n"
    )
    counted = (await sluice("apply", file, "--dry-run", "--json")).json["preview"]
    assert (counted["tenants"], counted["listed"], len(counted["changes"])) == (4, 2, 2)


async def test_without_a_preview_nobody_is_looked_at(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    await stack.apply(*tenants("acme"))
    file.write_text(FILE.replace("10", "20"))
    said = await sluice("apply", file, "--dry-run", "--no-preview")
    assert "acme" not in said.out + said.err
    assert "plans.pro.features.seats: 10 → 20" in said.out
    assert (await sluice("apply", file, "--no-preview", "--json")).json["preview"] is None


async def test_nothing_new_for_anybody_is_said(sluice: Sluice, stack: Stack, file: Path) -> None:
    await stack.apply(*tenants("acme"))
    file.write_text(FILE + 'grace = "30d"\n')
    said = await sluice("apply", file)
    assert "no tenant may use anything else than before" in said.err
    assert "1 tenant to derive again, with catalog 2: sluice catalog status --watch" in said.err


async def test_waiting_ends_when_every_tenant_has_followed(
    sluice: Sluice, stack: Stack, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(following, "STILL_AFTER_S", 0.2)
    await stack.apply(*tenants("acme", "globex"))
    file.write_text(FILE.replace("10", "20"))
    waiting = asyncio.ensure_future(sluice("apply", file, "--wait", "--json"))
    while await stack.value("SELECT max(version) FROM catalogs") == 1:
        await asyncio.sleep(0.05)
    await derive_again(stack.crew, "acme")
    await asyncio.sleep(1)
    assert not waiting.done()
    await derive_again(stack.crew, "globex")
    said = await waiting
    assert said.code == 0, said.err
    assert said.json["toDerive"] == 2
    assert said.err.count("of the remaining 1 none has followed for 0 s: does a worker run?") == 1
    assert said.err.endswith("every tenant has catalog 2\n")
    again = await sluice("apply", file, "--wait")
    assert "nothing changes: version 2 holds" in again.err
    assert again.err.endswith("every tenant has catalog 2\n")


async def test_a_setting_that_decides_is_a_new_catalog(
    sluice: Sluice, endpoints: Endpoints, file: Path
) -> None:
    await sluice("apply", file)
    file.write_text(
        FILE.replace("livemode = true", 'livemode = true\nsettings = { disputes = "keep" }')
    )
    said = await sluice("apply", file)
    assert "settings.disputes: hold → keep" in said.out
    assert await value(endpoints, "SELECT settings FROM sources WHERE removed_at IS NULL") == {
        "disputes": "keep"
    }
    assert await value(endpoints, "SELECT max(version) FROM catalogs") == 2


async def test_features_stay_until_they_are_pruned(
    sluice: Sluice, endpoints: Endpoints, file: Path
) -> None:
    newest = "SELECT document -> 'features' FROM catalogs ORDER BY version DESC LIMIT 1"
    file.write_text(FILE + '[features.seats]\ncombine = "sum"\n')
    await sluice("apply", file)
    assert await value(endpoints, newest) == {"seats": {"combine": "sum"}}
    file.write_text(FILE)
    assert "and kept: feature seats" in (await sluice("apply", file)).err
    assert await value(endpoints, newest) == {"seats": {"combine": "sum"}}
    assert (await sluice("apply", file, "--prune", "--yes")).code == 0
    assert await value(endpoints, newest) == {}


async def test_pruning_says_who_loses_what_and_wants_a_yes(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    file.write_text('mode = "live"\n')
    kept = await sluice("apply", file)
    assert "not in the file, and kept: source stripe, plan" in kept.err
    shown = await sluice("apply", file, "--prune", "--dry-run", "--json")
    assert shown.json["losses"] == [{"plan": "pro", "tenant": "acme", "features": ["seats", "sso"]}]
    unsaid = await sluice("apply", file, "--prune")
    assert unsaid.code == 2
    assert "--yes" in unsaid.err
    assert await stack.value("SELECT count(*) FROM sources WHERE removed_at IS NULL") == 1
    done = await sluice("apply", file, "--prune", "--yes")
    assert done.code == 0, done.err
    assert "acme loses pro: seats, sso" in done.out
    assert await stack.value("SELECT count(*) FROM sources WHERE removed_at IS NULL") == 0
    assert await stack.value("SELECT count(*) FROM source_secrets") == 0
    assert (await sluice("sources", "list", "--json")).json["items"] == []
    assert len((await sluice("sources", "list", "--all", "--json")).json["items"]) == 1


async def test_a_source_comes_back_with_its_id_and_lanes(
    sluice: Sluice, endpoints: Endpoints, file: Path, tmp_path: Path
) -> None:
    await sluice("apply", file)
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    await sluice("apply", empty, "--prune", "--yes")
    assert (await sluice("apply", file)).code == 0
    # Sluice's own sources are there from the beginning, with their lanes.
    assert await value(endpoints, "SELECT count(*) FROM sources") == 1 + 2
    assert await value(endpoints, "SELECT count(*) FROM lanes") == 16 + 2 * 16
    assert await secrets_of(endpoints, "stripe") == {
        "0.3": "whsec_from_env",
        "1.3": "whsec_from_file",
    }


async def test_applies_take_turns(
    sluice: Sluice, endpoints: Endpoints, file: Path, tmp_path: Path
) -> None:
    """An apply that starts while another holds the turn builds upon what that one wrote."""
    async with db.connect(endpoints.database["operator"], "operator") as other:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(hashtext('sluice.apply'))")
            await other.execute(
                "INSERT INTO configuration (version, actor, mode) VALUES (1, 'other', 'live')"
            )
            waiting = asyncio.ensure_future(sluice("apply", file, "--json"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
        said = await waiting
    assert said.code == 0, said.err
    assert said.json["version"] == 2
    assert "somebody else applied meanwhile; looking again" in said.err


async def test_what_is_wrong_is_one_line(
    sluice: Sluice, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, said_to_be in [
        ("mode = \n", f"sluice: {file}, line 1: not TOML: Invalid value"),
        (FILE.replace("10", "-1"), f"{file}, line 9: plans.pro.features.seats: -1 is not a limit"),
        (FILE.replace("stripe:", "strype:"), f"{file}, line 8: plans.pro.products[0]: 'strype' is"),
        (FILE.replace("env:STRIPE_SECRET", "env:NOWHERE"), "NOWHERE is not set"),
        (FILE.replace("file:second.txt", "file:third.txt"), "third.txt"),
    ]:
        file.write_text(text)
        said = await sluice("apply", file)
        assert said.code == 2
        assert said_to_be in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert (await sluice("apply", tmp_path / "gone.toml")).code == 2


async def test_a_source_with_a_history_keeps_its_provider(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    await stack.receive(event("customer.subscription.created", subscription()))
    async with stack.owner.connection() as conn:
        await conn.execute("UPDATE sources SET provider = 'another'")
    said = await sluice("apply", file)
    assert said.code == 5
    assert "its history is another's" in said.err


async def test_a_key_that_the_database_is_not_sealed_with_is_refused(
    sluice: Sluice, endpoints: Endpoints, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sluice("apply", file)
    monkeypatch.setenv("SLUICE_SECRET_KEY", new_key())
    said = await sluice("apply", file)
    assert said.code == 1
    assert "sealed with" in said.err
    monkeypatch.setenv("SLUICE_SECRET_KEY", f"{new_key()},{endpoints.secret_key}")
    assert (await sluice("apply", file)).code == 0
    assert await value(endpoints, "SELECT count(*) FROM seals") == 2


async def test_sources_are_listed_without_their_secrets(sluice: Sluice, file: Path) -> None:
    await sluice("apply", file)
    said = await sluice("sources", "list", "--json")
    (source,) = said.json["items"]
    assert (source["name"], source["livemode"], source["secrets"]) == ("stripe", True, 2)
    assert source["url"].endswith("/api/v1/webhooks/stripe")
    assert "whsec" not in said.out
    assert "stripe" in (await sluice("sources", "list")).out


async def test_a_source_says_which_event_types_its_endpoint_must_send(
    sluice: Sluice, file: Path
) -> None:
    await sluice("apply", file)
    (source,) = (await sluice("sources", "list", "--json")).json["items"]
    assert "customer.subscription.updated" in source["eventTypes"]
    summary = "entitlements.active_entitlement_summary.updated"
    assert summary not in source["eventTypes"]
    table = (await sluice("sources", "list")).out
    assert f" {len(source['eventTypes'])} " in table
    assert "customer." not in table
    granting = FILE.replace("[plans", '[sources.stripe.settings]\ngrants_from = "summary"\n[plans')
    file.write_text(granting)
    assert (await sluice("apply", file)).code == 0
    (source,) = (await sluice("sources", "list", "--json")).json["items"]
    assert summary in source["eventTypes"]


async def api_key_of(endpoints: Endpoints, source: str) -> tuple[str, str | None] | None:
    """(key, base) of a source, as a worker opens it."""
    async with db.connect(endpoints.database["worker"], "worker") as conn:
        stored = await read_keys(conn)
        named = {row.id: row.name for row in await read_sources(conn)}
    found = {named[source_id]: key for source_id, key in stored.items()}
    if source not in found:
        return None
    key = found[source]
    ring = KeyRing.parse(endpoints.secret_key)
    opened = ring.open(
        key.sealed, source=source, slot=API_KEY_SLOT, version=key.version, address=key.api_base
    )
    return opened, key.api_base


async def test_an_api_key_is_set_changed_and_removed_and_never_shown(
    sluice: Sluice, endpoints: Endpoints, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_first")
    with_key = FILE.replace("livemode = true", 'livemode = true\napi_key = "env:STRIPE_API_KEY"')
    with_base = with_key.replace('API_KEY"', 'API_KEY"\napi_base = "https://mirror.example/"')
    said = []
    for text, key, detail, kept in (
        (with_key, "sk_live_first", "api key set", ("sk_live_first", None)),
        (with_key, "sk_live_second", "api key changed", ("sk_live_second", None)),
        (with_base, "sk_live_second", "api base: none → https://mirror.example",
         ("sk_live_second", "https://mirror.example")),
        (FILE, "sk_live_second", "api key removed", None),
    ):  # fmt: skip
        monkeypatch.setenv("STRIPE_API_KEY", key)
        file.write_text(text)
        done = await sluice("apply", file, "--json")
        assert done.code == 0, done.err
        assert detail in done.json["changes"][0]["details"]
        assert await api_key_of(endpoints, "stripe") == kept
        again = await sluice("apply", file)
        assert "nothing changes" in again.err
        listed = await sluice("sources", "list", "--json")
        assert listed.json["items"][0]["apiKey"] is (kept is not None)
        said += [done, again, listed, await sluice("sources", "list")]
    said.append(await sluice("audit", "list", "--json"))
    assert "api key changed" in said[-1].out
    assert not [one for one in said if "sk_live" in one.out + one.err]


async def test_a_pruned_source_loses_its_api_key(
    sluice: Sluice, endpoints: Endpoints, file: Path, tmp_path: Path
) -> None:
    file.write_text(FILE.replace("livemode = true", 'livemode = true\napi_key = "sk_live_1"'))
    assert (await sluice("apply", file)).code == 0
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert (await sluice("apply", empty, "--prune", "--yes")).code == 0
    assert await value(endpoints, "SELECT count(*) FROM source_keys") == 0


async def test_an_api_key_that_cannot_be_resolved_is_one_line(sluice: Sluice, file: Path) -> None:
    file.write_text(FILE.replace("livemode = true", 'livemode = true\napi_key = "env:NOWHERE"'))
    said = await sluice("apply", file)
    assert said.code == 2
    assert "sources.stripe.api_key: the environment variable NOWHERE is not set" in said.err


async def test_the_list_of_sources_says_what_fetching_is_at(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    await stack.receive(event("customer.subscription.created", subscription(tenant="acme")))
    await stack.drain()
    async with stack.owner.connection() as conn:
        await conn.execute("UPDATE objects SET wants = 'order'")
    assert (await sluice("apply", file)).code == 0
    keyless = await sluice("sources", "list")
    assert "stripe: objects want to be fetched, and there is no api_key" in keyless.err
    file.write_text(FILE.replace("livemode = true", 'livemode = true\napi_key = "sk_live_1"'))
    assert (await sluice("apply", file)).code == 0
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO fetches (object, source_id, number, attempts, due_at, last_code,"
            " last_error)"
            " SELECT id, source_id, 1, 2, now(), 'not_found', 'No such thing' FROM objects"
        )
    failing = await sluice("sources", "list")
    assert "1 wanting, 1 failing" in failing.out
    assert "stripe: fetches fail: not_found: No such thing" in failing.err
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO fetch_budgets (source_id, open_until, last_error)"
            " SELECT id, now() + interval '5 min', 'unauthorized: Invalid API Key' FROM sources"
        )
    stopped = await sluice("sources", "list")
    assert "stripe: nothing is fetched until 2" in stopped.err
    assert "unauthorized: Invalid API Key" in stopped.err
    (source,) = (await sluice("sources", "list", "--json")).json["items"]
    assert source["fetches"]["wanting"] == source["fetches"]["failing"] == 1
    assert source["fetches"]["stoppedUntil"] is not None


async def test_an_empty_file_changes_nothing(
    sluice: Sluice, endpoints: Endpoints, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    said = await sluice("apply", empty)
    assert (said.code, said.out) == (0, "")
    assert "nothing changes" in said.err
    assert await value(endpoints, "SELECT max(version) FROM configuration") == 0
