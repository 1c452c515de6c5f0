"""What a shell is told that completes a value. Never an error, and nothing that takes long."""

import asyncio
from collections.abc import Callable
from typing import Any, get_args

#: Whoever has pressed the key waits: without a stack, or with one that hangs, nothing is offered.
_WITHIN_S = 1.0

Complete = Callable[[Any, Any, str], list[str]]


def offer_values(command: Any, path: tuple[str, ...] = ()) -> None:
    """Have options and arguments that take a source, a status or a state offer what there is."""
    for name, child in getattr(command, "commands", {}).items():
        offer_values(child, (*path, name))
    for parameter in command.params:
        complete = _complete(path, parameter)
        if complete is not None:
            parameter._custom_shell_complete = complete


def _complete(path: tuple[str, ...], parameter: Any) -> Complete | None:
    names = {parameter.name, *parameter.opts}
    if parameter.name == "source" and path != ("new",):
        return lambda _, __, begun: _beginning(begun, _sources())
    if "--status" in names and path[:1] == ("events",):
        from shared.domain.events import Status

        return lambda _, __, begun: _beginning(begun, list(get_args(Status)))
    if "--state" in names and path[:1] in {("jobs",), ("outbox",)}:
        from shared.store import job_lists, messages

        states = job_lists.STATES if path[0] == "jobs" else messages.STATES
        return lambda _, __, begun: _beginning(begun, list(states))
    return None


def _beginning(begun: str, values: list[str]) -> list[str]:
    return [value for value in values if value.startswith(begun)]


def _sources() -> list[str]:
    """The sources there are; none where nobody can be asked, for whatever reason."""
    from shared import db
    from shared.settings import Settings
    from shared.store.source_rows import read_sources
    from workers.cli.run import find_endpoints

    async def read() -> list[str]:
        url = find_endpoints(Settings.read()).database["operator"]
        async with db.connect(url, "operator", name="sluice-cli", timeout_s=_WITHIN_S) as conn:
            return [one.name for one in await read_sources(conn) if not one.is_removed]

    try:
        return asyncio.run(asyncio.wait_for(read(), _WITHIN_S))
    except Exception:
        return []
