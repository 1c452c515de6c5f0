"""`sluice tenants`: what they may use, why, and whose customers are theirs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import NOT_FOUND, USAGE, CommandError, write_json
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

app = typer.Typer(help="Tenants: what they may use, and why.", no_args_is_help=True)


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
    from shared.store.tenants import read_tenant

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_tenant(conn, tenant)
        if found is None:
            raise CommandError(f"nothing ever named a tenant {plain(tenant)}", NOT_FOUND)
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
    if customers:
        print_heading("Customers")
        columns = ("customer", "source", "account", "livemode", "linkedBy", "linkedAt")
        print_table({column: column for column in columns}, customers)
