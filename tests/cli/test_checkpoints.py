"""What was signed is noticed when it is rewritten, whoever rewrote it and however well."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.db import Conn
from shared.domain.audit import GENESIS, record_hash
from shared.sealing import KeyRing, new_key
from shared.store import trail
from shared.store.trail import Link
from tests.cli.conftest import Said, Sluice
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers import checkpoints as signing
from workers.checkpoints import Checkpointing, KeyGone, write_next
from workers.stack import doctor


@pytest.fixture
def ring(stack: Stack) -> KeyRing:
    return KeyRing.parse(stack.endpoints.secret_key)


@pytest.fixture
async def signed(stack: Stack, ring: KeyRing) -> Stack:
    """Two tenants have records, and a checkpoint covers them."""
    await tell(stack, 1)
    await tell(stack, 2)
    assert await sign(stack, ring) == 1
    return stack


async def tell(stack: Stack, number: int, **changed: Any) -> None:
    """Some records more, of the tenant `t{number}`."""
    await stack.apply(
        event(
            "customer.subscription.updated",
            subscription(f"sub_{number}", customer=f"cus_{number}", tenant=f"t{number}", **changed),
        )
    )


async def sign(stack: Stack, ring: KeyRing) -> int | None:
    async with stack.crew.db.transaction() as conn:
        made = await write_next(conn, ring, "system:test")
    return None if made is None else made.checkpoint.number


@asynccontextmanager
async def tampering(stack: Stack) -> AsyncIterator[Conn]:
    """A superuser's connection on which no trigger fires."""
    async with db.connect(stack.endpoints.database["owner"], "owner") as conn:
        await conn.execute("SET session_replication_role = replica")
        yield conn


async def rewrite(stack: Stack, chain: str, action: str) -> None:
    """A chain's second record is another, and every hash and the head fit it again."""
    async with tampering(stack) as conn:
        links: Iterable[Link] = [
            link for link in await trail.read_links(conn, "", 0, 1000) if link.record.chain == chain
        ]
        previous = GENESIS
        for link in links:
            record = link.record
            if record.position == 2:
                record = record._replace(action=action)
            hashed = record_hash(previous, record)
            await conn.execute(
                "UPDATE audit SET previous_hash = $2, hash = $3, action = $4 WHERE id = $1",
                link.id, previous, hashed, record.action,
            )  # fmt: skip
            previous = hashed
        await conn.execute("UPDATE audit_heads SET hash = $2 WHERE chain = $1", chain, previous)


def unfit(said: Said) -> list[tuple[str, int | None]]:
    return [(one["kind"], one["position"]) for one in said.json["findings"]]


async def test_a_chain_rewritten_whole_is_noticed_up_to_the_last_checkpoint(
    sluice: Sluice, signed: Stack, ring: KeyRing
) -> None:
    await tell(signed, 3)
    await rewrite(signed, "tenant:t3", "entitlement.revoked")
    said = await sluice("audit", "verify", "--json")
    assert said.code == 0
    assert any("younger than the last checkpoint" in line for line in said.json["cannotSee"])
    await rewrite(signed, "tenant:t2", "entitlement.revoked")
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert unfit(said) == [("not_as_signed", 1)]
    assert "tenant:t2" in said.json["findings"][0]["detail"]


async def test_every_record_is_covered_once(
    sluice: Sluice, stack: Stack, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "MOST_RECORDS", 3)
    for number in range(1, 6):
        await tell(stack, number)
        if number % 2:
            await Checkpointing(stack.crew.db, ring, 1e-9).write_due()
    await Checkpointing(stack.crew.db, ring, 1e-9).write_due()
    said = await sluice("audit", "verify", "--json")
    assert said.code == 0, said.out
    assert (
        said.json["signed"]
        == said.json["records"]
        == await stack.value("SELECT count(*) FROM audit")
    )
    assert said.json["checkpoints"] >= 4
    assert await sign(stack, ring) is None


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("UPDATE audit_checkpoints SET signature = signature || '\\x00'", "signature"),
        ("UPDATE audit_checkpoints SET statement = statement || ' '", "signature"),
        ("UPDATE audit_checkpoints SET to_xid = (to_xid::text::bigint + 1)::text::xid8", "span"),
        ("DELETE FROM audit_checkpoints WHERE number = 1", "missing"),
        ("UPDATE audit_keys SET public_key = sha256('x')", "not the one that it is called"),
    ],
)
async def test_what_is_done_to_checkpoints_is_found(
    sluice: Sluice, signed: Stack, ring: KeyRing, change: str, detail: str
) -> None:
    await tell(signed, 3)
    assert await sign(signed, ring) == 2
    async with tampering(signed) as conn:
        await conn.execute(change)
    said = await sluice("audit", "verify", "--json")
    assert said.code == 1
    assert any(detail in one["detail"] for one in said.json["findings"]), said.out


async def test_a_record_put_behind_a_chain_that_was_signed_is_found(
    sluice: Sluice, signed: Stack
) -> None:
    async with tampering(signed) as conn:
        last = [
            one
            for one in await trail.read_links(conn, "", 0, 99)
            if one.record.chain == "tenant:t1"
        ][-1]
        forged = last.record._replace(position=last.record.position + 1, step=9)
        hashed = record_hash(last.hash, forged)
        await conn.execute(
            "INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant,"
            " step, action, actor, source, subject, feature, catalog_version, xid, at,"
            " before_digest, after_digest, reason_digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8,"
            " $9, $10, $11, $12, $13, $14, $15, $16::bigint::text::xid8, $17, $18, $19, $20)",
            forged.chain, forged.position, last.hash, hashed, *forged[2:],
        )  # fmt: skip
        await conn.execute(
            "UPDATE audit_heads SET length = length + 1, hash = $1 WHERE chain = 'tenant:t1'",
            hashed,
        )
        await conn.execute(
            "INSERT INTO audit_content SELECT (SELECT max(id) FROM audit), salt, before, after,"
            " reason FROM audit_content WHERE audit_id = $1", last.id,
        )  # fmt: skip
    said = await sluice("audit", "verify", "--json")
    assert unfit(said) == [("not_as_signed", 1)]
    assert "were signed" in said.json["findings"][0]["detail"]


async def test_one_line_anchors_everything(
    sluice: Sluice, signed: Stack, ring: KeyRing, tmp_path: Path
) -> None:
    kept = tmp_path / "anchor"
    kept.write_text((await sluice("audit", "heads", "--signed")).out)
    assert len(kept.read_text().splitlines()) == 1
    await tell(signed, 3)
    assert await sign(signed, ring) == 2
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert (said.code, said.json["anchored"]) == (0, 1), said.out
    async with tampering(signed) as conn:
        await conn.execute("DELETE FROM audit_checkpoints")
    assert (await sluice("audit", "verify")).code == 0
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert unfit(said) == [("cut_off", 1)]
    # Whoever has the key may sign anew, and the anchor is of the old.
    await rewrite(signed, "tenant:t1", "entitlement.revoked")
    assert await sign(signed, ring) == 1
    assert (await sluice("audit", "verify")).code == 0
    said = await sluice("audit", "verify", "--anchor", kept, "--json")
    assert unfit(said) == [("altered", 1)]
    kept.write_text(kept.read_text().replace('"totalRecords', '"totalRecord'))
    assert (await sluice("audit", "verify", "--anchor", kept)).code in (1, 2)


async def test_keys_rotate_and_stay(sluice: Sluice, signed: Stack, ring: KeyRing) -> None:
    turned = await sluice("audit", "rotate-key", "--reason", "every year", "--json")
    assert turned.code == 0, turned.err
    await tell(signed, 3)
    assert await sign(signed, ring) == 2
    keys = (await sluice("audit", "keys", "--json")).json["items"]
    assert [key["isEndorsed"] for key in keys] == [True, True]
    assert keys[1]["endorsedBy"] == keys[0]["id"]
    assert keys[0]["endedAt"] == keys[1]["createdAt"]
    assert (await sluice("audit", "verify")).code == 0
    assert keys[1]["id"] in (await sluice("audit", "heads", "--signed")).out


async def test_a_lost_key_is_said_and_replaced_without_a_voucher(
    sluice: Sluice, signed: Stack, ring: KeyRing
) -> None:
    other = KeyRing.parse(new_key())
    await tell(signed, 3)
    with pytest.raises(KeyGone, match="rotate-key"):
        await sign(signed, other)
    before = await signed.value("SELECT count(*) FROM audit_keys")
    dry = await sluice("audit", "rotate-key", "--lost", "--reason", "x", "--dry-run", "--json")
    assert dry.json["dryRun"] is True
    assert await signed.value("SELECT count(*) FROM audit_keys") == before
    assert (await sluice("audit", "rotate-key", "--lost", "--reason", "gone")).code == 0
    keys = (await sluice("audit", "keys", "--json")).json["items"]
    assert [key["isEndorsed"] for key in keys] == [True, False]
    assert (await sluice("audit", "verify")).code == 0


async def test_no_key_is_made_under_a_sealing_key_that_is_not_the_databases(
    stack: Stack, ring: KeyRing
) -> None:
    await tell(stack, 1)
    async with stack.owner.connection() as conn:
        await conn.execute("INSERT INTO seals (key_id) VALUES ('0123456789abcdef')")
    with pytest.raises(KeyGone, match="lacks 0123456789abcdef"):
        await sign(stack, ring)
    assert await stack.value("SELECT count(*) FROM audit_keys") == 0


def hold_keys(stack: Stack, home: Path, *keys: str) -> KeyRing:
    """From now on commands hold these."""
    text = ",".join(keys)
    replace(stack.endpoints, secret_key=text).save(home)
    return KeyRing.parse(text)


async def test_a_key_is_sealed_anew_and_the_old_sealing_key_can_go(
    sluice: Sluice, signed: Stack, ring: KeyRing, home: Path
) -> None:
    """The same private half, under another sealing key, and nobody needs the one before."""
    assert (await sluice("audit", "rotate-key", "--reason", "yearly")).code == 0
    new = new_key()
    hold_keys(signed, home, new, signed.endpoints.secret_key)
    keys = [one["id"] for one in (await sluice("audit", "keys", "--json")).json["items"]]
    listed = (await sluice("secrets", "list", "--old", "--json")).json["items"]
    found = [one for one in listed if one["kind"] == "audit_key"]
    assert [(one["source"], one["label"]) for one in found] == [(None, key) for key in sorted(keys)]
    dry = await sluice("secrets", "rekey", "--reason", "x", "--dry-run", "--json")
    done = await sluice("secrets", "rekey", "--reason", "yearly", "--json")
    assert (dry.json["auditKeys"], done.json["auditKeys"]) == (2, 2), done.err
    assert done.json["forgotten"] == [ring.first]
    alone = hold_keys(signed, home, new)
    await tell(signed, 3)
    assert await sign(signed, alone) == 2
    assert (await sluice("audit", "rotate-key", "--reason", "with the new one alone")).code == 0
    ids = [one["isEndorsed"] for one in (await sluice("audit", "keys", "--json")).json["items"]]
    assert ids == [True, True, True]
    assert (await sluice("audit", "verify")).code == 0


async def test_a_sealing_key_that_is_lost_with_the_audit_key_is_needed_by_nobody_afterwards(
    sluice: Sluice, signed: Stack, home: Path
) -> None:
    """Rekeying says what is lost; a new audit key, and all can start with the new key alone."""
    async with signed.owner.connection() as conn:  # the sources' secrets were replaced already
        for table in ("source_secrets", "source_keys", "source_shadows"):
            await conn.execute(f"DELETE FROM {table}")
    alone = hold_keys(signed, home, new_key())
    refused = await sluice("secrets", "rekey", "--reason", "x")
    assert refused.code == 1
    assert "audit key" in refused.err
    assert "rotate-key --lost" in refused.err
    assert (await sluice("audit", "rotate-key", "--lost", "--reason", "gone")).code == 0
    assert await signed.value("SELECT string_agg(key_id, ',') FROM seals") == alone.first
    await tell(signed, 3)
    assert await sign(signed, alone) == 2
    assert (await sluice("secrets", "rekey", "--reason", "x")).code == 0
    assert (await sluice("audit", "verify")).code == 0


async def test_nothing_is_signed_twice_nor_too_soon(stack: Stack, ring: KeyRing) -> None:
    await tell(stack, 1)
    assert await sign(stack, ring) == 1
    assert await sign(stack, ring) is None
    await tell(stack, 2)
    async with stack.crew.db.transaction() as conn:
        assert await write_next(conn, ring, "system:test", every_s=3600) is None
    assert await sign(stack, ring) == 2


async def test_what_may_still_commit_is_left_to_the_next(stack: Stack, ring: KeyRing) -> None:
    """A transaction that began first and ends last is in a later checkpoint, with all it wrote."""
    await tell(stack, 1)
    async with stack.owner.transaction() as late:
        await late.execute("SELECT pg_current_xact_id()")
        await tell(stack, 2)
        await sign(stack, ring)
        covered = await stack.value(
            "SELECT coalesce(max(to_xid::text::bigint), 0) FROM audit_checkpoints"
        )
        assert covered <= int(await late.fetchval("SELECT pg_current_xact_id()::text"))
    assert await sign(stack, ring) is not None
    assert (
        await stack.value(
            "SELECT count(*) FROM audit WHERE xid >= (SELECT max(to_xid) FROM audit_checkpoints)"
        )
        == 0
    )


async def test_a_worker_signs_by_itself_and_only_with_a_key(stack: Stack, ring: KeyRing) -> None:
    await tell(stack, 1)
    idle = asyncio.create_task(Checkpointing(stack.crew.db, None, 0.01).run())
    never = asyncio.create_task(Checkpointing(stack.crew.db, ring, 0).run())
    await asyncio.sleep(0.2)
    assert await stack.value("SELECT count(*) FROM audit_checkpoints") == 0
    several = [
        asyncio.create_task(Checkpointing(stack.crew.db, ring, 0.02).run()) for _ in range(3)
    ]
    try:
        async with asyncio.timeout(20):
            for number in (2, 3, 4):
                before = await stack.value("SELECT count(*) FROM audit_checkpoints")
                await tell(stack, number)
                while await stack.value("SELECT count(*) FROM audit_checkpoints") == before:
                    await asyncio.sleep(0.02)
        assert not [task for task in (idle, never, *several) if task.done()]
    finally:
        for task in (idle, never, *several):
            task.cancel()
    assert await stack.value("SELECT count(*) FROM audit_keys") == 1


async def test_what_is_not_signed_is_measured_and_said(stack: Stack, ring: KeyRing) -> None:
    """By a worker without a key, too: somebody has to say that nobody signs."""
    without = Checkpointing(stack.crew.db, None, 3600)
    await without.measure()
    assert without.unsigned == {(): 0}
    await tell(stack, 1)
    async with tampering(stack) as conn:
        await conn.execute("UPDATE audit SET at = at - interval '5 hours'")
        said = await doctor._signed(conn, 3600)
        assert (said.status, "5.0 hours" in said.found) == ("warn", True)
        assert (await doctor._signed(conn, 0)).status == "ok"
        assert (await doctor._signed(conn, 6 * 3600)).status == "ok"
    running = asyncio.create_task(without.run())
    async with asyncio.timeout(10):
        while without.unsigned[()] < 5 * 3600:
            await asyncio.sleep(0.01)
    running.cancel()
    assert await sign(stack, ring) == 1
    await without.measure()
    assert without.unsigned == {(): 0}
    async with tampering(stack) as conn:
        assert (await doctor._signed(conn, 3600)).status == "ok"
