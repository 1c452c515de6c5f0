"""`sluice replay`: have settled events applied again; what that would change is shown before."""

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from typer.core import TyperGroup

from workers.cli import replaying
from workers.cli.exits import (
    CONFLICT,
    NOT_FOUND,
    PARTLY_FAILED,
    USAGE,
    CommandError,
    unknown,
    write_json,
)
from workers.cli.following import LOOK_EVERY_S, bar
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    actor_name,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
    tracking_id,
)
from workers.cli.ringing import ring
from workers.cli.selecting import check_not_all, selecting
from workers.cli.steering import job_id

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.selection import Selection
    from shared.settings import Endpoints
    from workers.replay import Opened


class _OrEvents(TyperGroup):
    """`sluice replay ID… --reason TEXT` is `sluice replay events ID… --reason TEXT`."""

    #: The command that is meant where none is named.
    default = "events"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is neither a command nor a word begins what `events` is told."""
        first = args[0] if args else ""
        is_help = first in self.get_help_option_names(ctx)
        if first and first not in self.commands and not is_help and not first.isalpha():
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_OrEvents,
    help="Have settled events applied again: named ones (sluice replay ID… --reason TEXT), or those"
    " of a plan.",
    no_args_is_help=True,
)
replaying.register(app)

#: More are a plan's.
MOST_AT_ONCE = 100
_RATE = re.compile(r"^(\d+(?:\.\d+)?)(?:/s)?$")

DetachOption = Annotated[
    bool, typer.Option("--detach", help="Begin it, and do not wait for its end.")
]


@app.command("events", epilog='Example: sluice replay 019a… 019b… --reason "plan was not mapped"')
def events_command(
    events: Annotated[list[str], typer.Argument(metavar="ID…", help="The events' tracking ids.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are applied.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Have these settled events applied again, by today's code and catalog: all of them, or none.

    With --wait, an event that is dead again ends this with 6.
    """
    from workers.replay import BodyGone, Unfinished, UnknownEvent, open_runs

    who, why = actor_name(actor), checked_reason(reason)
    wanted = list(dict.fromkeys(tracking_id(one) for one in events))
    if len(wanted) > MOST_AT_ONCE:
        raise CommandError(f"more than {MOST_AT_ONCE} events: sluice replay plan ID…", USAGE)

    async def run(conn: "Conn", endpoints: "Endpoints") -> "list[Opened]":
        try:
            opened = await in_transaction(
                conn, lambda: open_runs(conn, wanted, who, why), dry_run=dry_run
            )
        except UnknownEvent as error:
            raise unknown("events", error) from None
        except (Unfinished, BodyGone) as error:
            raise CommandError(str(error), CONFLICT) from None
        if not dry_run:
            await ring(endpoints, sorted({one.lane for one in opened}))
        return opened

    opened = operate(run)
    ended = _wait(opened) if wait and not dry_run else {}
    items = [
        {
            "trackingId": str(one.tracking_id),
            "run": one.run,
            "actionId": str(one.action_id),
            **ended.get(one.tracking_id, {}),
        }
        for one in opened
    ]
    if as_json:
        more = {"dryRun": True} if dry_run else {}
        write_json(
            {**items[0], **more} if len(items) == 1 else {"items": items, "next": None, **more}
        )
    else:
        _say_runs(items, dry_run=dry_run)
    if any(one["outcome"] == "dead" for one in ended.values()):
        raise typer.Exit(PARTLY_FAILED)


@app.command("plan", epilog="Example: sluice replay plan --source stripe --status dead --since 48h")
@selecting
def plan_command(
    wanted: "Selection",
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]…", help="These events, by tracking id.")
    ] = None,
    issue: Annotated[
        str | None, typer.Option("--issue", metavar="ID", help="The dead events of an issue.")
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="All events there are.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for the audit trail.")
    ] = "to see what replaying them would change",
    actor: ActorOption = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Freeze which events are meant, and find what applying them again would change.

    Changes nothing. Ctrl-C stops the watching, and nothing else.
    """
    from shared.store.job_lists import has_source
    from workers.plans import PLAN
    from workers.steering import begin_job

    who, why = actor_name(actor), checked_reason(reason)
    if ids:
        ways = [not wanted.is_empty, issue is not None, is_all]
        if any(ways):
            raise CommandError("either ids, or a filter, or --issue, or --all", USAGE)
        fields: dict[str, Any] = {"ids": [str(tracking_id(one)) for one in dict.fromkeys(ids)]}
    elif issue is not None:
        if is_all or not wanted.is_empty:
            raise CommandError("--issue says which events: no filter beside it", USAGE)
        fields = {}
    else:
        check_not_all(wanted, is_all=is_all)
        fields = _fields_of(wanted)

    async def run(conn: "Conn", _: "Endpoints") -> UUID:
        select = fields if issue is None else _fields_of(await _dead_of(conn, issue))
        if wanted.source is not None and not await has_source(conn, wanted.source):
            raise unknown("sources", f"no source {plain(wanted.source)}")
        arguments = {"select": select, **({"all": True} if is_all else {})}
        _check(PLAN, arguments)
        return await in_transaction(conn, lambda: begin_job(conn, PLAN, arguments, who, why))

    _go_on(operate(run), detach=detach, as_json=as_json)


def _fields_of(wanted: "Selection") -> dict[str, Any]:
    """What a selection says, as a job's arguments do."""
    import msgspec

    said = msgspec.to_builtins(wanted)
    return {name: value for name, value in said.items() if value not in (None, False)}


async def _dead_of(conn: "Conn", issue: str) -> "Selection":
    from shared.store.issues import find_issue

    found = await find_issue(conn, issue)
    if found is None:
        raise unknown("issues", f"no issue {plain(issue)}")
    return found


@app.command(
    "run", epilog='Example: sluice replay run 019a… --reason "mapping mended" --rate 500/s'
)
def run_command(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id.")],
    reason: ReasonOption,
    rate: Annotated[
        str, typer.Option("--rate", metavar="N/s", help="How many events a second at most.")
    ] = "100/s",
    actor: ActorOption = None,
    detach: DetachOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Have a plan's events applied again, at lower priority than what comes by itself.

    Refused (5) where the plan is older than an hour, was run, or was overtaken. Ctrl-C stops the
    watching, and nothing else. Ends with 6 where some of the events failed.
    """
    from workers.plans import REPLAY, UNKNOWN_PLAN, PlanRefused, check_plan
    from workers.steering import begin_job

    number, who, why = job_id(plan), actor_name(actor), checked_reason(reason)
    arguments = {"plan": str(number), "reason": why, "rate": _rate(rate)}
    _check(REPLAY, arguments)

    async def refused(conn: "Conn") -> int:
        try:
            return await check_plan(conn, number)
        except PlanRefused as error:
            code = NOT_FOUND if error.code == UNKNOWN_PLAN else CONFLICT
            raise CommandError(str(error), code) from None

    async def look(conn: "Conn", _: "Endpoints") -> tuple[int, dict[str, Any]]:
        return await refused(conn), await replaying.find(conn, number)

    async def run(conn: "Conn", _: "Endpoints") -> UUID:
        async def work() -> UUID:
            await refused(conn)
            return await begin_job(conn, REPLAY, arguments, who, why)

        return await in_transaction(conn, work, dry_run=dry_run)

    events, made = operate(look)
    effect = made["result"]["effect"]
    if not dry_run:
        confirm(
            f"apply {events:,} events again, changing {effect['features']:,} features of"
            f" {effect['tenants']:,} tenants?",
            yes=yes,
        )
    job = operate(run)
    if dry_run:
        if as_json:
            write_json({"plan": str(number), "events": events, "effect": effect, "dryRun": True})
        else:
            sys.stdout.write(f"nothing is written; {events:,} events would be applied again\n")
        return
    _go_on(job, detach=detach, as_json=as_json)


def _go_on(job: UUID, *, detach: bool, as_json: bool) -> None:
    """Follow what was begun, or say how to."""
    if not detach:
        note(f"job {job}")
        replaying.watch(job, as_json=as_json)
    elif as_json:
        write_json({"id": str(job)})
    else:
        sys.stdout.write(f"job {job} has begun\n")
        note(f"how far it is: sluice replay watch {job}")


def _check(kind: str, arguments: dict[str, Any]) -> None:
    """
    Raises:
        CommandError: the job could not begin (2).
    """
    from shared.domain.jobs import UnfitError, read_arguments

    try:
        read_arguments(kind, arguments, None, None)
    except UnfitError as error:
        name = error.pointer.rpartition("/")[2]
        raise CommandError(f"{plain(name)}: {error.message}", USAGE) from None


def _rate(text: str) -> float:
    found = _RATE.match(text)
    if found is None:
        raise CommandError("--rate: a number of events a second, as in 500/s", USAGE)
    return float(found[1])


def _wait(opened: "list[Opened]") -> dict[UUID, dict[str, Any]]:
    """How these runs have ended; absent are those that somebody has stopped waiting for."""
    from shared.store.replay_lists import read_ended

    runs = {one.tracking_id: one.run for one in opened}
    ended: dict[UUID, dict[str, Any]] = {}

    async def run(conn: "Conn", _: "Endpoints") -> None:
        with bar("applying", above=1) as report:
            while len(ended) < len(runs):
                ended.update(await read_ended(conn, runs))
                report(len(ended), len(runs))
                await asyncio.sleep(LOOK_EVERY_S if len(ended) < len(runs) else 0)

    try:
        operate(run)
    except KeyboardInterrupt:
        note("\nthey are applied without you")
    return ended


def _say_runs(items: list[dict[str, Any]], *, dry_run: bool) -> None:
    for one in items:
        text = f"run {one['run']} of {one['trackingId']}"
        if dry_run:
            sys.stdout.write(f"{text} would be opened; nothing is written\n")
        elif "outcome" in one:
            why = one["code"] or ""
            sys.stdout.write(f"{text}: {one['outcome']}{' ' + why if why else ''}\n")
        else:
            sys.stdout.write(f"{text} is waiting to be applied\n")
    if not dry_run and len(items) == 1:
        note(f"what becomes of it: sluice events show {items[0]['trackingId']}")
