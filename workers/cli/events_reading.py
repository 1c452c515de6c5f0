"""`sluice events raw|headers|export`: what came, to the byte, and lists for other tools."""

import csv
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import NOT_FOUND, USAGE, CommandError, unknown, write_json
from workers.cli.output import JsonOption, note, operate, plain, tracking_id
from workers.cli.selecting import check_not_all, selecting

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.selection import Selection
    from shared.settings import Endpoints
    from shared.store.events import Evidence

EventArgument = Annotated[str, typer.Argument(metavar="ID", help="The event's tracking id.")]
AllOption = Annotated[bool, typer.Option("--all", help="All events there are.")]

_AT_ONCE = 1000
_COLUMNS = (
    "trackingId", "source", "eventId", "type", "status", "outcome", "code", "occurredAt",
    "receivedAt", "settledAt", "tenant", "attempts", "deliveries", "error",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add these commands to the group of events."""
    app.command("raw", epilog="Example: sluice events raw 019a… > body.json")(raw_command)
    app.command("headers", epilog="Example: sluice events headers 019a… --json")(headers_command)
    app.command(
        "export", epilog="Example: sluice events export --status dead --format csv > dead.csv"
    )(export_command)


def raw_command(
    event: EventArgument,
    delivery: Annotated[
        int, typer.Option("--delivery", min=1, help="Of which delivery; the first is 1.")
    ] = 1,
) -> None:
    """Write a body as it came, byte for byte."""
    wanted = tracking_id(event)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        async for chunk in _body(conn, await _evidence(conn, wanted), wanted, delivery):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    operate(run)


def headers_command(event: EventArgument, as_json: JsonOption = False) -> None:
    """Show the headers that an event came with; those with credentials are digests."""
    wanted = tracking_id(event)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        headers = (await _evidence(conn, wanted)).arrival.headers
        if as_json:
            write_json([list(pair) for pair in headers])
            return
        for name, value in headers:
            sys.stdout.write(f"{plain(name)}: {plain(value)}\n")
        if not headers:
            note("none is kept: it came through no gateway")

    operate(run)


@selecting
def export_command(
    wanted: "Selection",
    is_all: AllOption = False,
    written: Annotated[str, typer.Option("--format", help="ndjson or csv.")] = "ndjson",
) -> None:
    """Write all events of a filter to stdout, newest first; bodies are `sluice events raw`'s."""
    if written not in ("ndjson", "csv"):
        raise CommandError("--format: one of ndjson, csv", USAGE)
    check_not_all(wanted, is_all=is_all)

    async def run(conn: "Conn", _: "Endpoints") -> int:
        table = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
        if written == "csv":
            table.writeheader()
        count = 0
        async for item in _exported(conn, wanted):
            count += 1
            if written == "csv":
                table.writerow({name: _cell(item[name]) for name in _COLUMNS})
            else:
                sys.stdout.write(json.dumps(item) + "\n")
        return count

    note(f"{operate(run):,} events")


async def _exported(conn: "Conn", wanted: "Selection") -> AsyncIterator[Mapping[str, Any]]:
    """All of them, however many: no more than a page is held at once."""
    from shared.store.events import list_events
    from shared.store.selecting import select_events

    after = None
    while True:
        page = await select_events(conn, wanted, after, _AT_ONCE)
        for item in await list_events(conn, [one.tracking_id for one in page]):
            yield item
        if len(page) < _AT_ONCE:
            return
        after = (page[-1].received_at, page[-1].tracking_id)


def _cell(value: Any) -> Any:
    """What spreadsheets would take for a formula is text for them, too: senders choose it."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


async def _evidence(conn: "Conn", wanted: UUID) -> "Evidence":
    """
    Raises:
        CommandError: there is none, or none any more (3).
    """
    from shared.store.events import read_event

    found = await read_event(conn, wanted)
    if found is None:
        raise unknown("events", f"no event {wanted}, or its body went by retention")
    return found


async def _body(
    conn: "Conn", evidence: "Evidence", wanted: UUID, delivery: int
) -> AsyncIterator[bytes]:
    """
    The bytes of a delivery, from the inbox or the artifact store.

    Raises:
        CommandError: there was no such delivery (3), or its artifact is gone or damaged (1).
    """
    from shared.store.events import read_redelivered

    body, artifact = evidence.arrival.body, evidence.artifact
    if delivery > 1:
        again = await read_redelivered(conn, wanted, delivery - 2)
        if again is None:
            raise CommandError(
                f"{wanted} was not delivered {delivery} times: sluice events show {wanted}",
                NOT_FOUND,
            )
        other, digest = again
        if other is not None:
            is_here = other or digest == hashlib.sha256(b"").digest()
            body, artifact = other, None if is_here else digest
    if artifact is None:
        yield body
        return
    from shared.artifacts import ArtifactError, Artifacts
    from shared.settings import Settings

    settings = Settings.read()
    try:
        async for chunk in Artifacts(settings.artifacts_url, settings.home).read(artifact):
            yield chunk
    except ArtifactError as error:
        raise CommandError(str(error)) from None
