"""`sluice sources show`, `rotate-secret`, `retire-secret` and `shadow`: a source's secrets."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, NOT_FOUND, USAGE, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    actor_name,
    check_text,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.integrations import Integration, SecretVersion
    from workers.rotating import Rotated

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE")]
SecretOption = Annotated[
    str | None,
    typer.Option("--secret", help='The new one: "env:NAME", "file:PATH", or - for stdin.'),
]
OverlapOption = Annotated[
    str, typer.Option("--overlap", help='How long the old one still works: "24h", "0".')
]
SlotOption = Annotated[
    int | None, typer.Option("--slot", min=0, help="Of several secrets, the one to replace.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `sluice sources`."""
    app.command(
        "rotate-secret",
        epilog='Example: sluice sources rotate-secret acme --overlap 24h --reason "yearly"',
    )(rotate_secret)
    app.command(
        "retire-secret",
        epilog='Example: sluice sources retire-secret acme 0.1 --reason "it leaked"',
    )(retire_secret)
    app.command(
        epilog="Example: sluice sources shadow stripe --secret env:NEW --reason 'try it first'"
    )(shadow)


def rotate_secret(
    source: SourceArgument,
    reason: ReasonOption,
    secret: SecretOption = None,
    overlap: OverlapOption = "24h",
    slot: SlotOption = None,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Put a new secret beside a source's; both work until the overlap is over.

    Without --secret one is made, where the scheme leaves that to us, and printed this once.
    """
    from shared import rotation
    from shared.providers import providers
    from shared.sealing import KeyRing
    from workers import rotating

    who, why, given = actor_name(actor), checked_reason(reason), _given(secret)
    overlap_s = _overlap(overlap)
    if not overlap_s and not dry_run:
        confirm(f"The old secret of {plain(source)} stops working at once. Go on?", yes=yes)

    async def run(conn: "Conn", endpoints: "Endpoints") -> tuple["Rotated", str]:
        keys = KeyRing.parse(endpoints.secret_key)

        async def act() -> tuple["Rotated", str]:
            found, versions = await held(conn, source)
            known = await _known(conn, source, keys)
            try:
                place = rotation.place_of(versions, found.secret_version, slot)
                provider = _bound(found, providers())
                random = os.urandom(rotation.RANDOM_BYTES)
                new = rotation.secret_of(provider, known, place, given, random)
            except rotation.UnclearRotation as error:
                raise CommandError(str(error), CONFLICT) from None
            except rotation.UnfitSecret as error:
                raise CommandError(f"--secret {error}", USAGE) from None
            order = rotation.order_of(source, place, new, keys, overlap_s=overlap_s)
            done = await rotating.rotate(conn, order, who)
            await _record(conn, rotating.ROTATED, who, why, source, done)
            return done, new

        return await in_transaction(conn, act, dry_run=dry_run)

    done, new = operate(run)
    made = new if given is None and not dry_run else None
    shown = {
        "source": source,
        "label": done.after["secret"],
        "replaces": done.before["secret"],
        "overlapS": overlap_s,
        "oldRetiresAt": done.after["oldRetiresAt"],
        "secret": made,
        **({"dryRun": True} if dry_run else {}),
    }
    if as_json:
        write_json(shown)
        return
    if made is not None:
        typer.echo(made)
        note("this is the only time it is shown")
    will = "would be" if dry_run else "is"
    note(
        f"{source}: {shown['label']} {will} beside {shown['replaces']}, which works until"
        f" {plain(shown['oldRetiresAt'])}; every gateway has it within two seconds"
    )


def retire_secret(
    source: SourceArgument,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="As `sources show` has it.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a secret open nothing any more, from now on: before its overlap is over, say."""
    from workers import rotating

    who, why = actor_name(actor), checked_reason(reason)
    if not dry_run:
        confirm(f"What {plain(label)} of {plain(source)} signs is refused at once. Go on?", yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> "Rotated":
        async def act() -> "Rotated":
            await held(conn, source)
            try:
                done = await rotating.retire(conn, source, label, who)
            except rotating.NotRetirable as error:
                raise CommandError(str(error), CONFLICT) from None
            await _record(conn, rotating.RETIRED, who, why, source, done)
            return done

        return await in_transaction(conn, act, dry_run=dry_run)

    done = operate(run)
    shown = {"source": source, **done.after, **({"dryRun": True} if dry_run else {})}
    if as_json:
        write_json(shown)
    else:
        note(f"{source}: {label} {'would end' if dry_run else 'ends'} now, in every gateway")


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
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Try a secret, or a scheme, beside a source's real ones: it accepts nothing and is counted.

    `sluice sources show` has the counts. Then --promote it, or --drop it.
    """
    from shared.sealing import KeyRing
    from workers import shadowing

    if [secret is not None, promote, drop].count(True) != 1:
        raise CommandError("say one of --secret, --promote and --drop", USAGE)
    who, why, given = actor_name(actor), checked_reason(reason), _given(secret)
    overlap_s, table = _overlap(overlap), _table(signature)
    action = shadowing.SET if given else shadowing.PROMOTED if promote else shadowing.DROPPED

    async def run(conn: "Conn", endpoints: "Endpoints") -> dict[str, Any]:
        keys = KeyRing.parse(endpoints.secret_key)

        async def act() -> dict[str, Any]:
            from workers.rotating import Rotated

            found, versions = await held(conn, source)
            if given is not None:
                _check_shadow(found, given, provider, table)
                is_other = provider is not None or table is not None
                known = await _known(conn, source, keys)
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
            await _record(conn, action, who, why, source, done)
            return done.after

        return await in_transaction(conn, act, dry_run=dry_run)

    after = operate(run)
    if as_json:
        write_json({"source": source, **after, **({"dryRun": True} if dry_run else {})})
    else:
        word = action.rpartition(".")[2]
        note(f"{source}: the shadow {'would be' if dry_run else 'is'} {word}")
        if given is not None:
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
            conn, source, versions, keys, slot=slot, overlap_s=overlap_s, actor=actor
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


async def held(conn: "Conn", name: str) -> "tuple[Integration, list[SecretVersion]]":
    """
    The source and its secrets as they stay until this transaction ends.

    Raises:
        CommandError: there is none of that name (3).
    """
    from shared.store import integrations, operating

    check_text("SOURCE", name)
    await operating.take_turn(conn)
    found = await integrations.read_integration(conn, name)
    if found is None:
        raise CommandError(f"no source {plain(name)}", NOT_FOUND)
    return found, (await integrations.read_secret_versions(conn, [found.id]))[found.id]


async def _known(conn: "Conn", source: str, keys: Any) -> list[Any]:
    from shared.sealing import SealingError
    from shared.store.secrets import read_sealed
    from shared.store.sources import Secret

    known = []
    for one in await read_sealed(conn, source=source):
        if one.kind != "secret":
            continue
        try:
            text = keys.open(one.sealed, source=source, slot=one.slot, version=one.version)
        except SealingError:
            continue  # it is replaced all the same
        known.append(Secret(one.slot, one.version, text))
    return known


def _bound(source: "Integration", known: Any) -> Any:
    from shared.providers.base import ConfigurationError, Configured

    provider = known.get(source.provider)
    if provider is None:
        raise CommandError(f"the provider {source.provider} is not installed here")
    try:
        return provider.for_source(Configured(source.settings, source.livemode, source.tenant))
    except ConfigurationError as error:
        raise CommandError(f"{source.name} cannot be read: {error.problem}") from None


async def _record(
    conn: "Conn", action: str, actor: str, reason: str, source: str, done: "Rotated"
) -> None:
    from workers.actions import new_action, record_action

    if done.code is not None:
        code = NOT_FOUND if done.code == "unknown_source" else CONFLICT
        raise CommandError(f"{plain(source)}: {done.code}", code)
    await record_action(
        conn,
        new_action(),
        action,
        actor,
        source=source,
        subject=f"source/{source}",
        before=done.before,
        after=done.after,
        reason=reason,
    )


def _given(secret: str | None) -> str | None:
    """
    What --secret leads to. One that is written out would stay in the shell's history.

    Raises:
        CommandError: it leads nowhere, or holds what no secret does.
    """
    from workers.declaration import DeclarationError
    from workers.declaration.sources import resolve_secret

    if secret is None:
        return None
    try:
        if secret == "-":  # noqa: S105 - of a secret, no secret
            return resolve_secret(sys.stdin.read() or " ", ("--secret",), {}, Path.cwd())
        if not secret.startswith(("env:", "file:")):
            raise CommandError('--secret: write "env:NAME", "file:PATH" or -', USAGE)
        return resolve_secret(secret, ("--secret",), os.environ, Path.cwd())
    except DeclarationError as error:
        raise CommandError(str(error), USAGE) from None


def _overlap(text: str) -> int:
    from shared.rotation import overlap_s

    try:
        return overlap_s(text)
    except ValueError as error:
        raise CommandError(f"--{error}", USAGE) from None


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
