"""
The handlers: one file per command family, one function per command.

A handler applies every command of its kind in a batch at once, on the connection that holds the
lane, and says of each what became of it. It never commits, enqueues, reads the clock or talks to
anything but this connection; an exception rolls the whole batch back.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.db import Conn
from shared.domain.commands import (
    Bring,
    Command,
    Extension,
    Ignore,
    ImportRecord,
    ImportResults,
    Observe,
    Ordered,
)
from shared.domain.events import StoredEvent
from workers.entries import Answer
from workers.handlers import entitlements, extending, ignoring, imports, operating, records
from workers.handlers.scope import Asked, Scope

#: (conn, scope, the batch's commands of this one kind) → an answer each, in their order
Handler = Callable[[Conn, Scope, Sequence[Any]], Awaitable[list[Answer]]]

HANDLERS: dict[type[Command], Handler] = {
    Observe: entitlements.observe,
    ImportRecord: records.import_records,
    ImportResults: imports.import_results,
    Ignore: ignoring.ignore,
    Ordered: operating.carry_out,
    # Code of others, after everything of Sluice's own: its events are applied alone.
    Extension: extending.extend,
    Bring: extending.bring,
}


def runs_extensions(commands: Iterable[Command]) -> bool:
    """Whether the event is to be applied alone: it runs code of installed packages."""
    return any(isinstance(command, Extension | Bring) for command in commands)


@dataclass(frozen=True, slots=True)
class Done:
    """An event with what became of each of its commands."""

    event: StoredEvent
    answers: tuple[Answer, ...]


async def apply(
    conn: Conn, scope: Scope, translated: Sequence[tuple[StoredEvent, Sequence[Command]]]
) -> list[Done]:
    """Apply the commands of a batch, family by family, each in the order of the events."""
    asked: dict[type[Command], list[Asked[Command]]] = {}
    for event, commands in translated:
        for command in commands:
            kind = Extension if isinstance(command, Extension) else type(command)
            asked.setdefault(kind, []).append(Asked(event, command))
    answers: dict[int, list[Answer]] = {event.work_id: [] for event, _ in translated}
    for kind, handler in HANDLERS.items():
        if kind in asked:
            given = await handler(conn, scope, asked[kind])
            for one, answer in zip(asked[kind], given, strict=True):
                answers[one.event.work_id].append(answer)
    return [Done(event, tuple(answers[event.work_id])) for event, _ in translated]
