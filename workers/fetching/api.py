"""What can be asked of a provider, whichever it is; one module beside this one for each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, runtime_checkable

from shared.store.fetches import Claim
from workers.fetching.answers import NO_DATE, Answer, FetchFailed


class Api(Protocol):
    """One API key of one provider, and what it can ask for: the `kinds` of objects."""

    kinds: frozenset[str]

    async def get(self, claim: Claim) -> Answer:
        """
        The object of the claim, as the provider has it now.

        Raises:
            FetchFailed: there is no answer, or not one about this object.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Ids of customers, and whether there are more pages after it."""

    customers: tuple[str, ...]
    has_more: bool


@runtime_checkable
class Seeing(Protocol):
    """An API that can say whether its key is of those who send a source's events."""

    async def sees(self, customer: str) -> bool:
        """
        Whether the key is one for this customer.

        Raises:
            FetchFailed: there is no answer.
        """
        ...


@runtime_checkable
class Listing(Seeing, Protocol):
    """An API that lists its customers, and has a summary of each: it can be reconciled with."""

    #: The kind under which a customer's summary is fetched, by the customer's id.
    summary_kind: str

    async def list_customers(self, number: int) -> Page:
        """
        One page of the customers, in an order in which new ones come last; the first is 1.

        Raises:
            FetchFailed: there is no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """
    One page of a list: what it lists, as it came, and whether there is more after the last of it.
    The rest is as in `Answer`: all of it contains what happened up to `floor`.
    """

    items: tuple[Mapping[str, Any], ...]
    has_more: bool
    floor: int
    ceiling: int
    requests: int
    headers: list[tuple[str, str]]


@runtime_checkable
class Archive(Seeing, Protocol):
    """An API that keeps its events for a while, and lists the objects that grant."""

    #: How long it keeps events.
    events_kept_s: float
    #: How many types of events can be asked for at once.
    types_at_once: int
    #: The objects that grant, of which it has a list.
    listed_kind: str

    async def list_events(
        self, account: str, livemode: bool, types: Sequence[str], since: int, until: int,
        after: str | None,
    ) -> Listed:  # fmt: skip
        """
        One page of the events of these types that were made from `since` to `until`, both
        included, in unix seconds of the provider's clock; the newest first.

        Raises:
            FetchFailed: there is no answer.
        """
        ...

    async def list_objects(self, account: str, livemode: bool, after: str | None) -> Listed:
        """
        One page of the objects that grant, ended ones included, every list of them whole, the
        newest first; the customer's own object in place of its id.

        Raises:
            FetchFailed: there is no answer.
        """
        ...

    async def is_any_before(self, account: str, livemode: bool, moment: int) -> bool:
        """
        Whether an object that grants was made before this unix second.

        Raises:
            FetchFailed: there is no answer.
        """
        ...


def date_of(headers: Mapping[str, str]) -> int:
    """
    The moment at which the provider answered, in its own clock and unix seconds.

    Raises:
        FetchFailed: what the answer contains, and what not, can be told by nothing else.
    """
    try:
        date = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        raise FetchFailed(NO_DATE, "the answer has no Date") from None
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())


def wait_asked_for_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, where it says a number of seconds that can be waited for."""
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < math.inf else None
