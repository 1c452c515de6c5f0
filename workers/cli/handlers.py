"""`sluice handlers`: the handlers of installed packages, and whether they keep up."""

from typing import TYPE_CHECKING, Any

import typer

from workers.cli.output import JsonOption, note, operate, print_page

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.handler_lists import ListedHandler

app = typer.Typer(help="Handlers of installed packages.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Handlers of installed packages: what is brought to them, and whether they keep up."""


@app.command("list", epilog="Example: sluice handlers list")
def list_command(as_json: JsonOption = False) -> None:
    """
    List the handlers that workers have, or have had, by name: what they listen to, how far behind
    the audit trail they are, and what was brought to them and is waiting, retrying or dead.
    """
    from shared.store import handler_lists
    from shared.store.paging import Page
    from workers.extensions import handlers

    async def run(conn: "Conn", _: "Endpoints") -> None:
        unfinished = await handler_lists.count_unfinished(conn)
        dead = await handler_lists.count_dead(conn)
        here = handlers()
        items = [
            _shown(one, one.name in here, unfinished.get(one.name, (0, 0)), dead.get(one.name, 0))
            for one in await handler_lists.list_handlers(conn)
        ]
        known = {item["name"] for item in items}
        lines = [_in_a_line(item) for item in items]
        columns = {
            "name": "handler",
            "installed": "installed here",
            "listensTo": "listens to",
            "lag": "behind",
            "waiting": "waiting",
            "retrying": "retrying",
            "dead": "dead",
        }
        nothing = "no worker has a handler; packages name theirs in the group sluice.handlers"
        print_page(
            Page(items if as_json else lines, None), columns, as_json=as_json, nothing=nothing
        )
        for item in items:
            if not item["hadByAWorker"]:
                note(
                    f"{item['name']}: no worker has it now; what is brought to it waits, and fails"
                )
        for name in sorted(here.keys() - known):
            note(f"{name}: installed here, and no worker has had it yet")

    operate(run)


def _shown(
    one: "ListedHandler", is_here: bool, unfinished: tuple[int, int], dead: int
) -> dict[str, Any]:
    from shared.store.paging import iso

    waiting, retrying = unfinished
    return {
        "name": one.name,
        "installed": is_here,
        "hadByAWorker": one.is_had,
        "listensTo": list(one.listens_to),
        "lagRecords": one.lag_records,
        "lagS": one.lag_s if one.lag_s is None else round(one.lag_s, 3),
        "waiting": waiting,
        "retrying": retrying,
        "dead": dead,
        "firstSeenAt": iso(one.first_seen_at),
        "seenAt": iso(one.seen_at),
    }


def _in_a_line(item: dict[str, Any]) -> dict[str, Any]:
    lag = ""
    if item["lagRecords"] is not None:
        lag = f"{item['lagRecords']} records, {item['lagS']:.0f} s" if item["lagRecords"] else "0"
    return {**item, "listensTo": ", ".join(item["listensTo"]), "lag": lag}
