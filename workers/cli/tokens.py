"""`sluice tokens`: bearer tokens for the API."""

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    WhyOption,
    YesOption,
    actor_name,
    as_shown,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    plain,
    print_page,
    say_dry_run,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.tokens import Token

app = typer.Typer(help="Tokens of the API.", no_args_is_help=True)

_NAME = re.compile(r"[\w.@ -]{1,100}")


@app.command(
    "create", epilog="Example: sluice tokens create billing --scope tenant:acme --expires 90d"
)
def create_command(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        str, typer.Option("--scope", help="operator, service, or tenant:ID (that tenant only).")
    ],
    expires: Annotated[
        str | None,
        typer.Option("--expires", help='After how long, e.g. "90d"; never unless given.'),
    ] = None,
    reason: WhyOption = None,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a token. It is printed once, and cannot be shown again."""
    from shared.store import tokens
    from workers.actions import new_action, record_action

    who = actor_name(actor)
    if not _NAME.fullmatch(name):
        raise CommandError("NAME: letters, digits, spaces and . @ _ -, at most 100", USAGE)
    why = checked_reason(reason) if reason is not None else None
    _check_scope(scope)
    lives_for = _lifetime(expires)
    secret = tokens.new_token()
    action_id = new_action()

    async def run(conn: "Conn", _: "Endpoints") -> None:
        async def write() -> "Token":
            token = await tokens.create(
                conn, new_action(), name, scope, tokens.digest_of(secret), who, lives_for
            )
            await record_action(
                conn, action_id, "token.created", who, after=_shown(token), reason=why
            )
            return token

        token = await in_transaction(conn, write, dry_run=dry_run)
        if as_json:
            # What opens nothing is not shown.
            opens = None if dry_run else secret
            write_json(as_shown({**_shown(token), "token": opens}, dry_run=dry_run))
        elif dry_run:
            note(f"a token {name} for {plain(scope)} would be made; nothing was written")
        else:
            typer.echo(secret)
            note(f"token {token.id}; this is the only time it is shown")

    operate(run)


@app.command("list", epilog="Example: sluice tokens list --all")
def list_command(
    ended: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tokens, newest first."""
    from shared.store.paging import decode_cursor, iso, page_of
    from shared.store.tokens import list_tokens

    def key(created_at: str, token_id: str) -> tuple[datetime, UUID]:
        return datetime.fromisoformat(created_at), UUID(token_id)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, key) if cursor else None
        rows = await list_tokens(conn, after, ended=ended, limit=limit + 1)
        page = page_of(rows, limit, _shown, lambda row: (iso(row.created_at), str(row.id)))
        columns = {"id": "id", "name": "name", "scope": "scope", "expiresAt": "expires",
                   "lastUsedAt": "last used"}  # fmt: skip
        if ended:
            columns["revokedAt"] = "revoked"
        print_page(page, columns, as_json=as_json, nothing="no tokens")

    operate(run)


@app.command("show", epilog="Example: sluice tokens show billing")
def show_command(
    token: Annotated[str, typer.Argument(help="The token's id, or its name if that is unique.")],
    as_json: JsonOption = False,
) -> None:
    """Show a token: whose it is, when it ends, when it was last used. Never the token itself."""
    from shared.store import tokens

    async def run(conn: "Conn", _: "Endpoints") -> None:
        shown = _shown(_the_one(await tokens.find(conn, _as_id(token), token), token))
        if as_json:
            write_json(shown)
        else:
            for name, value in shown.items():
                typer.echo(f"{name:12} {plain(str(value)) if value is not None else '-'}")

    operate(run)


@app.command("revoke", epilog="Example: sluice tokens revoke billing")
def revoke_command(
    token: Annotated[str, typer.Argument(help="The token's id, or its name if that is unique.")],
    reason: WhyOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a token; a second later it opens nothing."""
    from shared.store import tokens
    from workers.actions import new_action, record_action

    who = actor_name(actor)
    why = checked_reason(reason) if reason is not None else None
    if not dry_run:
        confirm(f"Revoke the token {plain(token)}, for good?", yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        async def write() -> tuple["Token", bool]:
            found = _the_one(await tokens.find(conn, _as_id(token), token), token)
            revoked = await tokens.revoke(conn, found.id)
            if revoked:
                await record_action(
                    conn, new_action(), "token.revoked", who, before=_shown(found), reason=why
                )
            return found, revoked

        found, revoked = await in_transaction(conn, write, dry_run=dry_run)
        if as_json:
            said = {"id": str(found.id), "name": found.name, "revoked": revoked}
            write_json(as_shown(said, dry_run=dry_run))
        else:
            would = f"{found.id} would be revoked" if revoked else f"{found.id} stays revoked"
            say_done(f"{found.id} is revoked", would, dry_run=dry_run)
            if not revoked:
                note("it was revoked before")
            say_dry_run(dry_run=dry_run)

    operate(run)


def _the_one(found: "list[Token]", named: str) -> "Token":
    live = [token for token in found if token.revoked_at is None] or found[-1:]
    if not live:
        raise unknown("tokens", f"no token {plain(named)}")
    if len(live) > 1:
        ids = ", ".join(str(token.id) for token in live)
        raise CommandError(f"several tokens are called {plain(named)}; give an id: {ids}", CONFLICT)
    return live[0]


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _check_scope(scope: str) -> None:
    from shared.domain.events import is_storable

    kind, colon, tenant = scope.partition(":")
    if scope in ("operator", "service") or (kind == "tenant" and colon and is_storable(tenant)):
        return
    raise CommandError("--scope: operator, service, or tenant:ID", USAGE)


def _lifetime(expires: str | None) -> timedelta | None:
    from workers.declaration import duration_s

    if expires is None:
        return None
    try:
        seconds = duration_s(expires)
    except ValueError as error:
        raise CommandError(f"--expires: {error}", USAGE) from None
    if not 0 < seconds <= 100 * 366 * 86_400:
        raise CommandError("--expires: more than 0 and at most 100 years", USAGE)
    return timedelta(seconds=seconds)


def _shown(token: "Token") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "id": str(token.id),
        "name": token.name,
        "scope": token.scope,
        "createdAt": iso(token.created_at),
        "createdBy": token.created_by,
        "expiresAt": iso(token.expires_at),
        "revokedAt": iso(token.revoked_at),
        "lastUsedAt": iso(token.last_used_at),
    }
