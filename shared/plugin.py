"""
What packages of your own are built on: providers, commands, handlers and what they send.

Import from here and from nowhere else: all other modules may change with any version. A package
names its classes as entry points, `sluice.providers` and `sluice.handlers`; `docs/extending.md`
tells how from the beginning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar
from uuid import UUID

from shared.domain.commands import Command, Extension, Ignore, Observe
from shared.domain.events import Arrival, Headers, Identity, is_storable
from shared.domain.standings import Standing
from shared.domain.states import (
    CUSTOMER_KIND,
    ORDER_KIND,
    SUBSCRIPTION_KIND,
    Item,
    ObjectState,
)
from shared.providers.base import (
    ConfigurationError,
    Configured,
    Diagnosis,
    PayloadError,
    Provider,
    Reply,
    SignatureError,
    Suspect,
    header,
    unix_microseconds,
    unix_seconds,
)

__all__ = [
    "CUSTOMER_KIND",
    "ORDER_KIND",
    "SUBSCRIPTION_KIND",
    "Arrival",
    "Command",
    "ConfigurationError",
    "Configured",
    "Diagnosis",
    "Event",
    "Extension",
    "Handler",
    "Headers",
    "Identity",
    "Ignore",
    "Item",
    "ObjectState",
    "Observe",
    "Outgoing",
    "PayloadError",
    "Permanent",
    "Provider",
    "Reply",
    "Result",
    "SignatureError",
    "Standing",
    "Suspect",
    "Transaction",
    "header",
    "is_storable",
    "unix_microseconds",
    "unix_seconds",
]

C = TypeVar("C", bound=Extension)


class Permanent(Exception):
    """
    Trying again will not help: the event, or the message, is a dead letter at once.

    `code` is a word for lists and metrics, like "no_such_account".
    """

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(text or code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """
    The event that a handler is given.

    `source` is the configured name, `provider` what it is of; `headers` are those that receipt
    kept, credentials as digests. `received_at` and `occurred_at` are aware UTC. `run` is 1, and
    more where an operator has the handler's own event applied again.

    Of an entitlement that changed, `provider` is "sluice", `event_type` "entitlement.granted",
    "entitlement.changed" or "entitlement.revoked", `event_id` "audit/ID" of the record that tells
    it, `source` that of the event which changed it ("" where the clock, a catalog or an operator
    did), `subject` "tenant/TENANT", `tracking_id` that of the event which brings it, and `body`
    JSON: {"tenant", "feature", "before", "after"}, where the last two are {"value", "validUntil"},
    or null where the tenant had nothing or has nothing any more.
    """

    tracking_id: UUID
    source: str
    provider: str
    event_id: str
    event_type: str
    subject: str
    account: str
    livemode: bool
    received_at: datetime
    occurred_at: datetime | None
    body: bytes
    headers: Headers
    run: int


@dataclass(frozen=True, slots=True)
class Result:
    """
    What a handler did: `unchanged` where it found nothing to do, `ignored` where the event is
    none of its business, which needs a `code`. `tenant` is whom it concerns: the event's record in
    the trail names it. Code and tenant have at most 255 bytes.
    """

    outcome: Literal["applied", "unchanged", "ignored"] = "applied"
    code: str | None = None
    tenant: str | None = None


class Transaction(Protocol):
    """
    The transaction of the event: all of it is committed together with the event's settlement, or
    none of it is.

    Statements run as the role `sluice_extension`, which has the rights that you give it and none
    to Sluice's own tables; name your tables with their schema. There is no commit; an exception
    rolls back. What begins with BEGIN, COMMIT, ROLLBACK, SAVEPOINT, SET, RESET and the like is
    refused with ValueError. Statements asked for at the same time run one after the other. Values
    are asyncpg's, jsonb is decoded. It is over when `handle` returns.
    """

    now: datetime  # by the database's clock, of this transaction

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement; returns its status, like "INSERT 0 1"."""
        ...

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        """All rows of a query."""
        ...

    async def fetchrow(self, query: str, *args: Any) -> Mapping[str, Any] | None:
        """Its first row, or None."""
        ...

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of its first row, or None."""
        ...

    def send(self, payload: Any, *, key: str | None = None) -> None:
        """
        Put a message into the outbox: once this transaction has committed, `Handler.send` gets it.

        `payload` is anything that JSON holds. Messages of one handler with the same `key` are one
        message, sent once; unless given, it is made of the tracking id of the event that runs (of
        what is listened to: the one that brings it) and the message's number within it, so that a
        replay does not send again. With the handler's name and a colon a key has at most 255 bytes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """
    A message to be sent. `key` is the same however often it is tried, and unique among all that
    Sluice sends: give it to the receiver as its idempotency key. `attempt` begins at 1.
    """

    key: str
    payload: Any
    created_at: datetime
    attempt: int


class Handler(Protocol, Generic[C]):
    """
    Applies the commands of one type.

    They come from a provider of yours, in the transaction of the provider's event; or from what
    the handler listens to: then each event that fits is brought to it as an event of its own, with
    its own transaction, attempts and place in the list of dead letters, so that nothing that a
    handler does can hold up an entitlement.

    The class is made without arguments, once in each process; an instance must not remember
    anything between events. A handler whose statement fails has to let the exception pass: the
    transaction cannot go on.
    """

    name: str  # a-z, 0-9 and -; do not change it: keys and the place in the feed hang on it
    command: type[C]
    #: Longer than this, and the attempt has failed (`handler_timeout`); at most 60. The trail is
    #: brought to nobody beyond the oldest open transaction: what takes long belongs into `send`.
    timeout_s: float = 5.0
    #: "PROVIDER:TYPE", where TYPE may have * in it: "stripe:customer.subscription.*",
    #: "sluice:entitlement.*". An event is brought once it is settled, unless it is dead: applied or
    #: ignored alike, and once, however often it is replayed. What came before the handler was
    #: installed is not brought to it, nor what Sluice itself fetched from a provider.
    listens_to: tuple[str, ...] = ()

    def read(self, event: Event) -> C | None:
        """What an event that it listens to asks for; None: nothing, settled `ignored`. Pure."""
        return None

    async def handle(self, event: Event, command: C, transaction: Transaction) -> Result:
        """
        Apply one command.

        Raises:
            Permanent: the event is dead at once.
            Exception: anything else is one failed attempt; the event comes again, later.
        """
        ...

    async def send(self, message: Outgoing) -> None:
        """
        Do what a message asks for, outside of any transaction. It may be asked more than once.

        Raises:
            Permanent: the message is dead at once.
            Exception: anything else is one failed attempt; the message comes again, later.
        """
        raise Permanent("cannot_send", f"{self.name} has no send()")
