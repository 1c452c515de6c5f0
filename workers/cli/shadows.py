"""`sluice sources shadow`: a secret, or a scheme, is tried beside a source's own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, USAGE, CommandError, write_json
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
    plain,
)
from workers.cli.source_secrets import (
    OverlapOption,
    SecretOption,
    SlotOption,
    SourceArgument,
    given_secret,
    held,
    known_secrets,
    overlap_of,
    record,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.integrations import Integration, SecretVersion
    from workers.rotating import Rotated


def register(app: typer.Typer) -> None:
    """Add the command to `sluice sources`."""
    app.command(
        epilog="Example: sluice sources shadow stripe --secret env:NEW --reason 'try it first'"
    )(shadow)


def _check_one_of(*asked: bool) -> None:
    if asked.count(True) != 1:
        raise CommandError("say one of --secret, --promote and --drop", USAGE)


def shadow(
    source: SourceArgument,
    reason: ReasonOption,
    secret: SecretOption = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="Of another scheme: hmac, svix …")
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option("--signature", help="Of another scheme: its table `signature`, as JSON."),
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Rotate the shadow's secret in.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Forget the shadow.")] = False,
    overlap: OverlapOption = "24h",
    slot: SlotOption = None,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Try a secret, or a scheme, beside a source's real ones: it accepts nothing and is counted.

    `sluice sources show` has the counts. Then --promote it, or --drop it.
    """
    from shared.sealing import KeyRing
    from workers import shadowing

    _check_one_of(secret is not None, promote, drop)
    who, why, given = actor_name(actor), checked_reason(reason), given_secret(secret)
    overlap_s, table = overlap_of(overlap), _table(signature)
    if promote and not overlap_s and not dry_run:
        confirm(f"The old secret of {plain(source)} stops working at once. Go on?", yes=yes)
    action = shadowing.SET if given else shadowing.PROMOTED if promote else shadowing.DROPPED

    async def run(conn: "Conn", endpoints: "Endpoints") -> dict[str, Any]:
        keys = KeyRing.parse(endpoints.secret_key)

        async def act() -> dict[str, Any]:
            from workers.rotating import Rotated

            found, versions = await held(conn, source)
            if given is not None:
                _check_shadow(found, given, provider, table)
                is_other = provider is not None or table is not None
                known = await known_secrets(conn, source, keys)
                if not is_other and any(given == one.plaintext for one in known):
                    raise CommandError("--secret is one that the source has already", USAGE)
                version = await shadowing.set_shadow(
                    conn, found, given, keys, provider=provider, signature=table, actor=who
                )
                done = Rotated(None, {}, {"shadow": version, "provider": provider})
            elif promote:
                done = await _promoted(conn, found, versions, keys, slot, overlap_s, who)
            else:
                try:
                    await shadowing.drop_shadow(conn, found, who)
                except shadowing.NoShadow as error:
                    raise CommandError(str(error), CONFLICT) from None
                done = Rotated(None, {}, {"shadow": None})
            await record(conn, action, who, why, source, done)
            return done.after

        return await in_transaction(conn, act, dry_run=dry_run)

    after = operate(run)
    if as_json:
        write_json({"source": source, **after, **({"dryRun": True} if dry_run else {})})
    else:
        word = action.rpartition(".")[2]
        note(f"{source}: the shadow {'would be' if dry_run else 'is'} {word}")
        if given is not None and not dry_run:
            note(f"what it says of requests: sluice sources show {source}")


async def _promoted(
    conn: "Conn",
    source: "Integration",
    versions: "list[SecretVersion]",
    keys: Any,
    slot: int | None,
    overlap_s: int,
    actor: str,
) -> "Rotated":
    from shared.rotation import UnclearRotation
    from workers import shadowing

    try:
        done = await shadowing.promote(
            conn,
            source,
            versions,
            keys,
            known={one.plaintext for one in await known_secrets(conn, source.name, keys)},
            slot=slot,
            overlap_s=overlap_s,
            actor=actor,
        )
    except (shadowing.NoShadow, UnclearRotation) as error:
        raise CommandError(str(error), CONFLICT) from None
    return done


def _check_shadow(
    source: "Integration", secret: str, provider: str | None, table: dict[str, Any] | None
) -> None:
    from shared.providers import providers
    from shared.providers.base import ConfigurationError
    from workers.shadowing import configured

    try:
        configured(source, providers(), provider, table).check_secret(secret)
    except KeyError as error:
        raise CommandError(f"--provider: there is no {error} here", USAGE) from None
    except ConfigurationError as error:
        where = ".".join(map(str, error.path)) or "--secret"
        raise CommandError(f"{where} {error.problem}", USAGE) from None


def _table(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandError(f"--signature: {path} cannot be read: {error}", USAGE) from None
    if not isinstance(table, dict):
        raise CommandError("--signature: a JSON object, as the table `signature` has it", USAGE)
    return table
