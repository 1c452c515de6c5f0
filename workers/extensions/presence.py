"""Which handlers there are here, and whether those that are missing here are somewhere else."""

import logging

from shared.db import Conn
from shared.store import handlers as store
from workers.crew import Crew
from workers.extensions import command_name, handlers
from workers.extensions.running import NoHandler

log = logging.getLogger(__name__)

SAY_EVERY_S = 10.0
#: How long a handler counts as installed somewhere after a worker has said so.
HAD_FOR_S = 60.0


async def say_what_is_here(conn: Conn) -> None:
    """Let the others know what this process has; what listens, listens from the first time on."""
    for name, handler in handlers().items():
        command = command_name(handler.command)
        await store.note_handler(conn, name, command, list(handler.listens_to))


async def is_elsewhere(crew: Crew, missing: NoHandler) -> bool:
    """Whether some other worker has the handler that this one lacks; the first time, it is said."""
    if str(missing) not in crew.missing:
        crew.missing.add(str(missing))
        log.error("handler is not installed here", extra={"error": str(missing)})
    async with crew.db.connection() as conn:
        return await store.is_had(conn, missing.name, missing.command, HAD_FOR_S)
