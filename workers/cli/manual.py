"""`sluice tenants grant` and `revoke`: what operators give by hand."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.exits import CONFLICT, NOT_FOUND, USAGE, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    DryRunOption,
    JsonOption,
    ReasonOption,
    YesOption,
    actor_name,
    as_shown,
    check_text,
    checked_reason,
    confirm,
    deriving,
    note,
    operate,
    plain,
    say_changes,
    say_dry_run,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.granting import Granted

_LONGEST_S = 100 * 366 * 86_400


def register(app: typer.Typer) -> None:
    """Add the commands of this module to those of `sluice tenants`."""
    app.command(
        "grant", epilog='Example: sluice tenants grant acme seats 25 --until 30d --reason "pilot"'
    )(grant_command)
    app.command(
        "revoke", epilog='Example: sluice tenants revoke acme 1207 --reason "the pilot is over"'
    )(revoke_command)


def grant_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    feature: Annotated[str, typer.Argument(help="The feature, as plans name it.")],
    value: Annotated[str, typer.Argument(help='true, false, a number, "unlimited", or a text.')],
    reason: ReasonOption,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help='A time with its zone, or after how long, e.g. "90d"; until revoked unless given.',
        ),
    ] = None,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a tenant a feature by hand, beside what its plans give. Given twice is two grants."""
    from shared.domain.catalog import read_value
    from shared.store.paging import iso
    from workers.granting import UnfitGrant, give
    from workers.holdings import TenantErased

    who, why = actor_name(actor), checked_reason(reason)
    check_text("TENANT", tenant)
    check_text("VALUE", value)
    try:
        wanted = read_value(value)
        if wanted is False:
            raise CommandError("VALUE: false takes nothing away that something else gives", USAGE)
    except ValueError as error:
        raise CommandError(f"VALUE: {error}", USAGE) from None
    ends = read_end(until)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            given = await deriving(
                conn,
                lambda _: give(conn, tenant, feature, wanted, ends, who, why),
                dry_run=dry_run,
            )
        except UnfitGrant as error:
            raise CommandError(str(error), USAGE) from None
        except TenantErased as error:
            raise CommandError(plain(error), CONFLICT) from None
        if not given.is_known:
            note(f"no plan of the catalog has {plain(feature)}: is it spelled as the product asks?")
        if as_json:
            write_json(as_shown(given.shown(), dry_run=dry_run))
            return
        grant = given.grant
        end = "it is revoked" if grant.valid_until is None else iso(grant.valid_until)
        what = f"{feature} {plain(value)}"
        whose = plain(grant.tenant)
        say_done(
            f"grant {grant.id}: {whose} is given {what}, until {end}",
            f"{whose} would be given {what}, until {end}",
            dry_run=dry_run,
        )
        _say(given, dry_run=dry_run)
        say_dry_run(dry_run=dry_run)

    operate(run)


def revoke_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    grant_id: Annotated[
        str, typer.Argument(metavar="GRANT_ID", help="Its id; `sluice tenants show` has it.")
    ],
    reason: ReasonOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what was given by hand. What plans give stays."""
    from workers.granting import RevokedBefore, UnknownGrant, find_grant, revoke
    from workers.holdings import TenantErased

    who, why = actor_name(actor), checked_reason(reason)
    check_text("TENANT", tenant)
    number = grant_id.removeprefix("manual/")
    if not (number.isascii() and number.isdigit() and int(number) < 2**63):
        raise CommandError(f"{plain(grant_id)} is not the id of a manual grant", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            given = await find_grant(conn, tenant, int(number))
            if not dry_run:
                what = f"{given.feature} {plain(given.value)}"
                confirm(f"Take grant {number}, {what}, back from {plain(tenant)}?", yes=yes)
            taken = await deriving(
                conn, lambda _: revoke(conn, tenant, int(number), who, why), dry_run=dry_run
            )
        except UnknownGrant as error:
            raise CommandError(f"{plain(error)}; see `sluice tenants show`", NOT_FOUND) from None
        except (RevokedBefore, TenantErased) as error:
            raise CommandError(plain(error), CONFLICT) from None
        if as_json:
            write_json(as_shown(taken.shown(), dry_run=dry_run))
            return
        which = f"grant {number} of {plain(taken.grant.tenant)}"
        say_done(f"{which} is revoked", f"{which} would be revoked", dry_run=dry_run)
        _say(taken, dry_run=dry_run)
        say_dry_run(dry_run=dry_run)

    operate(run)


def read_end(until: str | None) -> datetime | timedelta | None:
    """A time in UTC, or how long from now by the database's clock."""
    from workers.declaration import duration_s

    if until is None:
        return None
    try:
        return timedelta(seconds=min(duration_s(until), _LONGEST_S))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(until)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise CommandError(
        f"--until: {plain(until)} is neither a time with its zone, like 2027-01-31T12:00:00Z, nor"
        ' how long, like "90d"',
        USAGE,
    )


def _say(granted: "Granted", *, dry_run: bool) -> None:
    say_changes(granted.changes)
    if not granted.changes:
        is_same = "would be the same as it is" if dry_run else "is the same as before"
        note(f"what it may use {is_same}")
