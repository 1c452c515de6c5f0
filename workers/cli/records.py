"""`sluice records`: what sources report of things of their own."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, USAGE, CommandError, unknown, write_json
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

app = typer.Typer(help="Records: what sources report, by version.", no_args_is_help=True)

_NEWEST = 100


@app.command("list", epilog="Example: sluice records list --source acme-results --tenant acme")
def list_command(
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of this tenant only.")] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Those only that wait for a tenant.")
    ] = False,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List records, the longest known first."""
    from shared.store import merges, recorded
    from shared.store.paging import decode_cursor, page_of

    if waiting and tenant is not None:
        raise CommandError("--waiting and --tenant: what waits for a tenant has none", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, int) if cursor else 0
        if tenant is None:
            rows = await recorded.list_records(conn, after, source, waiting, limit + 1)
        else:
            merged = (await merges.read_merges(conn, [tenant])).get(tenant)
            name = tenant if merged is None or merged.into is None else merged.into
            names = [name, *await merges.names_of(conn, name)]
            rows = await recorded.list_records_of(conn, names, after, source, limit + 1)
        page = page_of(rows, limit, recorded.summary, lambda row: (row["id"],))
        columns = {
            "record": "record",
            "source": "source",
            "tenant": "tenant",
            "needs": "needs",
            "version": "version",
        }
        print_page(page, columns, as_json=as_json, nothing="no such records")
        if not as_json and any(item["needs"] for item in page.items):
            note(
                "→ nothing names a tenant for some of them: mend the mapping or the source's"
                " `tenant`, apply, and replay their events"
            )

    operate(run)


@app.command("show", epilog="Example: sluice records show report-17 --source acme-results")
def show_command(
    record: Annotated[
        str, typer.Argument(help="The record's id at its source, or as the API has it.")
    ],
    source: Annotated[
        str | None, typer.Option("--source", help="Its source, where several have one.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="The connected account it belongs to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a record as it is now, and its newest versions with the events they came by."""
    from shared.store import recorded

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await recorded.find_records(conn, record, source, account)
        name = recorded.decode_name(record)
        if not found and name is not None and source is None and account is None:
            row = await recorded.find_record(conn, name)
            found = [] if row is None else [row]
        if not found:
            raise unknown("records", f"no record {plain(record)}")
        if len(found) > 1:
            owners = ", ".join(
                plain(f"{row['source']} {row['account']}".strip()) for row in found[:5]
            )
            raise CommandError(
                f"several have a record {plain(record)}: {owners}; say --source or --account",
                CONFLICT,
            )
        history = await recorded.read_history(conn, found[0]["id"], _NEWEST)
        shown = recorded.summary(found[0])
        tracking_id = UUID(history[0]["trackingId"])
        raw = await recorded.read_raw(conn, found[0]["id"], tracking_id)
        shown |= {"normalised": history[0]["normalised"], "raw": raw.text}
        if raw.artifact is not None:
            shown |= {"artifact": f"sha256:{raw.artifact.hex()}"}
        if as_json:
            write_json({**shown, "history": history})
            return
        print_fields({key: value for key, value in shown.items() if value not in (None, "")})
        print_heading("Versions, the newest first")
        columns = (
            "version",
            "event",
            "trackingId",
            "tenant",
            "receivedAt",
            "mappedBy",
            "run",
            "line",
        )
        print_table({column: column for column in columns}, history)
        if raw.artifact is not None:
            note("what it was read from lies in the artifact store")
        elif raw.text is None:
            note("what it was read from went by retention")

    operate(run)
