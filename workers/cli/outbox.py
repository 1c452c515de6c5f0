"""`sluice outbox`: what handlers send, what is dead of it, and what is to become of that."""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import CONFLICT, USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    YesOption,
    actor_name,
    as_shown,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    print_fields,
    print_page,
    say_dry_run,
    tracking_id,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from uuid import UUID

    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.messages import Message

app = typer.Typer(help="The outbox: what handlers send to the outside.", no_args_is_help=True)

#: One transaction, and one audit record, for so many.
_AT_ONCE = 500

IdArgument = Annotated[int, typer.Argument(metavar="ID", help="The message's number.", min=1)]


@app.callback()
def _group() -> None:
    """The outbox: what handlers send to the outside, once their transaction has committed."""


@app.command("list", epilog="Example: sluice outbox list --state dead --handler slack")
def list_command(
    handler: Annotated[str | None, typer.Option("--handler", help="Of this handler only.")] = None,
    state: Annotated[
        str | None, typer.Option("--state", help="waiting, retrying, sent, dead or dropped.")
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", help="Meant by the event with this tracking id.")
    ] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List messages, newest first."""
    from shared.store.messages import STATES, Wanted, list_messages
    from shared.store.paging import decode_cursor, page_of

    if state is not None and state not in STATES:
        raise CommandError(f"--state is one of {', '.join(STATES)}", USAGE)
    wanted = Wanted(handler, state, tracking_id(event) if event is not None else None)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        before = decode_cursor(cursor, int) if cursor else None
        rows = await list_messages(conn, before, wanted, limit + 1)
        page = page_of(rows, limit, _shown, lambda row: (row.id,))
        columns = {
            "id": "id",
            "state": "state",
            "handler": "handler",
            "code": "code",
            "attempts": "attempts",
            "createdAt": "created",
            "dueAt": "due",
            "error": "error",
        }
        print_page(page, columns, as_json=as_json, nothing="no messages")

    operate(run)


@app.command("show", epilog="Example: sluice outbox show 17")
def show_command(message: IdArgument, as_json: JsonOption = False) -> None:
    """Show a message with what it says and the key that it is sent under."""
    from shared.store.messages import read_message
    from shared.store.outbox import sent_key

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_message(conn, message)
        if found is None:
            raise unknown("outbox", f"no message {message}")
        one, payload = found
        fields = _shown(one) | {
            "idempotencyKey": sent_key(one.handler, one.key),
            "payload": json.loads(payload),
        }
        if as_json:
            write_json(fields)
        else:
            print_fields(fields)

    operate(run)


@app.command("retry", epilog='Example: sluice outbox retry 17 18 --reason "the receiver is back"')
def retry_command(
    reason: ReasonOption,
    messages: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]…", help="The messages' numbers.")
    ] = None,
    handler: Annotated[
        str | None, typer.Option("--handler", help="With --dead: all of this handler.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead ones of --handler.")] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have dead messages sent again, under the same keys; those that wait for a retry, at once."""
    who, why = actor_name(actor), checked_reason(reason)
    numbers = list(dict.fromkeys(messages or ()))
    if bool(numbers) == bool(handler and dead) or bool(handler) != dead:
        raise CommandError("give messages, or --handler NAME --dead", USAGE)
    if handler is not None and not dry_run:
        confirm(f"Have all dead messages of {handler} sent again?", yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        if handler is None:
            actions = [await _retry(conn, numbers, who, why, dry_run=dry_run)]
            count = len(numbers)
        else:
            actions, count = await _retry_dead(conn, handler, who, why, dry_run=dry_run)
        if as_json:
            said = {"retried": count, "actionIds": [str(action) for action in actions]}
            write_json(as_shown(said, dry_run=dry_run))
        else:
            many = f"{count} {'message' if count == 1 else 'messages'}"
            are = "is" if count == 1 else "are"
            say_done(f"{many} {are} due", f"{many} would be due", dry_run=dry_run)
            if count and not dry_run:
                note("what becomes of them: sluice outbox list --state retrying")
            say_dry_run(dry_run=dry_run)

    operate(run)


async def _retry_dead(
    conn: "Conn", handler: str, actor: str, reason: str, *, dry_run: bool
) -> "tuple[list[UUID], int]":
    """All that are dead, in transactions of `_AT_ONCE`; the actions, and how many there were."""
    from workers.resend import retry_dead

    actions: list[UUID] = []
    count, after = 0, 0
    while True:
        batch, action = await in_transaction(
            conn,
            partial(retry_dead, conn, handler, after, _AT_ONCE, actor, reason),
            dry_run=dry_run,
        )
        if action is None:
            return actions, count
        actions.append(action)
        count, after = count + len(batch), batch[-1]


async def _retry(
    conn: "Conn", numbers: list[int], actor: str, reason: str, *, dry_run: bool
) -> "UUID":
    from workers.resend import NotThat, UnknownMessage, retry_messages

    try:
        return await in_transaction(
            conn, lambda: retry_messages(conn, numbers, actor, reason), dry_run=dry_run
        )
    except UnknownMessage as error:
        raise unknown("outbox", error) from None
    except NotThat as error:
        raise CommandError(str(error), CONFLICT) from None


@app.command("drop", epilog='Example: sluice outbox drop 17 --reason "told them by phone"')
def drop_command(
    message: IdArgument,
    reason: ReasonOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a dead message is done with: it is not sent, and dead no more."""
    from workers.resend import NotThat, UnknownMessage, drop_message

    who, why = actor_name(actor), checked_reason(reason)
    if not dry_run:
        confirm(f"Drop message {message}, for good?", yes=yes)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        try:
            action = await in_transaction(
                conn, lambda: drop_message(conn, message, who, why), dry_run=dry_run
            )
        except UnknownMessage as error:
            raise unknown("outbox", error) from None
        except NotThat as error:
            raise CommandError(str(error), CONFLICT) from None
        if as_json:
            write_json(as_shown({"message": message, "actionId": str(action)}, dry_run=dry_run))
        else:
            said = (f"message {message} is dropped", f"message {message} would be dropped")
            say_done(*said, dry_run=dry_run)
            say_dry_run(dry_run=dry_run)

    operate(run)


def _shown(message: "Message") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "id": message.id,
        "state": message.state,
        "handler": message.handler,
        "key": message.key,
        "trackingId": str(message.tracking_id),
        "attempts": message.attempts,
        "code": message.code,
        "error": message.error,
        "createdAt": iso(message.created_at),
        "dueAt": iso(message.due_at),
        "leasedUntil": iso(message.leased_until),
        "endedAt": iso(message.ended_at),
    }
