"""
Records read again by today's mapping: one that somebody orders, or many by a job.

Only the version that counts is read, and in its own place: what cannot be read, or would be
another record by now, stays as it is. A replay of its event goes further.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from shared.db import Conn
from shared.domain.commands import ImportRecord, Ordered, ReprocessRecord
from shared.domain.events import Arrival, Headers, Identity, StoredEvent, received_at_of
from shared.domain.jobs import UNKNOWN_SOURCE
from shared.domain.keys import RecordKey
from shared.domain.outcomes import BODY_GONE, UNREADABLE
from shared.providers.base import PayloadError, Provider
from shared.store import grants, rereading
from shared.store.records import Version
from shared.store.rereading import Held, Report
from workers.entries import Answer, Locks, SetGrew, Told
from workers.handlers.records import NEEDS_TENANT, tenant_of, told_of
from workers.handlers.scope import Scope
from workers.holdings import Holdings
from workers.surroundings import Surroundings, UnknownSource

UNKNOWN_RECORD = "unknown_record"
#: Today's mapping makes no record of it; or one of another id.
NOT_MAPPED = "not_mapped"
ANOTHER_RECORD = "another_record"

#: Read anew, a version may be older than the next one, which then is read too, and so on.
_MOST_PASSES = 20

_decode_headers = msgspec.json.Decoder(Headers).decode


class Kept(Exception):
    """Why a version stays as it is. `code` is for lists."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Reread:
    """
    What became of records. `told` is what that means for whose chain; `kept` why some stay, by
    record; `tenants` whose each is now, by the name that the tenant goes by.
    """

    keys: dict[int, RecordKey]
    told: dict[int, list[Told]] = field(default_factory=dict)
    kept: dict[int, Kept] = field(default_factory=dict)
    tenants: dict[int, str | None] = field(default_factory=dict)


async def read_again(
    conn: Conn, surroundings: Surroundings, records: Sequence[int], *, skip: bool = False
) -> Reread:
    """
    Read the versions that count, under their records' locks; with `skip` only say that it was not
    done, of records whose reading kills processes. Locks no tenant: who tells their chains does.
    """
    done = Reread(await rereading.lock_records(conn, records))
    first: dict[int, Held] = {}
    last: dict[int, Held] = {}
    open_ids = list(done.keys)
    for _ in range(_MOST_PASSES):
        newest = await rereading.read_newest_two(conn, open_ids)
        for record, versions in newest.items():
            first.setdefault(record, versions[0])
            last[record] = versions[0]
        if skip:
            gone = Kept("process_died", "reading it has killed processes")
            done.kept = dict.fromkeys(newest, gone)
            break
        read, open_ids = await _pass(conn, surroundings, done, newest)
        if read:
            await rereading.replace_versions(conn, read)
        for one in read:
            last[one.record] = max([one, *newest[one.record][1:]], key=_age_of)
        if not open_ids:
            break
    moved = [one for record, one in last.items() if _counts_anew(first[record], one)]
    if moved:
        await rereading.point_records(conn, moved)
    names = {one.tenant for one in (*first.values(), *last.values()) if one.tenant is not None}
    aliases = await grants.add_tenants(conn, names) if names else {}
    for record, key in done.keys.items():
        if record in first:
            before, after = _version_of(first[record]), _version_of(last[record])
            done.told[record] = told_of(key.name, before, after, aliases)
            done.tenants[record] = tenant_of(after, aliases)
    return done


async def _pass(
    conn: Conn, surroundings: Surroundings, done: Reread, newest: dict[int, list[Held]]
) -> tuple[list[Held], list[int]]:
    """The versions that were read, and the records of which another one may count now."""
    read: list[Held] = []
    again: list[int] = []
    for record, (held, *others) in newest.items():
        try:
            command = await _reported(conn, surroundings, done.keys[record], held)
        except Kept as kept:
            done.kept[record] = kept
            continue
        new = held._replace(
            version=command.version,
            tenant=command.tenant,
            normalised=command.normalised,
            raw=held.raw if held.line else command.raw,
            mapped_by=surroundings.version,
        )
        read.append(new)
        is_overtaken = any(_age_of(other) > _age_of(new) for other in others)
        if is_overtaken and others[0].mapped_by < surroundings.version:
            again.append(record)
    return read, again


async def _reported(
    conn: Conn, surroundings: Surroundings, key: RecordKey, held: Held
) -> ImportRecord:
    """
    What the version says by today's mapping.

    Raises:
        Kept: nothing that could take its place.
    """
    try:
        provider = surroundings.provider(key.source_id)
    except UnknownSource as error:
        raise Kept(UNKNOWN_SOURCE, str(error)) from None
    report = None if held.line else await rereading.read_report(conn, held.tracking_id)
    if report is None and not held.line:
        raise Kept(BODY_GONE, "what it was read from went by retention")
    try:
        found = _row_of(provider, held) if report is None else _told_by(provider, report)
    except Kept:
        raise
    except PayloadError as error:
        raise Kept(UNREADABLE, str(error)) from None
    except Exception as error:
        # A function of its argument, which may be anybody's.
        raise Kept(type(error).__name__, str(error) or repr(error)) from None
    for one in found:
        if one.record_id == key.record_id:
            return one
    if found:
        text = f"by today's mapping it is the record {found[0].record_id!r}: replay its event"
        raise Kept(ANOTHER_RECORD, text)
    raise Kept(NOT_MAPPED, "today's mapping makes no record of it")


def _row_of(provider: Provider, held: Held) -> list[ImportRecord]:
    """A row of an import, which is kept whole."""
    ingestion = getattr(provider, "ingestion", None)
    if ingestion is None or held.raw is None:
        raise Kept(NOT_MAPPED, "its source takes no imports any more")
    return [ingestion.read(json.loads(held.raw), received_at_of(held.tracking_id))]


def _told_by(provider: Provider, report: Report) -> list[ImportRecord]:
    """All records of the event."""
    headers = _decode_headers(report.headers) if provider.reads_headers else ()
    identity = Identity(
        report.event_id,
        report.event_type,
        report.subject,
        report.occurred_at,
        report.account,
        report.livemode,
    )
    commands = provider.translate(Arrival(identity, report.body, headers, report.received_at))
    return [one for one in commands if isinstance(one, ImportRecord)]


def _age_of(held: Held) -> tuple[int, str]:
    return held.version, held.event_id


def _version_of(held: Held) -> Version:
    return Version(held.event_id, held.version, held.tenant, held.normalised)


def _counts_anew(before: Held, after: Held) -> bool:
    """Whether what the record's row says is not so any more."""
    return (*_age_of(before), before.tenant) != (*_age_of(after), after.tenant)


async def reprocess(
    conn: Conn, scope: Scope, event: StoredEvent, ordered: Ordered, order: ReprocessRecord
) -> Answer:
    """
    Read one record again. Its tenants' chains are told.

    Raises:
        SetGrew: begin again with these tenants locked.
    """
    try:
        source = scope.surroundings.source_named(order.source)
    except UnknownSource:
        return _nothing(order, UNKNOWN_SOURCE)
    key = RecordKey(source.id, order.account, order.livemode, order.record_id)
    found = await rereading.find_record(conn, key)
    if found is None:
        return _nothing(order, UNKNOWN_RECORD)
    record, named = found
    aliases = await grants.read_aliases(conn, filter(None, (named, ordered.tenant)))
    tenant = None if named is None else aliases.get(named, named)
    if ordered.tenant is not None and aliases.get(ordered.tenant, ordered.tenant) != tenant:
        return _nothing(order, UNKNOWN_RECORD)
    locked = scope.more.tenants
    if tenant is not None and tenant not in locked:
        raise SetGrew(scope.more | Locks(tenants=frozenset({tenant})))
    if locked:
        await grants.add_tenants(conn, locked)
    holdings = Holdings()
    await holdings.lock(conn, locked)
    done = await read_again(conn, scope.surroundings, [record])
    told = done.told.get(record, [])
    needed = frozenset(one.tenant for one in told) | frozenset(filter(None, done.tenants.values()))
    if not needed <= locked:
        raise SetGrew(scope.more | Locks(tenants=needed))
    if any(holdings.tenants[one].merged_into is not None for one in needed):
        raise SetGrew(scope.more)
    now_of = done.tenants.get(record)
    if record in done.kept and not told:
        # Where something is told, another version counts by now, and that is the one that stays.
        return Answer("ignored", now_of, key.name, done.kept[record].code, [], 0)
    if now_of is None:
        return Answer("parked", None, key.name, NEEDS_TENANT, [], 0, told)
    return Answer("applied" if told else "unchanged", now_of, key.name, None, [], 0, told)


def _nothing(order: ReprocessRecord, code: str) -> Answer:
    return Answer("ignored", None, f"record/{order.record_id}", code, [], 0)
