"""What earlier runs of an event did, and its replay does not ask for any more."""

from collections.abc import Sequence
from dataclasses import replace

from shared.db import Conn
from shared.domain.commands import Command, ImportRecord, Observe
from shared.domain.events import IMPORT, StoredEvent
from workers import entitle
from workers.handlers import Done, records
from workers.handlers.scope import Scope
from workers.settling import Refused


async def undo(
    conn: Conn,
    scope: Scope,
    translated: Sequence[tuple[StoredEvent, Sequence[Command]]],
    done: list[Done],
    refused: list[Refused],
) -> tuple[list[Done], list[Refused]]:
    """
    A replay that observes or reports nothing any more takes back what its event did before. Not
    that of an import: its job does so, in pieces.

    Returns both with what that changed.
    """
    asked = [(event, {type(command) for command in commands}) for event, commands in translated]
    asked += [(one.event, set()) for one in refused]
    replayed = [
        (event, kinds) for event, kinds in asked if event.run > 1 and event.event_type != IMPORT
    ]
    if not replayed:
        return done, refused
    unseen = [(one.tracking_id, one.event_id) for one, kinds in replayed if Observe not in kinds]
    unsaid = [event for event, kinds in replayed if ImportRecord not in kinds]
    changes = await entitle.take_back(conn, scope.surroundings, scope.now, unseen, scope.more)
    told = await records.take_back(conn, scope, unsaid)
    for one in done:
        one.answers[0].changes.extend(changes.get(one.event.tracking_id, ()))
        one.answers[0].told.extend(told.get(one.event.tracking_id, ()))
    return done, [
        replace(
            one,
            changes=changes.get(one.event.tracking_id, ()),
            told=told.get(one.event.tracking_id, ()),
        )
        for one in refused
    ]
