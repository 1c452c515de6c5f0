"""The end of the story: the audit trail verified, and shown to be worth verifying."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from shared.db import Conn
from shared.store import demo, events, trail
from shared.store.trail import Link
from workers.trail import BATCH, ChainWalk, Finding, Tally, verify

#: About 70,000 records, which take some seconds. Of a larger trail, the demo's chains.
WHOLE_BELOW_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found, and in how much."""

    findings: tuple[Finding, ...]
    records: int
    chains: int
    is_whole: bool

    def __str__(self) -> str:
        extent = "the whole trail" if self.is_whole else "of this demo, of a larger trail"
        return f"{self.records:,} records in {self.chains:,} chains, {extent}"


async def verify_trail(conn: Conn, tenants: Sequence[str]) -> Verdict:
    """All chains, or those of `tenants` where all are too many for a demo."""
    if await demo.audit_bytes(conn) < WHOLE_BELOW_BYTES:
        counted = Tally()

        def count(tally: Tally) -> None:
            nonlocal counted
            counted = tally

        findings = [finding async for finding in verify(conn, None, count)]
        return Verdict(tuple(findings), counted.records, counted.chains, True)
    walk = ChainWalk()
    findings = []
    for tenant in tenants:
        links = await read_chain(conn, f"tenant:{tenant}")
        findings += walk_through(walk, links)
        if not links:
            findings.append(Finding("cut_off", f"tenant:{tenant}", 1, "nothing is left of it"))
    return Verdict(tuple(findings), walk.tally.records, walk.tally.chains, False)


def walk_through(walk: ChainWalk, links: Sequence[Link]) -> list[Finding]:
    """Everything that is wrong with these chains."""
    findings = [finding for link in links for finding in walk.feed(link)]
    return [*findings, *walk.finish()]


async def read_chain(conn: Conn, chain: str) -> list[Link]:
    """All records of one chain, in order."""
    links: list[Link] = []
    while True:
        position = links[-1].record.position if links else 0
        found = await trail.read_links(conn, chain, position, BATCH)
        own = [link for link in found if link.record.chain == chain]
        links += own
        if len(own) < BATCH:
            return links


def forge_record(links: Sequence[Link]) -> list[Link]:
    """A copy of a chain in which one record names another actor."""
    target = len(links) // 2
    return [
        replace(link, record=link.record._replace(actor="operator:nobody"))
        if index == target
        else link
        for index, link in enumerate(links)
    ]


async def received_bytes(conn: Conn, tenant: str) -> bytes | None:
    """From a tenant's newest audit record back to the bytes that caused it."""
    page = await trail.list_records(conn, None, trail.Wanted(tenant), 1)
    if not page.items or page.items[0]["cause"] != "event":
        return None
    evidence = await events.read_event(conn, UUID(page.items[0]["causeId"]))
    return evidence.arrival.body if evidence is not None else None
