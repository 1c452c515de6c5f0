"""
The kind "import": what was pushed to a source, row by row, into records.

A step is a chunk of rows in one transaction: versions, counts, failures, manifests and how far it
is. So a killed process has imported nothing of its chunk, and the next one begins with it. After a
death the chunk is smaller, until a row that kills stands alone, and is left out.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.artifacts import ArtifactError
from shared.db import Conn, is_data_error, storable
from shared.domain.events import received_at_of
from shared.domain.keys import RecordKey
from shared.providers.base import header
from shared.providers.sender.ingestion import Ingestion
from shared.store import grants, imports, jobs
from shared.store.imports import ImportEvent, Origin, Reported
from shared.store.jobs import Failure, Job, Progress
from shared.store.source_rows import SourceRow
from workers.jobs import manifests
from workers.jobs.examining import examine
from workers.jobs.kinds import JobFailed, Tools, Work
from workers.jobs.reading import Reading, reader_for
from workers.jobs.rows import Damaged, Problem, Row
from workers.jobs.writing import Written, take_back, write

#: Rows of a step. More of them cost as much each, and hold their records for longer.
CHUNK_ROWS = 1000
#: However few it has, a chunk ends after this long.
_CHUNK_S = 0.2
_YIELD_EVERY_S = 0.05
#: By how much a chunk gets smaller with each death of a process at it.
_SMALLER = 8
#: So many deaths at a single row, and it is left out.
_DEATHS_OF_ROW = 3
#: Of one import; all of them are counted.
MOST_FAILURES = 10_000
_MOST_TENANTS = 10_000


@dataclass(slots=True)
class _Chunk:
    """What was read for a step."""

    rows: list[tuple[str, Reported]] = field(default_factory=list)
    problems: list[tuple[int, Sequence[Problem]]] = field(default_factory=list)
    size: int = CHUNK_ROWS
    is_last: bool = False
    place: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """All rows that were gone through."""
        return len(self.rows) + len(self.problems)


async def begin(tools: Tools, job: Job) -> Work:
    """
    An import from where it is.

    Raises:
        JobFailed: its event is gone, or nobody here can read it.
    """
    surroundings = tools.crew.surroundings
    async with tools.crew.db.connection() as conn:
        await surroundings.refresh(conn)
        event = await imports.read_event(conn, job.id, received_at_of(job.id))
    if event is None:
        raise JobFailed("body_gone", "what was pushed is not kept any more")
    assert job.source_id is not None  # its handler says whose it is
    ingestion = getattr(surroundings.provider(job.source_id), "ingestion", None)
    if ingestion is None:
        raise JobFailed("not_configured", "the source takes no pushes any more: it has no `ingest`")
    try:
        reading = _reading(tools, event, ingestion, job.cursor.get("place", {}))
    except Damaged as error:
        raise JobFailed(error.code, str(error)) from None
    source = surroundings.source(job.source_id)
    origin = Origin(event.event_id, job.id, surroundings.version, job.run)
    return _Import(tools, source, ingestion, event, origin, reading)


def _reading(
    tools: Tools, event: ImportEvent, ingestion: Ingestion, place: Mapping[str, Any]
) -> Reading:
    headers = tuple((name, value) for name, value in json.loads(event.headers))
    encoding = header(headers, "content-encoding")
    find = ingestion.rows_of if ingestion.has_whole_documents else None
    reader = reader_for(header(headers, "content-type") or "", find, place)
    chunks = _one(event.body) if event.artifact is None else tools.artifacts.read(event.artifact)
    return Reading(chunks, encoding, ingestion.largest_bytes, reader, place)


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


class _Import:
    """See `workers.jobs.kinds.Work`."""

    def __init__(
        self,
        tools: Tools,
        source: SourceRow,
        ingestion: Ingestion,
        event: ImportEvent,
        origin: Origin,
        reading: Reading,
    ) -> None:
        self._tools = tools
        self._source = source
        self._ingestion = ingestion
        self._event = event
        self._origin = origin
        self._reading = reading
        self._of = RecordKey(source.id, event.account, event.livemode, "")
        self._chunk = _Chunk()
        self._tenants: set[str] = set()

    async def prepare(self, job: Job) -> None:
        """See `Work.prepare`."""
        self._chunk = _Chunk()
        if job.cursor.get("isRead"):
            return
        size, is_to_blame = _size_of(job)
        self._chunk = await self._read(size, is_to_blame=is_to_blame)
        # Beforehand and by themselves, or an event of a new tenant would wait for the whole chunk.
        new = {one.tenant for _, one in self._chunk.rows if one.tenant is not None} - self._tenants
        if new:
            async with self._tools.crew.db.connection() as conn:
                await grants.add_tenants(conn, new)
            if len(self._tenants) > _MOST_TENANTS:
                self._tenants.clear()
            self._tenants |= new

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work.step`."""
        if job.cursor.get("isRead"):
            return await self._take_back(conn, job)
        chunk = self._chunk
        done = job.done + chunk.count
        written = await self._write(conn, chunk, chunk.rows)
        steps = await self._tell(conn, job, written, "records.imported")
        kept = await self._keep_failures(conn, job, chunk)
        cursor: dict[str, Any] = {"place": chunk.place, "step": steps, "kept": kept}
        cautious_until = _cautious_until(job)
        if done < cautious_until:
            cursor |= {"size": chunk.size, "cautiousUntil": cautious_until}
        counts = Counter(job.counts) + written.counts
        failed = job.failed + len(chunk.problems)
        if not chunk.is_last:
            return Progress(cursor, done, failed, counts)
        is_over = job.run == 1
        result = {"rows": done, "failed": failed, **counts} if is_over else None
        return Progress(
            {**cursor, "isRead": True}, done, failed, counts, done, is_finished=is_over,
            result=result,
        )  # fmt: skip

    async def close(self) -> None:
        """See `Work.close`."""
        await self._reading.close()

    async def _read(self, size: int, *, is_to_blame: bool) -> _Chunk:
        chunk = _Chunk(size=size)
        began_s = yielded_s = time.monotonic()
        while chunk.count < size and yielded_s - began_s < _CHUNK_S:
            try:
                row = await self._reading.take()
            except (Damaged, ArtifactError) as error:
                if chunk.count:
                    break  # what was right is kept; it is met again in the next step
                if isinstance(error, Damaged):
                    raise JobFailed(error.code, str(error)) from None
                raise
            if row is None:
                chunk.is_last = True
                break
            self._examine(chunk, row, is_to_blame=is_to_blame)
            now_s = time.monotonic()
            if now_s - yielded_s > _YIELD_EVERY_S:
                await asyncio.sleep(0)
                yielded_s = now_s
        chunk.place = dict(self._reading.place)
        return chunk

    def _examine(self, chunk: _Chunk, row: Row, *, is_to_blame: bool) -> None:
        if is_to_blame:
            text = "the processes that read it died or hung"
            chunk.problems.append((row.line, [Problem("process_died", "", text)]))
            return
        found = examine(row, self._ingestion, self._event.received_at)
        if isinstance(found, tuple):
            chunk.rows.append(found)
        else:
            chunk.problems.append((row.line, found))

    async def _write(
        self, conn: Conn, chunk: _Chunk, rows: Sequence[tuple[str, Reported]]
    ) -> Written:
        """Write the rows; what Postgres refuses all the same is found, and is a failed row."""
        if not rows:
            return Written()
        try:
            async with conn.transaction():
                return await write(conn, self._of, self._origin, rows)
        except Exception as error:
            if not is_data_error(error):
                raise
            refused = str(error)
        if len(rows) > 1:
            middle = len(rows) // 2
            first = await self._write(conn, chunk, rows[:middle])
            return first | await self._write(conn, chunk, rows[middle:])
        text = storable(refused, 500)
        chunk.problems.append((rows[0][1].line, [Problem("not_stored", "", text)]))
        return Written()

    async def _tell(self, conn: Conn, job: Job, written: Written, action: str) -> int:
        name = self._source.name
        told = written.manifests()
        return await manifests.append(conn, job, told, family="import", action=action, source=name)

    async def _keep_failures(self, conn: Conn, job: Job, chunk: _Chunk) -> int:
        """Keep why rows were not taken, as many as an import keeps; how many those are so far."""
        kept: int = job.cursor.get("kept", 0)
        failures = [
            Failure(line, number, *problem)
            for line, problems in sorted(chunk.problems)
            for number, problem in enumerate(problems, start=1)
        ][: MOST_FAILURES - kept]
        if failures:
            await jobs.add_failures(conn, job.id, job.run, failures)
        return kept + len(failures)

    async def _take_back(self, conn: Conn, job: Job) -> Progress:
        """What an earlier run of the event reported, and this one did not, goes."""
        numbers = await imports.of_earlier_runs(conn, job.id, job.run, CHUNK_ROWS)
        counts = Counter(job.counts)
        if not numbers:
            result = {"rows": job.done, "failed": job.failed, **counts}
            return Progress(
                job.cursor, job.done, job.failed, counts, job.done, is_finished=True, result=result
            )
        written = await take_back(conn, self._origin, numbers)
        steps = await self._tell(conn, job, written, "records.taken_back")
        counts["takenBack"] += len(numbers)
        cursor = {**job.cursor, "step": steps}
        return Progress(cursor, job.done, job.failed, counts, job.done)


def _size_of(job: Job) -> tuple[int, bool]:
    """How many rows the next chunk may have, and whether its only one is to be left out."""
    size, deaths = _size_before(job), job.deaths
    while deaths and size > 1:
        size = max(1, size // _SMALLER)
        deaths -= 1
    return size, size == 1 and deaths >= _DEATHS_OF_ROW


def _size_before(job: Job) -> int:
    """How many it would have if nobody had died at it."""
    size: int = job.cursor.get("size", CHUNK_ROWS)
    return size


def _cautious_until(job: Job) -> int:
    """Up to which row something may be that kills."""
    until: int = job.cursor.get("cautiousUntil", 0)
    return max(until, job.done + _size_before(job)) if job.deaths else until
