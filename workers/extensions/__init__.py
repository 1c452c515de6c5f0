"""Handlers of installed packages: what is brought to them, how they run, what they send."""

import logging
import re
from functools import cache
from typing import Any

from shared.domain.commands import Extension
from shared.installed import HANDLERS_GROUP, installed
from shared.plugin import Handler

log = logging.getLogger(__name__)

#: What runs longer holds a lane, and keeps everybody who follows the trail from what came after it.
LONGEST_TIMEOUT_S = 60.0

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@cache
def handlers() -> dict[str, Handler[Any]]:
    """
    By name. An installed package's handler is a class, made without arguments; one that cannot be
    made, or whose name or command another has, is logged and left out.
    """
    known: dict[str, Handler[Any]] = {}
    taken: set[type[Extension]] = set()
    for name, make in installed(HANDLERS_GROUP):
        try:
            handler: Handler[Any] = make()
            if handler.name != name or not _NAME.fullmatch(name) or name in known:
                raise ValueError(f"it calls itself {handler.name!r}, and {name!r} is asked for")
            if not issubclass(handler.command, Extension) or handler.command in taken:
                raise TypeError(f"{handler.command!r} is no Extension, or another handler's")
            _check(handler)
            taken.add(handler.command)
            known[name] = handler
        except (Exception, SystemExit):
            log.exception("an installed handler cannot be used", extra={"handler": name})
    return known


def _check(handler: Handler[Any]) -> None:
    """
    Raises:
        ValueError: it can neither be brought nor timed what it asks for.
    """
    patterns: object = handler.listens_to
    if not isinstance(patterns, tuple | list) or not all(
        isinstance(one, str) and all(one.partition(":")) for one in patterns
    ):
        raise ValueError(f'listens_to is {patterns!r}: it lists patterns like "stripe:invoice.*"')
    if not 0 < handler.timeout_s <= LONGEST_TIMEOUT_S:
        raise ValueError(f"timeout_s is {handler.timeout_s!r}: at most {LONGEST_TIMEOUT_S:g} s")


def handler_of(command: type[Extension]) -> Handler[Any] | None:
    """The handler that applies commands of this type."""
    return next((one for one in handlers().values() if one.command is command), None)


def command_name(command: type) -> str:
    """What the table of handlers calls a type of commands: "module:Name"."""
    return f"{command.__module__}:{command.__qualname__}"
