"""
Verify the audit trail: what was altered, removed, inserted or cut off.

The walk is pure and sees one record at a time, so that a trail of any length is verified in the
same memory. What the chains and their heads cannot show, an anchor can: the heads as they were,
kept where whoever may write to the database may not.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from shared.db import Conn
from shared.domain.audit import GENESIS, Label, content_digest, record_hash
from shared.domain.checkpoints import PURPOSE, Statement, read_statement
from shared.signing import is_signed
from shared.store import checkpoints, trail
from shared.store.trail import Content, Head, Link
from workers.checkpoints import find_unfit

Kind = Literal["altered", "removed", "inserted", "cut_off", "content_altered", "not_as_signed"]

#: What findings of checkpoints name instead of a chain; no chain is called that.
CHECKPOINTS = "checkpoints"

BATCH = 1000

#: How far a record may have been renumbered and still be recognised.
_FARTHEST_MOVE = 32


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `position` is None where the whole chain is meant."""

    kind: Kind
    chain: str
    position: int | None
    detail: str


@dataclass
class Tally:
    """How much was looked at."""

    records: int = 0
    chains: int = 0
    contents: int = 0
    erased: int = 0
    anchored: int = 0
    checkpoints: int = 0
    signed: int = 0  # records that a checkpoint covers


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint as `sluice audit heads --signed` exports it."""

    statement: str
    signature: bytes
    public_key: bytes


class AnchorError(ValueError):
    """The file is not what `sluice audit heads` writes."""


class ChainWalk:
    """Takes the links in (chain, position) order; says what is wrong with each, and at the end."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._last: Link | None = None
        self._moved = 0  # how far the records here lie from the position they were written at
        self._suspect = False  # the last record has a finding already

    def feed(self, link: Link) -> Iterator[Finding]:
        """What the next link shows."""
        if self._last is None or self._last.record.chain != link.record.chain:
            yield from self.finish()
            self.tally.chains += 1
        self.tally.records += 1
        yield from self._check_place(link)
        yield from self._check_content(link)
        self._last = link

    def finish(self) -> Iterator[Finding]:
        """What the end of the chain shows; call once more after the last link."""
        if self._last is not None:
            yield from _check_head(self._last)
        self._last, self._moved, self._suspect = None, 0, False

    def _check_place(self, link: Link) -> Iterator[Finding]:
        chain, position = link.record.chain, link.record.position
        expected = 1 if self._last is None else self._last.record.position + 1
        previous = GENESIS if self._last is None else self._last.hash
        was_suspect, self._suspect = self._suspect, False
        if position > expected:
            gone = _span(expected, position - 1)
            yield Finding("removed", chain, expected, f"{gone} missing before {position}")
            was_suspect = True
        if record_hash(link.previous_hash, link.record) != link.hash:
            moved = _how_far_moved(link)
            if moved is None:
                self._suspect = True
                yield Finding("altered", chain, position, "does not have the hash it was given")
            elif moved > self._moved:
                count = moved - self._moved
                yield Finding(
                    "inserted", chain, position - count, f"{count} in front of {position}"
                )
                was_suspect = True
            elif moved < self._moved:
                count = self._moved - moved
                yield Finding(
                    "removed", chain, position, f"{count} taken out and the rest renumbered"
                )
                was_suspect = True
            self._moved = self._moved if moved is None else moved
        if link.previous_hash != previous and not (was_suspect or self._suspect):
            self._suspect = True
            yield Finding(
                "altered",
                chain,
                position,
                f"does not follow {expected - 1}: one of the two was rewritten with its hash",
            )

    def _check_content(self, link: Link) -> Iterator[Finding]:
        content = link.content
        digests: dict[Label, bytes | None] = {
            "before": link.record.before_digest,
            "after": link.record.after_digest,
            "reason": link.record.reason_digest,
        }
        if content is None:
            if any(digests.values()):
                yield Finding(
                    "content_altered", link.record.chain, link.record.position, "its row is gone"
                )
            return
        self.tally.contents += 1
        if content == Content(None, None, None, None):
            self.tally.erased += 1
            return
        contents = {"before": content.before, "after": content.after, "reason": content.reason}
        wrong = [
            label
            for label, digest in digests.items()
            if content_digest(content.salt or b"", label, contents[label]) != digest
        ]
        if wrong:
            detail = f"{', '.join(wrong)} not what the record was written with"
            yield Finding("content_altered", link.record.chain, link.record.position, detail)


async def verify(
    conn: Conn, anchor: Iterable[Head | SignedHead] | None, tally: Callable[[Tally], None]
) -> AsyncIterator[Finding]:
    """
    Walk every chain, then look for heads and contents without records, then at what was signed, and
    at the anchor.

    `tally` is called after every batch and at the end. Each batch is a snapshot of its own: what
    workers append meanwhile is either seen whole or not at all.
    """
    walk = ChainWalk()
    chain, position = "", 0
    while links := await trail.read_links(conn, chain, position, BATCH):
        for link in links:
            for finding in walk.feed(link):
                yield finding
        chain, position = links[-1].record.chain, links[-1].record.position
        tally(walk.tally)
    for finding in walk.finish():
        yield finding
    async for finding in _find_orphans(conn):
        yield finding

    def count(said: Statement) -> None:
        walk.tally.checkpoints += 1
        walk.tally.signed += said.records
        tally(walk.tally)

    async for unfit in find_unfit(conn, count):
        yield Finding("not_as_signed", CHECKPOINTS, unfit.number or None, unfit.detail)
    if anchor is not None:
        async for finding in _check_anchor(conn, anchor, walk.tally):
            yield finding
    tally(walk.tally)


def read_anchor(lines: Iterable[str]) -> Iterator[Head | SignedHead]:
    """
    The heads that `sluice audit heads` printed, with or without `--json`, or with `--signed`.

    Raises:
        AnchorError: naming the line.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if "statement" in entry:
                read_statement(entry["statement"])
                signature, public_key = (
                    bytes.fromhex(entry[name]) for name in ("signature", "publicKey")
                )
                yield SignedHead(entry["statement"], signature, public_key)
                continue
            for head in entry.get("items", [entry]):
                length = head["length"]
                if not isinstance(length, int) or not isinstance(head["chain"], str):
                    raise TypeError(length)
                yield Head(head["chain"], length, bytes.fromhex(head["hash"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnchorError(f"line {number} is not a head of `sluice audit heads`") from error


async def _find_orphans(conn: Conn) -> AsyncIterator[Finding]:
    chain = ""
    while heads := await trail.heads_without_chain(conn, chain, BATCH):
        for head in heads:
            yield Finding("cut_off", head.chain, 1, f"{_span(1, head.length)} missing: all of it")
        chain = heads[-1].chain
    last = 0
    while numbers := await trail.contents_without_record(conn, last, BATCH):
        for number in numbers:
            yield Finding("removed", "", None, f"record id {number}: only its content is left")
        last = numbers[-1]


async def _check_anchor(
    conn: Conn, anchor: Iterable[Head | SignedHead], tally: Tally
) -> AsyncIterator[Finding]:
    batch: list[Head] = []
    for head in anchor:
        if isinstance(head, SignedHead):
            tally.anchored += 1
            for finding in await _check_signed(conn, head):
                yield finding
            continue
        batch.append(head)
        if len(batch) == BATCH:
            for finding in await _missing_from(conn, batch, tally):
                yield finding
            batch = []
    for finding in await _missing_from(conn, batch, tally):
        yield finding


async def _check_signed(conn: Conn, head: SignedHead) -> list[Finding]:
    """The anchored checkpoint is here still, to the byte; what it covers is looked at by itself."""
    said = read_statement(head.statement)
    if not is_signed(head.public_key, head.signature, PURPOSE, head.statement.encode()):
        detail = "the anchor does not have its own signature"
        return [Finding("altered", CHECKPOINTS, said.number, detail)]
    found = await checkpoints.read_after(conn, said.number - 1, 1)
    if not found or found[0].number != said.number:
        detail = "the checkpoint was anchored, and is gone"
        return [Finding("cut_off", CHECKPOINTS, said.number, detail)]
    if found[0].statement != head.statement:
        detail = "not the checkpoint that was anchored: signed anew since"
        return [Finding("altered", CHECKPOINTS, said.number, detail)]
    return []


async def _missing_from(conn: Conn, heads: list[Head], tally: Tally) -> list[Finding]:
    findings = []
    hashes = await trail.hashes_at(conn, heads)
    for head in heads:
        tally.anchored += 1
        found = hashes.get(head.chain)
        if found is None:
            detail = f"had {head.length} records when anchored; the last of them is gone"
            findings.append(Finding("cut_off", head.chain, head.length, detail))
        elif found != head.hash:
            detail = "not the record that was anchored: rewritten since, here or before"
            findings.append(Finding("altered", head.chain, head.length, detail))
    return findings


def _check_head(last: Link) -> Iterator[Finding]:
    chain, position, head = last.record.chain, last.record.position, last.head
    if head is None:
        yield Finding("removed", chain, None, "the chain's head is gone")
    elif head.length > position:
        gone = _span(position + 1, head.length)
        yield Finding("cut_off", chain, position + 1, f"{gone} missing from the end")
    elif head.length < position:
        more = _span(head.length + 1, position)
        detail = f"{more} beyond the chain's head, which was not moved for them"
        yield Finding("inserted", chain, head.length + 1, detail)
    elif head.hash != last.hash:
        yield Finding("altered", chain, position, "the last record is not the one its head names")


def _how_far_moved(link: Link) -> int | None:
    """How much larger the position is than the one its hash was made with; None: not that."""
    position = link.record.position
    for distance in range(1, _FARTHEST_MOVE + 1):
        for moved in (distance, -distance):
            original = link.record._replace(position=position - moved)
            if record_hash(link.previous_hash, original) == link.hash:
                return moved
    return None


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
