"""Push bodies to a source, and have its imports done."""

import asyncio
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

from shared.artifacts import Artifacts
from shared.domain.events import IMPORT, Identity, new_tracking_id
from shared.store import intake
from shared.store.intake import Delivery
from tests.support.acme import EVENT, PLANS, REPORTS, SIGNATURE
from tests.support.stack import Stack
from workers.jobs import importing
from workers.jobs.kinds import Tools
from workers.jobs.run import Turns

BEGAN_S = 1_780_000_000
NDJSON = "application/x-ndjson"
INGEST: dict[str, Any] = {
    "record": {
        "id": "id",
        "version": "updated",
        "tenant": "tenant",
        "fields": {"title": "title"},
    }
}


def row(number: int | str, updated: int = 1, **more: Any) -> dict[str, Any]:
    """A row as the source sends it. `updated` is in seconds after `BEGAN_S`."""
    told = {"id": f"rep_{number}", "updated": BEGAN_S + updated, "tenant": "acme"}
    return {**told, "title": f"title {number}.{updated}", **more}


def ndjson(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


async def add_pushed(
    stack: Stack, ingest: Any = None, name: str = "acme", *, tenant: str | None = None
) -> None:
    """Add a source that takes pushes, and webhooks' reports."""
    await stack.add_source(
        name, "hmac", signature=SIGNATURE, event=EVENT, mapping=[REPORTS], ingest=ingest or INGEST
    )
    await stack.fetch("UPDATE sources SET tenant = $2 WHERE name = $1", name, tenant)
    await stack.configure(plans=PLANS)


@dataclass
class Importer:
    """A process that does imports, as far as a test wants it to."""

    stack: Stack
    home: Path
    artifacts: Artifacts = field(init=False)

    def __post_init__(self) -> None:
        self.artifacts = Artifacts(None, self.home)

    async def push(
        self,
        body: bytes,
        content_type: str = NDJSON,
        *,
        source: str = "acme",
        key: str | None = None,
        encoding: str | None = None,
        apart: bool = False,
    ) -> UUID:
        """Store a body as the gateway does; `apart`: as an artifact. Returns the tracking id."""
        name = key or secrets.token_hex(8)
        headers = [("content-type", content_type)]
        if encoding is not None:
            headers.append(("content-encoding", encoding))
        if apart:
            await self.artifacts.put(BytesIO(body), sha256(body).digest(), len(body))
        lanes = await self.stack.lanes(source)
        delivery = Delivery(
            tracking_id=new_tracking_id(datetime.now(UTC), secrets.token_bytes(10)),
            source_id=self.stack.sources[source],
            lane=lanes[0],
            identity=Identity(name, IMPORT, f"import/{name}"),
            unreadable=None,
            secret="0.1",
            headers=json.dumps(headers).encode(),
            body=b"" if apart else body,
            body_sha=sha256(body).digest(),
            trace_context="",
            artifact_bytes=len(body) if apart else None,
        )
        async with self.stack.gateway.connection() as conn:
            (receipt,) = await intake.record(conn, [delivery])
        return receipt.tracking_id

    async def imported(
        self, body: bytes, content_type: str = NDJSON, **more: Any
    ) -> dict[str, Any]:
        """Push, and have it imported; the job."""
        tracking_id = await self.push(body, content_type, **more)
        await self.stack.drain()
        await self.work()
        return await self.job(tracking_id)

    async def work(self) -> None:
        """Take steps of all jobs, in turns of one each, until none is left."""
        turns = Turns(Tools(self.stack.crew, self.artifacts), asyncio.Event(), turn_s=0)
        unfinished = "SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')"
        while await self.stack.value(unfinished):
            if not await turns.turn_of_each():
                await asyncio.sleep(0.01)

    async def job(self, tracking_id: UUID) -> dict[str, Any]:
        (found,) = await self.stack.fetch("SELECT * FROM jobs WHERE id = $1", tracking_id)
        job = dict(found)
        for name in ("counts", "cursor", "result"):
            job[name] = json.loads(job[name]) if job[name] is not None else None
        return job

    async def failures(self, tracking_id: UUID) -> list[tuple[Any, ...]]:
        rows = await self.stack.fetch(
            "SELECT line, code, pointer, message FROM job_failures WHERE job = $1"
            " AND run = (SELECT run FROM jobs WHERE id = $1) ORDER BY line, number",
            tracking_id,
        )
        return [tuple(one.values()) for one in rows]


@contextmanager
def chunks_of(rows: int) -> Iterator[None]:
    """Have steps of so many rows."""
    before = importing.CHUNK_ROWS
    importing.CHUNK_ROWS = rows
    try:
        yield
    finally:
        importing.CHUNK_ROWS = before
