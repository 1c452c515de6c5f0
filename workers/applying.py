"""
What a batch of events changes: read by today's code, applied, and what is asked no more taken back.

Nothing of it is settled here: that is for who holds the lane. A rehearsal holds none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.db import Conn
from shared.domain.events import IMPORT, StoredEvent
from workers import entitle, handlers, settling
from workers.entries import Locks
from workers.extensions.running import HandlerFailed, NoHandler
from workers.handlers import Done, records
from workers.handlers.scope import Scope
from workers.settling import Refused, TranslationFailed
from workers.surroundings import Surroundings, UnknownSource
from workers.undoing import undo


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch's `events`; those that are to be applied alone are left `apart`."""

    events: list[StoredEvent]
    apart: list[StoredEvent]
    done: list[Done]
    refused: list[Refused]


async def apply(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    events: Sequence[StoredEvent],
    more: Locks,
    *,
    alone: bool = False,
) -> Applied:
    """
    Apply events in their order. `now` is the transaction's, `more` has to be locked as well.

    Raises:
        SetGrew: begin again with these locks too.
        Exception: one of them failed, or the platform did; which, `code_of` and `shared.db` tell.
    """
    if any(event.run > 1 for event in events):
        # Whoever asked for it may just have applied the configuration that it is to be read by.
        await surroundings.refresh(conn)
    translated, refused = await settling.read_commands(conn, surroundings, events)
    apart, here = [], list(events)
    if not alone:
        apart = [event for event, asked in translated if handlers.runs_extensions(asked)]
    if apart:
        left = {event.work_id for event in apart}
        translated = [one for one in translated if one[0].work_id not in left]
        here = [event for event in here if event.work_id not in left]
    # What an earlier run of an import reported may be a million records: its job sees to them.
    again = [event for event in here if event.run > 1 and event.event_type != IMPORT]
    replayed = [event.tracking_id for event in again]
    if replayed:
        # What they take back comes last, and must not wait for customers behind tenants.
        more |= await entitle.locks_of_runs(conn, replayed)
    more |= await records.locks_of(conn, translated, replayed)
    scope = Scope(surroundings, now, more)
    done = await handlers.apply(conn, scope, translated)
    done, refused = await undo(conn, scope, translated, done, refused)
    return Applied(here, apart, done, refused)


def code_of(error: Exception) -> str:
    """By what lists call a failed attempt."""
    if isinstance(error, HandlerFailed | NoHandler | TranslationFailed):
        return error.code
    return "unknown_source" if isinstance(error, UnknownSource) else type(error).__name__
