"""Where data goes: a terminal of some width, or a pipe without any."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: A pipe has no width: whoever reads it gets every column, and each thing on one line.
UNBOUNDED = 1_000_000


def console() -> "Console":
    """
    Standard output for people. Colours on a terminal only, unless FORCE_COLOR says otherwise; none
    with NO_COLOR; no escape sequence at all with TERM=dumb.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else UNBOUNDED
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=False)
