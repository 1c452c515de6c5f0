"""`sluice tenants`: what they may use, why, and whose customers and members are theirs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, NOT_FOUND, USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    WhyOption,
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
    print_heading,
    print_page,
    print_table,
    say_changes,
    say_dry_run,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.holds import Standing
    from shared.store.manual_grants import ManualGrant

_MEMBER_COLUMNS = {name: name for name in ("member", "role", "since", "customer", "source")}

app = typer.Typer(help="Tenants: what they may use, and why.", no_args_is_help=True)


@app.command("list", epilog="Example: sluice tenants list --limit 500 --json")
def list_command(
    limit: LimitOption = 50, cursor: CursorOption = None, as_json: JsonOption = False
) -> None:
    """List the tenants by name, with how many features each may use now."""
    from shared.store import holds
    from shared.store.paging import decode_cursor
    from shared.store.tenants import list_tenants

    async def run(conn: "Conn", _: "Endpoints") -> None:
        page = await list_tenants(conn, decode_cursor(cursor, str) if cursor else None, limit)
        standings = await holds.read_all(conn, [one["tenant"] for one in page.items])
        for one in page.items:
            one.update(_kept(standings[one["tenant"]]))
        columns = {"tenant": "tenant", "features": "features", "mergedInto": "merged into",
                   "isHeld": "held", "erasedAt": "erased", "createdAt": "since"}  # fmt: skip
        print_page(page, columns, as_json=as_json, nothing="no tenants yet")

    operate(run)


@app.command("show", epilog="Example: sluice tenants show acme --json")
def show_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a tenant may use now, which grants give it, its customers and its members."""
    from shared.store import holds
    from shared.store.manual_grants import of_tenant
    from shared.store.paging import DEFAULT_LIMIT
    from shared.store.tenants import read_members, read_tenant

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_tenant(conn, tenant)
        if found is None:
            raise _nobody(tenant)
        name = found["mergedInto"] or tenant
        found["manualGrants"] = [_shown(grant) for grant in await of_tenant(conn, name)]
        members = await read_members(conn, tenant, 0, DEFAULT_LIMIT)
        assert members is not None  # a tenant that was named stays named
        found["members"] = {"items": members.items, "next": members.next}
        found |= _kept((await holds.read_all(conn, [tenant])).get(tenant))
        if as_json:
            write_json(found)
        else:
            _print(found)

    operate(run)


@app.command("members", epilog="Example: sluice tenants members org_2g7np7 --json")
def members_command(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who is a member of a tenant, and with which role."""
    from shared.store.paging import decode_cursor, row_number
    from shared.store.tenants import read_members

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, row_number) if cursor else 0
        page = await read_members(conn, tenant, after, limit)
        if page is None:
            raise _nobody(tenant)
        print_page(page, _MEMBER_COLUMNS, as_json=as_json, nothing="no members")

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
            raise _nobody(tenant)
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
    reason: WhyOption = None,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a customer belongs to a tenant. An operator's link overrides every other."""
    from workers.holdings import TenantErased
    from workers.link import UnknownSourceName, link

    who = actor_name(actor)
    check_text("TENANT", tenant)
    check_text("--customer", customer)
    if account:
        check_text("--account", account)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            linked = await deriving(
                conn,
                lambda more: link(conn, source, account, customer, tenant, who, reason, more),
                dry_run=dry_run,
            )
        except UnknownSourceName as error:
            raise CommandError(str(error), NOT_FOUND) from None
        except TenantErased as error:
            raise CommandError(plain(error), CONFLICT) from None
        if as_json:
            write_json(as_shown({**linked.shown(), "tenant": tenant}, dry_run=dry_run))
            return
        whose = f"customer {plain(customer)} of {source}"
        say_done(
            f"{whose} belongs to {plain(tenant)}",
            f"{whose} would belong to {plain(tenant)}",
            dry_run=dry_run,
        )
        if linked.merged_into is not None:
            note(f"{plain(tenant)} is another name of {plain(linked.merged_into)}")
        if linked.before not in (None, tenant):
            belongs = "belongs" if dry_run else "belonged"
            note(f"it {belongs} to {plain(linked.before)} {'now' if dry_run else 'before'}")
        say_changes(linked.changes)
        if linked.objects == 0:
            waits = "would wait" if dry_run else "waits"
            note(f"nothing of this customer was received yet; the link {waits} for it")
        say_dry_run(dry_run=dry_run)

    operate(run)


@app.command(
    "merge",
    epilog='Example: sluice tenants merge acme-inc acme --reason "one company, two signups"',
)
def merge_command(
    tenant: Annotated[str, typer.Argument(metavar="FROM", help="The tenant that goes.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="The tenant that stays.")],
    reason: ReasonOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one tenant another name of a second one, for good, with all that it has."""
    from workers.merge import UnknownTenant, Unmergeable, merge

    who, why = actor_name(actor), checked_reason(reason)
    for name, text in (("FROM", tenant), ("INTO", into)):
        check_text(name, text)
    if not dry_run:
        question = f"Make {plain(tenant)} another name of {plain(into)}, for good?"
        confirm(question, yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            merged = await deriving(
                conn, lambda more: merge(conn, tenant, into, who, why, more), dry_run=dry_run
            )
        except UnknownTenant as error:
            raise unknown("tenants", plain(error)) from None
        except Unmergeable as error:
            raise CommandError(plain(error), CONFLICT) from None
        if as_json:
            write_json(as_shown(merged.shown(), dry_run=dry_run))
            return
        name = f"another name of {plain(into)} from now on"
        say_done(f"{plain(tenant)} is {name}", f"{plain(tenant)} would be {name}", dry_run=dry_run)
        note(f"objects: {merged.objects}, manual grants: {merged.manual_grants}")
        if merged.names:
            are = "would be" if dry_run else "are"
            note(f"and so {are} {', '.join(map(plain, merged.names))}")
        say_changes(merged.changes)
        say_dry_run(dry_run=dry_run)

    operate(run)


def _nobody(tenant: str) -> CommandError:
    return CommandError(
        f"nothing ever named a tenant {plain(tenant)}; what waits for a link to one is in"
        " `sluice parked list`",
        NOT_FOUND,
    )


def _shown(grant: "ManualGrant") -> dict[str, Any]:
    from shared.store.paging import iso
    from workers.granting import content_of

    return {
        **content_of(grant),
        "actor": grant.actor,
        "reason": grant.reason,
        "grantedAt": iso(grant.granted_at),
    }


def _kept(standing: "Standing | None") -> dict[str, Any]:
    """What is said of keeping and forgetting it; `isHeld` by a merged name of its included."""
    from shared.store.paging import iso
    from workers.holding import shown

    return {
        "hold": shown(standing),
        "isHeld": standing is not None and standing.is_held,
        "erasedAt": None if standing is None else iso(standing.erased_at),
    }


def _print(found: dict[str, Any]) -> None:
    entitlements, customers = found["entitlements"], found["customers"]
    if found["erasedAt"] is not None:
        note(f"it was erased at {plain(found['erasedAt'])}: sluice audit list tells by whom")
    if found["hold"] is not None:
        hold = found["hold"]
        until = plain(hold["until"] or "it is released")
        note(f"it is held until {until}: {plain(hold['reason'])}")
    if found["mergedInto"] is not None:
        note(
            f"{plain(found['tenant'])} was merged into {plain(found['mergedInto'])} at"
            f" {plain(found['mergedAt'])}: what follows is what {plain(found['mergedInto'])} has"
        )
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
            keep=4,
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
        for gone in (one for one in customers if one["isDeleted"]):
            note(f"{plain(gone['customer'])} was deleted at {gone['source']}")
    if found["members"]["items"]:
        print_heading("Members")
        print_table(_MEMBER_COLUMNS, found["members"]["items"])
        if found["members"]["next"] is not None:
            note(f"more: sluice tenants members {plain(found['tenant'])}")
