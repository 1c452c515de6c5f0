"""`sluice tenants`: what they may use, why, and whose customers are theirs."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, NOT_FOUND, USAGE, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    CursorOption,
    JsonOption,
    LimitOption,
    actor_name,
    in_transaction,
    note,
    operate,
    plain,
    print_heading,
    print_page,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.manual_grants import ManualGrant
    from workers.granting import Granted

app = typer.Typer(help="Tenants: what they may use, and why.", no_args_is_help=True)


ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit trail.")]

_LONGEST_S = 100 * 366 * 86_400


@app.command("list", epilog="Example: sluice tenants list --limit 500 --json")
def list_command(
    limit: LimitOption = 50, cursor: CursorOption = None, as_json: JsonOption = False
) -> None:
    """List the tenants by name, with how many features each may use now."""
    from shared.store.paging import decode_cursor
    from shared.store.tenants import list_tenants

    async def run(conn: "Conn", _: "Endpoints") -> None:
        page = await list_tenants(conn, decode_cursor(cursor, str) if cursor else None, limit)
        columns = {"tenant": "tenant", "features": "features", "createdAt": "since"}
        print_page(page, columns, as_json=as_json, nothing="no tenants yet")

    operate(run)


@app.command("show", epilog="Example: sluice tenants show acme --json")
def show_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a tenant may use now, which grants give it, and its customers."""
    from shared.store.manual_grants import of_tenant
    from shared.store.tenants import read_tenant

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_tenant(conn, tenant)
        if found is None:
            raise CommandError(f"nothing ever named a tenant {plain(tenant)}", NOT_FOUND)
        found["manualGrants"] = [_shown(grant) for grant in await of_tenant(conn, tenant)]
        if as_json:
            write_json(found)
        else:
            _print(found)

    operate(run)


@app.command("explain", epilog="Example: sluice tenants explain acme seats --at 48h")
def explain_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    feature: Annotated[str, typer.Argument(help="The feature's name, as the catalog has it.")],
    at: Annotated[
        str | None,
        typer.Option(
            "--at", help="When: a time, a day (its beginning, UTC), or how long ago, like 48h."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain why a tenant may use a feature, or may not; in words that can be sent on."""
    from shared.domain.events import is_storable
    from shared.explain import MomentError, explain

    if not is_storable(feature):
        raise CommandError("FEATURE must be text of 1 to 255 bytes", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            found = await explain(conn, tenant, feature, at)
        except MomentError as error:
            raise CommandError(f"--at: {error}", USAGE) from None
        if found is None:
            raise CommandError(f"nothing ever named a tenant {plain(tenant)}", NOT_FOUND)
        if as_json:
            write_json(found)
            return
        for line in found["text"].split("\n"):
            typer.echo(plain(line))
        if found["value"] is None:
            note("what waits for a link to a tenant is nobody's: sluice parked list")

    operate(run)


@app.command("link", epilog="Example: sluice tenants link acme --source stripe --customer cus_123")
def link_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    source: Annotated[str, typer.Option("--source", help="The source that knows the customer.")],
    customer: Annotated[str, typer.Option("--customer", help="Its id at the provider.")],
    account: Annotated[
        str, typer.Option("--account", help="The connected account it belongs to.")
    ] = "",
    reason: Annotated[str | None, typer.Option("--reason", help="Why.")] = None,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a customer belongs to a tenant. An operator's link overrides every other."""
    from shared.domain.events import is_storable
    from workers.link import UnknownSourceName, link

    who = actor_name(actor)
    for name, text in (("TENANT", tenant), ("--customer", customer)):
        if not is_storable(text):
            raise CommandError(f"{name} must be text of 1 to 255 bytes", USAGE)
    if account and not is_storable(account):
        raise CommandError("--account must be text of 1 to 255 bytes", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            linked = await in_transaction(
                conn, lambda: link(conn, source, account, customer, tenant, who, reason)
            )
        except UnknownSourceName as error:
            raise CommandError(str(error), NOT_FOUND) from None
        if as_json:
            write_json({**linked.shown(), "tenant": tenant})
            return
        typer.echo(f"customer {plain(customer)} of {source} belongs to {plain(tenant)}")
        if linked.before not in (None, tenant):
            note(f"it belonged to {plain(linked.before)} before")
        for change in linked.changes:
            note(f"{plain(change.tenant)}: {change.action} {change.feature}")
        if linked.objects == 0:
            note("nothing of this customer was received yet; the link waits for it")

    operate(run)


@app.command(
    "grant", epilog='Example: sluice tenants grant acme seats 25 --until 30d --reason "pilot"'
)
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
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a tenant a feature by hand, beside what its plans give. Given twice is two grants."""
    from shared.domain.catalog import read_value
    from shared.store.paging import iso
    from workers.granting import UnfitGrant, give

    who, why = actor_name(actor), _checked_reason(reason)
    _check_text("TENANT", tenant)
    _check_text("VALUE", value)
    try:
        wanted = read_value(value)
    except ValueError as error:
        raise CommandError(f"VALUE: {error}", USAGE) from None
    ends = _end(until)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            given = await in_transaction(
                conn, lambda: give(conn, tenant, feature, wanted, ends, who, why)
            )
        except UnfitGrant as error:
            raise CommandError(str(error), USAGE) from None
        if not given.is_known:
            note(f"no plan of the catalog has {plain(feature)}: is it spelled as the product asks?")
        if as_json:
            write_json(given.shown())
            return
        grant = given.grant
        lasts = "until it is revoked" if grant.valid_until is None else iso(grant.valid_until)
        typer.echo(f"grant {grant.id}: {plain(tenant)} has {feature} {plain(value)}, {lasts}")
        _say_changes(given)

    operate(run)


@app.command(
    "revoke", epilog='Example: sluice tenants revoke acme 1207 --reason "the pilot is over"'
)
def revoke_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    grant_id: Annotated[
        str, typer.Argument(metavar="GRANT_ID", help="Its id; `sluice tenants show` has it.")
    ],
    reason: ReasonOption,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what was given by hand. What plans give stays."""
    from workers.granting import RevokedBefore, UnknownGrant, revoke

    who, why = actor_name(actor), _checked_reason(reason)
    _check_text("TENANT", tenant)
    number = grant_id.removeprefix("manual/")
    if not (number.isascii() and number.isdigit() and int(number) < 2**63):
        raise CommandError(f"{plain(grant_id)} is not the id of a manual grant", USAGE)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            taken = await in_transaction(conn, lambda: revoke(conn, tenant, int(number), who, why))
        except UnknownGrant as error:
            raise CommandError(f"{plain(error)}; see `sluice tenants show`", NOT_FOUND) from None
        except RevokedBefore as error:
            raise CommandError(plain(error), CONFLICT) from None
        if as_json:
            write_json(taken.shown())
            return
        typer.echo(f"grant {number} of {plain(tenant)} is revoked")
        _say_changes(taken)

    operate(run)


def _check_text(name: str, text: str) -> None:
    from shared.domain.events import is_storable

    if not is_storable(text) or not text.strip():
        raise CommandError(f"{name} must be text of 1 to 255 bytes", USAGE)


def _checked_reason(reason: str) -> str:
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise CommandError("--reason is not UTF-8", USAGE) from None
    if not reason.strip():
        raise CommandError("--reason must say why", USAGE)
    return reason


def _end(until: str | None) -> datetime | timedelta | None:
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


def _say_changes(granted: "Granted") -> None:
    for change in granted.changes:
        note(f"{plain(change.tenant)}: {change.action} {change.feature}")
    if not granted.changes:
        note("what it may use now is the same as before")


def _shown(grant: "ManualGrant") -> dict[str, Any]:
    from shared.store.paging import iso
    from workers.granting import content_of

    return {
        **content_of(grant),
        "actor": grant.actor,
        "reason": grant.reason,
        "grantedAt": iso(grant.granted_at),
    }


def _print(found: dict[str, Any]) -> None:
    entitlements, customers = found["entitlements"], found["customers"]
    if entitlements:
        print_table(
            {"feature": "feature", "value": "value", "validUntil": "until", "by": "by"},
            [
                {
                    **entitlement,
                    "by": ", ".join(
                        f"{grant['plan']} ({grant['source']} {grant['object']})"
                        for grant in entitlement["grants"]
                    ),
                }
                for entitlement in entitlements
            ],
        )
    else:
        note("nothing may be used now; what waits for something: sluice parked list")
    if found["manualGrants"]:
        print_heading("Given by hand")
        columns = ("id", "feature", "value", "validUntil", "actor", "reason")
        print_table({column: column for column in columns}, found["manualGrants"])
    if customers:
        print_heading("Customers")
        columns = ("customer", "source", "account", "livemode", "linkedBy", "linkedAt")
        print_table({column: column for column in columns}, customers)
