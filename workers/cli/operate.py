"""The operator's side of `sluice`: its groups of commands, and having events applied again."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli import (
    apply,
    audit,
    catalog,
    drain,
    events,
    handlers,
    jobs,
    manual,
    outbox,
    parked,
    records,
    sources,
    status,
    tenants,
    tokens,
)
from workers.cli.exits import CONFLICT, NOT_FOUND, CommandError, write_json
from workers.cli.output import (
    ActorOption,
    JsonOption,
    ReasonOption,
    actor_name,
    checked_reason,
    in_transaction,
    note,
    operate,
    tracking_id,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints


def register(app: typer.Typer) -> None:
    """Add the commands of this module and of its neighbours to `app`."""
    app.command(epilog="Example: sluice status --watch")(status.status)
    app.command(epilog="Example: sluice drain --timeout 10m")(drain.drain)
    app.command(epilog="Example: sluice apply sluice.toml --dry-run")(apply.apply)
    app.command(epilog='Example: sluice replay 019a… --reason "plan was not mapped"')(replay)
    app.add_typer(catalog.app, name="catalog")
    app.add_typer(sources.app, name="sources")
    app.add_typer(events.app, name="events")
    app.add_typer(parked.app, name="parked")
    app.add_typer(records.app, name="records")
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(handlers.app, name="handlers")
    app.add_typer(outbox.app, name="outbox")
    manual.register(tenants.app)
    app.add_typer(tenants.app, name="tenants")
    app.add_typer(audit.app, name="audit")
    app.add_typer(tokens.app, name="tokens")


def replay(
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's tracking id.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a settled event applied again, by today's code and catalog."""
    from shared.queue import Doorbell
    from workers.replay import BodyGone, Unfinished, UnknownEvent, open_run

    who = actor_name(actor)
    wanted = tracking_id(event)
    why = checked_reason(reason)

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        try:
            opened = await in_transaction(conn, lambda: open_run(conn, wanted, who, why))
        except UnknownEvent as error:
            raise CommandError(str(error), NOT_FOUND) from None
        except (Unfinished, BodyGone) as error:
            raise CommandError(str(error), CONFLICT) from None
        # Only a hint: without Redis the sweep finds the work.
        bell = Doorbell(endpoints.redis)
        bell.ring([opened.lane])
        await bell.close()
        if as_json:
            write_json(
                {"trackingId": str(wanted), "run": opened.run, "actionId": str(opened.action_id)}
            )
        else:
            sys.stdout.write(f"run {opened.run} of {wanted} is waiting to be applied\n")
            note(f"what becomes of it: sluice events show {wanted}")

    operate(run)
