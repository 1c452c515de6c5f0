"""
Records that are read again: which they are, their newest versions, and what those came from.

A record's lock covers its versions. The event that reported a version is not asked: which records
it reported does not change here.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain.events import received_at_of
from shared.domain.keys import RecordKey

LAST_RECORD = "SELECT coalesce(max(id), 0) FROM records"


async def last_record(conn: Conn) -> int:
    """The number of the youngest record."""
    return int(await conn.fetchval(LAST_RECORD))


# A window of the numbers, so that looking for the few among millions stays short.
SCAN_RECORDS = """
SELECT r.id, ($4::smallint IS NULL OR r.source_id = $4)
         AND (NOT $5::boolean OR r.tenant IS NULL)
         AND ($6::bigint IS NULL OR EXISTS (
             SELECT FROM record_versions v
             WHERE v.record = r.id AND v.event_id = r.event_id AND v.mapped_by < $6))
         AND r.event_id IS NOT NULL AS is_wanted
FROM records r WHERE r.id > $1 AND r.id <= $2
ORDER BY r.id LIMIT $3
"""


async def scan_records(
    conn: Conn,
    after: int,
    until: int,
    window: int,
    source_id: int | None,
    *,
    only_waiting: bool,
    mapped_before: int | None,
) -> list[tuple[int, bool]]:
    """The next records, at most `window`, each with whether it is one of those asked for."""
    rows = await conn.fetch(
        SCAN_RECORDS, after, until, window, source_id, only_waiting, mapped_before
    )
    return [(row["id"], row["is_wanted"]) for row in rows]


FIND_RECORD = """
SELECT id, tenant FROM records
WHERE record_id = $4 AND source_id = $1 AND account = $2 AND livemode = $3
  AND event_id IS NOT NULL
"""


async def find_record(conn: Conn, key: RecordKey) -> tuple[int, str | None] | None:
    """Its number, and whose it is as it was said; None where there is none. Unlocked."""
    row = await conn.fetchrow(FIND_RECORD, *key)
    return None if row is None else (row["id"], row["tenant"])


LOCK_RECORDS_BY_ID = """
SELECT id, source_id, account, livemode, record_id
FROM records WHERE id = ANY($1::bigint[])
ORDER BY source_id, account, livemode, record_id
FOR UPDATE
"""


async def lock_records(conn: Conn, records: Sequence[int]) -> dict[int, RecordKey]:
    """Lock them in the order of their keys, which is everybody's."""
    rows = await conn.fetch(LOCK_RECORDS_BY_ID, list(records))
    return {row["id"]: RecordKey(*list(row.values())[1:]) for row in rows}


class Held(NamedTuple):
    """
    A version as it is held. `raw` is JSON, None: all of the event's body; `line` is where it stood
    in an import, 0 where an event reported it.
    """

    record: int
    event_id: str
    version: int
    tenant: str | None
    normalised: str
    raw: str | None
    tracking_id: UUID
    mapped_by: int
    run: int
    line: int


READ_NEWEST_TWO = """
SELECT asked.record, v.event_id, v.version, v.tenant, v.normalised, v.raw, v.tracking_id,
       v.mapped_by, v.run, v.line
FROM unnest($1::bigint[]) AS asked (record)
CROSS JOIN LATERAL (
    SELECT event_id, version, tenant, normalised, raw, tracking_id, mapped_by, run, line
    FROM record_versions WHERE record = asked.record
    ORDER BY version DESC, event_id DESC LIMIT 2
) v
ORDER BY asked.record, v.version DESC, v.event_id DESC
"""


async def read_newest_two(conn: Conn, records: Sequence[int]) -> dict[int, list[Held]]:
    """By record, the version that counts, and the one that would without it."""
    found: dict[int, list[Held]] = {}
    for row in await conn.fetch(READ_NEWEST_TWO, list(records)):
        held = Held(*row.values())
        found.setdefault(held.record, []).append(held)
    return found


READ_REPORT = """
SELECT event_id, event_type, subject, occurred_at, account, livemode, received_at, headers, body
FROM inbox WHERE received_at = $2 AND tracking_id = $1
"""


class Report(NamedTuple):
    """The event that reported a version, as it was received."""

    event_id: str
    event_type: str
    subject: str
    occurred_at: datetime | None
    account: str
    livemode: bool
    received_at: datetime
    headers: bytes
    body: bytes


async def read_report(conn: Conn, tracking_id: UUID) -> Report | None:
    """None where it went by retention."""
    row = await conn.fetchrow(READ_REPORT, tracking_id, received_at_of(tracking_id))
    return None if row is None else Report(*row.values())


FORGET_READ = """
DELETE FROM record_versions v
USING unnest($1::bigint[], $2::text[]) AS gone (record, event_id)
WHERE v.record = gone.record AND v.event_id = gone.event_id
"""
READ_COLUMNS = (
    "record", "event_id", "version", "tenant", "normalised", "raw", "tracking_id", "mapped_by",
    "run", "line",
)  # fmt: skip


async def replace_versions(conn: Conn, read: Sequence[Held]) -> None:
    """Put what was read in the place of what the same events had reported of the same records."""
    await conn.execute(FORGET_READ, [one.record for one in read], [one.event_id for one in read])
    await conn.copy_records_to_table("record_versions", records=read, columns=READ_COLUMNS)


POINT_AGAIN = """
UPDATE records r SET tenant = new.tenant, version = new.version, event_id = new.event_id,
                     updated_at = now()
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])
    AS new (id, tenant, version, event_id)
WHERE r.id = new.id
"""


async def point_records(conn: Conn, counting: Sequence[Held]) -> None:
    """Say of these versions that they are the ones that count."""
    await conn.execute(
        POINT_AGAIN,
        [one.record for one in counting],
        [one.tenant for one in counting],
        [one.version for one in counting],
        [one.event_id for one in counting],
    )
