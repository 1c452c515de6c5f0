"""
Imports: records by the thousand, from one event.

Only records are locked here, in key order, as `shared.store.records` locks them. What is read about
one is read in a later statement.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn, columns_of
from shared.domain.keys import RecordKey


class Reported(NamedTuple):
    """
    What one row of an event reports of a record. `tenant` is as it was said, `normalised` and `raw`
    are JSON. Of the rows of one run the largest (version, line) counts.
    """

    version: int
    tenant: str | None
    normalised: str
    raw: str
    line: int


class Kept(NamedTuple):
    """A version that is kept. `run` and `line` are of the import that reported it."""

    event_id: str
    version: int
    tenant: str | None
    normalised: str
    run: int
    line: int

    @property
    def age(self) -> tuple[int, str]:
        """The largest counts, in whatever order they came."""
        return self.version, self.event_id


class Known(NamedTuple):
    """A locked record: the version that counts, and this event's own."""

    id: int
    record_id: str
    counting: Kept | None
    own: Kept | None


# Complete at once: the version that a new record points at is written in the same transaction. In
# key order, so that two imports of the same rows wait for each other instead of deadlocking.
ADD_COUNTING = """
INSERT INTO records (source_id, account, livemode, record_id, tenant, version, event_id)
SELECT $1, $2, $3, new.record_id, new.tenant, new.version, $4
FROM unnest($5::text[], $6::text[], $7::bigint[]) AS new (record_id, tenant, version)
ON CONFLICT DO NOTHING
RETURNING id, record_id
"""


async def add_records(
    conn: Conn, of: RecordKey, event_id: str, new: Sequence[tuple[str, str | None, int]]
) -> dict[str, int]:
    """
    Make the records that do not exist yet, pointing at the event's version: (record id, tenant,
    version) each, in the order of their ids. `of` has everything of their keys but the id. Returns
    the new ones' numbers.
    """
    columns = columns_of(new, 3)
    rows = await conn.fetch(ADD_COUNTING, of.source_id, of.account, of.livemode, event_id, *columns)
    return {row["record_id"]: row["id"] for row in rows}


LOCK_BY_NAME = """
SELECT r.id FROM records r
JOIN unnest($4::text[]) AS asked (record_id) ON r.record_id = asked.record_id
WHERE r.source_id = $1 AND r.account = $2 AND r.livemode = $3
ORDER BY r.record_id FOR UPDATE OF r
"""
LOCK_BY_NUMBER = """
SELECT id FROM records WHERE id = ANY($1::bigint[])
ORDER BY source_id, account, livemode, record_id FOR UPDATE
"""
READ_LOCKED = """
SELECT r.id, r.record_id,
       c.event_id, c.version, c.tenant, c.normalised, c.run, c.line,
       o.event_id AS own_event_id, o.version AS own_version, o.tenant AS own_tenant,
       o.normalised AS own_normalised, o.run AS own_run, o.line AS own_line
FROM records r
LEFT JOIN record_versions c ON c.record = r.id AND c.event_id = r.event_id
LEFT JOIN record_versions o ON o.record = r.id AND o.event_id = $2
WHERE r.id = ANY($1::bigint[])
"""


async def lock_known(
    conn: Conn, of: RecordKey, event_id: str, record_ids: Sequence[str]
) -> list[Known]:
    """Lock records that exist, and read what they are."""
    rows = await conn.fetch(LOCK_BY_NAME, of.source_id, of.account, of.livemode, record_ids)
    return await _read_locked(conn, event_id, [row["id"] for row in rows])


async def lock_numbered(conn: Conn, event_id: str, records: Sequence[int]) -> list[Known]:
    """The same, by their numbers."""
    rows = await conn.fetch(LOCK_BY_NUMBER, records)
    return await _read_locked(conn, event_id, [row["id"] for row in rows])


async def _read_locked(conn: Conn, event_id: str, records: Sequence[int]) -> list[Known]:
    known = []
    for row in await conn.fetch(READ_LOCKED, records, event_id):
        values = list(row.values())
        counting = None if values[2] is None else Kept(*values[2:8])
        own = None if values[8] is None else Kept(*values[8:14])
        known.append(Known(values[0], values[1], counting, own))
    return known


NEXT_BEST = """
SELECT asked.record, v.event_id, v.version, v.tenant, v.normalised, v.run, v.line
FROM unnest($1::bigint[]) AS asked (record)
CROSS JOIN LATERAL (
    SELECT event_id, version, tenant, normalised, run, line FROM record_versions
    WHERE record = asked.record AND event_id <> $2
    ORDER BY version DESC, event_id DESC LIMIT 1
) v
"""


async def next_best(conn: Conn, event_id: str, records: Sequence[int]) -> dict[int, Kept]:
    """By record, the newest version that came by another event than this one."""
    if not records:
        return {}
    rows = await conn.fetch(NEXT_BEST, records, event_id)
    return {row["record"]: Kept(*list(row.values())[1:]) for row in rows}


FORGET_OWN = "DELETE FROM record_versions WHERE record = ANY($1::bigint[]) AND event_id = $2"
COPIED = (
    "record", "event_id", "version", "tenant", "normalised", "raw", "tracking_id", "mapped_by",
    "run", "line",
)  # fmt: skip
POINT = """
UPDATE records r SET tenant = new.tenant, version = new.version, event_id = new.event_id,
                     updated_at = now()
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])
    AS new (id, tenant, version, event_id)
WHERE r.id = new.id
"""


class Origin(NamedTuple):
    """By which event, read by which configuration, in which run."""

    event_id: str
    tracking_id: UUID
    mapped_by: int
    run: int


async def save(
    conn: Conn,
    origin: Origin,
    replaced: Sequence[int],
    new: Sequence[tuple[int, Reported]],
    pointed: Sequence[tuple[int, str | None, int | None, str | None]],
) -> None:
    """
    Write what was reported: of the `replaced` records the event's own version goes first; `pointed`
    are those at which another version counts now: (record, tenant, version, event id).
    """
    if replaced:
        await conn.execute(FORGET_OWN, replaced, origin.event_id)
    if new:
        event_id, tracking_id, mapped_by, run = origin
        rows = [
            (record, event_id, one.version, one.tenant, one.normalised, one.raw, tracking_id,
             mapped_by, run, one.line)
            for record, one in new
        ]  # fmt: skip
        await conn.copy_records_to_table("record_versions", records=rows, columns=COPIED)
    if pointed:
        await conn.execute(POINT, *columns_of(pointed, 4))


OF_EARLIER_RUNS = """
SELECT record FROM record_versions WHERE tracking_id = $1 AND run < $2 LIMIT $3
"""


async def of_earlier_runs(conn: Conn, tracking_id: UUID, run: int, limit: int) -> list[int]:
    """Records of which an earlier run of the event has reported a version that is still there."""
    rows = await conn.fetch(OF_EARLIER_RUNS, tracking_id, run, limit)
    return [row["record"] for row in rows]


class ImportEvent(NamedTuple):
    """The event of an import. Its body is empty where it is an artifact."""

    event_id: str
    account: str
    livemode: bool
    received_at: datetime
    headers: bytes
    body: bytes
    artifact: bytes | None


READ_IMPORT = """
SELECT event_id, account, livemode, received_at, headers, body, artifact
FROM inbox WHERE received_at = $2 AND tracking_id = $1
"""


async def read_event(conn: Conn, tracking_id: UUID, received_at: datetime) -> ImportEvent | None:
    """The event of an import; None where it went by retention."""
    row = await conn.fetchrow(READ_IMPORT, tracking_id, received_at)
    return None if row is None else ImportEvent(*row.values())
