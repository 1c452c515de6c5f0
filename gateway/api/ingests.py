"""How far an import is: `/api/v1/ingest/TRACKING_ID`, for whoever pushed it and whose it is."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from starlette.requests import Request

from gateway.api.operations import (
    Api,
    Call,
    Nothing,
    Operation,
    Paged,
    Shown,
    no_such,
)
from gateway.api.reader import reading
from gateway.envelope import Refusal
from gateway.headers import read_headers
from gateway.ingress import verify
from gateway.sources import NotConfigured, UnknownSource
from shared.domain.events import received_at_of
from shared.providers.base import SignatureError
from shared.store import ingested
from shared.store.ingested import Ingested
from shared.store.paging import Page
from shared.store.tokens import PREFIX, Token

_BEGINNING = (0, 0)
#: What a job's states are to whoever waits for it.
_STATES: dict[str, Literal["importing", "done", "failed"]] = {
    "running": "importing",
    "paused": "importing",
    "done": "done",
    "failed": "failed",
    "cancelled": "failed",
}


class RowFailure(msgspec.Struct, rename="camel"):
    """
    A row that was not taken, or one of the reasons why. `line` counts from 1; of a JSON document it
    is the row's number. `pointer` is a JSON pointer into the row, "" for all of it.
    """

    line: int
    code: str
    pointer: str
    message: str


class Ingest(msgspec.Struct, rename="camel"):
    """
    An import. `done` counts the rows gone through, `failed` those of them that were not taken;
    `total` is null until all have been seen. `counts` are the others, by what they came to:
    `imported`, `changed`, `unchanged`, `superseded` by a newer one, `parked` for want of a tenant.
    `code` and `message` say why it has failed. `failures` is a page of the rows that were not
    taken.
    """

    tracking_id: str
    source: str
    state: Literal["received", "importing", "done", "failed"]
    received_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    done: int
    failed: int
    total: int | None
    counts: dict[str, int]
    code: str | None
    message: str | None
    failures: list[RowFailure]


async def read_ingest(call: Call[Paged, Nothing]) -> Shown:
    """
    How far an import is, and which of its rows were not taken, and why.

    `id` is the tracking id that the push was answered with. For a token that covers the import's
    tenant; and for its source, proven as for the push itself, with an empty body. Everything else
    that is asked for is 404.
    """
    tracking_id = _tracking_id(call.path["id"])
    after = call.after("ingest", call.query.cursor, _place) or _BEGINNING
    limit = call.query.limit
    found = None
    page = Page([], None)
    if tracking_id is not None:
        async with call.reading() as conn:
            found = await ingested.read_ingested(conn, tracking_id)
            if found is not None and found.run is not None and _may_see(call, found):
                page = await ingested.read_failures(conn, tracking_id, found.run, after, limit)
    if tracking_id is None or found is None or not _may_see(call, found):
        raise no_such("import")
    shown = call.page("ingest", page, limit)
    failures = [RowFailure(**one) for one in page.items]
    return Shown(_ingest(tracking_id, found, failures), meta=shown.meta)


async def admit(api: Api, request: Request) -> Token | None:
    """
    The source of the import that is asked for, where the request proves to be its.

    What does not is asked for a token, whether or not there is such an import.
    """
    _, _, value = request.headers.get("authorization", "").partition(" ")
    tracking_id = _tracking_id(request.path_params["id"])
    if tracking_id is None or value.strip().startswith(PREFIX):
        return None
    async with reading(api.reader) as conn:
        found = await ingested.read_ingested(conn, tracking_id)
    if found is None:
        return None
    name = found.source
    ingress = request.app.state.ingress
    try:
        entrance = await api.sources.find(name)
        verify(entrance, read_headers(request), b"", ingress.now(), ingress.tolerance_s)
    except (UnknownSource, NotConfigured, SignatureError, Refusal):
        return None
    source = entrance.source
    now = ingress.now()
    return Token(UUID(int=source.id), name, f"source:{name}", now, "", None, None)


def _may_see(call: Call[Paged, Nothing], found: Ingested) -> bool:
    kind, _, source = call.token.scope.partition(":")
    if kind == "source":
        return source == found.source
    return call.may_see(found.tenant) or (
        found.merged_into is not None and call.may_see(found.merged_into)
    )


def _ingest(tracking_id: UUID, found: Ingested, failures: list[RowFailure]) -> Ingest:
    state: Literal["received", "importing", "done", "failed"] = "received"
    code, message = found.code, found.error if found.code is not None else None
    if found.state is None and found.settled in ("dead", "ignored"):
        state, code, message = "failed", found.settled_code, found.settled_error
    elif found.state is not None:
        state = _STATES.get(found.state, "received")
    if found.state == "cancelled":
        code, message = "cancelled", "The import was ended before its time; what it did stays."
    return Ingest(
        tracking_id=str(tracking_id),
        source=found.source,
        state=state,
        received_at=received_at_of(tracking_id),
        started_at=found.started_at,
        finished_at=found.finished_at,
        done=found.done or 0,
        failed=found.failed or 0,
        total=found.total,
        counts=found.counts,
        code=code,
        message=message,
        failures=failures,
    )


def _tracking_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _place(line: object, number: object) -> tuple[int, int]:
    """The parts of a cursor."""
    if type(line) is not int or type(number) is not int:
        raise ValueError("no row")
    return line, number


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/ingest/{id}",
        read_ingest,
        "How far an import is",
        Ingest,
        who=frozenset({"operator", "service", "tenant", "source"}),
        query=Paged,
        admit=admit,
    ),
)
