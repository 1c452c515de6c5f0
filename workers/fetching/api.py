"""What can be asked of a provider, whichever it is; one module beside this one for each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol, runtime_checkable

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
class Listing(Protocol):
    """An API that lists its customers, and has a summary of each: it can be reconciled with."""

    #: The kind under which a customer's summary is fetched, by the customer's id.
    summary_kind: str

    async def sees(self, customer: str) -> bool:
        """
        Whether the key is one for this customer.

        Raises:
            FetchFailed: there is no answer.
        """
        ...

    async def list_customers(self, number: int) -> Page:
        """
        One page of the customers, in an order in which new ones come last; the first is 1.

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
