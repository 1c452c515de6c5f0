"""What the API says of records: what sources report of things of their own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from gateway.api.operations import SERVICES, Api, Call, Nothing, Operation, Paged, Shown, no_such
from gateway.envelope import Refusal
from shared.artifacts import ArtifactError, ArtifactGone
from shared.db import Conn, Row
from shared.domain.commands import ReprocessRecord
from shared.store import merges, recorded
from shared.store.paging import page_of, row_number
from shared.store.recorded import Raw, RecordName

#: So many of its versions are shown with a record; the rest are a list of their own.
_NEWEST = 10
_LARGEST_RAW_BYTES = 1 << 20

RawIn = Literal["version", "inbox", "artifact", "too_large", "gone"]


class Record(msgspec.Struct, rename="camel", kw_only=True):
    """
    A record without its content. `id` is its name here, `record` the one at its source; it `needs`
    something where it is nobody's yet.
    """

    id: str
    record: str
    source: str
    account: str
    livemode: bool
    tenant: str | None
    needs: str | None
    version: datetime
    updated_at: datetime


class RecordVersion(msgspec.Struct, rename="camel", kw_only=True):
    """
    What one event reported of a record; of an import the row in `line`. `mappedBy` is the version
    of the configuration that read it.
    """

    event: str
    tracking_id: UUID
    run: int
    line: int | None
    received_at: datetime
    version: datetime
    tenant: str | None
    mapped_by: int
    normalised: Any


class WholeRecord(Record, rename="camel", kw_only=True):
    """
    A record with the version that counts, what that was read from, and its newest versions.

    `raw` is text as it came, up to 1 MiB; `rawIn` says where it lies, or why it is not there.
    """

    normalised: Any
    raw: str | None
    raw_in: RawIn
    history: list[RecordVersion]
    has_more_history: bool


class Ordered(msgspec.Struct, rename="camel"):
    """An order is stored, and a worker will carry it out. `statusUrl` says what became of it."""

    tracking_id: UUID
    status_url: str


class Wanted(Paged, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """Which records: a tenant's, a source's, the one with that id at its source, nobody's yet."""

    tenant: str | None = None
    source: str | None = None
    record: str | None = None
    waiting: bool = False


async def list_records(call: Call[Wanted, Nothing]) -> Shown:
    """
    Records, the longest known first. A tenant's token sees its own, by all of its names.

    404 where it names another tenant.
    """
    query = call.query
    tenant = call.tenant if query.tenant is None else query.tenant
    if tenant is not None and not call.may_see(tenant):
        raise no_such("tenant")
    if query.waiting and query.tenant is not None:
        raise Refusal("malformed_request", "waiting: what waits for a tenant has none")
    _refuse_nul(tenant, query.source, query.record)
    after = call.after("records", query.cursor, row_number) or 0
    more = query.limit + 1
    async with call.reading() as conn:
        rows: Sequence[Row]
        if tenant is None:
            rows = await recorded.list_records(
                conn, after, query.source, query.waiting, more, query.record
            )
        elif query.waiting:
            rows = []  # what is nobody's is not this tenant's
        else:
            names = await _names_of(conn, tenant)
            rows = await recorded.list_records_of(
                conn, names, after, query.source, more, query.record
            )
    return call.page("records", page_of(rows, query.limit, _shown, _number), query.limit)


async def read_record(call: Call[Nothing, Nothing]) -> Shown:
    """
    A record: what it is now, what that was read from, and the newest of its versions.

    404 where there is none, and the same where it is another tenant's.
    """
    async with call.reading() as conn:
        names = await _names_for(call, conn)
        _, found = await _find(call, conn, names)
        versions = await recorded.read_versions(conn, found["id"], _NEWEST + 1, None, names)
        if not versions:
            raise no_such("record")  # a replay took it back meanwhile
        raw = await recorded.read_raw(conn, found["id"], versions[0]["tracking_id"], names)
        history = [recorded.shown_version(row) for row in versions[:_NEWEST]]
    text, where = await _text_of(call.api, raw)
    shown = _shown(found) | {
        "normalised": history[0]["normalised"],
        "raw": text,
        "rawIn": where,
        "history": history,
        "hasMoreHistory": len(versions) > _NEWEST,
    }
    return Shown(shown)


async def list_record_versions(call: Call[Paged, Nothing]) -> Shown:
    """Every version of a record, the newest first. A tenant's token sees those that name it."""
    name = f"versions/{call.path['record']}"
    after = call.after(name, call.query.cursor, _version_key)
    async with call.reading() as conn:
        names = await _names_for(call, conn)
        _, found = await _find(call, conn, names)
        rows = await recorded.read_versions(conn, found["id"], call.query.limit + 1, after, names)

    def key_of(row: Row) -> tuple[object, ...]:
        return row["version"], row["event_id"]

    page = page_of(rows, call.query.limit, recorded.shown_version, key_of)
    return call.page(name, page, call.query.limit)


async def reprocess_record(call: Call[Nothing, Nothing]) -> Shown:
    """
    Have the version of a record that counts read again, by today's mapping.

    Answered when the order is stored; a worker carries it out.
    """
    async with call.reading() as conn:
        name, _ = await _find(call, conn, None)
    return await _order(call, ReprocessRecord(*name))


async def _order(call: Call[Nothing, Nothing], order: ReprocessRecord) -> Shown:
    placed = await call.place(order)
    answer = Ordered(placed.tracking_id, f"/api/v1/orders/{placed.tracking_id}")
    again = {"X-Idempotency-Replayed": "true"} if placed.is_repeated else {}
    return Shown(answer, status=202, headers=again)


async def _find(
    call: Call[Any, Any], conn: Conn, tenants: Sequence[str] | None
) -> tuple[RecordName, Row]:
    name = recorded.decode_name(call.path["record"])
    found = None if name is None else await recorded.find_record(conn, name, tenants)
    if name is None or found is None:
        raise no_such("record")
    return name, found


async def _names_for(call: Call[Any, Any], conn: Conn) -> list[str] | None:
    """Whose records the token covers; None: everybody's."""
    return None if call.tenant is None else await _names_of(conn, call.tenant)


async def _names_of(conn: Conn, tenant: str) -> list[str]:
    """All that a tenant is called: records keep the name that was said."""
    merged = (await merges.read_merges(conn, [tenant])).get(tenant)
    actual = tenant if merged is None or merged.into is None else merged.into
    return [actual, *await merges.names_of(conn, actual)]


async def _text_of(api: Api, raw: Raw) -> tuple[str | None, RawIn]:
    """
    Raises:
        Refusal: the artifact store is away.
    """
    if raw.text is not None:
        return raw.text, "version" if raw.is_part else "inbox"
    if raw.artifact is None:
        return None, "gone"
    if raw.artifact_bytes > _LARGEST_RAW_BYTES:
        return None, "too_large"
    try:
        content = b"".join([chunk async for chunk in api.artifacts.read(raw.artifact)])
    except ArtifactGone:
        return None, "gone"
    except ArtifactError as error:
        raise Refusal("store_unavailable", "The artifact store cannot be read now.") from error
    return content.decode("utf-8", "replace"), "artifact"


def _shown(row: Row) -> dict[str, Any]:
    return recorded.summary(row) | {"id": recorded.encode_name(recorded.name_of(row))}


def _number(row: Row) -> tuple[object, ...]:
    return (row["id"],)


def _version_key(version: object, event_id: object) -> tuple[int, str]:
    if type(version) is not int or not isinstance(event_id, str):
        raise ValueError("no version's key")
    return version, event_id


def _refuse_nul(*texts: str | None) -> None:
    if any("\0" in text for text in texts if text is not None):
        raise Refusal("malformed_request", "a name holds no NUL")


_RECORD = frozenset({"record"})

OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/records",
        list_records,
        "Records, the longest known first",
        Record,
        query=Wanted,
        is_list=True,
        errors=("not_found",),
        tag="records",
    ),
    Operation(
        "GET",
        "/api/v1/records/{record}",
        read_record,
        "A record as it is now, and its newest versions",
        WholeRecord,
        sealed=_RECORD,
        tag="records",
    ),
    Operation(
        "GET",
        "/api/v1/records/{record}/versions",
        list_record_versions,
        "Every version of a record",
        RecordVersion,
        query=Paged,
        is_list=True,
        sealed=_RECORD,
        tag="records",
    ),
    Operation(
        "POST",
        "/api/v1/records/{record}/reprocess",
        reprocess_record,
        "Read a record again by today's mapping",
        Ordered,
        who=SERVICES,
        status=202,
        errors=("key_in_flight", "key_reused"),
        sealed=_RECORD,
        tag="records",
    ),
)
