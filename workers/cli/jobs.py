"""`sluice jobs`: long work, how far it is, and what it has made."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import FAILURE, NOT_FOUND, USAGE, CommandError, unknown, write_json
from workers.cli.following import LOOK_EVERY_S, bar
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    YesOption,
    confirm,
    note,
    operate,
    plain,
    print_fields,
    print_page,
    print_table,
)
from workers.cli.steering import JobArgument, job_id, steer

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.job_lists import Asset

app = typer.Typer(help="Jobs: imports, exports and other long work.", no_args_is_help=True)

_OVER = frozenset({"done", "failed", "cancelled"})


@app.command("list", epilog="Example: sluice jobs list --state running")
def list_command(
    kind: Annotated[
        str | None, typer.Option("--kind", help="import, export, reprocess, reconcile, backfill.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", help="waiting, running, paused, done, failed or cancelled."),
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    from shared.store import job_lists
    from shared.store.job_lists import STATES, Wanted
    from shared.store.paging import decode_cursor, page_of

    if state is not None and state not in STATES:
        raise CommandError(f"--state is one of {', '.join(STATES)}", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        before = decode_cursor(cursor, UUID) if cursor else None
        wanted = Wanted(kind, state, source, tenant)
        rows = await job_lists.list_jobs(conn, before, wanted, limit + 1)
        page = page_of(rows, limit, job_lists.shown, lambda row: (str(row["id"]),))
        if as_json:
            print_page(page, {}, as_json=True, nothing="")
            return
        for item in page.items:
            item |= {"rows": _rows(item), "code": (item["error"] or {}).get("code")}
        columns = {
            "id": "id",
            "state": "state",
            "kind": "kind",
            "rows": "rows",
            "source": "source",
            "tenant": "tenant",
            "code": "code",
            "createdAt": "created",
        }
        print_page(page, columns, as_json=False, nothing="no such jobs", whole={"id"})

    operate(run)


@app.command("show", epilog="Example: sluice jobs show 019a… --follow")
def show_command(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Wait until it is over.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far a job is. With --follow, a job that does not end well ends this with 1."""
    number = job_id(job)

    async def run(conn: "Conn", _: "Endpoints") -> dict[str, Any]:
        found = await _find(conn, number)
        with bar(f"{found['kind']} {number}") as report:
            while follow and found["state"] not in _OVER:
                report(found["progress"]["done"], found["progress"]["total"])
                await asyncio.sleep(LOOK_EVERY_S)
                found = await _find(conn, number)
        return found

    found = operate(run)
    if as_json:
        write_json(found)
    else:
        error = found.pop("error")
        fields = {**found, "progress": _rows(found), "counts": found["progress"]["counts"]}
        fields |= {} if error is None else {"code": error["code"], "error": error["message"]}
        print_fields({name: value for name, value in fields.items() if value not in (None, {})})
        if found["state"] == "failed":
            note("what stands behind a code: docs/jobs.md")
    if follow and found["state"] != "done":
        raise typer.Exit(FAILURE)


@app.command("cancel", epilog='Example: sluice jobs cancel 019a… --reason "the wrong source"')
def cancel_command(
    job: JobArgument,
    reason: ReasonOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a job before its next step. What it has done stays."""
    from workers.steering import cancel_job

    if not dry_run:
        confirm(f"End job {job_id(job)}, for good?", yes=yes)
    said = ("ends before its next step", "would end before its next step")
    steer(cancel_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json)


@app.command("pause", epilog='Example: sluice jobs pause 019a… --reason "a busy hour"')
def pause_command(
    job: JobArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a job take no further step until it is resumed."""
    from workers.steering import pause_job

    said = ("is paused", "would be paused")
    steer(pause_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json)


@app.command("resume", epilog='Example: sluice jobs resume 019a… --reason "calm again"')
def resume_command(
    job: JobArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a job go on where it was paused."""
    from workers.steering import resume_job

    said = ("goes on", "would go on")
    steer(resume_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json)


@app.command("assets", epilog="Example: sluice jobs assets 019a… --fetch records.csv > records.csv")
def assets_command(
    job: JobArgument,
    fetch: Annotated[
        str | None, typer.Option("--fetch", metavar="NAME", help="Write its content to stdout.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what a job was given and has made, or fetch one of it."""
    from shared.store import job_lists

    if fetch is not None and as_json:
        raise CommandError("--fetch and --json exclude each other", USAGE)
    number = job_id(job)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await job_lists.read_assets(conn, number)
        kind = (await _find(conn, number))["kind"]
        if kind == "import" and "received" not in {one.name for one in found}:
            received = await job_lists.read_received_asset(conn, number)
            found += [received] if received is not None else []
        if fetch is not None:
            wanted = next((one for one in found if one.name == fetch), None)
            if wanted is None:
                raise CommandError(
                    f"job {number} has no asset {plain(fetch)}: sluice jobs assets {number}",
                    NOT_FOUND,
                )
            await _write(conn, number, wanted)
            return
        items = [job_lists.shown_asset(one) for one in found]
        if as_json:
            write_json({"items": items, "next": None})
        elif items:
            names = ("name", "sizeBytes", "mediaType", "sha256", "createdAt")
            print_table({name: name for name in names}, items)
        else:
            note("no assets")

    operate(run)


async def _write(conn: "Conn", job: UUID, asset: "Asset") -> None:
    """Its content, to standard output; nothing after it has turned out to be damaged."""
    from shared.artifacts import ArtifactError, Artifacts
    from shared.settings import Settings
    from shared.store import job_lists

    body = await job_lists.read_body(conn, job) if asset.name == "received" else None
    if body is not None:
        sys.stdout.buffer.write(body)
        return
    settings = Settings.read()
    artifacts = Artifacts(settings.artifacts_url, settings.home)
    try:
        for digest in asset.parts or [asset.sha256]:
            async for chunk in artifacts.read(digest):
                sys.stdout.buffer.write(chunk)
    except ArtifactError as error:
        raise CommandError(str(error), FAILURE) from None


async def _find(conn: "Conn", job: UUID) -> dict[str, Any]:
    from shared.store import job_lists

    row = await job_lists.read_job(conn, job)
    found = job_lists.shown(row) if row is not None else await job_lists.read_asked(conn, job)
    if found is None:
        raise unknown("jobs", f"no job {job}")
    return found


def _rows(job: dict[str, Any]) -> str:
    """How far it is, for people: 1,200 of 5,000, 3 failed."""
    done, failed, total = (job["progress"][name] for name in ("done", "failed", "total"))
    text = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    return f"{text}, {failed:,} failed" if failed else text
