"""`sluice sources rotate-secret` and `retire-secret`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, NOT_FOUND, USAGE, CommandError, unknown, write_json
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

    who, why, given = actor_name(actor), checked_reason(reason), given_secret(secret)
    overlap_s = overlap_of(overlap)
    if not overlap_s and not dry_run:
        confirm(f"The old secret of {plain(source)} stops working at once. Go on?", yes=yes)

    async def run(conn: "Conn", endpoints: "Endpoints") -> tuple["Rotated", str]:
        keys = KeyRing.parse(endpoints.secret_key)

        async def act() -> tuple["Rotated", str]:
            found, versions = await held(conn, source)
            known = await known_secrets(conn, source, keys)
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
            await record(conn, rotating.ROTATED, who, why, source, done)
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
    will, works, has = (
        ("would be", "would work", "would have") if dry_run else ("is", "works", "has")
    )
    note(
        f"{source}: {shown['label']} {will} beside {shown['replaces']}, which {works} until"
        f" {plain(shown['oldRetiresAt'])}; every gateway {has} it within two seconds"
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
            await record(conn, rotating.RETIRED, who, why, source, done)
            return done

        return await in_transaction(conn, act, dry_run=dry_run)

    done = operate(run)
    shown = {"source": source, **done.after, **({"dryRun": True} if dry_run else {})}
    if as_json:
        write_json(shown)
    else:
        note(f"{source}: {label} {'would end' if dry_run else 'ends'} now, in every gateway")


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
        raise unknown("sources", f"no source {plain(name)}")
    return found, (await integrations.read_secret_versions(conn, [found.id]))[found.id]


async def known_secrets(conn: "Conn", source: str, keys: Any) -> list[Any]:
    """The source's secrets that open with these keys, those that have ended too."""
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


async def record(
    conn: "Conn", action: str, actor: str, reason: str, source: str, done: "Rotated"
) -> None:
    """
    Tell the audit trail what was done.

    Raises:
        CommandError: it was not: no such source (3), or somebody was faster (5).
    """
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


def given_secret(secret: str | None) -> str | None:
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


def overlap_of(text: str) -> int:
    """
    Raises:
        CommandError: `--overlap` is no duration, or too long.
    """
    from shared.rotation import overlap_s

    try:
        return overlap_s(text)
    except ValueError as error:
        raise CommandError(f"--{error}", USAGE) from None
