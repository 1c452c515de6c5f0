"""`ImportResults`: what was pushed is imported by a job of its own; its event only asks for it."""

from collections.abc import Sequence

from shared.db import Conn
from shared.domain.commands import ImportResults
from shared.domain.events import StoredEvent
from shared.store import jobs
from workers.entries import Answer
from workers.handlers.scope import Asked, Scope


async def import_results(
    conn: Conn, scope: Scope, asked: Sequence[Asked[ImportResults]]
) -> list[Answer]:
    """Begin the jobs; a replay's begins again, from nothing."""
    answers = []
    for one in asked:
        event = one.event
        source = scope.surroundings.source(event.source_id)
        await jobs.begin(
            conn,
            event.tracking_id,
            "import",
            event.run,
            actor=event.actor or f"provider:{source.provider}",
            source_id=source.id,
            tenant=_whose(scope, event),
        )
        subject = f"import/{event.tracking_id}"
        answers.append(Answer("applied", None, subject, None, [], 0, concerns=source.tenant))
    return answers


def _whose(scope: Scope, event: StoredEvent) -> str | None:
    """Whose all rows are. One that may name others makes failures that no one may see."""
    ingestion = getattr(scope.surroundings.provider(event.source_id), "ingestion", None)
    if ingestion is None or ingestion.names_tenants:
        return None
    return scope.surroundings.source(event.source_id).tenant
