"""`sluice drain`: wait until what has been received is settled, as before maintenance."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import FAILURE, USAGE, CommandError, unknown, write_json
from workers.cli.following import LOOK_EVERY_S, bar
from workers.cli.output import JsonOption, check_text, note, operate, plain, print_table

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.draining import Undone

_UNITS = {"s": 1, "m": 60, "h": 3600}
_LONGEST_S = 24 * 3600


def drain(
    source: Annotated[
        str | None, typer.Option("--source", help="What was received of this source only.")
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", help="Give up after so long: 90s, 10m, 1h.")
    ] = "10m",
    as_json: JsonOption = False,
) -> None:
    """
    Wait until everything received up to now is settled, or waits for its next attempt.

    Applies nothing itself and stops nobody: what comes later is not waited for. Ends with 1 where
    something is left; what paused sources have sent is.
    """
    limit_s = _duration(timeout)
    if source is not None:
        check_text("--source", source)

    async def run(conn: "Conn", _: "Endpoints") -> "tuple[int, list[Undone]]":
        from shared.store import draining
        from shared.store.job_lists import has_source

        if source is not None and not await has_source(conn, source):
            raise unknown("sources", f"no source {plain(source)}")
        upto = await draining.newest_work(conn)
        give_up = time.monotonic() + limit_s
        first: int | None = None
        with bar("events to settle") as report:
            while True:
                left = await draining.read_undone(conn, upto, source)
                ready = sum(row.ready for row in left)
                first = max(first or 0, ready)
                report(first - ready, first)
                # Nobody applies what paused sources have sent: it is of no use to wait for it.
                moving = sum(row.ready for row in left if not row.is_paused)
                if not moving or time.monotonic() >= give_up:
                    return first, left
                await asyncio.sleep(LOOK_EVERY_S)

    began, left = operate(run)
    ready = sum(row.ready for row in left)
    if as_json:
        write_json(
            {
                "drained": not ready,
                "settled": began - ready,
                "left": [_shown(row) for row in left],
            }
        )
    else:
        _say(began, left)
    if ready:
        raise typer.Exit(FAILURE)


def _say(began: int, left: "list[Undone]") -> None:
    ready = sum(row.ready for row in left)
    waiting = sum(row.waiting for row in left)
    if left:
        columns = {
            "source": "source",
            "ready": "not settled",
            "waiting": "tried again",
            "oldest": "oldest",
            "nextAt": "next attempt",
            "isPaused": "paused",
        }
        print_table(columns, [_shown(row) | {"oldest": _age(row)} for row in left])
    if not ready:
        sys.stdout.write(
            f"drained: {began:,} settled meanwhile, {waiting:,} wait for their next attempt\n"
        )
        return
    paused = sum(row.ready for row in left if row.is_paused)
    why = (
        "paused sources sent them: sluice sources resume NAME --reason WHY"
        if paused == ready
        else "what is wrong: sluice status"
    )
    note(f"not drained: {ready:,} {'is' if ready == 1 else 'are'} left; {why}")


def _age(row: "Undone") -> str:
    from workers.overview import span

    return span(row.oldest_s)


def _shown(row: "Undone") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "source": row.source,
        "ready": row.ready,
        "waiting": row.waiting,
        "oldestS": row.oldest_s,
        "nextAt": iso(row.next_at),
        "isPaused": row.is_paused,
    }


def _duration(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise CommandError("--timeout is a number and s, m or h, like 10m", USAGE)
    seconds = int(number) * _UNITS[unit]
    if not 0 < seconds <= _LONGEST_S:
        raise CommandError("--timeout is at least 1s and at most 24h", USAGE)
    return seconds
