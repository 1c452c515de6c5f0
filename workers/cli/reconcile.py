"""`sluice reconcile | backfill`: ask a provider for what it did not tell, or for all it has."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import (
    CONFLICT,
    FAILURE,
    PARTLY_FAILED,
    USAGE,
    CommandError,
    unknown,
    write_json,
)
from workers.cli.following import LOOK_EVERY_S, STILL_AFTER_S, bar
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    YesOption,
    actor_name,
    check_text,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
    print_fields,
    print_heading,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.source_rows import SourceRow

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE")]
_OVER = frozenset({"done", "failed", "cancelled"})
#: What each provider can be asked for.
_KEEPS_EVENTS = frozenset({"stripe"})
_LISTS_CUSTOMERS = frozenset({"polar"})
_KEPT_DAYS = 30


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command(epilog="Example: sluice reconcile stripe --since 48h --dry-run")(reconcile)
    app.command(epilog='Example: sluice backfill stripe --reason "we move in"')(backfill)


def reconcile(
    source: SourceArgument,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Events from then on: 48h, 2d, 2026-11-14. At most 30 days."),
    ] = None,
    events_only: Annotated[
        bool, typer.Option("--events-only", help="Do not compare the provider's objects.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for the audit trail.")
    ] = "looked for what was missed",
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Ask a source's provider now for what no webhook brought, and store it.

    Of Stripe: its list of events since a time (24h unless said), then its subscriptions beside
    ours. Of Polar: the state of every customer. Ctrl-C leaves the job to itself.
    """
    who, why = actor_name(actor), checked_reason(reason)
    check_text("SOURCE", source)

    async def run(conn: "Conn", _: "Endpoints") -> tuple[UUID, dict[str, Any]]:
        row = await _source(conn, source)
        arguments: dict[str, Any] = {"dryRun": dry_run}
        if row.provider in _LISTS_CUSTOMERS:
            if since is not None or events_only:
                raise CommandError(
                    f"{row.provider} has no list of events: its customers are asked about as they"
                    " are now, without --since and --events-only",
                    USAGE,
                )
        else:
            arguments |= {
                "since": await _moment(conn, since or "24h"),
                "objects": not events_only,
            }
        return await _follow(conn, row, "reconcile", arguments, who, why)

    _report(run, as_json=as_json)


def backfill(
    source: SourceArgument,
    reason: Annotated[
        str, typer.Option("--reason", help="Why, for the audit trail.")
    ] = "brought in what was there before",
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Bring an existing business in: all subscriptions of a source's account, and whose they are.

    Live events may arrive meanwhile, and it may be done again: what is known already is not stored.
    """
    who, why = actor_name(actor), checked_reason(reason)
    check_text("SOURCE", source)

    async def run(conn: "Conn", _: "Endpoints") -> tuple[UUID, dict[str, Any]]:
        row = await _source(conn, source)
        if row.provider not in _KEEPS_EVENTS:
            raise CommandError(
                f"{row.provider} lists no subscriptions that could be brought in:"
                f" sluice reconcile {row.name}",
                USAGE,
            )
        if not dry_run:
            confirm(f"Bring all subscriptions of {plain(source)} in?", yes=yes)
        return await _follow(conn, row, "backfill", {"dryRun": dry_run}, who, why)

    _report(run, as_json=as_json)


async def _source(conn: "Conn", name: str) -> "SourceRow":
    """
    Raises:
        CommandError: it is not there (3), its provider cannot be asked (2), or not with the key
            that it has: none (5).
    """
    from shared.store import source_keys
    from shared.store.source_rows import read_sources

    found = next((one for one in await read_sources(conn) if one.name == name), None)
    if found is None or found.is_removed:
        raise unknown("sources", f"no source {plain(name)}")
    if found.provider not in _KEEPS_EVENTS | _LISTS_CUSTOMERS:
        raise CommandError(
            f"{found.name} is of {found.provider}, which lists nothing that could be asked for:"
            f" only {', '.join(sorted(_KEEPS_EVENTS | _LISTS_CUSTOMERS))} can be reconciled with",
            USAGE,
        )
    if found.id not in await source_keys.read_keys(conn):
        raise CommandError(
            f"{found.name} has no API key to ask with: set its `api_key`, and sluice apply",
            CONFLICT,
        )
    if found.is_paused:
        raise CommandError(f"{found.name} is paused: sluice sources resume {found.name}", CONFLICT)
    return found


async def _moment(conn: "Conn", text: str) -> int:
    """Unix seconds of `--since`."""
    from datetime import timedelta

    from shared.domain.moments import MomentError, moment_before, read_moment
    from shared.store import audit

    now, _ = await audit.moment(conn)
    try:
        moment = moment_before(now, read_moment(text))
    except MomentError as error:
        raise CommandError(f"--since: {error}", USAGE) from None
    if moment >= now:
        raise CommandError("--since lies ahead", USAGE)
    if moment < now - timedelta(days=_KEPT_DAYS, minutes=1):
        raise CommandError(
            f"--since: the provider keeps events for {_KEPT_DAYS} days; what was before them is"
            " found by comparing objects, which this does too",
            USAGE,
        )
    return int(moment.timestamp())


async def _follow(
    conn: "Conn", row: "SourceRow", kind: str, arguments: dict[str, Any], who: str, why: str
) -> tuple[UUID, dict[str, Any]]:
    """Begin the job, and watch it to its end: its id, and the job as lists show it."""
    from shared.store import job_lists
    from workers.steering import begin_job

    job = await in_transaction(
        conn, lambda: begin_job(conn, kind, arguments, who, why, source_id=row.id)
    )
    note(f"job {job}; Ctrl-C leaves it to itself: sluice jobs show {job} --follow")
    still_s = 0.0
    with bar(f"{kind} {row.name}") as report:
        while True:
            found = await job_lists.read_job(conn, job)
            assert found is not None
            shown = job_lists.shown(found)
            if shown["state"] in _OVER:
                return job, shown
            report(shown["progress"]["done"], shown["progress"]["total"])
            await asyncio.sleep(LOOK_EVERY_S)
            still_s = still_s + LOOK_EVERY_S if shown["state"] == "waiting" else 0.0
            if STILL_AFTER_S <= still_s < STILL_AFTER_S + LOOK_EVERY_S:
                note(f"nobody has begun it for {still_s:.0f} s: does a worker run? sluice doctor")


def _report(work: Any, *, as_json: bool) -> None:
    """What it came to; 1 where it failed, 6 where some of it could not be had."""
    try:
        job, shown = operate(work)
    except KeyboardInterrupt:
        note("the job goes on: sluice jobs list")
        raise typer.Exit(0) from None
    result, error = shown["result"] or {}, shown["error"]
    if as_json:
        document = {"job": str(job), "state": shown["state"], "failed": shown["progress"]["failed"]}
        write_json(document | result | ({} if error is None else {"error": error}))
    elif shown["state"] == "done":
        _print(result, shown["progress"]["failed"])
    if shown["state"] != "done":
        text = shown["state"] if error is None else f"{error['code']}: {error['message']}"
        raise CommandError(f"job {job}: {text}", FAILURE)
    if shown["progress"]["failed"]:
        raise typer.Exit(PARTLY_FAILED)


def _print(result: dict[str, Any], failed: int) -> None:
    is_dry = result["dryRun"]
    fields = {
        "events listed": result["eventsListed"],
        "missed": result["missed"],
        "inserted": f"0 (dry run; {result['missed']} would be)" if is_dry else result["inserted"],
        "objects compared": result["objectsCompared"],
        "different": result["different"],
        "healed": f"0 (dry run; {result['different']} would be)" if is_dry else result["healed"],
        **({"could not be had": failed} if failed else {}),
    }
    print_fields(fields)
    if result["missing"]:
        print_heading("Events that no webhook brought")
        columns = {"eventId": "event", "type": "type", "createdAt": "made", "account": "account"}
        print_table(columns, result["missing"])
        if result["missed"] > len(result["missing"]):
            note(f"and {result['missed'] - len(result['missing'])} more")
    if result["drift"]:
        print_heading("Objects that were other than held here")
        print_table({"object": "object", "account": "account"}, result["drift"])
    if not result["missed"] and not result["different"]:
        sys.stdout.write("nothing was missed\n")
