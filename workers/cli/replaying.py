"""Plans and replays that were begun: which there are, how far they are, and what operators do."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, FAILURE, PARTLY_FAILED, USAGE, CommandError, unknown
from workers.cli.following import LOOK_EVERY_S, bar
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    note,
    operate,
    plain,
    print_page,
)
from workers.cli.replay_pages import how_far, say
from workers.cli.steering import job_id, steer

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The id of a plan or of a replay.")]
KINDS = ("replay", "replay-plan")
_OVER = frozenset({"done", "failed", "cancelled"})


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the group `replay`."""
    app.command("list", epilog="Example: sluice replay list --state running")(list_command)
    app.command("show", epilog="Example: sluice replay show 019a… --events --outcome dead")(
        show_command
    )
    app.command("watch", epilog="Example: sluice replay watch 019a…")(watch_command)
    app.command("pause", epilog='Example: sluice replay pause 019a… --reason "a busy hour"')(
        pause_command
    )
    app.command("resume", epilog='Example: sluice replay resume 019a… --reason "calm again"')(
        resume_command
    )
    app.command("cancel", epilog='Example: sluice replay cancel 019a… --reason "the wrong one"')(
        cancel_command
    )


def list_command(
    state: Annotated[
        str | None,
        typer.Option("--state", help="waiting, running, paused, done, failed or cancelled."),
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List plans and replays, newest first."""
    from shared.store import job_lists
    from shared.store.job_lists import STATES, Wanted
    from shared.store.paging import decode_cursor, page_of

    if state is not None and state not in STATES:
        raise CommandError(f"--state is one of {', '.join(STATES)}", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        before = decode_cursor(cursor, UUID) if cursor else None
        rows = []
        for kind in KINDS:
            wanted = Wanted(kind, state, None, None)
            rows += await job_lists.list_jobs(conn, before, wanted, limit + 1)
        newest = sorted(rows, key=lambda row: row["id"], reverse=True)[: limit + 1]
        page = page_of(newest, limit, job_lists.shown, lambda row: (str(row["id"]),))
        if not as_json:
            for item in page.items:
                item |= {"events": how_far(item), "code": (item["error"] or {}).get("code")}
        columns = {
            "id": "id",
            "state": "state",
            "kind": "kind",
            "events": "events",
            "actor": "actor",
            "code": "code",
            "createdAt": "created",
        }
        print_page(page, columns, as_json=as_json, nothing="no replays", whole={"id"})

    operate(run)


def show_command(
    job: JobArgument,
    events: Annotated[
        bool, typer.Option("--events", help="List its events, the oldest first.")
    ] = False,
    outcome: Annotated[
        str | None,
        typer.Option(
            "--outcome", help="With --events, of this outcome: applied, dead, overtaken, waiting…"
        ),
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan found, or what became of a replay; with --events, of each of its events."""
    from shared.store.paging import decode_cursor
    from shared.store.replay_lists import ITEM_OUTCOMES, Wanted, list_items

    number = job_id(job)
    if not events and (outcome is not None or cursor is not None):
        raise CommandError("--outcome and --cursor go with --events", USAGE)
    if outcome is not None and outcome not in ITEM_OUTCOMES:
        raise CommandError(f"--outcome: one of {', '.join(ITEM_OUTCOMES)}", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await find(conn, number)
        if not events:
            say(found, as_json=as_json)
            return
        before = decode_cursor(cursor, int) if cursor else None
        wanted = Wanted(number, None, outcome)
        if found["kind"] == "replay":
            wanted = Wanted(UUID(found["arguments"]["plan"]), number, outcome)
        page = await list_items(conn, wanted, before, limit)
        columns = {
            "trackingId": "tracking id",
            "outcome": "outcome",
            "run": "run",
            "code": "code",
            "source": "source",
            "tenant": "tenant",
            "settledAt": "settled",
        }
        print_page(page, columns, as_json=as_json, nothing="no events", whole={"trackingId"})

    operate(run)


def watch_command(job: JobArgument, as_json: JsonOption = False) -> None:
    """
    Follow a plan or a replay until it is over. Ctrl-C stops the watching, and nothing else.

    Ends with 6 where some of its events failed, with 1 where it did not end well itself.
    """
    watch(job_id(job), as_json=as_json)


def pause_command(
    job: JobArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open no further run until it is resumed. What is open already is applied."""
    from workers.steering import pause_job

    said = (
        "is paused: what is open already is applied",
        "would be paused: what is open already would be applied",
    )
    steer(pause_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json, check=find)


def resume_command(
    job: JobArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on where it was paused."""
    from workers.steering import resume_job

    said = ("goes on", "would go on")
    steer(resume_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json, check=find)


def cancel_command(
    job: JobArgument,
    reason: ReasonOption,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """End it before its next step. What is open already is applied; the rest can be run later."""
    from workers.steering import cancel_job

    said = (
        "ends before its next step: what is open already is applied",
        "would end before its next step: what is open already would be applied",
    )
    steer(cancel_job, said, job, reason, actor, dry_run=dry_run, as_json=as_json, check=find)


# Following ----------------------------------------------------------------------------------------


def watch(job: UUID, *, as_json: bool) -> None:
    """Follow it to its end, say what came of it, and end with the code for that."""

    async def run(conn: "Conn", _: "Endpoints") -> dict[str, Any]:
        found = await find(conn, job)
        what = "planning" if found["kind"] == "replay-plan" else "replaying"
        was_paused = False
        with bar(what) as report:
            while found["state"] not in _OVER:
                report(found["progress"]["done"], found["progress"]["total"])
                if found["state"] == "paused" and not was_paused:
                    note(f"paused by {plain(found['pausedBy'])}: sluice replay resume {job}")
                was_paused = found["state"] == "paused"
                await asyncio.sleep(LOOK_EVERY_S)
                found = await find(conn, job)
        return found

    try:
        found = operate(run)
    except KeyboardInterrupt:
        note(f"\nit goes on without you: sluice replay watch {job}")
        return
    from workers.plans import REFUSALS

    say(found, as_json=as_json)
    if found["state"] != "done":
        # What the command had looked at before may have changed until the job's first step.
        code = (found["error"] or {}).get("code")
        raise typer.Exit(CONFLICT if code in REFUSALS else FAILURE)
    if found["progress"]["failed"]:
        raise typer.Exit(PARTLY_FAILED)


async def find(conn: "Conn", job: UUID) -> dict[str, Any]:
    """
    The job as lists show it; of a replay that is over, `counts` are as of now.

    Raises:
        CommandError: no such plan or replay (3).
    """
    from shared.store import job_lists
    from shared.store.replay_lists import count_outcomes

    row = await job_lists.read_job(conn, job)
    found = job_lists.shown(row) if row is not None else await job_lists.read_asked(conn, job)
    if found is None or found["kind"] not in KINDS:
        raise unknown("replay", f"no plan or replay {job}")
    if found["kind"] == "replay" and found["state"] in _OVER:
        found["progress"]["counts"] = await count_outcomes(conn, job)
    if found["kind"] == "replay-plan" and found["state"] == "done":
        found |= await _standing(conn, job)
    return found


async def _standing(conn: "Conn", plan: UUID) -> dict[str, Any]:
    """Whether a plan may still be run: by which job it was, and whether it is too old."""
    from shared.store.replay_plans import read_standing
    from workers.plans import GOOD_FOR_S

    found = await read_standing(conn, plan)
    if found is None or found.age_s is None:
        return {}
    return {
        "runBy": None if found.run_by is None else str(found.run_by),
        "runState": found.run_state,
        "isTooOld": found.age_s > GOOD_FOR_S,
    }
