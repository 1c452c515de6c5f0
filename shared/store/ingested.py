"""Imports as whoever pushed them sees them: how far one is, and which rows it did not take."""

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn
from shared.domain import events
from shared.store.paging import Page, page_of


class Ingested(NamedTuple):
    """
    An import: its event, and its job as far as there is one. `tenant` is whose alone it is, None
    where it is nobody's to see; `merged_into` who that is now. `settled` is what became of its
    event.
    """

    source: str
    tenant: str | None
    merged_into: str | None
    settled: str | None
    settled_code: str | None
    settled_error: str | None
    state: str | None
    run: int | None
    done: int | None
    failed: int | None
    total: int | None
    counts: dict[str, int]
    code: str | None
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


# The job is known for longer than the evidence is kept.
READ_INGESTED = """
SELECT s.name, t.tenant, n.merged_into, z.status, z.code, z.error,
       j.state, j.run, j.done, j.failed, j.total, j.counts, j.code, j.error,
       j.started_at, j.finished_at
FROM (SELECT $1::uuid AS id) asked
LEFT JOIN LATERAL (
    SELECT source_id FROM inbox
    WHERE received_at = $2 AND tracking_id = $1 AND event_type = $3 OFFSET 0
) i ON true
LEFT JOIN jobs j ON j.id = $1 AND j.kind = 'import'
JOIN sources s ON s.id = coalesce(j.source_id, i.source_id)
CROSS JOIN LATERAL (
    SELECT CASE WHEN j.id IS NOT NULL THEN j.tenant
                WHEN s.settings #> '{ingest,record,tenant}' IS NULL THEN s.tenant END AS tenant
) t
LEFT JOIN tenants n ON n.tenant = t.tenant
LEFT JOIN LATERAL (
    SELECT status, code, error FROM settlements WHERE tracking_id = $1 ORDER BY run DESC LIMIT 1
) z ON true
"""


async def read_ingested(conn: Conn, tracking_id: UUID) -> Ingested | None:
    """The import of that tracking id; None where it is none's."""
    row = await conn.fetchrow(
        READ_INGESTED, tracking_id, events.received_at_of(tracking_id), events.IMPORT
    )
    if row is None:
        return None
    values = list(row.values())
    values[11] = json.loads(values[11] or "{}")
    return Ingested(*values)


READ_FAILURES = """
SELECT line, number, code, pointer, message FROM job_failures
WHERE job = $1 AND run = $2 AND (line, number) > ($3, $4)
ORDER BY line, number LIMIT $5
"""


async def read_failures(
    conn: Conn, tracking_id: UUID, run: int, after: tuple[int, int], limit: int
) -> Page:
    """Rows that were not taken: {"line", "code", "pointer", "message"}, in their order."""
    rows = await conn.fetch(READ_FAILURES, tracking_id, run, *after, limit + 1)

    def shown(row: Any) -> dict[str, Any]:
        return {name: row[name] for name in ("line", "code", "pointer", "message")}

    return page_of(rows, limit, shown, lambda row: (row["line"], row["number"]))
