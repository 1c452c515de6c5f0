"""Long work as a person sees it: a bar on a terminal, and tenants that follow a catalog."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workers.cli.output import note

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.store.catalogs import Following
    from workers.preview import Report

LOOK_EVERY_S = 0.5
#: Without a tenant that follows for so long, a person is told where to look.
STILL_AFTER_S = 15.0


@contextmanager
def bar(what: str, above: int = 0) -> "Iterator[Report]":
    """
    Yields a function of what is done, and of how many; None where that is not known yet.

    Drawn on stderr where that is a terminal, from more than `above` on, and gone afterwards.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    drawn = Progress(*columns, console=Console(stderr=True), transient=True)
    task = drawn.add_task(what, total=None)

    def report(done: int, total: int | None) -> None:
        if (done if total is None else total) > above:
            drawn.start()
        drawn.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        drawn.stop()


async def follow(conn: "Conn", version: int | None = None) -> "Following":
    """
    Wait until every tenant was derived with this version of the catalog, or with the current one.

    Ends only then: who waits may stop waiting at any time, and nothing stops with it.
    """
    from shared.store.catalogs import count_remaining, read_following

    found = await read_following(conn, version)
    remaining, still_s = found.remaining, 0.0
    with bar(f"tenants on catalog {found.version}") as report:
        while remaining:
            report(max(found.tenants - remaining, 0), found.tenants)
            await asyncio.sleep(LOOK_EVERY_S)
            before, remaining = remaining, await count_remaining(conn, found.version)
            still_s = still_s + LOOK_EVERY_S if remaining == before else 0.0
            if STILL_AFTER_S <= still_s < STILL_AFTER_S + LOOK_EVERY_S:
                note(
                    f"of the remaining {remaining:,} none has followed for {still_s:.0f} s:"
                    " does a worker run? sluice doctor"
                )
    return await read_following(conn, version)
