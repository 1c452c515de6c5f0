"""`Ignore`: the event is kept and settled, and nothing else happens."""

from collections.abc import Sequence

from shared.db import Conn
from shared.domain.commands import Ignore
from workers.entries import Answer
from workers.handlers.scope import Asked, Scope


async def ignore(conn: Conn, scope: Scope, asked: Sequence[Asked[Ignore]]) -> list[Answer]:
    """Settle as `ignored`, with the command's code."""
    return [Answer("ignored", None, "", one.command.code, [], 0) for one in asked]
