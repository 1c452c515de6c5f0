"""`Observe`: snapshots of provider objects become registers, links and grants."""

from collections.abc import Sequence

from shared.db import Conn
from shared.domain.commands import Observe
from shared.domain.keys import ObjectKey
from workers.entitle import observe as observe_all
from workers.entries import Answer, Sighted
from workers.handlers.scope import Asked, Scope


async def observe(conn: Conn, scope: Scope, asked: Sequence[Asked[Observe]]) -> list[Answer]:
    """Apply the batch's observations; see `workers.entitle.observe`."""
    sighted = []
    for one in asked:
        event, command = one.event, one.command
        key = ObjectKey(
            event.source_id, event.account, event.livemode, command.kind, command.object_id
        )
        sighted.append(Sighted(key, event.tracking_id, event.event_id, command, event.run > 1))
    return await observe_all(conn, scope.surroundings, scope.now, sighted, more=scope.more)
