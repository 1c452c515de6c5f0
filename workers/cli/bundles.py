"""`sluice audit export` and `verify-bundle`: one tenant's dispute, for who does not trust us."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, FAILURE, USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    YesOption,
    actor_name,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
    span,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.bundles.exporting import Exported
    from workers.bundles.telling import Scope


def register(app: typer.Typer) -> None:
    """Add the commands of this module to those of `sluice audit`."""
    app.command("export", epilog="Example: sluice audit export --tenant acme --out acme.tar")(
        export_command
    )
    app.command(
        "verify-bundle",
        epilog="Example: sluice audit verify-bundle acme.tar --key 0a1b2c3d4e5f6071",
    )(verify_bundle_command)


def export_command(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose dispute it is.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write; it must not exist yet.")],
    since: Annotated[
        str | None, typer.Option("--since", help="A time, a day, or how long ago, like 90d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Up to here, and without it.")
    ] = None,
    with_reasons: Annotated[
        bool,
        typer.Option("--with-reasons", help="What operators wrote too: it may name others."),
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the trail.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Export one tenant's dispute as a file that verifies offline: records, events and signatures.

    Nothing of other tenants is in it. Who exported what is audited.
    """
    who = actor_name(actor)
    why = checked_reason(reason) if reason is not None else None
    if out.exists():
        raise CommandError(f"{out} exists", CONFLICT)
    if not out.parent.is_dir():
        raise CommandError(f"{out.parent} is no directory", USAGE)
    if with_reasons and not dry_run:
        confirm("What operators wrote may name other tenants. Include it?", yes=yes)

    async def run(conn: "Conn", endpoints: "Endpoints") -> "Exported":
        from workers.bundles.exporting import NobodyNamed, scope_of
        from workers.checkpoints import KeyGone

        first, last = await span(conn, since, until)
        try:
            scope = await scope_of(conn, tenant, first, last, with_reasons=with_reasons)
            asked = _Asked(scope, out, who, why, dry_run)
            return await _export(conn, endpoints, asked)
        except NobodyNamed as error:
            raise unknown("tenants", plain(error)) from None
        except KeyGone as error:
            raise CommandError(str(error), FAILURE) from None

    try:
        done = operate(run)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror or error}") from None
    if as_json:
        write_json(done.shown() | ({"dryRun": True} if dry_run else {"file": str(out)}))
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(done.counts.items()))
    if dry_run:
        note(f"nothing was written: {done.size_bytes:,} bytes it would be")
    else:
        typer.echo(f"{out}: {done.size_bytes:,} bytes, sha256 {done.sha256}, key {done.key}")
    note(counts)


@dataclass(frozen=True, slots=True)
class _Asked:
    scope: "Scope"
    out: Path
    actor: str
    reason: str | None
    dry_run: bool


async def _export(conn: "Conn", endpoints: "Endpoints", asked: _Asked) -> "Exported":
    """Under another name first: a file of that name is whole, and in the trail."""
    from shared.sealing import KeyRing
    from workers.bundles.exporting import export, record_export, sign_up_to_now

    ring = KeyRing.parse(endpoints.secret_key)
    out = asked.out
    if not asked.dry_run:
        await sign_up_to_now(conn, ring, asked.actor)
    with NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}.", delete=False) as file:
        try:
            done = await export(conn, ring, asked.scope, file)
            file.flush()
            os.fsync(file.fileno())
            if not asked.dry_run:
                # Not over what somebody has put there meanwhile.
                os.link(file.name, out)
                await in_transaction(
                    conn,
                    lambda: record_export(conn, done, asked.scope, asked.actor, asked.reason),
                )
        except BaseException:
            if not asked.dry_run and out.exists() and out.samefile(file.name):
                out.unlink()
            raise
        finally:
            os.unlink(file.name)
    return done


def verify_bundle_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From `sluice audit export`.")],
    key: Annotated[
        str | None, typer.Option("--key", help="The audit key's id, as you were told it before.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Verify a bundle offline: chains, contents, signatures. Asks no database and no network.

    Exit code 1 if anything in it was changed.
    """
    from workers.bundles.verify import verify

    try:
        # What cannot be read is no finding about a bundle; `verify` takes all for one.
        file.open("rb").close()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
    told = verify(file, key)
    if as_json:
        write_json({**told, "isKeyPinned": key is not None})
    else:
        _print(told, is_pinned=key is not None)
    if not told["ok"]:
        raise typer.Exit(FAILURE)


def _print(told: dict[str, Any], *, is_pinned: bool) -> None:
    for finding in told["findings"]:
        typer.echo(plain(finding))
    typer.echo("whole, as it was signed" if told["ok"] else "NOT AS IT WAS SIGNED")
    if "tenant" not in told:
        return
    sys.stdout.write(f"tenant {plain(told['tenant'])}, {plain(told['at'])}, key {told['key']}\n")
    for name, count in sorted(told["counts"].items()):
        sys.stdout.write(f"{count:>9,}  {plain(name)}\n")
    if not is_pinned:
        note("whose key that is, only whoever told you its id can say: --key")
    note("what a bundle cannot show: docs/audit.md")
