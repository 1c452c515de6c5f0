"""`sluice up | gateway | worker | doctor | db`: run the processes, and see that they can run."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.exits import (
    DEPENDENCY_DOWN,
    FAILURE,
    OK,
    USAGE,
    CommandError,
    write_json,
)
from workers.cli.terminal import console

if TYPE_CHECKING:
    from shared.migrate import Migration
    from shared.settings import Endpoints, Settings
    from workers.stack.doctor import Check
    from workers.stack.up import Ready

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

database = typer.Typer(
    help="The database: migrations, and tables of packages.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command(epilog="Example: sluice up --json")(up)
    app.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        epilog="Example: sluice gateway",
    )(gateway)
    app.command(epilog="Example: sluice worker")(worker)
    app.command(epilog="Example: sluice doctor --json")(doctor)
    app.add_typer(database, name="db")


def up(as_json: JsonOption = False) -> None:
    """Run everything on this machine, in the foreground: servers, gateway, workers."""
    from workers.stack.up import up as run

    def report(ready: "Ready") -> None:
        line = str(ready)
        if as_json:
            line = json.dumps(
                {
                    "url": ready.url,
                    "home": str(ready.home),
                    "database": ready.database,
                    "redis": ready.redis,
                    "firstEvent": ready.first_event,
                }
            )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    asyncio.run(run(_settings(), report))


def gateway(ctx: typer.Context) -> None:
    """Run one gateway process. Further options are its own: `sluice gateway --help`."""
    from workers.stack.processes import gateway_environment

    settings = _settings()
    endpoints = find_endpoints(settings)
    # The same process: signals and the exit status are the gateway's own.
    os.execve(  # noqa: S606 - our own interpreter, no shell wanted
        sys.executable,
        [sys.executable, "-m", "gateway", *ctx.args],
        gateway_environment(settings, endpoints),
    )


def worker() -> None:
    """Run SLUICE_WORKER_PROCESSES workers, and the one for what kills workers."""
    from workers.stack.processes import fleet
    from workers.stack.supervisor import Supervisor

    settings = _settings()
    children = fleet(settings, find_endpoints(settings), first_admin_port=settings.admin_port)
    supervisor = Supervisor(hang_after_s=settings.hang_after_s)

    async def start() -> None:
        for child in children:
            await supervisor.start(child)

    asyncio.run(supervisor.supervise(start()))


def doctor(as_json: JsonOption = False) -> None:
    """Look at everything Sluice needs, and say how to mend what is wrong."""
    from shared.providers import OWN, providers
    from workers.stack.doctor import examine

    checks = asyncio.run(examine({OWN.name, *providers()}))
    if as_json:
        write_json(
            {
                "ok": not any(check.status == "fail" for check in checks),
                "checks": [
                    {
                        "name": check.name,
                        "status": check.status,
                        "found": check.found,
                        "mend": check.mend,
                    }
                    for check in checks
                ],
            }
        )
    else:
        for check in checks:
            _print_check(check)
    failed = [check for check in checks if check.status == "fail"]
    code = FAILURE if failed else OK
    raise typer.Exit(DEPENDENCY_DOWN if any(check.is_down for check in failed) else code)


@database.command("migrate", epilog="Example: sluice db migrate --plan")
def migrate_command(
    plan: Annotated[bool, typer.Option("--plan", help="Only say what is pending.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print what is pending as SQL.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the database up to date."""
    from shared import db, migrate
    from workers.stack.up import migrate_database

    if plan and sql:
        raise CommandError("--plan and --sql exclude each other", USAGE)
    url = find_endpoints(_settings()).database["owner"]

    async def pending() -> list[migrate.Migration]:
        async with db.connect(url, "owner") as conn:
            return await migrate.pending(conn)

    waiting = asyncio.run(pending() if plan or sql else migrate_database(url))
    if sql:
        sys.stdout.write(_as_sql(waiting))
        return
    names = [f"{migration.number:04d}_{migration.name}" for migration in waiting]
    if as_json:
        write_json({"pending" if plan else "applied": names})
        return
    word = "pending" if plan else "applied"
    for name in names:
        typer.echo(f"{word} {name}")
    if not names:
        typer.echo("nothing is pending", err=True)


@database.command("status", epilog="Example: sluice db status --json")
def status_command(as_json: JsonOption = False) -> None:
    """Say which migrations the database has."""
    from shared import db, migrate

    url = find_endpoints(_settings()).database["owner"]

    async def read() -> list[migrate.Migration]:
        async with db.connect(url, "owner") as conn:
            return await migrate.pending(conn)

    waiting = asyncio.run(read())
    applied = len(migrate.available()) - len(waiting)
    names = [f"{migration.number:04d}_{migration.name}" for migration in waiting]
    if as_json:
        write_json({"applied": applied, "pending": names})
        return
    typer.echo(f"{applied} applied, {len(names)} pending")
    for name in names:
        typer.echo(f"pending {name}")


@database.command("run", epilog="Example: sluice db run src/sluice_beacon/schema.sql")
def run_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="SQL, run in one transaction.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run all of it, and take it back.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a file of SQL as the database's owner: the tables of a package, and their rights."""
    from shared import db

    try:
        statements = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise CommandError(f"{file} cannot be read: {reason}", USAGE) from None
    url = find_endpoints(_settings()).database["owner"]

    async def run() -> None:
        async with db.connect(url, "owner") as conn, conn.transaction():
            await conn.execute(statements)
            if dry_run:
                raise _TakenBack

    try:
        asyncio.run(run())
    except _TakenBack:
        pass
    except Exception as error:
        if db.is_platform_fault(error) or not hasattr(error, "sqlstate"):
            raise
        raise CommandError(f"{file}: {error}; nothing of it was kept", FAILURE) from None
    if as_json:
        write_json({"file": str(file)} | ({"dryRun": True} if dry_run else {}))
    else:
        typer.echo(f"{file} would run" if dry_run else f"{file} is run", err=True)


class _TakenBack(Exception):
    """Rolls back what was only tried."""


def find_endpoints(settings: "Settings") -> "Endpoints":
    """
    Where the servers are.

    Raises:
        CommandError: no stack is known (exit code 7).
    """
    from shared.settings import Endpoints, SettingsError

    try:
        return Endpoints.find(settings)
    except SettingsError as error:
        raise CommandError(str(error), DEPENDENCY_DOWN) from None


def _settings() -> "Settings":
    from shared.settings import Settings

    return Settings.read()


def _as_sql(waiting: "list[Migration]") -> str:
    from shared import migrate

    parts = [f"{migrate.CREATE_HISTORY.strip()};\n"] if waiting else []
    parts += [
        f"\nBEGIN;\n{migration.sql.strip()}\n"
        "INSERT INTO migrations (number, name, sha256)"
        f" VALUES ({migration.number}, '{migration.name}', '{migration.sha256}');\nCOMMIT;\n"
        for migration in waiting
    ]
    return "".join(parts)


def _print_check(check: "Check") -> None:
    from rich.text import Text

    out = console()
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[check.status]
    # A path or a command that is longer than the rest of the line has a line of its own.
    indent = 23
    head = Text.assemble((f"{check.status:5}", colour), f"{check.name:18}")
    for text in (check.found, f"→ {check.mend}" if check.mend else None):
        if text is None:
            continue
        room = out.width - indent
        if max(len(word) for word in text.split(" ")) > room:
            out.print(head.copy(), no_wrap=True, overflow="crop")
            head, room = Text("  "), out.width - 2
        lines = Text(text).wrap(out, max(room, 1), overflow="fold")
        for line in lines:
            out.print(head + line)
            head = Text(" " * len(head.plain))
        head = Text(" " * indent)
