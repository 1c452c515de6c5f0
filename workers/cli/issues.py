"""`sluice issues`: what fails, grouped by what it fails at, and what to do about it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import unknown, write_json
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    note,
    operate,
    plain,
    print_fields,
    print_heading,
    print_page,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.issues import Issue

app = typer.Typer(
    help="Issues: failures, grouped by source, type, error code and handler.", no_args_is_help=True
)

#: Error texts, and tenants, that are shown of an issue.
_SHOWN = 20


@app.callback()
def _group() -> None:
    """Issues: failures, grouped by source, type, error code and handler."""


@app.command("list", epilog="Example: sluice issues list --source stripe")
def list_command(
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what fails, the last failure first: dead events, and those that are tried again."""
    from shared.store.issues import list_issues
    from shared.store.paging import decode_cursor, page_of

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, str) if cursor else None
        found = [issue for issue in await list_issues(conn) if source in (None, issue.key.source)]
        ids = [issue.key.id for issue in found]
        # What has failed since comes in front; what is no issue any more ends the list.
        first = ids.index(after) + 1 if after in ids else len(ids) if after else 0
        page = page_of(found[first : first + limit + 1], limit, _shown, lambda one: (one.key.id,))
        columns = {
            "id": "issue",
            "dead": "dead",
            "retrying": "retrying",
            "code": "code",
            "type": "type",
            "source": "source",
            "handler": "handler",
            "lastAt": "last seen",
            "firstAt": "first seen",
            "error": "error",
        }
        print_page(page, columns, as_json=as_json, nothing="nothing fails")
        if page.items and not as_json:
            note("more of one: sluice issues show ISSUE")

    operate(run)


@app.command("show", epilog="Example: sluice issues show 4f1d09c2ab")
def show_command(
    issue: Annotated[str, typer.Argument(metavar="ISSUE", help="The issue's id.")],
    as_json: JsonOption = False,
) -> None:
    """Show an issue: its error texts, samples, whom it concerns, and how to go on."""
    from shared.store.issues import list_issues, read_errors, read_tenants
    from shared.store.paging import iso

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = next((one for one in await list_issues(conn) if one.key.id == issue), None)
        if found is None:
            raise unknown("issues", f"no issue {plain(issue)}, or it is none any more")
        errors: list[dict[str, Any]] = [
            {
                "events": count,
                "lastAt": iso(last_at),
                "samples": [str(one) for one in samples],
                "error": text,
            }
            for text, count, last_at, samples in await read_errors(conn, found.key, _SHOWN)
        ]
        tenants = [
            {"tenant": tenant, "events": count}
            for tenant, count in await read_tenants(conn, found.key, _SHOWN)
        ]
        commands = _commands(found)
        if as_json:
            parts = {"errors": errors, "tenants": tenants, "commands": commands}
            write_json(_shown(found) | parts)
            return
        print_fields(_shown(found))
        print_heading("Errors")
        print_table({"events": "events", "error": "error", "lastAt": "last seen"}, errors)
        print_heading("Samples")
        rows = [{"event": sample} for one in errors[:5] for sample in one["samples"][:2]]
        print_table({"event": "event"}, rows)
        if tenants:
            print_heading("Tenants, as far as they are known")
            print_table({"tenant": "tenant", "events": "events"}, tenants)
        print_heading("How to go on")
        for command in commands:
            # Not in a table: what is to be copied is not to be broken.
            typer.echo(plain(command))

    operate(run)


def _commands(issue: "Issue") -> list[str]:
    """What to type next."""
    from shlex import quote

    key = issue.key
    chosen = f"--source {quote(key.source)} --type {quote(key.event_type)} --code {quote(key.code)}"
    lines = [f"sluice events show {issue.sample}"]
    if issue.dead:
        lines.append(f"sluice events list --status dead {chosen}")
        lines.append(f"sluice replay plan --issue {key.id}")
        lines.append(f"sluice events ignore --status dead {chosen} --reason WHY")
    if issue.retrying:
        lines.append(f"sluice events retry {chosen} --reason WHY")
    return lines


def _shown(issue: "Issue") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "id": issue.key.id,
        "dead": issue.dead,
        "retrying": issue.retrying,
        "code": issue.key.code,
        "type": issue.key.event_type,
        "source": issue.key.source,
        "handler": issue.key.handler,
        "lastAt": iso(issue.last_at),
        "firstAt": iso(issue.first_at),
        "sample": str(issue.sample),
        "error": issue.error,
    }
