"""`sluice events retry|ignore|note`: what operators do to single events, or to all of a filter."""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, PARTLY_FAILED, USAGE, CommandError, unknown, write_json
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
    tracking_id,
)
from workers.cli.ringing import ring
from workers.cli.selecting import check_not_all, selecting
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.selection import Selection
    from shared.settings import Endpoints

#: One transaction has so many.
_AT_ONCE = 500

EventsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]…", help="Tracking ids; or give a filter.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All that there are, without a filter.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the group of events."""
    example = 'Example: sluice events retry --source stripe --code ConnectError --reason "back"'
    app.command("retry", epilog=example)(retry_command)
    app.command("ignore", epilog='Example: sluice events ignore 019a… --reason "sent by mistake"')(
        ignore_command
    )
    app.command("note", epilog='Example: sluice events note 019a… "asked the sender, ticket 4711"')(
        note_command
    )


@selecting
def retry_command(
    wanted: "Selection",
    reason: ReasonOption,
    events: EventsArgument = None,
    is_all: AllOption = False,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have unfinished events tried at once that wait for their next attempt; nothing is charged."""
    from workers.tending import retry_events

    who, why = actor_name(actor), checked_reason(reason)
    ids = _named(events, wanted, is_all=is_all, may_be=("retrying",), settled="replay")

    async def run(conn: "Conn", endpoints: "Endpoints") -> "Mapping[UUID, str]":
        targets = ids or [one async for one, _ in _meant(conn, wanted, ("retrying",))]
        if not ids and not dry_run:
            confirm(f"have {len(targets):,} events tried at once?", yes=yes)
        became: dict[UUID, str] = {}
        lanes: set[int] = set()
        for some in _pieces(targets):
            work = partial(retry_events, conn, some, who, why)
            answers, rung = await in_transaction(conn, work, dry_run=dry_run)
            became |= answers
            lanes |= set(rung)
        if not dry_run:
            await ring(endpoints, sorted(lanes))
        return became

    became = operate(run)
    _answer(became, "due", "due now", as_json=as_json, dry_run=dry_run, named=bool(ids))


@selecting
def ignore_command(
    wanted: "Selection",
    reason: ReasonOption,
    events: EventsArgument = None,
    is_all: AllOption = False,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Settle events as ignored that are dead or not finished: they are not applied, and fail no more.

    A filter means those that failed, dead and retrying ones, unless it has a --status.
    """
    from shared.store.tended import find_events
    from workers.tending import ignore_events

    who, why = actor_name(actor), checked_reason(reason)
    failed = ("dead", "retrying")
    may_be = (*failed, "received")
    ids = _named(events, wanted, is_all=is_all, may_be=may_be, settled="ignore")

    async def run(conn: "Conn", _: "Endpoints") -> "Mapping[UUID, str]":
        became: dict[UUID, str] = {}
        lanes: dict[int, list[UUID]] = {}
        if ids:
            found = await find_events(conn, ids)
            became = {one: "unknown" for one in ids if one not in found}
            for known in found.values():
                lanes.setdefault(known.lane, []).append(known.tracking_id)
        else:
            async for one, lane in _meant(conn, wanted, failed):
                lanes.setdefault(lane, []).append(one)
            if not dry_run:
                count = sum(map(len, lanes.values()))
                confirm(f"ignore {count:,} events, for good unless replayed?", yes=yes)
        for lane in sorted(lanes):
            for some in _pieces(lanes[lane]):
                work = partial(ignore_events, conn, lane, some, who, why)
                became |= await in_transaction(conn, work, dry_run=dry_run)
        return {one: became[one] for one in ids} if ids else became

    became = operate(run)
    _answer(became, "ignored", "ignored", as_json=as_json, dry_run=dry_run, named=bool(ids))


def note_command(
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's tracking id.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is to be known of it.")],
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why, where the text does not say it.")
    ] = None,
    actor: ActorOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a note about an event: `sluice events show` lists it, and the trail keeps it."""
    from workers.tending import UnknownEvent, note_event

    wanted, who = tracking_id(event), actor_name(actor)
    why = checked_reason(reason) if reason is not None else None
    _check_note(text)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            act = await in_transaction(
                conn, partial(note_event, conn, wanted, text, who, why), dry_run=dry_run
            )
        except UnknownEvent as error:
            raise unknown("events", error) from None
        if as_json:
            said = {"trackingId": str(wanted), "actionId": str(act), "note": text}
            write_json(said | ({"dryRun": True} if dry_run else {}))
        else:
            say_done(f"noted: {wanted}", f"would be noted: {wanted}", dry_run=dry_run)

    operate(run)


def _check_note(text: str) -> None:
    """
    Raises:
        CommandError: it says nothing, or cannot be kept.
    """
    if not text.strip() or len(text) > 10_000:
        raise CommandError("TEXT must be text of 1 to 10,000 characters", USAGE)
    check_text("TEXT", text[:50].strip())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CommandError("TEXT is not UTF-8", USAGE) from None
    if "\0" in text:
        raise CommandError("TEXT holds a NUL", USAGE)


def _named(
    events: list[str] | None,
    wanted: "Selection",
    *,
    is_all: bool,
    may_be: Sequence[str],
    settled: str,
) -> list[UUID]:
    """
    The events that are given by their ids; none where a filter is given that can mean any.

    Raises:
        CommandError: neither or both are given (2), or what is meant is settled (5).
    """
    ids = list(dict.fromkeys(tracking_id(one) for one in events or ()))
    if ids:
        if is_all or not wanted.is_empty:
            raise CommandError("give tracking ids, or a filter, or --all", USAGE)
        return ids
    check_not_all(wanted, is_all=is_all)
    if wanted.outcome is not None and wanted.outcome not in may_be:
        raise CommandError(_settled(f"what is {wanted.outcome}", settled), CONFLICT)
    if wanted.status is not None and wanted.status not in (*may_be, "received"):
        raise CommandError(_settled(f"what is {wanted.status}", settled), CONFLICT)
    return []


def _settled(what: str, act: str) -> str:
    if act == "ignore":
        return f"{what} is settled: only what is dead or not finished can be ignored"
    return f"{what} is settled: `sluice replay` has it applied again"


async def _meant(
    conn: "Conn", wanted: "Selection", may_be: Sequence[str]
) -> AsyncIterator[tuple[UUID, int]]:
    """The events of a filter, and their lanes; of any of these statuses unless it has one."""
    from msgspec.structs import replace

    from shared.store.selecting import select_events

    for status in may_be if wanted.status is None else (wanted.status,):
        after = None
        while True:
            asked = replace(wanted, status=status)
            page = await select_events(conn, asked, after, _AT_ONCE)
            for one in page:
                yield one.tracking_id, one.lane
            if len(page) < _AT_ONCE:
                break
            after = (page[-1].received_at, page[-1].tracking_id)


def _pieces(ids: Sequence[UUID]) -> list[Sequence[UUID]]:
    return [ids[first : first + _AT_ONCE] for first in range(0, len(ids), _AT_ONCE)]


_CANNOT: Mapping[str, Callable[[str], str]] = {
    "due": lambda one: _settled(one, "replay"),
    "ignored": lambda one: _settled(one, "ignore"),
}


def _answer(
    became: "Mapping[UUID, str]",
    done: str,
    word: str,
    *,
    as_json: bool,
    dry_run: bool,
    named: bool,
) -> None:
    """
    What became of the events, and how the command ends.

    Raises:
        CommandError: of named events none was there (3), or none could be (5).
        typer.Exit: some could not (6).
    """
    counts = Counter(became.values())
    refused = [one for one, how in became.items() if how in ("settled", "unknown")]
    if named and len(refused) == len(became):
        first = refused[0]
        if became[first] == "unknown":
            raise unknown("events", f"no event {first}, or its body went by retention")
        raise CommandError(_CANNOT[done](str(first)), CONFLICT)
    if as_json:
        answer: dict[str, Any] = {
            "count": counts[done],
            "events": [{"trackingId": str(one), "became": how} for one, how in became.items()],
        }
        write_json(answer | ({"dryRun": True} if dry_run else {}))
    else:
        count = counts[done]
        would = "would be" if dry_run else "is" if count == 1 else "are"
        sys.stdout.write(f"{count:,} {'event' if count == 1 else 'events'} {would} {word}\n")
        for how, others in sorted(counts.items()):
            if how != done:
                note(f"{others:,} {_LEFT[how]}")
    if named and refused:
        raise typer.Exit(PARTLY_FAILED)


_LEFT = {
    "already": "due or at work already",
    "settled": "settled meanwhile: nothing was done to them",
    "unknown": "not known, or without a body any more",
}
