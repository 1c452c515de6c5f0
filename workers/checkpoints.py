"""
Sign what is in the audit trail, span by span, and find what is not as it was signed.

Plain chains do not notice one that is rewritten whole, with its head: whoever can do that cannot
sign it. Each checkpoint covers what ended since the one before, so that its cost is of what is new.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from shared import gauges
from shared.db import Conn, Database, is_platform_fault
from shared.domain.checkpoints import (
    BLOCK,
    DIGEST_BYTES,
    ENDORSING,
    NOTHING_BEFORE,
    PURPOSE,
    Statement,
    block_roots,
    leaf_hash,
    read_statement,
    statement_digest,
    tree_root,
)
from shared.sealing import KeyRing, SealingError
from shared.signing import SigningKey, is_signed, public_id
from shared.store import checkpoints
from shared.store.checkpoints import AuditKey, Checkpoint, Leaf
from shared.store.paging import iso
from shared.store.sources import read_seals
from workers.actions import new_action, record_action

log = logging.getLogger(__name__)

ACTOR = "system:checkpoints"

#: A checkpoint covers so many records in about, and is made and verified in memory.
MOST_RECORDS = 16 * 1024
LOOK_EVERY_S = 30.0


class KeyGone(Exception):
    """The key that signs does not open: the sealing key that it was sealed with is not held."""


class Unfit(NamedTuple):
    """A checkpoint that is not as it was signed, or does not fit the trail any more."""

    number: int
    detail: str


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """
    Writes checkpoints, for as long as it runs; of many processes one at a time. `unsigned` is the
    age of the oldest record that is in none, in seconds.
    """

    db: Database
    keys: KeyRing | None
    every_s: float
    unsigned: dict[tuple[()], float] = field(default_factory=dict)

    async def run(self) -> None:
        """Go on until cancelled. A failure is said, and tried again."""
        if self.every_s == 0:
            await asyncio.Event().wait()
        gauges.audit_unsigned.read_from(lambda: self.unsigned)
        while True:
            try:
                # Who has no key says at least that nobody else signs.
                await self.measure()
                if self.keys is not None:
                    await self.write_due()
                    await self.measure()
            except KeyGone as error:
                log.error("no checkpoint of the audit trail: %s", error)
            except Exception as error:
                if not is_platform_fault(error):
                    log.exception("no checkpoint of the audit trail was written")
            pause_s = min(LOOK_EVERY_S, self.every_s)
            await asyncio.sleep(pause_s * (0.75 + random.random() / 2))  # noqa: S311 - jitter

    async def measure(self) -> None:
        """Find out how old the oldest record is that is not signed."""
        async with self.db.connection() as conn:
            self.unsigned[()] = await checkpoints.unsigned_s(conn)

    async def write_due(self) -> None:
        """Write as many as there are to be written, each in a transaction of its own."""
        assert self.keys is not None  # `run` has looked
        while True:
            async with self.db.transaction() as conn:
                made = await write_next(conn, self.keys, ACTOR, every_s=self.every_s)
            if made is None or not made.is_full:
                return


class Written(NamedTuple):
    """A checkpoint that was written; if it is full, another one may have to follow at once."""

    checkpoint: Checkpoint
    statement: Statement

    @property
    def is_full(self) -> bool:
        """Whether it stopped before it had everything."""
        return self.statement.records >= MOST_RECORDS


async def write_next(
    conn: Conn, ring: KeyRing, actor: str, *, every_s: float = 0.0
) -> Written | None:
    """
    Sign what ended since the last checkpoint, in the caller's transaction. None where nothing did,
    where the last one is not `every_s` old, or where somebody else is at it.

    Raises:
        KeyGone: the key in use cannot be opened.
    """
    if not await checkpoints.take_turn(conn):
        return None
    newest = await checkpoints.read_newest(conn)
    last = None if newest is None else read_statement(newest.statement)
    from_xid = 0 if newest is None else newest.to_xid
    span = await checkpoints.next_span(conn, from_xid, MOST_RECORDS - 1)
    if span is None:
        return None
    now, to_xid = span
    was_whole = last is not None and last.records < MOST_RECORDS
    if last is not None and was_whole and at(last) + timedelta(seconds=every_s) > now:
        return None
    key = await current_key(conn, ring, actor)
    leaves = await checkpoints.read_leaves(conn, from_xid, to_xid)
    blocks = block_roots([hash_of(leaf) for leaf in leaves])
    statement = Statement(
        number=1 if last is None else last.number + 1,
        at=iso(now) or "",
        key=key.id,
        previous=NOTHING_BEFORE if newest is None else statement_digest(newest.statement),
        from_xid=from_xid,
        to_xid=to_xid,
        records=len(leaves),
        root=tree_root(blocks).hex(),
        total_records=(last.total_records if last else 0) + len(leaves),
        total_chains=(last.total_chains if last else 0)
        + sum(leaf.position == 1 for leaf in leaves),
    )
    text = statement.encoded()
    signature = key.sign(PURPOSE, text.encode())
    made = Checkpoint(statement.number, key.id, from_xid, to_xid, text, signature, b"".join(blocks))
    await checkpoints.insert_checkpoint(conn, made)
    return Written(made, statement)


async def write_all(transact: Callable[[], Awaitable[Written | None]]) -> Checkpoint | None:
    """Have `write_next` called, a transaction each, until nothing is left; the last one written."""
    newest = None
    while (made := await transact()) is not None:
        newest = made.checkpoint
        if not made.is_full:
            break
    return newest


async def current_key(conn: Conn, ring: KeyRing, actor: str) -> SigningKey:
    """
    The key in use, opened; the first one is made here. The caller has `take_turn`.

    Raises:
        KeyGone: it cannot be opened.
    """
    known = await checkpoints.read_keys(conn)
    if not known:
        return await _make_key(conn, ring, actor, None)
    return await open_key(conn, ring, known[-1].id)


async def open_key(conn: Conn, ring: KeyRing, key: str) -> SigningKey:
    """
    Raises:
        KeyGone: it cannot be opened.
    """
    sealed = await checkpoints.read_secret(conn, key)
    if sealed is None:
        raise KeyGone(
            f"the private half of audit key {key} is gone; see `sluice audit rotate-key --lost`"
        )
    try:
        return SigningKey.opened(ring, key, sealed)
    except SealingError as error:
        raise KeyGone(f"{error}; see `sluice audit rotate-key --lost`") from None


async def rotate_key(
    conn: Conn, ring: KeyRing, actor: str, reason: str, *, is_lost: bool
) -> SigningKey:
    """
    Make a new key, for which the one in use vouches; one that is lost cannot. What does not open
    any more is forgotten then, and with it that anybody must have what it was sealed with.

    Raises:
        KeyGone: the key in use cannot be opened, and is not said to be lost.
    """
    known = await checkpoints.read_keys(conn)
    before = None
    if known and not is_lost:
        before = await open_key(conn, ring, known[-1].id)
    if is_lost:
        await checkpoints.forget_lost(conn, ring.ids)
    key = await _make_key(conn, ring, actor, before)
    await record_action(
        conn,
        new_action(),
        "audit_key.rotated",
        actor,
        subject=f"audit-key/{key.id}",
        before={"id": known[-1].id if known else None},
        after={"id": key.id, "publicKey": key.public.hex(), "isEndorsed": before is not None},
        reason=reason,
    )
    return key


async def _make_key(conn: Conn, ring: KeyRing, actor: str, before: SigningKey | None) -> SigningKey:
    # A new seal keeps every process from starting that lacks its key: not under a wrong one.
    missing = ring.lacks(await read_seals(conn))
    if missing:
        raise KeyGone(f"SLUICE_SECRET_KEY lacks {', '.join(missing)}, so no audit key is made")
    key = SigningKey.new()
    endorsed = ("", b"") if before is None else (before.id, before.sign(ENDORSING, key.public))
    await checkpoints.insert_key(conn, key.id, key.public, key.sealed(ring), actor, endorsed)
    return key


def shown_key(key: AuditKey, known: list[AuditKey]) -> dict[str, object]:
    """As `--json` and bundles have it."""
    return {
        "id": key.id,
        "publicKey": key.public.hex(),
        "createdAt": iso(key.created_at),
        "endedAt": iso(key.ended_at),
        "createdBy": key.created_by,
        "endorsedBy": key.endorsed_by,
        "endorsement": None if key.endorsement is None else key.endorsement.hex(),
        "isEndorsed": is_endorsed(key, known),
    }


def is_endorsed(key: AuditKey, known: list[AuditKey]) -> bool:
    """Whether one before vouches for it; whether the first is worth anything, its reader knows."""
    if key is known[0]:
        return True
    before = {one.id: one for one in known[: known.index(key)]}.get(key.endorsed_by or "")
    return before is not None and is_signed(
        before.public, key.endorsement or b"", ENDORSING, key.public
    )


async def find_unfit(conn: Conn, report: Callable[[Statement], None]) -> AsyncIterator[Unfit]:
    """
    Every checkpoint in order: its signature, its place, and the records that it covers as they are
    now. `report` is called with each one's statement.
    """
    known = await checkpoints.read_keys(conn)
    keys = {key.id: key for key in known}
    for key in known:
        if public_id(key.public) != key.id:
            yield Unfit(0, f"key {key.id} is not the one that it is called")
    number, to_xid, previous, records = 0, 0, NOTHING_BEFORE, 0
    while found := await checkpoints.read_after(conn, number, 1):
        one = found[0]
        for detail in _unsigned(one, keys):
            yield Unfit(one.number, detail)
        try:
            said = read_statement(one.statement)
        except ValueError:
            yield Unfit(one.number, "is no statement")
            number = one.number
            continue
        if (one.number, said.number) != (number + 1, one.number) or said.previous != previous:
            yield Unfit(one.number, f"does not follow checkpoint {number}: some are missing")
        elif (said.from_xid, said.to_xid) != (one.from_xid, one.to_xid) or said.from_xid != to_xid:
            yield Unfit(one.number, "is not of the span that it was signed for")
        elif said.total_records != records + said.records:
            yield Unfit(one.number, "counts other records than those before it")
        number, to_xid = one.number, said.to_xid
        previous, records = statement_digest(one.statement), said.total_records
        leaves = await checkpoints.read_leaves(conn, said.from_xid, said.to_xid)
        for detail in _misfits(said, one.blocks, leaves):
            yield Unfit(one.number, detail)
        report(said)


def _unsigned(one: Checkpoint, keys: dict[str, AuditKey]) -> list[str]:
    key = keys.get(one.key)
    if key is None:
        return [f"is signed by a key that is not known: {one.key}"]
    if not is_signed(key.public, one.signature, PURPOSE, one.statement.encode()):
        return ["does not have its signature"]
    return []


def _misfits(said: Statement, stored: bytes, leaves: list[Leaf]) -> list[str]:
    """What of a checkpoint's records is not what was signed, by blocks where these can tell."""
    blocks = block_roots([hash_of(leaf) for leaf in leaves])
    if blocks and tree_root(blocks).hex() == said.root:
        return []
    if len(leaves) != said.records:
        return [f"{said.records} records were signed, and {len(leaves)} are there"]
    then = [stored[at : at + DIGEST_BYTES] for at in range(0, len(stored), DIGEST_BYTES)]
    if not then or tree_root(then).hex() != said.root:
        return ["its records are not those that were signed, nor are the roots of their blocks"]
    details = []
    for index, (root, signed) in enumerate(zip(blocks, then, strict=False)):
        if root != signed:
            part = leaves[index * BLOCK : (index + 1) * BLOCK]
            chains = sorted({leaf.chain for leaf in part})
            named = ", ".join(chains[:3]) + (f" and {len(chains) - 3} more" if chains[3:] else "")
            details.append(
                f"records {part[0].id} to {part[-1].id} (of {named}) are not all what was signed"
            )
    return details


def hash_of(leaf: Leaf) -> bytes:
    """The leaf of the tree."""
    return leaf_hash(leaf.chain, leaf.position, leaf.hash)


def at(statement: Statement) -> datetime:
    """When it was signed."""
    return datetime.fromisoformat(statement.at)
