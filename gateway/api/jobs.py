"""Long work over the API: `/api/v1/jobs/…`. What is asked for here a worker begins."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from starlette.responses import Response

from gateway.api.assets import respond
from gateway.api.operations import (
    ORDER_ERRORS,
    Call,
    Nothing,
    Operation,
    Paged,
    Shown,
    accepted,
    no_such,
)
from gateway.envelope import Detail, Refusal
from shared.db import Conn, Row
from shared.domain.audit import actor_for_tenant
from shared.domain.commands import CancelJob, Order, PauseJob, ResumeJob, StartJob
from shared.domain.events import is_storable
from shared.domain.jobs import RECEIVED, ReplayPlan, UnfitError, read_arguments
from shared.store import job_lists
from shared.store.job_lists import Asset, Wanted
from shared.store.paging import page_of
from shared.store.tenants import find_tenant

State = Literal["waiting", "running", "paused", "done", "failed", "cancelled"]

#: What whoever is no operator may ask for, and end: it changes nothing.
_READS_ONLY = frozenset({"export"})


class Progress(msgspec.Struct, rename="camel"):
    """Rows gone through, those of them that were not taken, and of how many where that is known."""

    done: int
    failed: int
    total: int | None
    counts: dict[str, int]


class JobError(msgspec.Struct, rename="camel"):
    """Why it failed; of one that is not over, "retrying": its last attempt did."""

    code: str
    message: str


class Job(msgspec.Struct, rename="camel"):
    """Long work. `id` is the tracking id of what asked for it."""

    id: UUID
    kind: str
    state: State
    source: str | None
    tenant: str | None
    actor: str
    arguments: dict[str, Any]
    progress: Progress
    result: dict[str, Any] | None
    error: JobError | None
    cancelled_by: str | None
    paused_by: str | None
    attempts: int
    deaths: int
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None


class AssetOfJob(msgspec.Struct, rename="camel"):
    """A file that a job was given or has made. `sha256` is in hex."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime


class Accepted(msgspec.Struct, rename="camel"):
    """What was asked for is stored, and a worker does it; `statusUrl` says how far it is."""

    job_id: UUID
    tracking_id: UUID
    status_url: str


class JobsQuery(Paged, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which jobs; all of them unless it says less."""

    kind: Literal["import", "export", "reprocess", "replay-plan", "replay"] | None = None
    state: State | None = None
    source: str | None = None


class NewJob(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """
    A job to be done. `arguments` of an "export": {"what": "records" | "events" | "entitlements",
    "format"?: "ndjson" | "csv", "compression"?: "none" | "gzip", "since"?, "until"?}; of a
    "reprocess": {"select"?: "outdated" | "waiting" | "all"}; of a "replay-plan": {"select"?: which
    events, "all"?: true where all are meant}; of a "replay": {"plan": the id of a plan that is
    made, "reason": for the audit trail, "rate"?: events a second}.
    """

    kind: Literal["export", "reprocess", "replay-plan", "replay"]
    arguments: dict[str, Any] = {}
    tenant: str | None = None
    source: str | None = None


async def list_jobs(call: Call[JobsQuery, Nothing]) -> Shown:
    """
    Jobs, the newest first. A tenant's token sees those that are its own.

    What was asked for a moment ago may not be among them yet; by its id it is found.
    """
    query = call.query
    if query.source is not None and not is_storable(query.source):
        raise Refusal("malformed_request", "source: no source's name")
    before = call.after("jobs", query.cursor, UUID)
    wanted = Wanted(query.kind, query.state, query.source, call.tenant)
    async with call.reading() as conn:
        rows = await job_lists.list_jobs(conn, before, wanted, query.limit + 1)

    def show(row: Row) -> dict[str, Any]:
        return _public(call, job_lists.shown(row))

    page = page_of(rows, query.limit, show, lambda row: (str(row["id"]),))
    return call.page("jobs", page, query.limit)


async def start_job(call: Call[Nothing, NewJob]) -> Shown:
    """
    Ask for a job. `Idempotency-Key` makes asking again harmless.

    A tenant's token may ask for exports of what is its own; whoever changes records is an operator.
    """
    body = call.body
    if not call.may_see(body.tenant) and body.tenant is not None:
        raise no_such("tenant")
    if body.kind not in _READS_ONLY and call.token.scope != "operator":
        raise Refusal("forbidden", "The token's scope does not cover jobs of this kind.")
    tenant = body.tenant if call.tenant is None else call.tenant
    try:
        read = read_arguments(body.kind, body.arguments, tenant, body.source)
    except UnfitError as error:
        raise _unfit(error.pointer, error.message) from None
    if call.tenant is not None and body.source is not None:
        raise _unfit("/source", "not for a tenant's token to say")
    await _check_named(call, tenant, body.source)
    if isinstance(read, ReplayPlan) and (name := read.select.get("source")) is not None:
        # A slip in a name would make a plan of nothing.
        async with call.reading() as conn:
            if not await job_lists.has_source(conn, name):
                raise _unfit("/arguments/select/source", "There is no such source.")
    return await _place(call, StartJob(body.kind, body.arguments, tenant, body.source), None)


async def show_job(call: Call[Nothing, Nothing]) -> Shown:
    """How far a job is, and what came of it. One that no worker has begun yet is "waiting"."""
    async with call.reading() as conn:
        return Shown(_public(call, await _find(conn, call)))


async def cancel_job(call: Call[Nothing, Nothing]) -> Shown:
    """End a job before its next step. What it has done stays; one that is over stays as it is."""
    job = await _steerable(call)
    return await _place(call, CancelJob(job), job)


async def pause_job(call: Call[Nothing, Nothing]) -> Shown:
    """Take no further step of a job until it is resumed. One that is over stays as it is."""
    job = await _steerable(call)
    return await _place(call, PauseJob(job), job)


async def resume_job(call: Call[Nothing, Nothing]) -> Shown:
    """Go on with a job where it was paused."""
    job = await _steerable(call)
    return await _place(call, ResumeJob(job), job)


async def _steerable(call: Call[Any, Any]) -> UUID:
    """
    The job of the path.

    Raises:
        Refusal: there is none, or none that the token may see, or may do anything about.
    """
    async with call.reading() as conn:
        found = await _find(conn, call)
    if found["kind"] not in _READS_ONLY and call.token.scope != "operator":
        raise Refusal("forbidden", "The token's scope does not cover jobs of this kind.")
    return UUID(found["id"])


async def list_assets(call: Call[Nothing, Nothing]) -> Shown:
    """What a job was given ("received": exactly what was pushed) and has made."""
    async with call.reading() as conn:
        assets = await _assets(conn, await _find(conn, call))
    return Shown([job_lists.shown_asset(one) for one in assets])


async def read_asset(call: Call[Nothing, Nothing]) -> Response:
    """
    An asset's content, with its digest as ETag.

    One that turns out to be damaged on its way ends before `Content-Length` is reached.
    """
    async with call.reading() as conn:
        found = await _find(conn, call)
        assets = {one.name: one for one in await _assets(conn, found)}
        asset = assets.get(call.path["name"])
        if asset is None:
            raise no_such("asset")
        body = None
        if asset.name == RECEIVED and found["kind"] == "import":
            body = await job_lists.read_body(conn, UUID(found["id"]))
    headers = call.request.headers
    return await respond(
        asset,
        body,
        call.api.artifacts,
        known=headers.get("if-none-match"),
        is_head=call.request.method == "HEAD",
    )


async def _find(conn: Conn, call: Call[Any, Any]) -> dict[str, Any]:
    """
    The job of the path, begun or only asked for.

    Raises:
        Refusal: there is none, or none that the token may see.
    """
    try:
        job = UUID(call.path["job"])
    except ValueError:
        raise no_such("job") from None
    row = await job_lists.read_job(conn, job)
    found = job_lists.shown(row) if row is not None else await job_lists.read_asked(conn, job)
    if found is None or not call.may_see(found["tenant"]):
        raise no_such("job")
    return found


async def _assets(conn: Conn, job: dict[str, Any]) -> list[Asset]:
    number = UUID(job["id"])
    assets = await job_lists.read_assets(conn, number)
    if job["kind"] == "import" and RECEIVED not in {one.name for one in assets}:
        received = await job_lists.read_received_asset(conn, number)
        assets += [received] if received is not None else []
    return sorted(assets, key=lambda one: one.name)


def _public(call: Call[Any, Any], job: dict[str, Any]) -> dict[str, Any]:
    """As the token may see it; without what unexpected exceptions said, which may be anything."""
    if call.tenant is not None:
        actors = ("actor", "cancelledBy", "pausedBy")
        job |= {name: actor_for_tenant(job[name]) for name in actors if job[name] is not None}
    error = job["error"]
    if error is None:
        return job
    if error["code"] == "retrying":
        return {**job, "error": {**error, "message": "A step failed, and is tried again."}}
    if error["code"].islower():
        return job
    return {**job, "error": {"code": "internal", "message": "An internal error."}}


async def _check_named(call: Call[Any, Any], tenant: str | None, source: str | None) -> None:
    """
    Raises:
        Refusal: what is named is not there.
    """
    for name, text in (("tenant", tenant), ("source", source)):
        if text is not None and not is_storable(text):
            raise _unfit(f"/{name}", "must be text of 1 to 255 bytes")
    async with call.reading() as conn:
        if call.tenant is None and tenant is not None and await find_tenant(conn, tenant) is None:
            raise _unfit("/tenant", "There is no such tenant.")
        if source is not None and not await job_lists.has_source(conn, source):
            raise _unfit("/source", "There is no such source.")


def _unfit(pointer: str, message: str) -> Refusal:
    return Refusal(
        "invalid_body", "The body is not what is asked for.", details=[Detail(pointer, message)]
    )


async def _place(call: Call[Any, Any], order: Order, job: UUID | None) -> Shown:
    """Store an order. `job` is the one that it is about; None: it asks for one."""
    placed = await call.place(order)
    number = placed.tracking_id if job is None else job
    url = f"/api/v1/jobs/{number}"
    return accepted(placed, Accepted(number, placed.tracking_id, url), {"Location": url})


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/jobs",
        list_jobs,
        "Which jobs there are",
        Job,
        query=JobsQuery,
        is_list=True,
        tag="jobs",
    ),
    Operation(
        "POST",
        "/api/v1/jobs",
        start_job,
        "Ask for a job",
        Accepted,
        body=NewJob,
        status=202,
        errors=("forbidden", "not_found", *ORDER_ERRORS),
        tag="jobs",
    ),
    Operation("GET", "/api/v1/jobs/{job}", show_job, "How far a job is", Job, tag="jobs"),
    Operation(
        "POST",
        "/api/v1/jobs/{job}/cancel",
        cancel_job,
        "End a job before its time",
        Accepted,
        status=202,
        errors=("forbidden", *ORDER_ERRORS),
        tag="jobs",
    ),
    Operation(
        "POST",
        "/api/v1/jobs/{job}/pause",
        pause_job,
        "Have a job wait",
        Accepted,
        status=202,
        errors=("forbidden", *ORDER_ERRORS),
        tag="jobs",
    ),
    Operation(
        "POST",
        "/api/v1/jobs/{job}/resume",
        resume_job,
        "Have a job go on",
        Accepted,
        status=202,
        errors=("forbidden", *ORDER_ERRORS),
        tag="jobs",
    ),
    Operation(
        "GET",
        "/api/v1/jobs/{job}/assets",
        list_assets,
        "What a job was given and has made",
        list[AssetOfJob],
        tag="jobs",
    ),
    Operation(
        "GET",
        "/api/v1/jobs/{job}/assets/{name}",
        read_asset,
        "The content of an asset",
        bytes,
        media_types=("*/*",),
        tag="jobs",
    ),
)
