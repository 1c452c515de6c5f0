"""`sluice audit`: what was changed, by what and by whom, and whether the trail is whole."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from workers.cli.exits import FAILURE, NOT_FOUND, USAGE, CommandError, write_json
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    note,
    operate,
    plain,
    print_fields,
    print_page,
    tracking_id,
)
from workers.cli.terminal import console

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.trail import Finding, Tally

app = typer.Typer(help="The audit trail.", no_args_is_help=True)

_UNSEEN = [
    "records cut off the end of a chain whose head was set back to match",
    "chains removed together with their heads and contents",
    "chains rewritten from some record on to their end, every hash and the head included",
]
_UNSEEN_ANCHORED = [
    "the same done only to records younger than the anchor, or to chains younger than it",
]
#: Findings beyond these are counted, and not kept: a trail of any length is verified in one size.
_SHOWN_FINDINGS = 1000
_BATCH = 1000


@app.command("list", epilog="Example: sluice audit list --tenant acme --limit 20")
def list_command(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
    event: Annotated[
        str | None,
        typer.Option("--event", help="Caused by this event (tracking id), or its replay."),
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List audit records, newest first."""
    from shared.store import events, trail
    from shared.store.paging import decode_cursor
    from workers.actions import replay_action

    wanted = tracking_id(event) if event is not None else None

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, int) if cursor else None
        if wanted is None:
            page = await trail.list_records(conn, after, tenant, limit)
        else:
            runs = await events.read_runs(conn, wanted)
            actions = [replay_action(wanted, run["run"]) for run in runs if run["run"] > 1]
            page = await trail.list_records_of_event(conn, wanted, actions, after, tenant, limit)
        columns = {
            "id": "id",
            "action": "action",
            "tenant": "tenant",
            "feature": "feature",
            "after": "after",
            "before": "before",
            "at": "at",
            "actor": "actor",
        }
        print_page(page, columns, as_json=as_json, nothing="no records")

    operate(run)


@app.command("show", epilog="Example: sluice audit show 4711 --json")
def show_command(
    record: Annotated[int, typer.Argument(metavar="ID", help="The record's id.", min=1)],
    as_json: JsonOption = False,
) -> None:
    """Show one audit record with all that it says: of an import's manifest, each change."""
    from shared.store.trail import read_record

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_record(conn, record)
        if found is None:
            raise CommandError(f"no audit record {record}", NOT_FOUND)
        if as_json:
            write_json(found)
            return
        print_fields({key: value for key, value in found.items() if value not in (None, "")})

    operate(run)


@app.command("heads", epilog="Example: sluice audit heads > anchor-$(date +%F).jsonl")
def heads_command(as_json: JsonOption = False) -> None:
    """
    Print every chain's head, one JSON line each: the anchor for `audit verify --anchor`.

    Keep it where nobody who may write to the database may write.
    """
    from shared.store.trail import read_heads

    async def run(conn: "Conn", _: "Endpoints") -> None:
        chain, separator = "", ""
        if as_json:
            sys.stdout.write('{"items": [')
        while heads := await read_heads(conn, chain, _BATCH):
            for head in heads:
                line = json.dumps(
                    {"chain": head.chain, "length": head.length, "hash": head.hash.hex()}
                )
                sys.stdout.write(f"{separator}{line}" if as_json else f"{line}\n")
                separator = ", "
            chain = heads[-1].chain
        if as_json:
            sys.stdout.write('], "next": null}\n')

    operate(run)


@app.command("verify", epilog="Example: sluice audit verify --anchor anchor-2026-11-01.jsonl")
def verify_command(
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Heads of earlier: from `sluice audit heads`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Verify every chain: altered, removed, inserted or cut-off records, and altered contents.

    Exit code 1 if there is one. Says what it cannot see.
    """
    from workers.trail import Finding, Tally, read_anchor, verify

    found: list[Finding] = []
    counted = Tally()
    count = 0

    def progress(tally: "Tally") -> None:
        nonlocal counted
        counted = tally
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{tally.records:,} records in {tally.chains:,} chains")

    async def run(conn: "Conn", _: "Endpoints") -> None:
        nonlocal count
        with _opened(anchor) as lines:
            heads = read_anchor(lines) if lines is not None else None
            async for finding in verify(conn, heads, progress):
                count += 1
                if count <= _SHOWN_FINDINGS:
                    found.append(finding)
        if sys.stderr.isatty():
            sys.stderr.write("\n")

    operate(run)
    unseen = _UNSEEN if anchor is None else _UNSEEN_ANCHORED
    if as_json:
        write_json(
            {
                "ok": count == 0,
                "records": counted.records,
                "chains": counted.chains,
                "contents": counted.contents,
                "erased": counted.erased,
                "anchored": counted.anchored,
                "findings": [asdict(finding) for finding in found],
                "findingCount": count,
                "cannotSee": unseen,
            }
        )
    else:
        _print(found, count, counted, unseen, anchored=anchor is not None)
    if count:
        raise typer.Exit(FAILURE)


@contextmanager
def _opened(anchor: Path | None) -> Iterator[TextIO | None]:
    if anchor is None:
        yield None
        return
    try:
        lines = anchor.open(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{anchor} cannot be read: {error.strerror}", USAGE) from None
    with lines:
        yield lines


def _print(
    findings: "list[Finding]",
    count: int,
    tally: "Tally",
    unseen: list[str],
    *,
    anchored: bool,
) -> None:
    for finding in findings:
        place = f" at {finding.position}" if finding.position is not None else ""
        kind = finding.kind.replace("_", " ")
        typer.echo(f"{kind}: {plain(finding.chain)}{place}: {plain(finding.detail)}")
    if count > len(findings):
        typer.echo(f"and {count - len(findings)} more")
    console().print(
        f"{'NOT WHOLE' if count else 'whole'}: {tally.records} records in {tally.chains} chains,"
        f" {tally.contents} contents ({tally.erased} erased),"
        f" {tally.anchored} anchored heads, {count} findings"
    )
    note(f"{'This' if anchored else 'Without --anchor this'} cannot see:")
    for line in unseen:
        note(f"  {line}")
