"""Export one tenant's dispute: what the trail and the evidence say of it, and that it is signed."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import IO, Any
from uuid import UUID

from shared.db import Conn
from shared.explain import explain
from shared.sealing import KeyRing
from shared.signing import SigningKey
from shared.store import checkpoints, disputes, explanations, merges, tenants
from shared.store.checkpoints import Checkpoint
from shared.store.disputes import Told
from shared.store.paging import iso
from shared.store.source_rows import read_sources
from workers.actions import new_action, record_action, replay_action
from workers.bundles.evidence import add_event, event_ids
from workers.bundles.proving import Place, Wanted, prove
from workers.bundles.tape import Tape, spool, write_line
from workers.bundles.telling import Scope, hidden_line, line_of, names_others
from workers.checkpoints import open_key, shown_key, write_all, write_next

_PAGE = 500


class NobodyNamed(Exception):
    """Nothing ever named a tenant like that."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. `sha256` is of the whole file, in hex."""

    export_id: UUID
    tenant: str
    names: tuple[str, ...]
    sha256: str
    size_bytes: int
    key: str
    counts: dict[str, int]

    def shown(self) -> dict[str, Any]:
        """As `--json` and the audit trail have it."""
        return {
            "exportId": str(self.export_id),
            "tenant": self.tenant,
            "names": list(self.names),
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "key": self.key,
            "counts": self.counts,
        }


async def scope_of(
    conn: Conn,
    tenant: str,
    since: datetime | None,
    until: datetime | None,
    *,
    with_reasons: bool,
) -> Scope:
    """
    Raises:
        NobodyNamed: there is no such tenant.
    """
    known = await tenants.find_tenant(conn, tenant)
    # Whoever has nothing but records of its own, or nothing any more, is in the trail.
    if known is None and ("\0" in tenant or not await disputes.read_of_tenant(conn, tenant, 0, 1)):
        raise NobodyNamed(f"nothing ever named a tenant {tenant!r}")
    name = tenant if known is None else known.merged_into or tenant
    names = (name, *await merges.names_of(conn, name))
    return Scope(name, names, since, until, with_reasons)


async def sign_up_to_now(conn: Conn, ring: KeyRing, actor: str) -> None:
    """
    Write the checkpoints that are still to be written, each in a transaction of its own.

    Raises:
        KeyGone: the key in use cannot be opened.
    """

    async def transact() -> Any:
        async with conn.transaction():
            return await write_next(conn, ring, actor)

    await write_all(transact)


async def export(conn: Conn, ring: KeyRing, scope: Scope, file: IO[bytes]) -> Exported:
    """
    Write the bundle into `file`, from one snapshot but for the explanations, which are of a moment
    before. Nothing is written to the database; `record_export` comes afterwards.

    Raises:
        KeyGone: the key in use cannot be opened.
    """
    explained = await _explained(conn, scope)
    async with conn.transaction():
        await explanations.begin_snapshot(conn)
        keys = await checkpoints.read_keys(conn)
        # Only where nothing was ever signed, which a dry run does not begin with.
        key = await open_key(conn, ring, keys[-1].id) if keys else SigningKey.new()
        standing = await explanations.read_standing(conn, scope.tenant)
        export_id = new_action()
        about = {
            "exportId": str(export_id),
            "tenant": scope.tenant,
            "names": list(scope.names),
            "since": iso(scope.since),
            "until": iso(scope.until),
            "at": iso(standing.now),
            "withReasons": scope.with_reasons,
        }
        tape = Tape(file)
        tape.add("README.md", _packaged("README.md"))
        tape.add("verify.py", _packaged("verify.py"))
        tape.add_json("about.json", about)
        tape.add_json("keys.json", [shown_key(one, keys) for one in keys] or [_unused(key)])
        tape.add_json("entitlements.json", explained)
        counts = await _Gathering(conn, tape, scope, event_ids(explained)).run()
    digest = tape.finish(key, about)
    return Exported(
        export_id, scope.tenant, scope.names, digest, tape.size_bytes, key.id, dict(counts)
    )


async def record_export(
    conn: Conn, done: Exported, scope: Scope, actor: str, reason: str | None
) -> None:
    """Tell the trail who exported what, in the caller's transaction."""
    await record_action(
        conn,
        done.export_id,
        "audit.exported",
        actor,
        subject=f"tenant/{done.tenant}",
        after={
            **done.shown(),
            "since": iso(scope.since),
            "until": iso(scope.until),
            "withReasons": scope.with_reasons,
        },
        reason=reason,
    )


@dataclass
class _Gathering:
    """Everything that is of a snapshot, in the order in which it lies in the bundle."""

    conn: Conn
    tape: Tape
    scope: Scope
    event_ids: set[UUID]
    counts: Counter[str] = field(default_factory=Counter)
    shared: set[str] = field(default_factory=set)

    async def run(self) -> Counter[str]:
        """Events, records, proofs, checkpoints; how many there are of each."""
        await self._find_events()
        await self._add_events()
        newest = await checkpoints.read_newest(self.conn)
        wanted = Wanted(newest.to_xid if newest is not None else 0)
        await self._add_records(wanted)
        used: dict[int, Checkpoint] = {} if newest is None else {newest.number: newest}
        with spool() as file:
            async for line in prove(self.conn, wanted.places(), used):
                write_line(file, line)
                self.counts["proofs"] += 1
            self.tape.add_file("proofs.ndjson", file)
        self.tape.add_lines("checkpoints.ndjson", map(_checkpoint_line, _in_order(used)))
        self.counts["checkpoints"] = len(used)
        return self.counts

    async def _find_events(self) -> None:
        async for told in self._of_tenant():
            if told.record.cause == "event" and self.scope.has(told.record.at):
                self.event_ids.add(UUID(told.record.cause_id))
        for some in _parts(sorted(self.event_ids)):
            others = await disputes.concern_others(self.conn, some, self.scope.names)
            self.shared |= {str(one) for one in others}

    async def _of_tenant(self) -> AsyncIterator[Told]:
        for name in self.scope.names:
            after = 0
            while page := await disputes.read_of_tenant(self.conn, name, after, _PAGE):
                for told in page:
                    yield told
                after = page[-1].id

    async def _add_events(self) -> None:
        sources = {row.id: row for row in await read_sources(self.conn)}
        for tracking_id in sorted(self.event_ids):
            has_body = await add_event(
                self.conn,
                self.tape,
                tracking_id,
                self.scope,
                sources,
                is_shared=str(tracking_id) in self.shared,
            )
            self.counts["events"] += 1
            self.counts["bodies"] += has_body

    async def _add_records(self, wanted: Wanted) -> None:
        """
        Chains of the tenant's own names whole, or they could not be followed; of others, what is in
        the time that is asked for. Chain by chain would be another index: they lie by name, and
        within each chain in its order.
        """
        own = {f"tenant:{name}" for name in self.scope.names}
        with spool() as file:
            add = partial(self._add_record, file, wanted)
            async for told in self._of_tenant():
                if told.record.chain in own or self.scope.has(told.record.at):
                    add(told)
            for some in _parts(sorted(self.event_ids)):
                replays = [
                    replay_action(one, run)
                    for one in some
                    for run in range(2, await disputes.count_runs(self.conn, one) + 1)
                ]
                for told in await disputes.read_of_events(self.conn, some, replays):
                    add(told)
            self.tape.add_file("records.ndjson", file)

    def _add_record(self, file: IO[bytes], wanted: Wanted, told: Told) -> None:
        record = told.record
        is_hidden = names_others(told, self.scope)
        if is_hidden and not record.chain.startswith("tenant:"):
            return
        line = hidden_line(told) if is_hidden else line_of(told, self.scope, self.shared)
        write_line(file, line)
        wanted.add(Place(record.chain, record.position, record.xid), is_hidden=is_hidden)
        self.counts["records"] += 1
        self.counts[f"contents {line['contentState']}"] += 1


async def _explained(conn: Conn, scope: Scope) -> dict[str, Any]:
    """Why the tenant may use what it may now, as it is told itself: without operators' notes."""
    found = await tenants.read_tenant(conn, scope.tenant)
    features = [one["feature"] for one in found["entitlements"]] if found is not None else []
    return {
        feature: await explain(conn, scope.tenant, feature, for_tenant=True)
        for feature in dict.fromkeys(features)
    }


def _checkpoint_line(one: Checkpoint) -> dict[str, Any]:
    return {"statement": one.statement, "signature": one.signature.hex(), "key": one.key}


def _in_order(used: dict[int, Checkpoint]) -> Iterator[Checkpoint]:
    return (used[number] for number in sorted(used))


def _parts(ids: list[UUID]) -> Iterator[list[UUID]]:
    return (ids[first : first + _PAGE] for first in range(0, len(ids), _PAGE))


def _packaged(name: str) -> bytes:
    return files("workers.bundles").joinpath(name).read_bytes()


def _unused(key: SigningKey) -> dict[str, object]:
    return {"id": key.id, "publicKey": key.public.hex()}
