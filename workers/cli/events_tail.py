"""`sluice events tail`: events as they are received and settled."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.output import JsonOption, note, operate, plain
from workers.cli.selecting import selecting

if TYPE_CHECKING:
    from uuid import UUID

    from shared.db import Conn
    from shared.domain.selection import Selection
    from shared.settings import Endpoints
    from workers.tailing import Seen

_EVERY_S = 0.5
_AT_ONCE = 1000
#: So much of what was shown of the past is remembered, not to be shown again.
_REMEMBERED = 100_000


def register(app: typer.Typer) -> None:
    """Add the command to the group of events."""
    app.command("tail", epilog="Example: sluice events tail --source stripe --status dead")(
        tail_command
    )


@selecting
def tail_command(wanted: "Selection", as_json: JsonOption = False) -> None:
    """
    Show events as they are received, and as their runs are settled, until Ctrl-C.

    From now on, or with --since what came from then on first. With --json a document a line.
    """

    async def run(conn: "Conn", _: "Endpoints") -> None:
        if not as_json and sys.stdout.isatty():
            note("waiting for events; Ctrl-C ends this")
        async for item in _follow(conn, wanted):
            line = json.dumps(item) if as_json else _line(item)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    try:
        operate(run)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Whoever read this has enough, as `head` does; nothing is to be said to it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _follow(conn: "Conn", wanted: "Selection") -> AsyncIterator[dict[str, Any]]:
    from workers.tailing import Seen, Tail

    tail = Tail()
    await tail.begin(conn)
    shown: dict[Seen, None] = {}
    if wanted.since is not None:
        for some in await _past(conn, wanted):
            for item in await _fitting(conn, wanted, some):
                yield item
            shown.update(dict.fromkeys(some))
            while len(shown) > _REMEMBERED:
                del shown[next(iter(shown))]
    while True:
        new = [one for one in await tail.look(conn) if one not in shown]
        for first in range(0, len(new), _AT_ONCE):
            for item in await _fitting(conn, wanted, new[first : first + _AT_ONCE]):
                yield item
        if not new:
            await asyncio.sleep(_EVERY_S)


async def _past(conn: "Conn", wanted: "Selection") -> list[list["Seen"]]:
    """What was received since then, the oldest first, in pieces."""
    from shared.store.selecting import select_events
    from workers.tailing import Seen

    pieces: list[list[Seen]] = []
    after = None
    while True:
        page = await select_events(conn, wanted, after, _AT_ONCE)
        if page:
            pieces.append(
                [Seen(one.tracking_id, None if one.is_unfinished else one.run) for one in page][
                    ::-1
                ]
            )
        if len(page) < _AT_ONCE:
            return pieces[::-1]
        after = (page[-1].received_at, page[-1].tracking_id)


async def _fitting(
    conn: "Conn", wanted: "Selection", seen: Sequence["Seen"]
) -> list[dict[str, Any]]:
    """Those that are meant, as lists show them, and what of them was seen."""
    from shared.store.events import list_events
    from shared.store.selecting import fitting

    ids: list[UUID] = list(dict.fromkeys(one.tracking_id for one in seen))
    meant = [one.tracking_id for one in await fitting(conn, wanted, ids)]
    items = {item["trackingId"]: item for item in await list_events(conn, meant)}
    return [
        {"what": "received" if one.run is None else "settled", "run": one.run, **item}
        for one in seen
        if (item := items.get(str(one.tracking_id))) is not None
    ]


def _line(item: dict[str, Any]) -> str:
    """
    An event in a line: when, what became of it, its tracking id, its type, its source, and why.

    On a terminal it is cut at the right; of a long type the end tells more than the beginning.
    """
    at = item["receivedAt"] if item["what"] == "received" else item["settledAt"]
    word = item["what"] if item["what"] == "received" else item["outcome"] or item["status"]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    head = f"{(at or item['receivedAt'])[11:19]} {word:<10} {item['trackingId']} "
    event_type = plain(item["type"]) or "-"
    if width is not None and len(head) + len(event_type) > width:
        return head + "…" + event_type[len(head) + len(event_type) - width + 1 :]
    rest = [plain(item["source"])]
    if word in ("dead", "retrying") and item["error"]:
        rest.append(plain(item["error"]))
    line = f"{head}{event_type} {' '.join(rest)}"
    return line if width is None or len(line) <= width else line[: width - 1] + "…"
