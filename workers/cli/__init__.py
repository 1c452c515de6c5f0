"""`sluice`, the command line: one module per group of commands, each with a `register`."""

import os
import re
import sys
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from workers.cli import demo, new, operate, run
from workers.cli.completion import offer_values
from workers.cli.exits import explain
from workers.cli.notices import log_in_lines


@cache
def build() -> typer.Typer:
    """The whole command line. Once: groups are objects of their modules, and would double."""
    app = typer.Typer(
        name="sluice",
        help="Inbound event gateway and worker fleet.",
        no_args_is_help=True,
        # An unexpected error is shown as Python shows it; local variables may hold secrets.
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    run.register(app)
    operate.register(app)
    demo.register(app)
    app.add_typer(new.app, name="new")
    return app


def main() -> None:
    """Run one command. Expected errors are one line on stderr and an exit code of `exits`."""
    log_in_lines()
    command = get_command(build())
    _mend_help(command)
    if "_SLUICE_COMPLETE" in os.environ:
        offer_values(command)
    try:
        command()
    except Exception as error:
        expected = explain(error)
        if expected is None:
            raise
        message, code = expected
        sys.stderr.write(f"sluice: {message}\n")
        sys.exit(code)


def _mend_help(command: Any) -> None:
    """
    Typer shows `--json <bool>`, as if it took a value, which is an error; and breaks paragraphs
    where the source does.
    """
    if command.help:
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help)
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for child in getattr(command, "commands", {}).values():
        _mend_help(child)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sluice {version('sluice-gateway')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version  # answered by its callback
