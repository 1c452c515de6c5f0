"""
Rows of an import become versions of records, under the records' own locks and no others.

What the rows come to is reckoned row by row, each as if it came alone: so it does not depend on how
they are cut into chunks. Written is what is left in the end.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from shared.db import Conn
from shared.domain.keys import RecordKey
from shared.store import grants, imports
from shared.store.imports import Kept, Known, Origin, Reported

#: What a row may come to.
OUTCOMES = ("imported", "changed", "unchanged", "superseded", "parked")

#: The columns of a change, as manifests have it.
COLUMNS = (
    "record", "outcome", "line", "versionBefore", "versionAfter", "sha256Before", "sha256After",
)  # fmt: skip

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Record:
    """A locked record in memory: this event's own version, and the best of the others."""

    id: int
    first: Kept | None = None  # what counted when it was locked
    own: Kept | None = None
    other: Kept | None = None
    is_stored: bool = False  # the database has a version of this event
    is_new: bool = False  # it was made for this chunk, and points at what is to be written
    reported: Reported | None = None  # to be written

    @property
    def counting(self) -> Kept | None:
        """Whichever is the newer."""
        if self.own is None or (self.other is not None and self.other.age > self.own.age):
            return self.other
        return self.own


@dataclass(slots=True)
class Written:
    """What a chunk came to: its rows by outcome, and the changes by the tenant they concern."""

    counts: Counter[str] = field(default_factory=Counter)
    changes: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def __or__(self, other: "Written") -> "Written":
        changes = {tenant: list(rows) for tenant, rows in self.changes.items()}
        for tenant, rows in other.changes.items():
            changes.setdefault(tenant, []).extend(rows)
        return Written(self.counts + other.counts, changes)

    def manifests(self) -> list[tuple[str, bytes]]:
        """(tenant, content) of each, in the order of the tenants; "" is nobody."""
        return [
            (tenant, _encode({"columns": COLUMNS, "changes": rows}))
            for tenant, rows in sorted(self.changes.items())
        ]


async def write(
    conn: Conn, of: RecordKey, origin: Origin, rows: Sequence[tuple[str, Reported]]
) -> Written:
    """
    Keep these rows, (record id, what is reported) in the order of their lines. `of` has everything
    of the records' keys but the id.
    """
    best = _best_of(rows)
    # As "C" has it: UTF-8 sorts as its code points do.
    names = sorted(best)
    new = [(name, best[name].tenant, best[name].version) for name in names]
    added = await imports.add_records(conn, of, origin.event_id, new)
    records = {name: _Record(number, is_new=True) for name, number in added.items()}
    if len(added) < len(names):
        missing = [name for name in names if name not in added]
        known = await imports.lock_known(conn, of, origin.event_id, missing)
        loaded = await _loaded(conn, origin, known)
        records |= {one.record_id: loaded[one.id] for one in known}
    tenants = {one.tenant for one in best.values()}
    aliases = await _aliases(conn, records.values(), tenants)
    written = Written()
    for name, reported in rows:
        written.counts[_put(records[name], reported, origin, aliases)] += 1
    await _save(conn, origin, records.values(), written, aliases)
    return written


async def take_back(conn: Conn, origin: Origin, numbers: Sequence[int]) -> Written:
    """Remove what earlier runs of the event reported of these records."""
    known = await imports.lock_numbered(conn, origin.event_id, numbers)
    stale = [one for one in known if one.own is not None and one.own.run < origin.run]
    records = await _loaded(conn, origin, stale)
    for record in records.values():
        record.own = None
    written = Written()
    aliases = await _aliases(conn, records.values(), ())
    await _save(conn, origin, records.values(), written, aliases)
    return written


def _best_of(rows: Iterable[tuple[str, Reported]]) -> dict[str, Reported]:
    """By record, the row that is left of several."""
    best: dict[str, Reported] = {}
    for name, reported in rows:
        known = best.get(name)
        if known is None or (reported.version, reported.line) > (known.version, known.line):
            best[name] = reported
    return best


async def _loaded(conn: Conn, origin: Origin, known: Sequence[Known]) -> dict[int, _Record]:
    records = {}
    replaced = []
    for one in known:
        record = _Record(one.id, one.counting, one.own, is_stored=one.own is not None)
        if one.counting is not None and one.counting.event_id != origin.event_id:
            record.other = one.counting
        elif one.own is not None and one.own.run < origin.run:
            # It counts, and what takes its place may be older than what came second.
            replaced.append(one.id)
        records[one.id] = record
    for number, other in (await imports.next_best(conn, origin.event_id, replaced)).items():
        records[number].other = other
    return records


async def _aliases(
    conn: Conn, records: Iterable[_Record], tenants: Iterable[str | None]
) -> dict[str, str]:
    """Into whom those tenants were merged that may be told of changes."""
    names = set(tenants)
    for record in records:
        names.update(one.tenant for one in (record.first, record.other) if one is not None)
    return await grants.read_aliases(conn, {name for name in names if name is not None})


def _put(record: _Record, reported: Reported, origin: Origin, aliases: Mapping[str, str]) -> str:
    """Add a row; what it comes to."""
    before, own = record.counting, record.own
    if (
        own is not None
        and own.run == origin.run
        and (own.version, own.line) >= (reported.version, reported.line)
    ):
        return "superseded"
    record.own = Kept(
        origin.event_id, reported.version, reported.tenant, reported.normalised, origin.run,
        reported.line,
    )  # fmt: skip
    record.reported = reported
    if record.counting is not record.own:
        return "superseded"
    if reported.tenant is None:
        return "parked"
    if before is None:
        return "imported"
    is_same = before.normalised == reported.normalised and _whose(before.tenant, aliases) == _whose(
        reported.tenant, aliases
    )
    return "unchanged" if is_same else "changed"


async def _save(
    conn: Conn,
    origin: Origin,
    records: Iterable[_Record],
    written: Written,
    aliases: Mapping[str, str],
) -> None:
    replaced, new, pointed = [], [], []
    for record in records:
        if record.is_stored and (record.reported is not None or record.own is None):
            replaced.append(record.id)
        if record.reported is not None:
            new.append((record.id, record.reported))
        after = record.counting
        if not record.is_new and _pointer(after) != _pointer(record.first):
            pointed.append((record.id, *_pointer(after)))
        _tell(record, after, written, aliases)
    await imports.save(conn, origin, replaced, new, pointed)


def _pointer(version: Kept | None) -> tuple[str | None, int | None, str | None]:
    return (
        (None, None, None)
        if version is None
        else (version.tenant, version.version, version.event_id)
    )


def _tell(
    record: _Record, after: Kept | None, written: Written, aliases: Mapping[str, str]
) -> None:
    """Whom it concerns where another content counts, or somebody else's."""
    before = record.first
    losing = None if before is None else _whose(before.tenant, aliases)
    gaining = None if after is None else _whose(after.tenant, aliases)
    if losing is not None and losing == gaining:
        assert before is not None
        assert after is not None
        if before.normalised != after.normalised:
            written.changes.setdefault(gaining, []).append(
                _change(record, "changed", before, after)
            )
        return
    if losing is not None:
        written.changes.setdefault(losing, []).append(_change(record, "removed", before, None))
    if gaining is not None:
        written.changes.setdefault(gaining, []).append(_change(record, "imported", None, after))


def _change(
    record: _Record, outcome: str, before: Kept | None, after: Kept | None
) -> tuple[Any, ...]:
    is_ours = after is not None and after is record.own
    return (
        record.id,
        outcome,
        after.line if after is not None and is_ours else None,
        None if before is None else before.version,
        None if after is None else after.version,
        _digest(before),
        _digest(after),
    )


def _digest(version: Kept | None) -> str | None:
    return None if version is None else sha256(version.normalised.encode()).hexdigest()


def _whose(tenant: str | None, aliases: Mapping[str, str]) -> str:
    """The tenant by the name that it goes by now; "" is nobody."""
    return "" if tenant is None else aliases.get(tenant, tenant)
