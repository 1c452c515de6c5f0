"""`sluice audit verify` finds what was done to the trail by somebody who may do anything."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.db import Conn
from shared.domain.audit import GENESIS, record_hash
from shared.store import trail
from shared.store.trail import Link
from tests.cli.conftest import Said, Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers import trail as verification

CHAIN = "tenant:acme"
INSERT = """
INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant, step, action,
                   actor, source, subject, feature, catalog_version, xid, at)
VALUES ($1, $2, $3, $4, 'event', 'forged', 1, 'acme', 0, 'event.applied', 'provider:stripe',
        'stripe', 'subscription/sub_9', '', 1, '1', now())
"""


@pytest.fixture
async def trail_of_five(stack: Stack) -> Stack:
    """Chain `tenant:acme` has five records: a plan is granted, and one of its features changes."""
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme"), created=1_790_000_000)
    )
    await stack.apply(
        event(
            "customer.subscription.updated",
            subscription(tenant="acme", status="active", metadata={"tenant_id": "acme", "a": "b"}),
            created=1_790_000_100,
        ),
        event("customer.subscription.created", subscription("sub_2", customer="cus_2")),
    )
    await stack.apply(
        event(
            "customer.subscription.created",
            subscription("sub_3", tenant="acme", product="prod_basic"),
            created=1_790_000_200,
        )
    )
    assert await stack.value("SELECT length FROM audit_heads WHERE chain = $1", CHAIN) == 5
    return stack


@asynccontextmanager
async def tampering(stack: Stack) -> AsyncIterator[Conn]:
    """A superuser's connection on which no trigger fires."""
    async with db.connect(stack.endpoints.database["owner"], "owner") as conn:
        await conn.execute("SET session_replication_role = replica")
        yield conn


async def tamper(stack: Stack, *statements: str) -> None:
    async with tampering(stack) as conn:
        for statement in statements:
            await conn.execute(statement)


def kinds(said: Said, chain: str = CHAIN) -> set[tuple[str, int | None]]:
    return {
        (one["kind"], one["position"]) for one in said.json["findings"] if one["chain"] == chain
    }


async def links(stack: Stack) -> list[Link]:
    async with db.connect(stack.endpoints.database["owner"], "owner") as conn:
        return [
            link for link in await trail.read_links(conn, "", 0, 100) if link.record.chain == CHAIN
        ]


async def rehash(conn: Conn, changed: Iterable[Link]) -> None:
    """What a forger does who knows the code: every hash again, from the first changed one on."""
    previous = GENESIS
    for link in changed:
        hashed = record_hash(previous, link.record)
        await conn.execute(
            "UPDATE audit SET previous_hash = $2, hash = $3, action = $4 WHERE id = $1",
            link.id, previous, hashed, link.record.action,
        )  # fmt: skip
        previous = hashed
    await conn.execute("UPDATE audit_heads SET hash = $2 WHERE chain = $1", CHAIN, previous)


async def anchor(sluice: Sluice, path: Path) -> Path:
    said = await sluice("audit", "heads")
    assert said.code == 0
    path.write_text(said.out)
    return path


async def test_an_untouched_trail_is_whole(sluice: Sluice, trail_of_five: Stack) -> None:
    said = await sluice("audit", "verify", "--json")
    assert said.code == 0
    assert said.json["ok"] is True
    assert said.json["findings"] == []
    assert said.json["records"] == 6
    assert said.json["chains"] == 2
    assert said.json["cannotSee"]
    text = await sluice("audit", "verify")
    assert text.out.startswith("whole: 6 records in 2 chains")
    assert "cannot see" in text.err


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'operator:nobody'",
        "at = at + interval '1 microsecond'",
        "after_digest = NULL",
        "xid = '7'",
        "catalog_version = catalog_version + 1",
        "cause_id = 'another'",
    ],
)
async def test_an_altered_record_is_found(
    sluice: Sluice, trail_of_five: Stack, change: str
) -> None:
    await tamper(
        trail_of_five, f"UPDATE audit SET {change} WHERE chain = '{CHAIN}' AND position = 2"
    )
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert ("altered", 2) in kinds(said)
    assert {position for _, position in kinds(said)} == {2}


async def test_a_removed_record_is_found(sluice: Sluice, trail_of_five: Stack) -> None:
    await tamper(trail_of_five, f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position = 3")
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert kinds(said) == {("removed", 3)}
    assert {one["kind"] for one in said.json["findings"]} == {"removed"}


async def test_a_removed_record_is_found_although_the_rest_was_renumbered(
    sluice: Sluice, trail_of_five: Stack
) -> None:
    await tamper(
        trail_of_five,
        f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position IN (2, 3)",
        f"UPDATE audit SET position = position - 2 WHERE chain = '{CHAIN}' AND position > 3",
        f"UPDATE audit_heads SET length = 3 WHERE chain = '{CHAIN}'",
    )
    assert kinds(await sluice("audit", "verify", "--json")) == {("removed", 2)}


async def test_a_cut_off_tail_is_found(sluice: Sluice, trail_of_five: Stack) -> None:
    await tamper(trail_of_five, f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position >= 4")
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert kinds(said) == {("cut_off", 4)}
    assert "4 to 5" in str(said.json["findings"])


async def test_a_chain_that_is_gone_is_found(sluice: Sluice, trail_of_five: Stack) -> None:
    await tamper(trail_of_five, f"DELETE FROM audit WHERE chain = '{CHAIN}'")
    assert kinds(await sluice("audit", "verify", "--json")) == {("cut_off", 1)}


async def test_a_head_that_is_gone_is_found(sluice: Sluice, trail_of_five: Stack) -> None:
    await tamper(trail_of_five, f"DELETE FROM audit_heads WHERE chain = '{CHAIN}'")
    assert kinds(await sluice("audit", "verify", "--json")) == {("removed", None)}


async def test_an_inserted_record_is_found_at_the_end(sluice: Sluice, trail_of_five: Stack) -> None:
    """Well made: it follows the last record and has the hash it should have."""
    last = (await links(trail_of_five))[-1]
    async with tampering(trail_of_five) as conn:
        await conn.execute(INSERT, CHAIN, 6, last.hash, bytes(32))
        inserted = (await links(trail_of_five))[-1]
        await conn.execute(
            "UPDATE audit SET hash = $2 WHERE id = $1",
            inserted.id, record_hash(last.hash, inserted.record),
        )  # fmt: skip
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert kinds(said) == {("inserted", 6)}


async def test_an_inserted_record_is_found_in_the_middle(
    sluice: Sluice, trail_of_five: Stack
) -> None:
    """The records behind it were moved up, and the head with them."""
    second = (await links(trail_of_five))[1]
    async with tampering(trail_of_five) as conn:
        for position in (5, 4, 3):
            await conn.execute(
                "UPDATE audit SET position = $2 + 1 WHERE chain = $1 AND position = $2",
                CHAIN, position,
            )  # fmt: skip
        await conn.execute(INSERT, CHAIN, 3, second.hash, bytes(32))
        inserted = (await links(trail_of_five))[2]
        await conn.execute(
            "UPDATE audit SET hash = $2 WHERE id = $1",
            inserted.id, record_hash(second.hash, inserted.record),
        )  # fmt: skip
        await conn.execute("UPDATE audit_heads SET length = 6 WHERE chain = $1", CHAIN)
    assert kinds(await sluice("audit", "verify", "--json")) == {("inserted", 3)}


async def test_altered_content_is_found_and_erased_content_is_fine(
    sluice: Sluice, trail_of_five: Stack
) -> None:
    record = "(SELECT id FROM audit WHERE chain = 'tenant:acme' AND position = 2)"
    await tamper(
        trail_of_five,
        f"UPDATE audit_content SET after = '{{\"value\":11}}' WHERE audit_id = {record}",
    )
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert kinds(said) == {("content_altered", 2)}
    async with db.connect(trail_of_five.endpoints.database["owner"], "owner") as conn:
        await conn.execute(
            "UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL"
            f" WHERE audit_id = {record}"
        )
    erased = await sluice("audit", "verify", "--json")
    assert erased.code == 0
    assert erased.json["erased"] == 1
    (listed,) = [
        one
        for one in (await sluice("audit", "list", "--tenant", "acme", "--json")).json["items"]
        if one["position"] == 2
    ]
    assert (listed["after"], listed["erased"]) == (None, True)
    await tamper(trail_of_five, f"DELETE FROM audit_content WHERE audit_id = {record}")
    assert kinds(await sluice("audit", "verify", "--json")) == {("content_altered", 2)}


async def test_content_is_found_whose_record_is_gone(sluice: Sluice, trail_of_five: Stack) -> None:
    """A cut-off tail whose head was set back, by somebody who forgot the contents."""
    await tamper(
        trail_of_five,
        f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position > 1",
        "UPDATE audit_heads SET length = 1, hash ="
        f" (SELECT hash FROM audit WHERE chain = '{CHAIN}') WHERE chain = '{CHAIN}'",
    )
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert {one["kind"] for one in said.json["findings"]} == {"removed"}


async def test_only_an_anchor_shows_a_tail_cut_off_with_its_head(
    sluice: Sluice, trail_of_five: Stack, tmp_path: Path
) -> None:
    kept = await anchor(sluice, tmp_path / "anchor")
    await tamper(
        trail_of_five,
        "DELETE FROM audit_content WHERE audit_id IN"
        f" (SELECT id FROM audit WHERE chain = '{CHAIN}' AND position > 3)",
        f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position > 3",
        "UPDATE audit_heads SET length = 3, hash = (SELECT hash FROM audit"
        f" WHERE chain = '{CHAIN}' AND position = 3) WHERE chain = '{CHAIN}'",
    )
    blind = await sluice("audit", "verify", "--json")
    assert blind.code == 0
    assert any("set back" in line for line in blind.json["cannotSee"])
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert said.code == 1
    assert kinds(said) == {("cut_off", 5)}
    assert said.json["anchored"] == 2


async def test_only_an_anchor_shows_a_chain_removed_altogether(
    sluice: Sluice, trail_of_five: Stack, tmp_path: Path
) -> None:
    kept = tmp_path / "anchor.json"
    kept.write_text((await sluice("audit", "heads", "--json")).out)
    await tamper(
        trail_of_five,
        "DELETE FROM audit_content WHERE audit_id IN"
        f" (SELECT id FROM audit WHERE chain = '{CHAIN}')",
        f"DELETE FROM audit WHERE chain = '{CHAIN}'",
        f"DELETE FROM audit_heads WHERE chain = '{CHAIN}'",
    )
    assert (await sluice("audit", "verify")).code == 0
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert said.code == 1
    assert kinds(said) == {("cut_off", 5)}


async def test_only_an_anchor_shows_a_chain_rewritten_with_all_its_hashes(
    sluice: Sluice, trail_of_five: Stack, tmp_path: Path
) -> None:
    kept = await anchor(sluice, tmp_path / "anchor")
    chain = await links(trail_of_five)
    chain[1] = replace(chain[1], record=chain[1].record._replace(action="entitlement.revoked"))
    async with tampering(trail_of_five) as conn:
        await rehash(conn, chain)
    assert (await sluice("audit", "verify")).code == 0
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert kinds(said) == {("altered", 5)}


async def test_a_record_rewritten_with_its_own_hash_only_is_found(
    sluice: Sluice, trail_of_five: Stack
) -> None:
    chain = await links(trail_of_five)
    forged = chain[2].record._replace(action="entitlement.revoked")
    async with tampering(trail_of_five) as conn:
        await conn.execute(
            "UPDATE audit SET action = $2, hash = $3 WHERE id = $1",
            chain[2].id, forged.action, record_hash(chain[2].previous_hash, forged),
        )  # fmt: skip
    assert kinds(await sluice("audit", "verify", "--json")) == {("altered", 4)}


async def test_the_last_record_rewritten_with_its_own_hash_is_found(
    sluice: Sluice, trail_of_five: Stack
) -> None:
    last = (await links(trail_of_five))[-1]
    forged = last.record._replace(actor="operator:nobody")
    async with tampering(trail_of_five) as conn:
        await conn.execute(
            "UPDATE audit SET actor = $2, hash = $3 WHERE id = $1",
            last.id, forged.actor, record_hash(last.previous_hash, forged),
        )  # fmt: skip
    assert kinds(await sluice("audit", "verify", "--json")) == {("altered", 5)}


async def test_an_older_anchor_still_fits_a_trail_that_has_grown(
    sluice: Sluice, trail_of_five: Stack, tmp_path: Path
) -> None:
    kept = await anchor(sluice, tmp_path / "anchor")
    await trail_of_five.apply(
        event(
            "customer.subscription.deleted",
            subscription(tenant="acme", status="canceled"),
            created=1_790_001_000,
        )
    )
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert said.code == 0, said.out
    assert said.json["anchored"] == 2


async def test_what_is_no_anchor_is_a_usage_error(
    sluice: Sluice, stack: Stack, tmp_path: Path
) -> None:
    path = tmp_path / "anchor"
    for content in ("nonsense\n", '{"chain": "a"}\n', "[1]\n", '{"items": [1]}', "\n3\n"):
        path.write_text(content)
        said = await sluice("audit", "verify", "--anchor", path)
        assert said.code == 2, content
        assert "line" in said.err
    assert (await sluice("audit", "verify", "--anchor", tmp_path / "gone")).code == 2


async def test_batches_meet_without_a_seam(
    sluice: Sluice, trail_of_five: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await anchor(sluice, tmp_path / "anchor")
    for size in (1, 2, 3, 5):
        monkeypatch.setattr(verification, "BATCH", size)
        said = await sluice("audit", "verify", "--anchor", kept, "--json")
        assert said.code == 0, (size, said.out)
        assert (said.json["records"], said.json["chains"], said.json["anchored"]) == (6, 2, 2)
    await tamper(trail_of_five, f"DELETE FROM audit WHERE chain = '{CHAIN}' AND position = 3")
    for size in (1, 2, 3, 5):
        monkeypatch.setattr(verification, "BATCH", size)
        assert kinds(await sluice("audit", "verify", "--json")) == {("removed", 3)}


async def test_records_have_their_shape_and_pages(sluice: Sluice, trail_of_five: Stack) -> None:
    first = (await sluice("audit", "list", "--limit", "4", "--json")).json
    assert {
        "id", "cause", "causeId", "run", "tenant", "step", "action", "actor", "before", "after",
        "at",
    } <= set(first["items"][0])  # fmt: skip
    rest = (await sluice("audit", "list", "--cursor", first["next"], "--json")).json
    numbers = [one["id"] for one in first["items"] + rest["items"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 6
    of_tenant: list[dict[str, Any]] = (
        await sluice("audit", "list", "--tenant", "acme", "--json")
    ).json["items"]
    assert len(of_tenant) == 5
    granted = [one for one in of_tenant if one["feature"] == "seats"]
    assert [(one["before"], one["after"]) for one in granted] == [
        (None, {"value": 10, "validUntil": None})
    ]
    text = await sluice("audit", "list")
    assert "entitlement.granted" in text.out


async def test_heads_are_json_lines(sluice: Sluice, trail_of_five: Stack) -> None:
    lines = [json.loads(line) for line in (await sluice("audit", "heads")).out.splitlines()]
    assert [line["length"] for line in lines if line["chain"] == CHAIN] == [5]
    assert lines == (await sluice("audit", "heads", "--json")).json["items"]
