"""`sluice new`: packages of one's own, to begin with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.exits import CONFLICT, CommandError, write_json
from workers.cli.output import JsonOption

if TYPE_CHECKING:
    from workers.scaffold import Kind

app = typer.Typer(help="Packages of your own: providers and handlers.", no_args_is_help=True)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help='What configuration calls it, like "beacon".')
]
DirectoryOption = Annotated[
    Path, typer.Option("--directory", help="Where its directory sluice-NAME is made.")
]


@app.command("provider", epilog="Example: sluice new provider beacon --directory packages")
def provider_command(
    name: NameArgument, directory: DirectoryOption = Path(), as_json: JsonOption = False
) -> None:
    """Write a package with a provider, its fixtures and its tests; they pass as they are."""
    from shared.providers import providers

    _write("provider", name, directory, frozenset(providers()), as_json)


@app.command("handler", epilog="Example: sluice new handler crm-notes")
def handler_command(
    name: NameArgument, directory: DirectoryOption = Path(), as_json: JsonOption = False
) -> None:
    """Write a package with a handler of entitlements that changed, and its tests."""
    from workers.extensions import handlers

    _write("handler", name, directory, frozenset(handlers()), as_json)


def _write(kind: "Kind", name: str, parent: Path, taken: frozenset[str], as_json: bool) -> None:
    from workers.scaffold import ScaffoldError, write_package

    try:
        made = write_package(kind, name, parent, taken)
    except ScaffoldError as error:
        raise CommandError(str(error), CONFLICT) from None
    following = [
        f"cd {made.directory}",
        "pip install --no-deps -e .",
        "pytest",
    ]
    if as_json:
        write_json(
            {
                "directory": str(made.directory),
                "distribution": made.distribution,
                "files": list(made.files),
                "next": following,
            }
        )
        return
    typer.echo(f"{made.directory} is written, {len(made.files)} files. Next:")
    for line in following:
        typer.echo(f"  {line}")
