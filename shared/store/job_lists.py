"""Jobs as people and applications see them: which there are, how far, and what they have made."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from shared.db import Conn, Row
from shared.domain import events, jobs
from shared.domain.events import received_at_of
from shared.store.paging import iso

STATES = ("waiting", "running", "paused", "done", "failed", "cancelled")

#: What a job that nobody has begun yet looks like to a reader.
_ASKED_FOR = f"{events.ORDERED}start-job"


class Wanted(NamedTuple):
    """Which jobs; None: all."""

    kind: str | None = None
    state: str | None = None
    source: str | None = None
    tenant: str | None = None


# A paused source's jobs wait, and say so.
_STATE = """CASE WHEN j.state IN ('waiting', 'running') AND j.cancelled_by IS NULL
          AND num_nonnulls(s.paused_at, j.paused_by) > 0 THEN 'paused' ELSE j.state END"""
_JOB = (
    """
SELECT j.id, j.kind, j.run, s.name AS source, j.tenant, j.actor, j.arguments, j.done, j.failed,
       j.total, j.counts, j.result, j.code, j.error, j.attempts, j.deaths, j.cancelled_by,
       j.paused_by, j.created_at, j.started_at, j.updated_at, j.finished_at, j.due_at, """
    + _STATE
    + """ AS state
FROM jobs j
LEFT JOIN sources s ON s.id = j.source_id
"""
)
# The state is asked for twice: an index finds it as it is stored, and shown is its source's pause.
LIST_JOBS = (
    _JOB  # noqa: S608 - constants
    + """
WHERE ($1::uuid IS NULL OR j.id < $1) AND ($2::text IS NULL OR j.kind = $2)
  AND ($3::text IS NULL OR j.state = ANY (
           CASE WHEN $3 = 'paused' THEN '{waiting,running,paused}'::text[] ELSE ARRAY[$3] END))
  AND ($3::text IS NULL OR """
    + _STATE
    + """ = $3)
  AND ($4::text IS NULL OR j.source_id = (SELECT id FROM sources WHERE name = $4))
  AND ($5::text IS NULL OR j.tenant = $5)
ORDER BY j.id DESC LIMIT $6
"""
)


async def list_jobs(conn: Conn, before: UUID | None, wanted: Wanted, limit: int) -> list[Row]:
    """Newest first; see `shown`."""
    return await conn.fetch(LIST_JOBS, before, *wanted, limit)


READ_JOB = _JOB + "WHERE j.id = $1"


async def read_job(conn: Conn, job: UUID) -> Row | None:
    """One; see `shown`."""
    return await conn.fetchrow(READ_JOB, job)


# The inbox's own columns find its partition; a run that is finished tells why there is no job. As
# the job will have it, an import is nobody's where its rows may be of several tenants.
READ_ASKED = """
SELECT i.event_type, i.body, i.received_at, s.name AS source,
       CASE WHEN s.settings #> '{ingest,record,tenant}' IS NULL THEN s.tenant END AS tenant,
       d.code, d.error, d.settled_at
FROM inbox i
JOIN sources s ON s.id = i.source_id
LEFT JOIN LATERAL (
    SELECT code, error, settled_at FROM settlements
    WHERE tracking_id = i.tracking_id AND status = 'dead' ORDER BY run DESC LIMIT 1
) d ON true
WHERE i.received_at = $2 AND i.tracking_id = $1
  AND (i.event_type = $3 AND s.name = $4 OR i.event_type = $5)
"""


async def read_asked(conn: Conn, job: UUID) -> dict[str, Any] | None:
    """
    A job that was ordered, or an import that was received, and that no worker has begun: as
    `shown`, in state "waiting", or "failed" where its event is dead. None where there is none.
    """
    row = await conn.fetchrow(
        READ_ASKED, job, received_at_of(job), _ASKED_FOR, events.OPERATOR_SOURCE, events.IMPORT
    )
    if row is None:
        return None
    is_dead = row["code"] is not None
    shown = {
        "id": str(job),
        "state": "failed" if is_dead else "waiting",
        "progress": _progress(0, 0, None, {}),
        "result": None,
        "error": _error(row["code"], row["error"]),
        "cancelledBy": None,
        "pausedBy": None,
        "attempts": 0,
        "deaths": 0,
        "createdAt": iso(row["received_at"]),
        "startedAt": None,
        "updatedAt": iso(row["received_at"]),
        "finishedAt": iso(row["settled_at"]),
    }
    if row["event_type"] == events.IMPORT:
        named = {"kind": "import", "source": row["source"], "tenant": row["tenant"]}
        return {**shown, **named, "actor": f"source:{row['source']}", "arguments": {}}
    ordered = json.loads(row["body"])
    order = ordered["order"]
    return {
        **shown,
        "kind": order["kind"],
        "source": order.get("source"),
        "tenant": ordered.get("tenant") or order.get("tenant"),
        "actor": ordered["actor"],
        "arguments": order["arguments"],
    }


class Asset(NamedTuple):
    """What a job was given or has made; `parts` is how it lies in the artifact store."""

    name: str
    media_type: str
    size_bytes: int
    sha256: bytes
    created_at: datetime
    parts: list[bytes] | None


READ_ASSETS = """
SELECT name, media_type, size_bytes, sha256, created_at, parts
FROM job_assets WHERE job = $1 ORDER BY name
"""


async def read_assets(conn: Conn, job: UUID) -> list[Asset]:
    """All of a job, by name."""
    return [Asset(*row.values()) for row in await conn.fetch(READ_ASSETS, job)]


READ_RECEIVED_ASSET = """
SELECT headers, received_at, artifact, coalesce(artifact_bytes, octet_length(body)) AS size_bytes,
       coalesce(artifact, sha256(body)) AS sha256
FROM inbox WHERE received_at = $2 AND tracking_id = $1 AND event_type = $3
"""


async def read_received_asset(conn: Conn, job: UUID) -> Asset | None:
    """What was pushed, of an import; None where it went by retention. See `read_body`."""
    row = await conn.fetchrow(READ_RECEIVED_ASSET, job, received_at_of(job), events.IMPORT)
    if row is None:
        return None
    headers = {name.lower(): value for name, value in reversed(json.loads(row["headers"]))}
    media_type = headers.get("content-type", "application/octet-stream")
    size_bytes, digest, received_at = row["size_bytes"], row["sha256"], row["received_at"]
    return Asset(jobs.RECEIVED, media_type, size_bytes, digest, received_at, None)


READ_BODY = """
SELECT body FROM inbox
WHERE received_at = $2 AND tracking_id = $1 AND artifact IS NULL AND event_type = $3
"""


async def read_body(conn: Conn, job: UUID) -> bytes | None:
    """What was pushed, where the inbox has it; None where the artifact store may."""
    row = await conn.fetchrow(READ_BODY, job, received_at_of(job), events.IMPORT)
    return None if row is None else bytes(row["body"])


HAS_SOURCE = "SELECT EXISTS (SELECT FROM sources WHERE name = $1)"


async def has_source(conn: Conn, source: str) -> bool:
    """Whether there is, or was, a source of that name."""
    return bool(await conn.fetchval(HAS_SOURCE, source))


def shown(row: Row) -> dict[str, Any]:
    """
    {"id", "kind", "state", "source", "tenant", "actor", "arguments", "progress": {"done",
    "failed", "total", "counts"}, "result", "error": {"code", "message"}, "cancelledBy", "pausedBy",
    "attempts", "deaths", "createdAt", "startedAt", "updatedAt", "finishedAt"}.

    The error of one that is not over is that of its last attempt.
    """
    return {
        "id": str(row["id"]),
        "kind": row["kind"],
        "state": row["state"],
        "source": row["source"],
        "tenant": row["tenant"],
        "actor": row["actor"],
        "arguments": json.loads(row["arguments"]),
        "progress": _progress(row["done"], row["failed"], row["total"], json.loads(row["counts"])),
        "result": None if row["result"] is None else json.loads(row["result"]),
        "error": _error(row["code"], row["error"]),
        "cancelledBy": row["cancelled_by"],
        "pausedBy": row["paused_by"],
        "attempts": row["attempts"],
        "deaths": row["deaths"],
        "createdAt": iso(row["created_at"]),
        "startedAt": iso(row["started_at"]),
        "updatedAt": iso(row["updated_at"]),
        "finishedAt": iso(row["finished_at"]),
    }


def shown_asset(asset: Asset) -> dict[str, Any]:
    """{"name", "mediaType", "sizeBytes", "sha256", "createdAt"}; the digest in hex."""
    return {
        "name": asset.name,
        "mediaType": asset.media_type,
        "sizeBytes": asset.size_bytes,
        "sha256": asset.sha256.hex(),
        "createdAt": iso(asset.created_at),
    }


def _progress(
    done: int, failed: int, total: int | None, counts: Mapping[str, int]
) -> dict[str, Any]:
    return {"done": done, "failed": failed, "total": total, "counts": counts}


def _error(code: str | None, message: str | None) -> dict[str, Any] | None:
    if message is None and code is None:
        return None
    return {"code": code or "retrying", "message": message or ""}
