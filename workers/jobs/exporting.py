"""
The kind "export": what there is, as NDJSON or CSV, into the artifact store.

Part by part: a step writes one, and names it in the job's cursor. So memory is bounded, nothing is
done twice, and whoever takes the next step needs no file of the one before. In the end the asset is
its parts in their order; each of them is a gzip member, where that is asked for, and members in a
row are one file. Parts of an export that was cancelled, or failed, stay in the store.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from time import monotonic
from typing import Any

import msgspec

from shared.artifacts import ArtifactDamaged
from shared.db import Conn
from shared.domain.entitlements import aggregate
from shared.domain.jobs import Export, UnfitError, read_arguments
from shared.store import exports, grants, jobs, rereading
from shared.store.exports import Filter, Looked
from shared.store.jobs import Job, Progress
from shared.store.paging import iso
from workers.jobs.kinds import JobFailed, Tools

PART_BYTES = 8 << 20
#: Time for others; the last part may be small.
PART_S = 1.0
PAGE_ROWS = 200

_MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
_COLUMNS: Mapping[str, Sequence[str]] = {
    "records": (
        "record", "source", "account", "livemode", "tenant", "version", "normalised", "event",
        "trackingId", "receivedAt", "mappedBy", "updatedAt",
    ),
    "events": (
        "at", "tenant", "action", "feature", "source", "subject", "actor", "cause", "causeId",
        "run", "step", "catalogVersion", "before", "after", "reason", "erased",
    ),
    "entitlements": ("tenant", "feature", "value", "validUntil"),
}  # fmt: skip
#: Of an export of all tenants.
_COLUMNS_OF_ALL = {"events": ("id", "chain", "position")}

#: Where to go on, and up to where: numbers of rows, or a tenant's name.
Place = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class Exporting:
    """`cursor`: {"place", "parts": [[digest in hex, bytes], …], "isRead"}; see `Work`."""

    def __init__(
        self, tools: Tools, job: Job, asked: Export, part_bytes: int, page_rows: int
    ) -> None:
        self._tools = tools
        self._asked = asked
        self._source = (
            None if job.source_id is None else tools.crew.surroundings.name_of(job.source_id)
        )
        self._part_bytes = part_bytes
        self._page_rows = page_rows
        self._next: Progress | None = None
        self._digest = b""

    async def prepare(self, job: Job) -> None:
        """See `Work`: write the next part, or look over all of them."""
        if job.cursor.get("isRead"):
            self._next = await self._look_over(job)
        else:
            self._next = await self._write_part(job)

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        assert self._next is not None
        if self._next.is_finished:
            digests = [bytes.fromhex(one) for one, _ in job.cursor["parts"]]
            await jobs.add_asset(
                conn, job.id, self._name, self._media_type, _size_of(job), self._digest,
                digests if len(digests) > 1 else None,
            )  # fmt: skip
        return self._next

    async def close(self) -> None:
        """See `Work`: nothing is open."""

    @property
    def _name(self) -> str:
        name = f"{self._asked.what}.{self._asked.format}"
        return name if self._asked.compression == "none" else f"{name}.gz"

    @property
    def _media_type(self) -> str:
        return (
            _MEDIA_TYPES[self._asked.format]
            if self._asked.compression == "none"
            else "application/gzip"
        )

    async def _write_part(self, job: Job) -> Progress:
        """Read pages until a part is full, and keep it."""
        parts = list(job.cursor.get("parts", ()))
        written = _Written(self._asked, is_of_all=job.tenant is None, is_first=not parts)
        until_s = monotonic() + PART_S
        async with self._tools.crew.db.connection() as conn:
            wanted = await self._filter(conn, job)
            place = job.cursor.get("place") or await self._begin(conn)
            is_read = False
            # At least one page; after deaths no more, so that a smaller piece is tried.
            while not is_read:
                page, place = await self._page(conn, place, wanted)
                is_read = place is None
                written.add(page.rows)
                is_enough = written.size_bytes >= self._part_bytes or monotonic() >= until_s
                if is_enough or job.deaths:
                    break
        content = written.content()
        digest = sha256(content).digest()
        if content or is_read:
            await self._tools.artifacts.put(io.BytesIO(content), digest, len(content))
            parts.append([digest.hex(), len(content)])
        counts = {"exported": job.done + written.rows}
        cursor = {"place": place, "parts": parts, "isRead": is_read}
        return Progress(cursor, job.done + written.rows, 0, counts)

    async def _look_over(self, job: Job) -> Progress:
        """Every part is there and whole; the digest of all together."""
        hashed, size_bytes = sha256(), 0
        for one, _ in job.cursor["parts"]:
            async for chunk in self._tools.artifacts.read(bytes.fromhex(one)):
                hashed.update(chunk)
                size_bytes += len(chunk)
        if size_bytes != _size_of(job):
            raise ArtifactDamaged("the parts are not what was written")
        self._digest = hashed.digest()
        result = {
            "asset": self._name,
            "rows": job.done,
            "sizeBytes": size_bytes,
            "sha256": self._digest.hex(),
            "asOf": "begin" if self._asked.what == "events" else "each row's reading",
        }
        return Progress(
            job.cursor, job.done, 0, job.counts, total=job.done, is_finished=True, result=result
        )

    async def _filter(self, conn: Conn, job: Job) -> Filter:
        names = None if job.tenant is None else await exports.names_of_tenant(conn, job.tenant)
        return Filter(names, self._source, self._asked.since, self._asked.until)

    async def _begin(self, conn: Conn) -> Place:
        if self._asked.what == "records":
            return {"after": 0, "until": await rereading.last_record(conn)}
        if self._asked.what == "events":
            last, xid = await exports.horizon(conn)
            return {"after": 0, "until": last, "xid": xid}
        return {"after": ""}

    async def _page(self, conn: Conn, place: Place, wanted: Filter) -> tuple[Looked, Place | None]:
        """The next rows, and where to go on; None: that was all."""
        if self._asked.what == "entitlements":
            return await _entitlements(conn, place, wanted, self._page_rows)
        if self._asked.what == "records":
            page = await exports.read_records(
                conn, place["after"], place["until"], self._page_rows, wanted
            )
        else:
            page = await exports.read_events(
                conn, place["after"], place["until"], place["xid"], self._page_rows, wanted
            )
        return page, None if page.last is None else {**place, "after": page.last}


async def begin(
    tools: Tools, job: Job, *, part_bytes: int = PART_BYTES, page_rows: int = PAGE_ROWS
) -> Exporting:
    """See `Begin`. A part is full at so many bytes, before it is packed."""
    source = None if job.source_id is None else tools.crew.surroundings.name_of(job.source_id)
    try:
        asked = read_arguments(job.kind, job.arguments, job.tenant, source)
    except UnfitError as error:
        raise JobFailed(error.code, f"{error.pointer}: {error}") from None
    assert isinstance(asked, Export)
    return Exporting(tools, job, asked, part_bytes, page_rows)


async def _entitlements(
    conn: Conn, place: Place, wanted: Filter, limit: int
) -> tuple[Looked, Place | None]:
    """Of the next tenants, or of the one; by the database's clock as the page is read."""
    names: Sequence[str]
    if wanted.names is None:
        names, now = await exports.next_tenants(conn, place["after"], limit)
    else:
        names = wanted.names[:1]
        now = await exports.read_clock(conn)
    if not names or now is None:
        return Looked([], None), None
    by_tenant: dict[str, list[Any]] = {name: [] for name in names}
    for one in await grants.read_grants(conn, names):
        by_tenant[one.grant.tenant].append(one.grant)
    rows = [
        {
            "tenant": tenant,
            "feature": feature,
            "value": entitlement.value,
            "validUntil": iso(entitlement.valid_until),
        }
        for tenant, held in by_tenant.items()
        for feature, entitlement in aggregate(held, now).items()
    ]
    is_all = wanted.names is not None
    return Looked(rows, None), None if is_all else {"after": names[-1]}


def _size_of(job: Job) -> int:
    return sum(size for _, size in job.cursor["parts"])


class _Written:
    """A part on its way, as it is to be kept."""

    def __init__(self, asked: Export, *, is_of_all: bool, is_first: bool) -> None:
        self._is_packed = asked.compression == "gzip"
        self._lines = io.BytesIO()
        self.rows = 0
        self._add = self._add_ndjson if asked.format == "ndjson" else self._add_csv
        more = _COLUMNS_OF_ALL.get(asked.what, ()) if is_of_all else ()
        self._columns = (*_COLUMNS[asked.what], *more)
        if asked.format == "csv" and is_first:
            self._lines.write(_as_csv([self._columns]))

    @property
    def size_bytes(self) -> int:
        """Before it is packed."""
        return self._lines.tell()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write these behind the others."""
        self._add(rows)
        self.rows += len(rows)

    def content(self) -> bytes:
        """All of it."""
        content = self._lines.getvalue()
        # No time in it: a part that is written again after a death is the same one.
        return gzip.compress(content, 6, mtime=0) if self._is_packed and content else content

    def _add_ndjson(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._lines.write(_encode(row) + b"\n")

    def _add_csv(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._lines.write(
            _as_csv([[_cell(row[column]) for column in self._columns] for row in rows])
        )


def _as_csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


_CELLS: Mapping[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    str: str,
    type(None): lambda _: "",
}


def _cell(value: Any) -> str:
    """A text as it is, nothing for null, JSON for the rest."""
    write = _CELLS.get(type(value))
    return json.dumps(value, ensure_ascii=False) if write is None else write(value)
