"""The options that say which events: the same for every command that takes a filter."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import USAGE, CommandError

if TYPE_CHECKING:
    from shared.domain.selection import Selection

_TEXT: Any = str | None

#: The command's own name of an option → its type and help. In the order of help.
_OPTIONS: Mapping[str, tuple[Any, str]] = {
    "source": (_TEXT, "Of this source only."),
    "type": (_TEXT, "Of this type only; may end in *: customer.subscription.*"),
    "status": (_TEXT, "received, retrying, processed, ignored or dead."),
    "outcome": (_TEXT, "applied, unchanged, superseded, parked, ignored or dead."),
    "code": (_TEXT, "Whose latest run, or its last failed attempt, has this code."),
    "tenant": (_TEXT, "Applied to this tenant, or about an object of it."),
    "customer": (_TEXT, "About an object of this customer at the provider."),
    "event": (_TEXT, "With this id at the provider."),
    "attempts": (int | None, "Tried at least so many times, all runs together."),
    "since": (_TEXT, "Received then or later: a time, a day, or an age like 48h or 15m."),
    "until": (_TEXT, "Received before then."),
    "trace": (_TEXT, "With this trace id in one of its deliveries."),
    "replay": (_TEXT, "Applied again by this job: sluice replay list."),
    "conflicts": (bool, "Where another body came under the event's id."),
}


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """
    Give a command the options that say which events; it takes them as `wanted`, a `Selection`.

    What is not understood ends the command with 2 before it begins.
    """
    own = inspect.signature(command)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        said = {name: given.pop(name) for name in _OPTIONS}
        command(**given, wanted=read_options(said))

    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, typer.Option(f"--{name}", help=text)],
        )
        for name, (kind, text) in _OPTIONS.items()
    ]
    kept = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in own.parameters.items()
        if name != "wanted"
    ]
    # Arguments and what the command is about come before its filters, how it answers after them.
    parameters = [*added, *kept]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by typer
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def read_options(said: Mapping[str, Any]) -> "Selection":
    """
    What these options say, by name; None and False say nothing.

    Raises:
        CommandError: one of them is not understood (2); never "all".
    """
    from typing import get_args

    from shared.domain.events import Status
    from shared.domain.outcomes import OUTCOMES
    from shared.domain.selection import SelectionError, read_selection

    words = {"status": get_args(Status), "outcome": OUTCOMES}
    fields: dict[str, Any] = {}
    for name, value in said.items():
        if value is None or value is False:
            continue
        if value == "" and name != "type":
            raise CommandError(f"--{name}: says nothing", USAGE)
        if name in words and value not in words[name]:
            raise CommandError(f"--{name}: one of {', '.join(words[name])}", USAGE)
        fields[name] = _moment(name, value) if name in ("since", "until") else value
    try:
        return read_selection(fields)
    except SelectionError as error:
        raise CommandError(f"--{error.field}: {error}", USAGE) from None


def check_not_all(wanted: "Selection", *, is_all: bool) -> None:
    """
    An empty filter is a slip, unless `--all` is said; and both together are one.

    Raises:
        CommandError: 2.
    """
    if wanted.is_empty and not is_all:
        raise CommandError("no filter is given: for all events there are, say --all", USAGE)
    if is_all and not wanted.is_empty:
        raise CommandError("--all and filters exclude each other", USAGE)


def _moment(name: str, text: str) -> str:
    from datetime import UTC, datetime

    from shared.domain.moments import MomentError, moment_before, read_moment

    try:
        return moment_before(datetime.now(UTC), read_moment(text)).isoformat()
    except MomentError as error:
        raise CommandError(f"--{name}: {error}", USAGE) from None
