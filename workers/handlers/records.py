"""`ImportRecord`: what events report of records, version by version; the newest counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.db import Conn
from shared.domain.commands import Command, ImportRecord
from shared.domain.events import StoredEvent
from shared.domain.keys import RecordKey
from shared.domain.outcomes import Outcome
from shared.store import grants, records
from shared.store.records import NewVersion, Version
from workers.entries import NO_LOCKS, Answer, Locks, SetGrew, Told
from workers.handlers.scope import Asked, Scope
from workers.holdings import Holdings

#: Why a record is parked: nothing that was said of it names a tenant.
NEEDS_TENANT = "needs:tenant"


async def import_records(
    conn: Conn, scope: Scope, asked: Sequence[Asked[ImportRecord]]
) -> list[Answer]:
    """
    Keep the batch's versions.

    Raises:
        SetGrew: begin again with these locks too.
    """
    replayed = [one.event.tracking_id for one in asked if one.event.run > 1]
    earlier = await records.keys_of_events(conn, replayed) if replayed else {}
    kept: dict[UUID, set[RecordKey]] = {}
    for one in asked:
        kept.setdefault(one.event.tracking_id, set()).add(_key_of(one))
    shelf = _Shelf()
    named = {one.command.tenant for one in asked if one.command.tenant is not None}
    await shelf.load(conn, scope, set[RecordKey]().union(*kept.values()), earlier, named)
    answers = []
    for one in asked:
        event = one.event
        told = [
            told
            for key in sorted(earlier.get(event.tracking_id, set()) - kept[event.tracking_id])
            for told in shelf.take(key, event.event_id)
        ]
        answers.append(shelf.put(one, scope.surroundings.version, told))
    await shelf.save(conn, list(earlier))
    return answers


async def take_back(
    conn: Conn, scope: Scope, events: Sequence[StoredEvent]
) -> dict[UUID, list[Told]]:
    """
    Undo what earlier runs of these events reported, which today's code does not. Returns what that
    changed, by tracking id.

    Raises:
        SetGrew: begin again with these locks too.
    """
    earlier = await records.keys_of_events(conn, [event.tracking_id for event in events])
    if not earlier:
        return {}
    shelf = _Shelf()
    await shelf.load(conn, scope, (), earlier, ())
    told = {
        event.tracking_id: [
            one
            for key in sorted(earlier.get(event.tracking_id, ()))
            for one in shelf.take(key, event.event_id)
        ]
        for event in events
    }
    await shelf.save(conn, list(earlier))
    return told


async def locks_of(
    conn: Conn,
    translated: Iterable[tuple[StoredEvent, Sequence[Command]]],
    replayed: Sequence[UUID],
) -> Locks:
    """The tenants whose chains may be told of records: to be locked with those of objects."""
    keys: set[RecordKey] = set()
    names: set[str] = set()
    for event, commands in translated:
        for command in commands:
            if isinstance(command, ImportRecord):
                keys.add(_key_of(Asked(event, command)))
                names.update(filter(None, (command.tenant,)))
    if replayed:
        keys.update(*(await records.keys_of_events(conn, replayed)).values())
    if not keys:
        return NO_LOCKS
    names |= await records.tenants_of_records(conn, keys)
    aliases = await grants.read_aliases(conn, names)
    return Locks(tenants=frozenset(aliases.get(name, name) for name in names))


@dataclass(slots=True)
class _Record:
    """A locked record: by event, those of its versions that may come to count."""

    id: int
    key: RecordKey
    versions: dict[str, Version] = field(default_factory=dict)
    is_dirty: bool = False

    @property
    def counting(self) -> Version | None:
        return max(self.versions.values(), key=lambda one: one.age, default=None)


class _Shelf:
    """The records of one transaction, in memory and under their locks."""

    def __init__(self) -> None:
        self._records: dict[RecordKey, _Record] = {}
        self._aliases: dict[str, str] = {}
        self._new: dict[tuple[int, str], NewVersion] = {}

    async def load(
        self,
        conn: Conn,
        scope: Scope,
        keys: Iterable[RecordKey],
        earlier: Mapping[UUID, set[RecordKey]],
        named: Iterable[str],
    ) -> None:
        """
        Lock the tenants, then the records, then read.

        Raises:
            SetGrew: a record is, or comes to be, a tenant's that is not locked.
        """
        locked = scope.more.tenants
        self._aliases = await grants.add_tenants(conn, {*named, *locked})
        holdings = Holdings()
        await holdings.lock(conn, locked)
        replayed = set[RecordKey]().union(*earlier.values())
        ids = await records.lock_records(conn, {*keys, *replayed})
        found = await records.read_versions(
            # Each replay may take one away, and then the next one counts.
            conn, list(ids.values()), [ids[key] for key in replayed], len(earlier) + 1
        )  # fmt: skip
        for key, number in ids.items():
            versions = {one.event_id: one for one in found.get(number, ())}
            self._records[key] = _Record(number, key, versions)
        known = [one.tenant for versions in found.values() for one in versions if one.tenant]
        self._aliases |= await grants.read_aliases(conn, known)
        needed = frozenset(self._aliases.get(name, name) for name in (*named, *known))
        if not needed <= locked:
            raise SetGrew(scope.more | Locks(tenants=needed))
        if any(holdings.tenants[tenant].merged_into is not None for tenant in needed):
            raise SetGrew(scope.more)

    def put(self, one: Asked[ImportRecord], mapped_by: int, told: list[Told]) -> Answer:
        """Add what an event reports; `told` is what else its run has changed."""
        event, command = one.event, one.command
        record = self._records[_key_of(one)]
        before = record.counting
        reported = Version(event.event_id, command.version, command.tenant, command.normalised)
        record.versions[event.event_id] = reported
        self._new[record.id, event.event_id] = NewVersion(
            record.id, *reported, command.raw, event.tracking_id, mapped_by
        )
        changed = self._turned(record, before)
        after = record.counting
        assert after is not None
        outcome: Outcome = "unchanged" if after is reported else "superseded"
        code = None
        if changed:
            outcome = "applied"
        if after is reported and after.tenant is None:
            outcome, code = "parked", NEEDS_TENANT
        tenant = self._tenant_of(after)
        return Answer(outcome, tenant, record.key.name, code, [], 0, [*told, *changed])

    def take(self, key: RecordKey, event_id: str) -> list[Told]:
        """Remove what an earlier run of an event reported; what that changes for whom."""
        record = self._records[key]
        before = record.counting
        if record.versions.pop(event_id, None) is None:
            return []
        return self._turned(record, before)

    async def save(self, conn: Conn, replayed: Sequence[UUID]) -> None:
        """Write what changed."""
        counting = []
        for record in self._records.values():
            if record.is_dirty:
                now = record.counting
                last = (now.tenant, now.version, now.event_id) if now else (None, None, None)
                counting.append((record.id, *last))
        await records.save(conn, replayed, list(self._new.values()), counting)

    def _turned(self, record: _Record, before: Version | None) -> list[Told]:
        """What the chains are told where another version counts than before."""
        after = record.counting
        if after == before:
            return []
        record.is_dirty = True
        return told_of(record.key.name, before, after, self._aliases)

    def _tenant_of(self, version: Version | None) -> str | None:
        return tenant_of(version, self._aliases)


def told_of(
    subject: str, before: Version | None, after: Version | None, aliases: Mapping[str, str]
) -> list[Told]:
    """What the tenants' chains are told where another version counts than before."""
    had, has = _content_of(before), _content_of(after)
    losing, gaining = tenant_of(before, aliases), tenant_of(after, aliases)
    if losing == gaining:
        if gaining is None or had == has:
            return []
        return [Told(gaining, "record.changed", subject, had, has)]
    told = []
    if losing is not None:
        told.append(Told(losing, "record.removed", subject, had, None))
    if gaining is not None:
        told.append(Told(gaining, "record.imported", subject, None, has))
    return told


def tenant_of(version: Version | None, aliases: Mapping[str, str]) -> str | None:
    """Whose it is, by the name that the tenant goes by now."""
    if version is None or version.tenant is None:
        return None
    return aliases.get(version.tenant, version.tenant)


def _key_of(one: Asked[ImportRecord]) -> RecordKey:
    event = one.event
    return RecordKey(event.source_id, event.account, event.livemode, one.command.record_id)


def _content_of(version: Version | None) -> bytes | None:
    return None if version is None else version.normalised.encode()
