"""What an event is, from the request that carries it to the row that a worker reads."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import msgspec

#: Ids, types and accounts longer than this are no provider's, and no index's.
LONGEST_ID_BYTES = 255

LANES_PER_SOURCE = 16

#: Events that Sluice makes itself, to bring to handlers what they listen to: their source, its
#: provider, and what their types begin with; the handler's name follows.
OWN_SOURCE = "sluice-handlers"
OWN_PROVIDER = "sluice"
BROUGHT = "sluice.handler/"
#: What operators ask for over the API: its source, and what the types of its events begin with;
#: what is asked for follows.
OPERATOR_SOURCE = "operator"
ORDERED = "sluice.operator/"
OWN_SOURCES = frozenset({OWN_SOURCE, OPERATOR_SOURCE})
#: The type of the events that third parties push to `/ingest/{source}`.
IMPORT = "sluice.import"
#: The type of the event under which a fetch's answer comes through the inbox.
FETCHED = "sluice.fetched"
#: What types and ids of events begin with that nobody outside may send.
OWN_PREFIX = "sluice."

#: What a datetime can hold; 48 bits reach a thousand years further.
_LAST_MILLISECOND = 253_402_300_799_999

Headers = tuple[tuple[str, str], ...]
Status = Literal["received", "retrying", "processed", "ignored", "dead"]


@dataclass(frozen=True, slots=True)
class Identity:
    """
    What the gateway must know of a verified event, and nothing more.

    `event_id` is the provider's, the same for every delivery of the event. `subject` is the key
    of the provider object whose state the event changes ("subscription/sub_1"), or the event id
    where there is none. `account` is "" where the event is the source's own. `occurred_at` is
    aware UTC, in the provider's clock and resolution.
    """

    event_id: str
    event_type: str
    subject: str
    occurred_at: datetime | None = None
    account: str = ""
    livemode: bool = True


class Arrival(NamedTuple):
    """
    An event as its provider reads it: what receipt found, what came, and when.

    `headers` are empty unless the provider says that it reads them; those that held credentials
    are digests.
    """

    identity: Identity
    body: bytes
    headers: Headers = ()
    received_at: datetime | None = None  # aware UTC, by our own clock


@dataclass(frozen=True, slots=True)
class Lane:
    """One unit of mutual exclusion of a source."""

    id: int
    source_id: int
    number: int


class StoredEvent(msgspec.Struct, frozen=True):
    """An unfinished event as a worker reads it: its work row beside its inbox row."""

    work_id: int
    tracking_id: UUID
    received_at: datetime
    source_id: int
    account: str
    livemode: bool
    event_id: str
    event_type: str
    occurred_at: datetime | None
    subject: str
    unreadable: str | None
    body: bytes
    trace_context: str
    run: int
    attempts: int  # failed ones of this run
    actor: str | None  # who asked for the replay or fetched it; None: the provider sent it
    reason: str | None
    artifact: bytes | None = None  # the SHA-256 under which the artifact store has the body

    @property
    def identity(self) -> Identity:
        """What receipt found."""
        return Identity(
            self.event_id,
            self.event_type,
            self.subject,
            self.occurred_at,
            self.account,
            self.livemode,
        )


def new_tracking_id(now: datetime, random_bytes: bytes) -> UUID:
    """
    A UUIDv7 (RFC 9562) of `now` in milliseconds and 10 random bytes.

    `received_at_of` reads the millisecond back: the id alone finds the inbox partition.
    """
    milliseconds = round(now.timestamp() * 1000)
    value = (milliseconds << 80) | int.from_bytes(random_bytes[:10])
    value &= ~(0xF << 76)
    value |= 0x7 << 76
    value &= ~(0x3 << 62)
    value |= 0x2 << 62
    return UUID(int=value)


def received_at_of(tracking_id: UUID) -> datetime:
    """The receipt's time in aware UTC, to the millisecond. Nobody's UUID makes it raise."""
    milliseconds = min(tracking_id.int >> 80, _LAST_MILLISECOND)
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)


def lane_number(subject: str) -> int:
    """Which of its source's lanes a subject belongs to; the same in every process and version."""
    digest = hashlib.blake2b(subject.encode(), digest_size=4).digest()
    return int.from_bytes(digest) % LANES_PER_SOURCE


def unreadable_identity(body: bytes) -> Identity:
    """The identity of a verified body that cannot be read: its own digest."""
    event_id = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return Identity(event_id=event_id, event_type="", subject=event_id)


def is_storable(text: str) -> bool:
    """Whether a provider's id or type fits an index: short, no NUL, no lone surrogate."""
    if "\0" in text:
        return False
    try:
        return 0 < len(text.encode()) <= LONGEST_ID_BYTES
    except UnicodeEncodeError:
        return False


def problem_with(identity: Identity) -> str | None:
    """Why nobody outside can send an event of this identity; None where somebody can."""
    if identity.event_type.startswith(OWN_PREFIX) or identity.event_id.startswith(OWN_PREFIX):
        return f"types and ids that begin with {OWN_PREFIX} are Sluice's own, and nobody else's"
    named = (identity.event_id, identity.event_type, identity.subject)
    if all(map(is_storable, named)) and (not identity.account or is_storable(identity.account)):
        return None
    return "an id, type or account is empty, too long or holds a NUL"
