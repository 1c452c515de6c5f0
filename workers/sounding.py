"""What settled events ask for by today's code, and which of them cannot be rehearsed."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from shared.db import Conn
from shared.domain.commands import Command
from shared.domain.events import IMPORT, OPERATOR_SOURCE, OWN_SOURCE, StoredEvent
from shared.domain.outcomes import PROCESS_DIED
from shared.store import ledger, rehearsals
from shared.store.rehearsals import Settled
from workers import handlers, settling
from workers.crew import Crew
from workers.settling import TranslationFailed
from workers.surroundings import Surroundings, UnknownSource
from workers.trial import Ending, failed_with

BODY_EXPIRED = "body_expired"
AN_IMPORT = "import"  # a job imports its rows again
ORDER = "order"  # it acts on the configuration
KILLED = "killed_a_process"
#: It runs code of an installed package. What that does to its own tables would be taken back, what
#: it keeps in memory or says to others would not; and no entitlement depends on it.
EXTENSION = "extension"

#: What these may change is nobody's entitlements, or they cannot be applied at all.
UNTOUCHING = frozenset({BODY_EXPIRED, AN_IMPORT, ORDER})


@dataclass(slots=True)
class Asked:
    """
    What events ask for; who is refused asks for nothing. `left_out` says why of those that are not
    rehearsed, `failing` what becomes of those that cannot be read.
    """

    commands: list[tuple[StoredEvent, Sequence[Command]]] = field(default_factory=list)
    left_out: dict[UUID, str] = field(default_factory=dict)
    failing: dict[UUID, Ending] = field(default_factory=dict)


async def read_settled(conn: Conn, crew: Crew, settled: Sequence[Settled]) -> Asked:
    """Read them as their next run would."""
    surroundings = crew.surroundings
    await surroundings.refresh(conn)
    events = await rehearsals.read_again(conn, settled)
    killers = await rehearsals.ended_with(conn, settled, PROCESS_DIED)
    asked = Asked()
    gone = {one.tracking_id for one in settled} - {event.tracking_id for event in events}
    asked.left_out |= dict.fromkeys(gone, BODY_EXPIRED)
    known = []
    for event in events:
        why = _reason_to_leave(surroundings, event, killers)
        if why is not None:
            asked.left_out[event.tracking_id] = why
            continue
        try:
            surroundings.provider(event.source_id)
            known.append(event)
        except UnknownSource as error:
            asked.failing[event.tracking_id] = failed_with(error, crew.retry)
    headers = await settling.headers_of(conn, surroundings, known)
    horizon = await ledger.read_horizon(conn)
    for event in known:
        try:
            asked.commands += settling.translate(surroundings, [event], headers, horizon)[0]
        except TranslationFailed as error:
            asked.failing[event.tracking_id] = failed_with(error, crew.retry)
    for event, commands in asked.commands:
        if handlers.runs_extensions(commands):
            asked.left_out[event.tracking_id] = EXTENSION
    return asked


def _reason_to_leave(
    surroundings: Surroundings, event: StoredEvent, killers: Container[UUID]
) -> str | None:
    source = surroundings.name_of(event.source_id)
    if source == OPERATOR_SOURCE:
        return ORDER
    if source == OWN_SOURCE:
        return EXTENSION
    if event.event_type == IMPORT:
        return AN_IMPORT
    return KILLED if event.tracking_id in killers else None
