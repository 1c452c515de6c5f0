"""`sluice audit`: what was changed, by what and by whom, and whether the trail is whole."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from workers.cli.exits import (
    FAILURE,
    NOT_FOUND,
    USAGE,
    CommandError,
    unknown,
    write_json,
    write_line,
)
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    note,
    operate,
    plain,
    print_fields,
    print_page,
    span,
    tracking_id,
)
from workers.cli.terminal import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.trail import Finding, Tally

app = typer.Typer(help="The audit trail.", no_args_is_help=True)

_UNSEEN = [
    "records cut off the end of a chain whose head was set back to match",
    "chains removed together with their heads and contents",
    "chains rewritten from some record on to their end, every hash and the head included",
]
_UNSEEN_SIGNED = [
    "any of these done only to records younger than the last checkpoint ({left} now), or together"
    " with the removal of all checkpoints that cover them",
    "what was done by somebody who has the audit key too: the database and SLUICE_SECRET_KEY",
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
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Of this actor: operator:ada, provider:stripe.")
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", help="As grant.given; entitlement. is all of those.")
    ] = None,
    cause: Annotated[
        str | None, typer.Option("--cause", help="event, end, catalog, operator or reconcile.")
    ] = None,
    feature: Annotated[str | None, typer.Option("--feature", help="Of this feature.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="A time, a day, or how long ago, like 48h.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Up to here, and without it.")
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List audit records, newest first."""
    from shared.store import events, trail
    from shared.store.paging import decode_cursor
    from workers.actions import replay_action

    of_event = tracking_id(event) if event is not None else None
    asked = (source, by, action, cause, feature, since, until)
    _check_filters((*asked, tenant), cause)
    if of_event is not None and any(asked):
        raise CommandError("--event goes with --tenant only: an event has few records", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, int) if cursor else None
        if of_event is None:
            first, last = await span(conn, since, until)
            wanted = trail.Wanted(tenant, source, by, action, cause, feature, first, last)
            page = await trail.list_records(conn, after, wanted, limit)
        else:
            runs = await events.read_runs(conn, of_event)
            actions = [replay_action(of_event, run["run"]) for run in runs if run["run"] > 1]
            page = await trail.list_records_of_event(conn, of_event, actions, after, tenant, limit)
        columns = {
            "id": "id",
            "at": "at",
            "action": "action",
            "tenant": "tenant",
            "feature": "feature",
            "actor": "actor",
            "after": "after",
            "before": "before",
        }
        print_page(page, columns, as_json=as_json, nothing="no records")

    operate(run)


def _check_filters(texts: "Sequence[str | None]", cause: str | None) -> None:
    from shared.domain.audit import CAUSES

    if any(text is not None and (not text.strip() or "\0" in text) for text in texts):
        raise CommandError("a filter that says nothing is none: leave it out", USAGE)
    if cause is not None and cause not in CAUSES:
        raise CommandError(f"--cause is one of {', '.join(CAUSES)}", USAGE)


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
            raise unknown("audit", f"no audit record {record}")
        if as_json:
            write_json(found)
            return
        print_fields({key: value for key, value in found.items() if value not in (None, "")})

    operate(run)


@app.command("heads", epilog="Example: sluice audit heads --signed > anchor-$(date +%F).jsonl")
def heads_command(
    signed: Annotated[
        bool, typer.Option("--signed", help="The last signed checkpoint instead: one line.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Print the anchor for `audit verify --anchor`: every chain's head, one JSON line each.

    Keep it where nobody who may write to the database may write. With --signed it is one line for
    all chains, up to the last checkpoint.
    """
    from shared.store.trail import read_heads

    async def run(conn: "Conn", _: "Endpoints") -> None:
        if signed:
            write_line(await _signed(conn))
            return
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


async def _signed(conn: "Conn") -> dict[str, Any]:
    from shared.store import checkpoints

    newest = await checkpoints.read_newest(conn)
    if newest is None:
        raise CommandError(
            "no checkpoint yet: workers that have SLUICE_SECRET_KEY write them", NOT_FOUND
        )
    keys = {key.id: key for key in await checkpoints.read_keys(conn)}
    return {
        "number": newest.number,
        "key": newest.key,
        "statement": newest.statement,
        "signature": newest.signature.hex(),
        "publicKey": keys[newest.key].public.hex(),
    }


@app.command("verify", epilog="Example: sluice audit verify --anchor anchor-2026-11-01.jsonl")
def verify_command(
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Heads of earlier: from `sluice audit heads`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Verify every chain and checkpoint: altered, removed, inserted or cut-off records.

    Altered contents too, and what is not as it was signed. Exit code 1 if there is one. Says what
    it cannot see.
    """
    from shared.store import checkpoints
    from workers.trail import Finding, Tally, read_anchor, verify

    found: list[Finding] = []
    counted = Tally()
    count = left = 0

    def progress(tally: "Tally") -> None:
        nonlocal counted
        counted = tally
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{tally.records:,} records in {tally.chains:,} chains")

    async def run(conn: "Conn", _: "Endpoints") -> None:
        nonlocal count, left
        with _opened(anchor) as lines:
            heads = read_anchor(lines) if lines is not None else None
            async for finding in verify(conn, heads, progress):
                count += 1
                if count <= _SHOWN_FINDINGS:
                    found.append(finding)
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        newest = await checkpoints.read_newest(conn)
        left = await checkpoints.count_uncovered(conn, newest.to_xid) if newest else 0

    operate(run)
    unseen = _UNSEEN if anchor is None else _UNSEEN_ANCHORED
    if anchor is None and counted.checkpoints:
        unseen = [line.format(left=left) for line in _UNSEEN_SIGNED]
    if as_json:
        write_json(
            {
                "ok": count == 0,
                "records": counted.records,
                "chains": counted.chains,
                "contents": counted.contents,
                "erased": counted.erased,
                "anchored": counted.anchored,
                "checkpoints": counted.checkpoints,
                "signed": counted.signed,
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
        f" {tally.checkpoints} checkpoints over {tally.signed} of the records,"
        f" {tally.anchored} anchored heads, {count} findings"
    )
    note(f"{'This' if anchored else 'Without --anchor this'} cannot see:")
    for line in unseen:
        note(f"  {line}")
