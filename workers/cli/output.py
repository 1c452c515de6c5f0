"""What the operator's commands share: options, the way to the database, tables and JSON."""

import asyncio
import json
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, DEPENDENCY_DOWN, USAGE, CommandError, write_json
from workers.cli.terminal import UNBOUNDED, console, in_width

if TYPE_CHECKING:
    from datetime import datetime

    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.paging import Page
    from workers.entries import FeatureChange, Locks

Result = TypeVar("Result")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many at most.")]
CursorOption = Annotated[
    str | None, typer.Option("--cursor", help="Go on where a list ended: its `next`.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]
WhyOption = Annotated[str | None, typer.Option("--reason", help="Why, for the audit trail.")]
ActorOption = Annotated[
    str | None,
    typer.Option("--actor", help="Who is acting, for the audit trail; $USER unless given."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
]

#: An operator may wait for a long list; a worker may not.
_SESSION = {"statement_timeout": "60s"}
_TRIES = 6

#: Whatever a provider sent is printed: no escape sequence of its reaches the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: " ⏎ "}


_WIDEST_CELL = 44
_FRACTION = re.compile(r"(?<=^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z$")


def operate(work: "Callable[[Conn, Endpoints], Awaitable[Result]]") -> Result:
    """
    Run `work` on one connection in the role `operator`.

    Raises:
        CommandError: for everything that is expected of the arguments; `exits.explain` knows
            what is expected of the servers.
    """
    from shared import db
    from shared.settings import Settings
    from shared.store.paging import CursorError
    from workers.cli.run import find_endpoints
    from workers.configure import ConfigurationConflict
    from workers.declaration import DeclarationError
    from workers.stack.home import holder
    from workers.trail import AnchorError

    settings = Settings.read()
    endpoints = find_endpoints(settings)

    async def session() -> Result:
        url = endpoints.database["operator"]
        async with db.connect(url, "operator", name="sluice-cli", settings=_SESSION) as conn:
            return await work(conn, endpoints)

    try:
        return asyncio.run(session())
    except (DeclarationError, AnchorError) as error:
        raise CommandError(str(error), USAGE) from None
    except CursorError as error:
        raise CommandError(f"--cursor: {error}", USAGE) from None
    except ConfigurationConflict as error:
        raise CommandError(str(error), CONFLICT) from None
    except Exception as error:
        # What a killed stack left behind names ports that may be anybody's by now.
        if not db.is_platform_fault(error) or settings.database_url is not None:
            raise
        if holder(settings.home) is not None:
            raise
        raise CommandError(
            f"no stack runs in {settings.home}: start it with `sluice up` ({error})",
            DEPENDENCY_DOWN,
        ) from None


class _DryRun(Exception):
    """Rolls a transaction back that has shown what it would do."""

    def __init__(self, result: Any) -> None:
        super().__init__("nothing of this is written")
        self.result = result


async def in_transaction(
    conn: "Conn", work: Callable[[], Awaitable[Result]], *, dry_run: bool = False
) -> Result:
    """
    Run `work` in one transaction, and again where a worker held a row for too long or the
    database broke a deadlock. With `dry_run` everything is done, and then taken back: what would
    fail fails, and what is returned is what would be.
    """
    from shared import db

    for attempt in range(1, _TRIES + 1):
        try:
            async with conn.transaction():
                result = await work()
                if dry_run:
                    raise _DryRun(result)
                return result
        except _DryRun as done:
            found: Result = done.result
            return found
        except Exception as error:
            state = getattr(error, "sqlstate", None) or ""
            if attempt == _TRIES or not (db.is_lock_timeout(error) or state[:2] == "40"):
                raise
            await asyncio.sleep(random.uniform(0.05, 0.2) * attempt)  # noqa: S311 - jitter
    raise AssertionError("the last attempt returns or raises")


def as_shown(shown: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """What `--json` prints of something that was done, or that would be."""
    return {**shown, "dryRun": True} if dry_run else {**shown}


def say_dry_run(*, dry_run: bool) -> None:
    """Ends what is said to people of something that was done and taken back."""
    if dry_run:
        note("this was a dry run: nothing of it was written")


def confirm(question: str, *, yes: bool) -> None:
    """
    Ask whoever sits at a terminal; elsewhere there is nobody to ask, and saying it was enough.

    Raises:
        CommandError: the answer is no.
    """
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if not typer.confirm(question, err=True):
        raise CommandError("nothing was done")


def actor_name(given: str | None) -> str:
    """`operator:NAME`, from `--actor` or whoever is logged in."""
    name = given or os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid-{os.getuid()}"
    if not name.strip() or "\0" in name or len(name) > 200:
        raise CommandError("--actor must be text of 1 to 200 characters", USAGE)
    return f"operator:{name}"


async def deriving(
    conn: "Conn", work: "Callable[[Locks], Awaitable[Result]]", *, dry_run: bool = False
) -> Result:
    """The same for what derives entitlements, and again where more has to be locked."""
    from workers.entries import NO_LOCKS, SetGrew

    more = NO_LOCKS
    while True:
        try:
            return await in_transaction(conn, partial(work, more), dry_run=dry_run)
        except SetGrew as grew:
            more = grew.locks


def check_text(name: str, text: str) -> None:
    """
    Raises:
        CommandError: the text is no id.
    """
    from shared.domain.events import is_storable

    if not is_storable(text) or not text.strip():
        raise CommandError(f"{name} must be text of 1 to 255 bytes", USAGE)


def checked_reason(reason: str) -> str:
    """
    Raises:
        CommandError: it says nothing, or cannot be written down.
    """
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise CommandError("--reason is not UTF-8", USAGE) from None
    if not reason.strip():
        raise CommandError("--reason must say why", USAGE)
    return reason


async def span(
    conn: "Conn", since: str | None, until: str | None
) -> "tuple[datetime | None, datetime | None]":
    """
    `--since` and `--until`, by the database's clock.

    Raises:
        CommandError: one is no time, or they are the wrong way round.
    """
    from shared.domain.moments import MomentError, moment_before, read_moment
    from shared.store.audit import moment

    now, _ = await moment(conn)
    found: list[datetime | None] = []
    for name, text in (("--since", since), ("--until", until)):
        try:
            found.append(None if text is None else moment_before(now, read_moment(text)))
        except MomentError as error:
            raise CommandError(f"{name}: {error}", USAGE) from None
    first, last = found
    if first is not None and last is not None and first >= last:
        raise CommandError("--since is not before --until", USAGE)
    return first, last


def say_changes(changes: "Sequence[FeatureChange]") -> None:
    """Whose entitlements changed, on stderr."""
    for change in changes:
        before, after = (
            "nothing" if one is None else plain(one.value) for one in (change.before, change.after)
        )
        note(f"{plain(change.tenant)}: {change.feature}: {before} → {after}")


def tracking_id(text: str) -> UUID:
    """
    Raises:
        CommandError: the text is no tracking id.
    """
    try:
        return UUID(text)
    except ValueError:
        raise CommandError(
            f"{plain(text)} is not a tracking id; `sluice events list --event {plain(text)}` finds"
            " an event by its provider's id",
            USAGE,
        ) from None


def note(text: str) -> None:
    """For people, on stderr: never part of the data."""
    sys.stderr.write(in_width(text) + "\n")


def plain(value: object) -> str:
    """A value for people: "-" for None, times to the second, no control characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    return _FRACTION.sub("Z", str(value)).translate(_CONTROLS)


def print_table(
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    *,
    keep: int = 2,
    whole: Collection[str] = (),
) -> None:
    """
    `columns`: the row's key → the heading, the most important first.

    Where the terminal is too narrow, columns that say nothing go first, then those that do not fit,
    all named on stderr: a table whose every cell is broken into pieces can be read by nobody. The
    first `keep` stay as long as no word of theirs has to be broken, and columns of `whole` are not
    counted as narrower than they are. A pipe gets everything, each row on one line.
    """
    from rich.table import Table
    from rich.text import Text

    out = console()
    cells = [[Text(plain(row[key])) for key in columns] for row in rows]
    headings = list(columns.values())
    sized = [
        _Column(
            min(
                max([len(heading), *(row[index].cell_len for row in cells)]),
                out.width if key in whole or out.width == UNBOUNDED else _WIDEST_CELL,
            ),
            max(_longest_word(text) for text in (heading, *(row[index].plain for row in cells))),
        )
        for index, (key, heading) in enumerate(columns.items())
    ]
    empty = [all(row[index].plain in ("-", "") for row in cells) for index in range(len(sized))]
    fitting = _fitting(sized, empty, keep, out.width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    room = out.width - 2 * (len(fitting) - 1)
    for index, width in zip(fitting, _widths([sized[at] for at in fitting], room), strict=True):
        table.add_column(headings[index], width=width, overflow="fold")
    for row in cells:
        table.add_row(*(row[index] for index in fitting))
    out.print(table)
    left_out = [heading for index, heading in enumerate(headings) if index not in fitting]
    if left_out:
        note(f"too narrow for: {', '.join(left_out)} (--json has everything)")


def _fitting(
    columns: "Sequence[_Column]", empty: Sequence[bool], keep: int, room: int
) -> list[int]:
    """Which columns there is room for: the first `keep`, and of the others who says something."""
    kept = list(range(min(keep, len(columns))))
    while len(kept) > 1 and sum(columns[at].word + 2 for at in kept) - 2 > room:
        kept.pop()
    left = room - sum(max(columns[at]) + 2 for at in kept) + 2
    for index in sorted(range(len(kept), len(columns)), key=lambda at: empty[at]):
        if max(columns[index]) + 2 <= left:
            kept.append(index)
            left -= max(columns[index]) + 2
    return sorted(kept)


class _Column(NamedTuple):
    """How wide a column would be, and how wide it must be not to break a word."""

    wanted: int
    word: int


def _longest_word(text: str) -> int:
    from rich.cells import cell_len

    return max((cell_len(word) for word in text.split(" ")), default=0)


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """What each gets: the widest gives first, and its words last."""
    widths = [max(one) for one in columns]
    while sum(widths) > room:
        spare = [width - one.word for width, one in zip(widths, columns, strict=True)]
        widest = spare.index(max(spare)) if max(spare) > 0 else widths.index(max(widths))
        widths[widest] -= 1
    return widths


def print_page(
    page: "Page",
    columns: Mapping[str, str],
    *,
    as_json: bool,
    nothing: str,
    whole: Collection[str] = (),
) -> None:
    """A list: {"items", "next"}, or a table and, on stderr, how to go on."""
    if as_json:
        write_json({"items": page.items, "next": page.next})
        return
    if not page.items:
        note(nothing)
        return
    print_table(columns, page.items, whole=whole)
    if page.next is not None:
        note(f"more: --cursor {page.next}")


def print_fields(fields: Mapping[str, Any]) -> None:
    """One thing, a line for each of its fields; a value of long words begins a line of its own."""
    from rich.text import Text

    out = console()
    name_width = max((len(name) for name in fields), default=0) + 2
    for name, value in fields.items():
        text = Text(plain(value))
        has_room = _longest_word(text.plain) <= out.width - name_width
        indent = name_width if has_room else 2
        lines = text.wrap(out, max(out.width - indent, 1), overflow="fold") or [Text("")]
        if has_room:
            first = Text(f"{name:{name_width}}", style="bold") + lines.pop(0)
        else:
            first = Text(name, style="bold")
        out.print(first, *(Text(" " * indent) + line for line in lines), sep="\n")


def print_heading(text: str) -> None:
    """Begins a part of a longer answer."""
    from rich.text import Text

    console().print(Text(f"\n{text}", style="bold underline"))
