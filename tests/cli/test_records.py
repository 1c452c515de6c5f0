"""`sluice records`, and what `sluice events show` says of an import."""

import json

import pytest

from tests.cli.conftest import Sluice
from tests.support.acme import BEGAN_S, REPORTS, add_acme, remap, report
from tests.support.stack import Stack


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    await stack.apply(
        report(1, 1, raw="x"), report(2, 2), report(3, 1, id="rep_2", tenant=None), source="acme"
    )
    return stack


async def test_records_are_listed_in_pages(sluice: Sluice, acme: Stack) -> None:
    await acme.apply(*(report(10 + n, id=f"r{n}", tenant="beta") for n in range(7)), source="acme")
    seen, cursor = [], None
    while True:
        more = ["--cursor", cursor] if cursor else []
        page = (await sluice("records", "list", "--limit", 4, "--json", *more)).json
        seen += [item["record"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(["rep_1", "rep_2", *(f"r{n}" for n in range(7))])
    beta = (await sluice("records", "list", "--tenant", "beta", "--limit", 5, "--json")).json
    rest = await sluice("records", "list", "--tenant", "beta", "--cursor", beta["next"], "--json")
    assert [item["tenant"] for item in (*beta["items"], *rest.json["items"])] == ["beta"] * 7
    assert rest.json["next"] is None


async def test_what_waits_is_shown(sluice: Sluice, acme: Stack) -> None:
    (item,) = (await sluice("records", "list", "--waiting", "--json")).json["items"]
    assert (item["record"], item["tenant"], item["needs"]) == ("rep_2", None, "needs:tenant")
    text = await sluice("records", "list")
    assert "needs:tenant" in text.out
    assert "replay" in text.err
    refused = await sluice("records", "list", "--waiting", "--tenant", "acme")
    assert refused.code == 2


async def test_lists_keep_to_source_and_tenant(sluice: Sluice, acme: Stack) -> None:
    await add_acme(acme, REPORTS, name="other")
    await acme.apply(report(1), report(2, id="rep_3"), source="other")

    async def of(*filters: str) -> set[tuple[str, str]]:
        page = (await sluice("records", "list", "--json", *filters)).json
        return {(item["source"], item["record"]) for item in page["items"]}

    theirs = {("other", "rep_1"), ("other", "rep_3")}
    assert await of("--source", "other") == theirs
    assert await of("--tenant", "acme") == {("acme", "rep_1"), *theirs}
    assert await of("--tenant", "acme", "--source", "acme") == {("acme", "rep_1")}
    assert await of("--tenant", "nobody") == set()
    assert (await sluice("records", "list", "--source", "none")).err == "no such records\n"
    several = await sluice("records", "show", "rep_1")
    assert several.code == 5
    assert "acme, other" in several.err
    assert (await sluice("records", "show", "rep_1", "--source", "other")).code == 0


async def test_a_merged_tenants_records_are_the_others(sluice: Sluice, acme: Stack) -> None:
    await acme.apply(report(7, id="rep_7", tenant="beta"), source="acme")
    merged = await sluice("tenants", "merge", "acme", "beta", "--reason", "one firm")
    assert merged.code == 0, merged.err
    for name in ("acme", "beta"):
        page = (await sluice("records", "list", "--tenant", name, "--json")).json
        assert [item["record"] for item in page["items"]] == ["rep_1", "rep_7"]


async def test_a_record_is_shown_with_its_history(sluice: Sluice, acme: Stack) -> None:
    shown = (await sluice("records", "show", "rep_1", "--json")).json
    assert (shown["tenant"], shown["normalised"]) == ("acme", {"title": "title 2"})
    assert shown["raw"].encode() == report(2, 2)
    assert shown["version"] == "2026-05-28T20:26:42Z"
    assert [(one["event"], one["normalised"]) for one in shown["history"]] == [
        ("evt_2", {"title": "title 2"}),
        ("evt_1", {"title": "title 1"}),
    ]
    text = await sluice("records", "show", "rep_1")
    assert "title 2" in text.out
    assert '"id": "evt_2"' in text.out
    assert (await sluice("records", "show", "rep_9")).code == 3


async def test_the_part_that_a_record_was_read_from(sluice: Sluice, acme: Stack) -> None:
    await remap(acme, {**REPORTS, "record": {**REPORTS["record"], "raw": "data"}})
    await acme.apply(report(5, 5, title="t", tenant=None), source="acme")
    shown = (await sluice("records", "show", "rep_1", "--json")).json
    assert json.loads(shown["raw"]) == {
        "id": "rep_1", "tenant": None, "title": "t", "updated": BEGAN_S + 5,
    }  # fmt: skip
    await acme.fetch("UPDATE record_versions SET raw = NULL")
    await acme.fetch("DELETE FROM inbox")
    assert (await sluice("records", "show", "rep_1", "--json")).json["raw"] is None
    assert "retention" in (await sluice("records", "show", "rep_1")).err


async def test_a_body_in_the_artifact_store_is_not_an_empty_one(
    sluice: Sluice, acme: Stack
) -> None:
    await acme.fetch("UPDATE inbox SET body = '', artifact = $1, artifact_bytes = 9", b"\x0a" * 32)
    shown = (await sluice("records", "show", "rep_1", "--json")).json
    assert (shown["raw"], shown["artifact"]) == (None, f"sha256:{'0a' * 32}")
    assert "artifact store" in (await sluice("records", "show", "rep_1")).err


async def test_an_event_says_what_it_imports(sluice: Sluice, acme: Stack) -> None:
    (tracking_id,) = await acme.apply(report(5, 5), source="acme")
    story = (await sluice("events", "show", tracking_id, "--json")).json
    (command,) = story["commands"]
    assert (command["command"], command["object"]) == ("import_record", "record/rep_1")
    assert "record.changed" in (await sluice("events", "show", tracking_id)).out
