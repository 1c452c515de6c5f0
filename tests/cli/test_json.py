"""Whatever looks at data prints one JSON document with `--json`, and nothing else on stdout."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from shared.sealing import KeyRing
from shared.store.recorded import RecordName, encode_name
from tests.cli.conftest import Sluice
from tests.cli.test_requests import keep
from tests.support.importing import Importer, add_pushed, ndjson, row
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.checkpoints import write_next
from workers.cli import build
from workers.steering import begin_job

#: The last word of what only looks at data.
LOOKS = {
    "list", "show", "status", "members", "explain", "heads", "keys", "verify", "assets", "doctor",
    "headers",
}  # fmt: skip
#: These go on until they are stopped.
FOLLOW = {"events tail"}
#: With no data of their own here, and an exit code that says so.
NOTHING_THERE = {"handlers list", "outbox show"}


def looking() -> list[tuple[str, Any]]:
    found = []

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, one in getattr(command, "commands", {}).items():
            walk(one, (*path, name))
        options = {option for one in command.params for option in one.opts}
        if path and path[-1] in LOOKS and "--json" in options:
            found.append((" ".join(path), command))

    walk(typer.main.get_command(build()), ())
    return [one for one in found if one[0] not in FOLLOW]


@pytest.fixture
async def known(stack: Stack, sluice: Sluice, tmp_path: Path) -> dict[str, str]:
    """A stack with something of each kind; what its parameters are, and "…": what else is said."""
    tracking_id, *_ = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme")),
        event("customer.subscription.created", subscription("sub_2", customer="cus_2")),
    )
    given = await sluice("tenants", "grant", "acme", "sso", "true", "--reason", "x", "--json")
    assert given.code == 0
    other = ("tenants", "grant", "acme-inc", "sso", "true", "--reason", "x")
    assert (await sluice(*other)).code == 0
    assert (await sluice("tokens", "create", "billing", "--scope", "operator")).code == 0
    await add_pushed(stack)
    importer = Importer(stack, tmp_path / "artifacts")
    job = await importer.imported(ndjson([row(1), row(2)]))
    waiting = await importer.push(ndjson([row(3)]))
    await stack.drain()
    ring = KeyRing.parse(stack.endpoints.secret_key)
    async with stack.crew.db.transaction() as conn:
        assert await write_next(conn, ring, "system:test") is not None
    await stack.apply(b"{")
    (issue,) = (await sluice("issues", "list", "--json")).json["items"]
    async with stack.crew.db.transaction() as conn:
        chosen = {"select": {"status": "dead"}}
        plan = await begin_job(conn, "replay-plan", chosen, "operator:ana", "to see it")
    request = await keep(stack)
    return {
        "issue": issue["id"],
        "request": request,
        "sources verify …": f"--request {request}",
        "replay show job": str(plan),
        "event": str(tracking_id),
        "events": str(tracking_id),
        "tenant": "acme",
        "feature": "seats",
        "record": "rep_1",
        "audit show record": "1",
        "job": str(job["id"]),
        "token": "billing",
        "version": "1",
        "message": "1",
        "source": "stripe",
        "waiting": str(waiting),
        "grant": str(given.json["id"]),
    }


async def test_every_look_is_one_document(known: dict[str, str], sluice: Sluice) -> None:
    seen, wrong = set(), {}
    for name, command in looking():
        words = name.split()
        for one in command.params:
            if one.param_type_name == "argument" and one.required:
                value = known.get(f"{name} {one.name}", known.get(one.name))
                assert value is not None, f"say in `known` what `sluice {name}` takes as {one.name}"
                words.append(value)
        words += known.get(f"{name} …", "").split()
        said = await sluice(*words, "--json")
        if said.code == 3 and name in NOTHING_THERE:
            assert said.out == ""
            continue
        try:
            document = json.loads(said.out)
        except ValueError:
            wrong[name] = (said.code, said.out[:300], said.err[:300])
            continue
        if words[-1] == "list" and not {"items", "next"} <= document.keys():
            wrong[name] = (said.code, "no items and next", sorted(document))
        seen.add(name)
    assert not wrong
    assert {"audit list", "audit heads", "records show", "jobs assets", "tokens show"} <= seen
    assert len(seen) > 20


async def test_lines_are_documents_each(known: dict[str, str], sluice: Sluice) -> None:
    """What is meant to be kept in a file of lines, as the documents say."""
    for words in (("audit", "heads"), ("audit", "heads", "--signed")):
        lines = (await sluice(*words)).out.splitlines()
        assert lines
        assert all(isinstance(json.loads(line), dict) for line in lines)


async def test_a_record_is_found_by_the_apis_id_too(known: dict[str, str], sluice: Sluice) -> None:
    stored = (await sluice("records", "list", "--json")).json["items"][0]
    name = encode_name(
        RecordName(stored["source"], stored["account"], stored["livemode"], stored["record"])
    )
    by_name = await sluice("records", "show", name, "--json")
    assert by_name.code == 0, by_name.err
    assert by_name.json == (await sluice("records", "show", stored["record"], "--json")).json
    assert (await sluice("records", "show", name[:-2] + "AA")).code == 3


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (("--action", "grant.given"), 1),
        (("--action", "entitlement."), 2),
        (("--by", "operator:ada", "--cause", "operator"), 1),
        (("--feature", "seats"), 1),
        (("--source", "acme"), 1),
        (("--tenant", "acme", "--until", "2020-01-01"), 0),
        (("--since", "1h", "--feature", "sso"), 2),
    ],
)
async def test_the_trail_is_filtered(
    known: dict[str, str], sluice: Sluice, filters: tuple[str, ...], count: int
) -> None:
    said = await sluice("audit", "list", *filters, "--json")
    assert said.code == 0, said.err
    found = [one["action"] for one in said.json["items"]]
    assert bool(found) == bool(count), (found, filters)
    everything = (await sluice("audit", "list", "--json")).json["items"]
    assert len(found) < len(everything)
    keys = {"--action": "action", "--by": "actor", "--cause": "cause", "--feature": "feature",
            "--source": "source", "--tenant": "tenant"}  # fmt: skip
    for name, value in zip(filters[::2], filters[1::2], strict=True):
        if name in keys:
            assert all(str(one[keys[name]]).startswith(value) for one in said.json["items"])


@pytest.mark.parametrize(
    "filters",
    [
        ("--cause", "nobody"), ("--source", ""), ("--tenant", " "), ("--since", "soon"),
        ("--since", "1h", "--until", "2h"), ("--event", "evt_1"),
        ("--event", "0199b7a2-5d1c-7c3e-9c7e-2f6b7c1d2e3f", "--action", "grant.given"),
    ],
)  # fmt: skip
async def test_a_filter_that_is_not_understood_is_an_error(
    stack: Stack, sluice: Sluice, filters: tuple[str, ...]
) -> None:
    said = await sluice("audit", "list", *filters)
    assert (said.code, said.out) == (2, ""), said.err


WRITES: list[tuple[str, ...]] = [
    ("tenants", "link", "acme", "--source", "stripe", "--customer", "cus_2"),
    ("tenants", "grant", "acme", "calls", "9", "--reason", "x"),
    ("tokens", "create", "more", "--scope", "tenant:acme", "--reason", "x"),
    ("tokens", "revoke", "billing", "--reason", "x"),
    ("sources", "pause", "stripe", "--reason", "x"),
    ("replay", "{event}", "--reason", "x"),
    ("audit", "rotate-key", "--reason", "x"),
    ("tenants", "merge", "acme-inc", "acme", "--reason", "x"),
    ("tenants", "revoke", "acme", "{grant}", "--reason", "x"),
    ("jobs", "cancel", "{waiting}", "--reason", "x"),
    ("jobs", "pause", "{waiting}", "--reason", "x"),
    ("events", "note", "{event}", "asked them"),
    ("tenants", "hold", "acme", "--reason", "x"),
    ("tenants", "erase", "acme", "--reason", "x"),
]
#: What would be true only if it had been done.
_CLAIMS = re.compile(
    r"(?<!until it )\b(is|are) (given|revoked|paused|another|being|held|due|beside|signed)\b"
    r"|\bbelongs to acme\b|\b(ends before|goes on|works until|gateway has)\b|^noted"
)


@pytest.mark.parametrize("words", WRITES, ids=lambda words: " ".join(words[:2]))
async def test_a_dry_run_has_the_shape_and_writes_nothing(
    known: dict[str, str], stack: Stack, sluice: Sluice, words: tuple[str, ...]
) -> None:
    tables = [row["name"] for row in await stack.fetch(
        "SELECT relname AS name FROM pg_class WHERE relkind = 'r' AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace"
    )]  # fmt: skip

    async def everything() -> dict[str, Any]:
        return {
            name: await stack.value(
                f"SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {name} t"
            )
            for name in tables
        }

    asked = [word.format(**known) for word in words]
    before = await everything()
    tried = await sluice(*asked, "--dry-run", "--json")
    assert tried.code == 0, tried.err
    assert tried.json.pop("dryRun") is True
    assert await everything() == before
    said = await sluice(*asked, "--dry-run")
    assert said.code == 0
    assert re.search(r"\bwould\b", said.out + said.err), said
    claimed = [one[0] for one in _CLAIMS.finditer(said.out + said.err)]
    assert not claimed, said
    assert await everything() == before
    done = await sluice(*asked, "--json")
    assert done.code == 0, done.err
    assert done.json.keys() | {"dryRun"} == json.loads(tried.out).keys()
    after = await everything()
    assert after != before
    assert after["audit"] != before["audit"]
