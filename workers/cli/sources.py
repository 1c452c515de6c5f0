"""`sluice sources`: where events come from."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from workers.cli.output import CursorOption, JsonOption, LimitOption, operate, print_page

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.configuration import ListedSource

app = typer.Typer(help="Sources: where events come from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Sources: where events come from. They are changed with `sluice apply`."""


@app.command("list", epilog="Example: sluice sources list --json")
def list_command(
    removed: Annotated[bool, typer.Option("--all", help="The removed ones too.")] = False,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List the sources by name, with what each one's provider must be told: where to send its
    events, and which types (--json names them). Of their secrets, only how many there are.
    """
    from shared.store.configuration import list_sources
    from shared.store.paging import decode_cursor, page_of

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        after = decode_cursor(cursor, str) if cursor else None
        rows = await list_sources(conn, after, removed=removed, limit=limit + 1)
        page = page_of(rows, limit, lambda row: _shown(row, endpoints), lambda row: (row.name,))
        for item in page.items if not as_json else ():
            item["eventTypes"] = len(item["eventTypes"])  # their names would fill the table
        columns = {
            "name": "source",
            "provider": "provider",
            "livemode": "live",
            "secrets": "secrets",
            "url": "url",
            "eventTypes": "event types",
            "tenant": "tenant",
        }
        print_page(
            page, columns, as_json=as_json, nothing="no sources; declare some: sluice apply FILE"
        )

    operate(run)


def url_of(endpoints: "Endpoints", source: str) -> str:
    """Where the source's provider must send its events."""
    return f"{endpoints.http}/api/v1/webhooks/{quote(source)}"


def _shown(source: "ListedSource", endpoints: "Endpoints") -> dict[str, Any]:
    from shared.providers import PROVIDERS
    from shared.store.paging import iso

    provider = PROVIDERS.get(source.provider)
    return {
        "name": source.name,
        "provider": source.provider,
        "livemode": source.livemode,
        "tenant": source.tenant,
        "secrets": source.secrets,
        "lanes": source.lanes,
        "settings": dict(source.settings),
        "url": url_of(endpoints, source.name),
        "eventTypes": list(provider.event_types(source.settings)) if provider else [],
        "createdAt": iso(source.created_at),
        "removedAt": iso(source.removed_at),
    }
