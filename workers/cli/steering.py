"""How the commands that pause, resume and end jobs do it, whatever kind of job it is."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from workers.cli.exits import CONFLICT, USAGE, CommandError, unknown, write_json
from workers.cli.output import (
    actor_name,
    as_shown,
    checked_reason,
    in_transaction,
    operate,
    plain,
    say_dry_run,
)
from workers.cli.terminal import say_done

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]

#: Of `workers.steering`: (conn, job, actor, reason) → the id of the audited action.
Steer = Callable[["Conn", UUID, str, str], Awaitable[UUID]]
#: Whether this command is for that job; raises `CommandError` otherwise.
Check = Callable[["Conn", UUID], Awaitable[object]]


def job_id(text: str) -> UUID:
    """
    Raises:
        CommandError: the text is no job's id.
    """
    try:
        return UUID(text)
    except ValueError:
        raise CommandError(f"{plain(text)} is not a job's id: sluice jobs list", USAGE) from None


def steer(
    act: Steer,
    said: tuple[str, str],
    job: str,
    reason: str,
    actor: str | None,
    *,
    dry_run: bool,
    as_json: bool,
    check: Check | None = None,
) -> None:
    """Have it done in one transaction; `said` of the job is what is so then, and what would be."""
    from workers.steering import IsOver, UnknownJob

    number, who, why = job_id(job), actor_name(actor), checked_reason(reason)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        if check is not None:
            await check(conn, number)
        try:
            action = await in_transaction(
                conn, lambda: act(conn, number, who, why), dry_run=dry_run
            )
        except UnknownJob as error:
            raise unknown("jobs", error) from None
        except IsOver as error:
            raise CommandError(str(error), CONFLICT) from None
        if as_json:
            write_json(as_shown({"job": str(number), "actionId": str(action)}, dry_run=dry_run))
        else:
            say_done(*(f"job {number} {text}" for text in said), dry_run=dry_run)
            say_dry_run(dry_run=dry_run)

    operate(run)
