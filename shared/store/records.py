"""
Records: what sources report of things of their own, version by version.

A record's lock comes after its tenants', whose chains tell of it. What is read about it is read in
a later statement.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn, columns_of
from shared.domain.keys import RecordKey


class Version(NamedTuple):
    """What one event reported of a record. `tenant` is as it was said; `normalised` is JSON."""

    event_id: str
    version: int
    tenant: str | None
    normalised: str

    @property
    def age(self) -> tuple[int, str]:
        """The largest counts, in whatever order they came."""
        return self.version, self.event_id


class NewVersion(NamedTuple):
    """A version to be written. `raw` is JSON; None: all of the event's body."""

    record: int
    event_id: str
    version: int
    tenant: str | None
    normalised: str
    raw: str | None
    tracking_id: UUID
    mapped_by: int


KEYS_OF_EVENTS = """
SELECT v.tracking_id, r.source_id, r.account, r.livemode, r.record_id
FROM record_versions v
JOIN records r ON r.id = v.record
WHERE v.tracking_id = ANY($1::uuid[])
"""


async def keys_of_events(conn: Conn, tracking_ids: Sequence[UUID]) -> dict[UUID, set[RecordKey]]:
    """By event, the records of which earlier runs of it reported. Its lane's lock covers that."""
    found: dict[UUID, set[RecordKey]] = {}
    for row in await conn.fetch(KEYS_OF_EVENTS, tracking_ids):
        tracking_id, *key = row.values()
        found.setdefault(tracking_id, set()).add(RecordKey(*key))
    return found


TENANTS_OF_RECORDS = """
SELECT DISTINCT r.tenant
FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, record_id)
JOIN records r
  ON r.source_id = asked.source_id AND r.account = asked.account
 AND r.livemode = asked.livemode AND r.record_id = asked.record_id
WHERE r.tenant IS NOT NULL
"""


async def tenants_of_records(conn: Conn, keys: Iterable[RecordKey]) -> set[str]:
    """Whose they are now, as it was said. Unlocked: only to know what to lock."""
    rows = await conn.fetch(TENANTS_OF_RECORDS, *columns_of(keys, 4))
    return {row["tenant"] for row in rows}


ADD_RECORDS = """
INSERT INTO records (source_id, account, livemode, record_id)
SELECT * FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
ON CONFLICT DO NOTHING
"""
LOCK_RECORDS = """
SELECT r.source_id, r.account, r.livemode, r.record_id, r.id
FROM records r
JOIN unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, record_id)
  ON r.source_id = asked.source_id AND r.account = asked.account
 AND r.livemode = asked.livemode AND r.record_id = asked.record_id
ORDER BY r.source_id, r.account, r.livemode, r.record_id
FOR UPDATE OF r
"""


async def lock_records(conn: Conn, keys: Collection[RecordKey]) -> dict[RecordKey, int]:
    """Make sure that the records exist, and lock them in key order. Returns their ids."""
    columns = columns_of(sorted(keys), 4)
    await conn.execute(ADD_RECORDS, *columns)
    rows = await conn.fetch(LOCK_RECORDS, *columns)
    return {RecordKey(*list(row.values())[:4]): row["id"] for row in rows}


READ_COUNTING = """
SELECT v.record, v.event_id, v.version, v.tenant, v.normalised
FROM records r
JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id
WHERE r.id = ANY($1::bigint[])
"""
READ_NEWEST = """
SELECT asked.record, v.event_id, v.version, v.tenant, v.normalised
FROM unnest($1::bigint[]) AS asked (record)
CROSS JOIN LATERAL (
    SELECT event_id, version, tenant, normalised FROM record_versions
    WHERE record = asked.record ORDER BY version DESC, event_id DESC LIMIT $2
) v
"""


async def read_versions(
    conn: Conn, records: Sequence[int], whole: Sequence[int], most: int
) -> dict[int, list[Version]]:
    """By record, the version that counts; of the `whole` ones the newest, at most so many."""
    found: dict[int, list[Version]] = {}
    rows = list(await conn.fetch(READ_COUNTING, sorted(set(records).difference(whole))))
    if whole:
        rows += await conn.fetch(READ_NEWEST, whole, most)
    for row in rows:
        record, *version = row.values()
        found.setdefault(record, []).append(Version(*version))
    return found


FORGET_VERSIONS = "DELETE FROM record_versions WHERE tracking_id = ANY($1::uuid[])"
VERSION_COLUMNS = (
    "record", "event_id", "version", "tenant", "normalised", "raw", "tracking_id", "mapped_by",
)  # fmt: skip
POINT_RECORDS = """
UPDATE records r SET tenant = new.tenant, version = new.version, event_id = new.event_id,
                     updated_at = now()
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])
    AS new (id, tenant, version, event_id)
WHERE r.id = new.id
"""


async def save(
    conn: Conn,
    replayed: Sequence[UUID],
    new: Sequence[NewVersion],
    counting: Sequence[tuple[int, str | None, int | None, str | None]],
) -> None:
    """
    Write what was reported. What earlier runs of the `replayed` events reported goes first;
    `counting` has, of the records for which that is another version now, (record, tenant, version,
    event id).
    """
    if replayed:
        await conn.execute(FORGET_VERSIONS, replayed)
    if new:
        await conn.copy_records_to_table("record_versions", records=new, columns=VERSION_COLUMNS)
    if counting:
        await conn.execute(POINT_RECORDS, *columns_of(counting, 4))
