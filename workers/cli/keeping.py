"""`sluice tenants hold`, `release` and `erase`, and `sluice db prune`: keeping and forgetting."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import (
    CONFLICT,
    DEPENDENCY_DOWN,
    FAILURE,
    USAGE,
    CommandError,
    unknown,
    write_json,
)
from workers.cli.manual import read_end
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    actor_name,
    check_text,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
    print_table,
    say_dry_run,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints

TenantArgument = Annotated[str, typer.Argument(help="The tenant's id.")]


def register_tenants(app: typer.Typer) -> None:
    """Add the commands of this module to those of `sluice tenants`."""
    app.command(
        "hold", epilog='Example: sluice tenants hold acme --reason "case 11/2026" --until 365d'
    )(hold_command)
    app.command(
        "release", epilog='Example: sluice tenants release acme --reason "the case is settled"'
    )(release_command)
    app.command(
        "erase", epilog='Example: sluice tenants erase acme --reason "request 4711" --dry-run'
    )(erase_command)


def register_db(app: typer.Typer) -> None:
    """Add the commands of this module to those of `sluice db`."""
    app.command("prune", epilog="Example: sluice db prune --dry-run")(prune_command)


def hold_command(
    tenant: TenantArgument,
    reason: ReasonOption,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help='A time with its zone, or after how long, e.g. "365d"; until it is released'
            " unless given.",
        ),
    ] = None,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep all that is there of a tenant, until it is released: a legal hold."""
    from workers.holding import hold

    ends = read_end(until)

    async def work(conn: "Conn", who: str, why: str) -> Any:
        return await hold(conn, tenant, ends, who, why)

    _say_hold(tenant, work, actor, reason, dry_run=dry_run, as_json=as_json)


def release_command(
    tenant: TenantArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """End a legal hold: what is over goes with the next pruning."""
    from workers.holding import release

    async def work(conn: "Conn", who: str, why: str) -> Any:
        return await release(conn, tenant, who, why)

    _say_hold(tenant, work, actor, reason, dry_run=dry_run, as_json=as_json)


def _say_hold(
    tenant: str, work: Any, actor: str | None, reason: str, *, dry_run: bool, as_json: bool
) -> None:
    from workers.holding import NotSo, UnknownTenant

    who, why = actor_name(actor), checked_reason(reason)
    check_text("TENANT", tenant)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            done = await in_transaction(conn, lambda: work(conn, who, why), dry_run=dry_run)
        except UnknownTenant as error:
            raise unknown("tenants", plain(error)) from None
        except NotSo as error:
            raise CommandError(plain(error), CONFLICT) from None
        if as_json:
            write_json({**done.shown(), **({"dryRun": True} if dry_run else {})})
            return
        standing = done.standing
        if standing.held_at is None:
            said = ("is not held any more", "would not be held any more")
        else:
            until = (
                "it is released"
                if standing.held_until is None
                else plain(done.shown()["hold"]["until"])
            )
            said = (f"is held until {until}", f"would be held until {until}")
        say_done(*(f"{plain(tenant)} {text}" for text in said), dry_run=dry_run)
        say_dry_run(dry_run=dry_run)

    operate(run)


def erase_command(
    tenant: TenantArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a tenant: bodies, records, objects, files and what the trail says of it. For good."""
    from workers.erasure import Unerasable, UnknownTenant, begin_erasure

    who, why = actor_name(actor), checked_reason(reason)
    check_text("TENANT", tenant)
    if not dry_run:
        confirm(
            f"Erase {plain(tenant)}, all that it has included? Nothing brings it back.", yes=yes
        )

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            begun = await in_transaction(
                conn, lambda: begin_erasure(conn, tenant, who, why), dry_run=dry_run
            )
        except UnknownTenant as error:
            raise unknown("tenants", plain(error)) from None
        except Unerasable as error:
            raise CommandError(plain(error), CONFLICT) from None
        shown = {**begun.shown(), **({"dryRun": True} if dry_run else {})}
        if dry_run:
            shown["job"] = None
        if as_json:
            write_json(shown)
            return
        name = plain(tenant)
        said = (f"{name} is being erased", f"{name} would be erased, with all that it has now")
        say_done(*said, dry_run=dry_run)
        print_table(
            {"what": "would go" if dry_run else "what", "count": "count"},
            [{"what": what, "count": count} for what, count in begun.counts.items()],
        )
        say_dry_run(dry_run=dry_run)
        if not dry_run:
            note(f"a worker does it, killed or not: sluice jobs show {begun.job}")
            await _follow(conn, str(begun.job))

    operate(run)


async def _follow(conn: "Conn", job: str) -> None:
    """Draw how far it is where somebody looks at it; interrupted, the job goes on."""
    import sys
    from uuid import UUID

    from shared.store.job_lists import read_job
    from workers.cli.following import LOOK_EVERY_S, bar

    if not sys.stderr.isatty():
        return
    with bar("erasing") as report:
        while True:
            found = await read_job(conn, UUID(job))
            if found is None or found["state"] not in ("waiting", "running"):
                break
            report(found["done"], found["total"])
            await asyncio.sleep(LOOK_EVERY_S)
    if found is not None and found["state"] != "done":
        raise CommandError(f"job {job} is {found['state']}", FAILURE)


def prune_command(
    name: Annotated[
        str | None, typer.Option("--class", help="Only this class; see docs/retention.md.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget what its time is over of, as the workers do every hour."""
    from shared.artifacts import ArtifactError, Artifacts
    from shared.settings import Settings
    from workers.retention.classes import CLASSES
    from workers.retention.prune import Busy, Tools, plan, prune

    if name is not None and name not in CLASSES:
        raise CommandError(f"--class: one of {', '.join(CLASSES)}", USAGE)
    names = tuple(CLASSES) if name is None else (name,)
    settings = Settings.read()
    tools = Tools(settings, Artifacts(settings.artifacts_url, settings.home))
    if not dry_run:
        confirm(f"Prune {name or 'all classes'} now?", yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        if dry_run:
            try:
                planned = [await plan(conn, tools, one) for one in names]
            except ArtifactError as error:
                raise CommandError(plain(error), DEPENDENCY_DOWN) from None
            if as_json:
                write_json({"items": planned, "next": None, "dryRun": True})
                return
            print_table(_PLANNED, [{**one, "going": _going(one)} for one in planned])
            say_dry_run(dry_run=dry_run)
            return
        try:
            done = await prune(conn, tools, names)
        except Busy as error:
            raise CommandError(str(error), CONFLICT) from None
        rows = [{"class": one.name, "gone": one.gone} for one in done]
        if as_json:
            write_json({"items": rows, "next": None})
            return
        print_table({"class": "class", "gone": "gone"}, rows)

    operate(run)


_PLANNED = {
    "class": "class",
    "days": "days",
    "going": "would go",
    "keptHeld": "held: stay",
    "keptUnfinished": "unfinished: stay",
    "bytes": "bytes",
}


def _going(planned: dict[str, Any]) -> int:
    """Of what is over, rows or files that are not kept."""
    kept = (planned["keptHeld"] or 0) + (planned["keptUnfinished"] or 0)
    return int(max(planned["rows"] - kept, 0))
