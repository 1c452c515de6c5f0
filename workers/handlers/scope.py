"""What every handler is given besides its commands."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from shared.domain.commands import Command
from shared.domain.events import StoredEvent
from workers.entries import NO_LOCKS, Locks
from workers.surroundings import Surroundings

C = TypeVar("C", bound=Command)


@dataclass(frozen=True, slots=True)
class Scope:
    """`now` is the database's, of this transaction. `more` has to be locked as well."""

    surroundings: Surroundings
    now: datetime
    more: Locks = NO_LOCKS


@dataclass(frozen=True, slots=True)
class Asked(Generic[C]):
    """A command beside the event that asks for it."""

    event: StoredEvent
    command: C
