"""Handlers of installed packages: what is brought to them, how they run, what they send."""

import logging
import re
from functools import cache
from typing import Any

from shared.domain.commands import Extension
from shared.installed import HANDLERS_GROUP, installed
from shared.plugin import Handler

log = logging.getLogger(__name__)

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
            if handler.name != name or not _NAME.fullmatch(name):
                raise ValueError(f"it calls itself {handler.name!r}, and {name!r} is asked for")
            if not issubclass(handler.command, Extension) or handler.command in taken:
                raise TypeError(f"{handler.command!r} is no Extension, or another handler's")
            taken.add(handler.command)
            known[name] = handler
        except Exception:
            log.exception("an installed handler cannot be used", extra={"handler": name})
    return known


def handler_of(command: type[Extension]) -> Handler[Any] | None:
    """The handler that applies commands of this type."""
    return next((one for one in handlers().values() if one.command is command), None)
