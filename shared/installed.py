"""What installed packages add: objects that they name as entry points."""

import logging
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import entry_points
from typing import Any

log = logging.getLogger(__name__)

PROVIDERS_GROUP = "sluice.providers"
HANDLERS_GROUP = "sluice.handlers"


def installed(group: str) -> Iterator[tuple[str, Any]]:
    """
    The objects of an entry point group, each with its name, in the order of names.

    One that cannot be imported is logged and left out: it must not take those with it that can.
    What it prints meanwhile goes to standard error, where commands print no data.
    """
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        try:
            with redirect_stdout(sys.stderr):
                loaded = point.load()
        except (Exception, SystemExit):
            log.exception(
                "an installed package cannot be used",
                extra={"group": group, "entry_point": point.name, "value": point.value},
            )
        else:
            yield point.name, loaded
