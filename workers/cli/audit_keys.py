"""`sluice audit keys` and `rotate-key`: what the audit trail is signed with."""

from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.exits import CONFLICT, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    actor_name,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.signing import SigningKey


def register(app: typer.Typer) -> None:
    """Add the commands of this module to those of `sluice audit`."""
    app.command("keys", epilog="Example: sluice audit keys --json")(keys_command)
    app.command("rotate-key", epilog='Example: sluice audit rotate-key --reason "every year"')(
        rotate_command
    )


def keys_command(as_json: JsonOption = False) -> None:
    """List the public keys that checkpoints were ever signed with, the oldest first."""
    from shared.store import checkpoints
    from workers.checkpoints import shown_key

    async def run(conn: "Conn", _: "Endpoints") -> None:
        known = await checkpoints.read_keys(conn)
        items = [shown_key(key, known) for key in known]
        if as_json:
            write_json({"items": items, "next": None})
        elif items:
            names = ("id", "createdAt", "endedAt", "isEndorsed", "createdBy", "publicKey")
            print_table({name: name for name in names}, items)
            note("tell whoever may have to verify a bundle the id and the public key, beforehand")
        else:
            note("no key yet: the first checkpoint makes one")

    operate(run)


def rotate_command(
    reason: ReasonOption,
    lost: Annotated[
        bool,
        typer.Option("--lost", help="The one in use cannot be opened, and vouches for nothing."),
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have checkpoints signed with a new key from now on. The one in use vouches for it."""
    from shared.sealing import KeyRing
    from shared.store import checkpoints
    from workers.checkpoints import KeyGone, rotate_key

    who, why = actor_name(actor), checked_reason(reason)
    if lost and not dry_run:
        confirm("Nothing will vouch for the new key. Begin with it?", yes=yes)

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        ring = KeyRing.parse(endpoints.secret_key)

        async def work() -> "SigningKey":
            if not await checkpoints.take_turn(conn):
                raise CommandError("a checkpoint is being written; try again", CONFLICT)
            return await rotate_key(conn, ring, who, why, is_lost=lost)

        try:
            key = await in_transaction(conn, work, dry_run=dry_run)
        except KeyGone as error:
            raise CommandError(str(error), CONFLICT) from None
        if as_json:
            said = {"id": key.id, "publicKey": key.public.hex(), "isEndorsed": not lost}
            write_json(said | ({"dryRun": True} if dry_run else {}))
        elif dry_run:
            note("a new key would be made; nothing was written")
        else:
            typer.echo(f"checkpoints are signed with {key.id} from now on")

    operate(run)
