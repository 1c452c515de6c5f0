"""`sluice requests`: what was refused at the door, and why."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.causes import advice
from workers.cli.exits import USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    check_text,
    operate,
    plain,
    print_fields,
    print_heading,
    print_page,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.refusals import Kept, Listed

app = typer.Typer(
    help="Requests that were refused at the door: a few of them, with why.", no_args_is_help=True
)


@app.command("list", epilog="Example: sluice requests list --source stripe --since 1h")
def list_command(
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    cause: Annotated[str | None, typer.Option("--cause", help="Of this cause only.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help='"48h", "7d", or a time in ISO 8601.')
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List refused requests, newest first: of each source the newest hundred, for seven days."""
    from shared.domain.moments import moment_before, read_moment
    from shared.providers.base import CAUSES
    from shared.store.paging import decode_cursor, page_of
    from shared.store.refusals import list_refusals

    if cause is not None and cause not in CAUSES:
        raise CommandError(f"--cause: one of {', '.join(CAUSES)}", USAGE)
    if source is not None:
        check_text("--source", source)
    after_at = None
    if since is not None:
        try:
            after_at = moment_before(datetime.now(UTC), read_moment(since))
        except ValueError as error:
            raise CommandError(f"--since: {error}", USAGE) from None

    def key(at: str, number: str) -> tuple[datetime, UUID]:
        return datetime.fromisoformat(at), UUID(number)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, key) if cursor else None
        rows = await list_refusals(
            conn, after, source=source, cause=cause, since=after_at, limit=limit + 1
        )
        page = page_of(rows, limit, _shown, lambda row: (row.refused_at.isoformat(), str(row.id)))
        columns = {
            "id": "id",
            "cause": "cause",
            "source": "source",
            "refusedAt": "refused",
            "address": "from",
            "hint": "hint",
        }
        nothing = "no refused requests are kept"
        print_page(page, columns, as_json=as_json, nothing=nothing)

    operate(run)


@app.command("show", epilog="Example: sluice requests show 019a1b2c-…")
def show_command(
    request: Annotated[str, typer.Argument(metavar="ID", help="As `requests list` has it.")],
    as_json: JsonOption = False,
) -> None:
    """Show one refused request: why it was refused, what to do, and its headers."""

    async def run(conn: "Conn", _: "Endpoints") -> None:
        source, kept = await find(conn, request)
        shown = _whole(source, kept)
        if as_json:
            write_json(shown)
            return
        print_fields({name: value for name, value in shown.items() if name != "headers"})
        print_heading("Headers")
        # As `events headers` has them: a signature is one long word, and it is what is looked for.
        for name, value in shown["headers"]:
            sys.stdout.write(f"{plain(name)}: {plain(value)}\n")

    operate(run)


@app.command("raw", epilog="Example: sluice requests raw 019a1b2c-… > body")
def raw_command(
    request: Annotated[str, typer.Argument(metavar="ID", help="As `requests list` has it.")],
) -> None:
    """Write the body as it came, byte for byte, as far as it is kept: 64 KiB at most."""

    async def run(conn: "Conn", _: "Endpoints") -> None:
        kept = (await find(conn, request))[1]
        if kept.body is None:
            raise CommandError("the body was not read: its headers were enough to refuse it")
        sys.stdout.flush()
        target = getattr(sys.stdout, "buffer", None)
        if target is None:  # somebody reads text
            sys.stdout.write(kept.body.decode("utf-8", "replace"))
        else:
            target.write(kept.body)
            target.flush()
        if kept.body_bytes is not None and kept.body_bytes > len(kept.body):
            sys.stderr.write(f"the first {len(kept.body)} of {kept.body_bytes} bytes\n")

    operate(run)


async def find(conn: "Conn", text: str) -> "tuple[str, Kept]":
    """
    The request of that id, beside its source's name.

    Raises:
        CommandError: it is no id (2), or nothing is kept under it (3).
    """
    from shared.store.refusals import read_refusal

    try:
        number = UUID(text)
    except ValueError:
        raise CommandError(f"{plain(text)} is no id; see sluice requests list", USAGE) from None
    found = await read_refusal(conn, number)
    if found is None:
        raise unknown("requests", f"no refused request {number} is kept")
    return found


def _shown(one: "Listed") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "id": str(one.id),
        "source": one.source,
        "refusedAt": iso(one.refused_at),
        "kind": one.kind,
        "address": one.address,
        "code": one.code,
        "cause": one.cause,
        "hint": one.hint,
        "signedAt": iso(one.signed_at),
        "bodyBytes": one.body_bytes,
        "traceId": one.trace_id,
    }


def _whole(source: str, one: "Kept") -> dict[str, Any]:
    import json

    from shared.store.paging import iso

    return {
        "id": str(one.id),
        "source": source,
        "refusedAt": iso(one.refused_at),
        "kind": one.kind,
        "address": one.address,
        "code": one.code,
        "cause": one.cause,
        "hint": one.hint,
        "whatToDo": advice(one.cause),
        "signedAt": iso(one.signed_at),
        "bodyBytes": one.body_bytes,
        "keptBytes": None if one.body is None else len(one.body),
        "bodySha256": None if one.body_sha is None else one.body_sha.hex(),
        "traceId": one.trace_id,
        "headers": json.loads(one.headers),
    }
