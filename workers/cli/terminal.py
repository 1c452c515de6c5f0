"""Where data goes: a terminal of some width, or a pipe without any."""

import shutil
import sys
import textwrap
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


def say_done(done: str, would: str, *, dry_run: bool) -> None:
    """What was done, or would be, on stdout. A dry run says so there: stderr may go elsewhere."""
    sys.stdout.write(f"dry run: {would}\n" if dry_run else f"{done}\n")


def in_width(text: str) -> str:
    """A line for stderr: where that is a terminal, broken between words, never within one."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.wrap(
            text,
            max(width, 20),
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        or [""]
    )
