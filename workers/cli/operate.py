"""The operator's side of `sluice`: change what is configured, and have events applied again."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli import audit, events, parked, sources, tenants, tokens
from workers.cli.exits import CONFLICT, FAILURE, NOT_FOUND, USAGE, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    JsonOption,
    actor_name,
    in_transaction,
    note,
    operate,
    plain,
    print_heading,
    print_table,
    tracking_id,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.difference import Difference


def register(app: typer.Typer) -> None:
    """Add the commands of this module and of its neighbours to `app`."""
    app.command(epilog="Example: sluice apply sluice.toml --dry-run")(apply)
    app.command(epilog='Example: sluice replay 019a… --reason "plan was not mapped"')(replay)
    app.add_typer(sources.app, name="sources")
    app.add_typer(events.app, name="events")
    app.add_typer(parked.app, name="parked")
    app.add_typer(tenants.app, name="tenants")
    app.add_typer(audit.app, name="audit")
    app.add_typer(tokens.app, name="tokens")


def apply(
    file: Annotated[Path, typer.Argument(help="TOML: mode, sources, plans.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what the file does not name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply sources and plans from a TOML file: one version, in one transaction."""
    from shared.providers import PROVIDERS
    from shared.sealing import KeyRing
    from workers import configure
    from workers.declaration import DeclarationError, read_declaration, resolve_secret

    who = actor_name(actor)
    try:
        declared = read_declaration(file.read_bytes(), PROVIDERS)
        secrets = {
            name: [
                resolve_secret(secret, f"sources.{name}.secrets[{index}]", os.environ, file.parent)
                for index, secret in enumerate(source.secrets)
            ]
            for name, source in declared.sources.items()
        }
        api_keys = {
            name: resolve_secret(source.api_key, f"sources.{name}.api_key", os.environ, file.parent)
            for name, source in declared.sources.items()
            if source.api_key is not None
        }
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
    except DeclarationError as error:
        raise CommandError(f"{file}: {error}", USAGE) from None
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not (yes or dry_run)

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        keys = KeyRing.parse(endpoints.secret_key)
        shown_version = None
        stored, found = await configure.difference(
            conn, declared, secrets, keys, PROVIDERS, prune=prune, api_keys=api_keys
        )
        version = stored.version
        if asks and not found.is_empty:
            _show(found, to_stderr=as_json)
            shown_version = found.base_version
            if not _is_agreed():
                raise CommandError("nothing was written", FAILURE)
        if found.removes and not (asks or yes or dry_run):
            raise CommandError("--prune removes something: say --yes to have it done", USAGE)
        if not dry_run:
            version, found = await in_transaction(
                conn,
                lambda: configure.apply(
                    conn,
                    declared,
                    secrets,
                    keys,
                    PROVIDERS,
                    prune=prune,
                    actor=who,
                    shown_version=shown_version,
                    api_keys=api_keys,
                ),
            )
        written = not (dry_run or found.is_empty)
        if as_json:
            write_json(_as_json(found, version, written=written, dry_run=dry_run))
        elif shown_version is None:
            _show(found)
        _say(found, endpoints, version, written=written, dry_run=dry_run)

    operate(run)


def replay(
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's tracking id.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")],
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a settled event applied again, by today's code and catalog."""
    from shared.queue import Doorbell
    from workers.replay import BodyGone, Unfinished, UnknownEvent, open_run

    who = actor_name(actor)
    wanted = tracking_id(event)
    if not reason.strip():
        raise CommandError("--reason must say why", USAGE)

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        try:
            opened = await in_transaction(conn, lambda: open_run(conn, wanted, who, reason))
        except UnknownEvent as error:
            raise CommandError(str(error), NOT_FOUND) from None
        except (Unfinished, BodyGone) as error:
            raise CommandError(str(error), CONFLICT) from None
        # Only a hint: without Redis the sweep finds the work.
        bell = Doorbell(endpoints.redis)
        bell.ring([opened.lane])
        await bell.close()
        if as_json:
            write_json(
                {"trackingId": str(wanted), "run": opened.run, "actionId": str(opened.action_id)}
            )
        else:
            sys.stdout.write(f"run {opened.run} of {wanted} is waiting to be applied\n")
            note(f"what becomes of it: sluice events show {wanted}")

    operate(run)


def _show(found: "Difference", *, to_stderr: bool = False) -> None:
    """The difference for people: what would be written, then what stays although unnamed."""
    if to_stderr:
        for change in found.changes:
            note(f"{change.action:10}{change.kind} {change.name}  {'; '.join(change.details)}")
    elif found.changes:
        print_table(
            {"action": "change", "kind": "kind", "name": "name", "details": "details"},
            [{**change.shown(), "details": "; ".join(change.details)} for change in found.changes],
        )
    if not found.losses:
        return
    if not to_stderr:
        print_heading("Who would lose what")
    for loss in found.losses:
        line = f"{plain(loss.tenant)} loses {loss.plan}: {', '.join(loss.features)}"
        (note if to_stderr else print)(line)


def _say(
    found: "Difference", endpoints: "Endpoints", version: int, *, written: bool, dry_run: bool
) -> None:
    if found.is_empty:
        note(f"nothing changes: version {version} holds what the file says")
    elif dry_run:
        note(f"nothing was written: this is what would become version {version + 1}")
    elif written:
        note(f"version {version} is applied; running processes pick it up within two seconds")
        for change in found.changes:
            if change.kind == "source" and change.action == "added":
                note(f"{change.name} receives at {sources.url_of(endpoints, change.name)}")
    kept = [f"{change.kind} {change.name}" for change in found.changes if change.action == "kept"]
    if kept:
        note(f"not in the file, and kept: {', '.join(kept)} (--prune would remove them)")


def _as_json(found: "Difference", version: int, *, written: bool, dry_run: bool) -> dict[str, Any]:
    return {
        "version": version,
        "mode": found.mode,
        "written": written,
        "dryRun": dry_run,
        "changes": [change.shown() for change in found.changes],
        "losses": [
            {"plan": loss.plan, "tenant": loss.tenant, "features": list(loss.features)}
            for loss in found.losses
        ],
    }


def _is_agreed() -> bool:
    # asyncio's own handler only cancels the task, which waits for the answer: Ctrl-C would be
    # heard the second time.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm("Apply this?", err=True)
    finally:
        signal.signal(signal.SIGINT, heard)
