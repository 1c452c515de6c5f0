"""
Whether the objects that a provider lists are the ones that we hold.

Numbers are taken before a page is asked for, one for each object that it may hold: to the fold
they are fetches that began together, and whatever is told meanwhile is decided by their times. Only
what is news becomes an event.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.db import Conn, Database
from shared.domain.commands import Observe
from shared.domain.events import Arrival
from shared.domain.keys import ObjectKey
from shared.domain.states import CUSTOMER_KIND
from shared.domain.summaries import differs
from shared.store import objects, pulls
from shared.store.fetches import AnswerEvent, Claim
from shared.store.pulls import Absent
from workers.fetching.answers import ABOUT_THE_OBJECT, Answer, FetchFailed
from workers.fetching.api import Archive, Listed
from workers.fetching.asking import answer_event, ask, in_time
from workers.fetching.places import ObjectsPlace
from workers.fetching.targets import Target

#: A page's objects, and a customer for each.
NUMBERS = 200
#: More of one page do not change within seconds.
_FEW = 5


@dataclass(slots=True)
class Compared:
    """What came of a page: what is news, the ids of what is held of it, and what was looked at."""

    news: list[AnswerEvent] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    looked_at: int = 0
    failed: int = 0


async def ask_page(target: Target, place: ObjectsPlace, deadline: float) -> Listed:
    """
    The page of the list that the place is at.

    Raises:
        FetchFailed: there is none.
    """
    assert isinstance(target.api, Archive)
    account = place.accounts[place.account]
    asking = target.api.list_objects(account, target.source.livemode is not False, place.after)
    fields: dict[str, object] = {"source": target.source.name, "account": account}
    return await in_time(asking, target, deadline, fields)


async def compare_twice(
    db: Database,
    target: Target,
    place: ObjectsPlace,
    listed: Listed,
    numbers: Sequence[int],
    trace: str,
) -> Compared:
    """
    The same, and once more a moment later where a few differ: what changed just before the page
    was asked for has its webhook on the way, and is no drift.
    """
    async with db.connection() as conn:
        compared = await compare(conn, target, place, listed, numbers, trace)
    if not 0 < len(compared.news) <= _FEW:
        return compared
    await asyncio.sleep(target.pace.settle_s)
    async with db.connection() as conn:
        return await compare(conn, target, place, listed, numbers, trace)


async def compare(
    conn: Conn,
    target: Target,
    place: ObjectsPlace,
    listed: Listed,
    numbers: Sequence[int],
    trace: str,
) -> Compared:
    """A page's objects beside ours; customers where an object does not say whose it is."""
    account, compared = place.accounts[place.account], Compared()
    seen: list[tuple[AnswerEvent, Observe]] = []
    asked = iter(numbers)
    known_customers: set[str] = set()
    for item in listed.items:
        thing, customer = _parted(item)
        try:
            one = _read(target, account, _kind(target), thing, listed, next(asked), trace)
            seen.append(one)
            name = one[1].after.customer
            if one[1].after.tenant is None and customer and name not in known_customers:
                known_customers.add(str(name))
                number = next(asked)
                seen.append(_read(target, account, CUSTOMER_KIND, customer, listed, number, trace))
        except FetchFailed:
            compared.failed += 1
    await _beside(conn, target, account, seen, compared)
    return compared


async def next_absent(conn: Conn, target: Target, place: ObjectsPlace) -> Absent | None:
    """What gave access here before the comparison began, and was on no page."""
    found = await pulls.not_compared(
        conn,
        target.source.id,
        [_kind(target)],
        place.accounts,
        target.source.livemode is not False,
        place.began,
        place.run,
        1,
        after=place.passed,
    )
    return found[0] if found else None


async def ask_absent(
    target: Target, absent: Absent, number: int, deadline: float, trace: str
) -> tuple[Answer, AnswerEvent] | None:
    """
    What it is now; None where the provider says that it cannot be had, which proves nothing.

    Raises:
        FetchFailed: the provider, or the way to it, is not in order.
    """
    claim = Claim(
        absent.id, number, 0, 0, absent.account, absent.livemode, absent.kind, absent.object_id,
        absent.customer,
    )  # fmt: skip
    try:
        answer = await ask(target, claim, deadline)
        return answer, answer_event(answer, target, claim, trace)
    except FetchFailed as failure:
        if failure.code in ABOUT_THE_OBJECT:
            return None
        raise


async def compare_absent(
    conn: Conn, target: Target, absent: Absent, event: AnswerEvent | None
) -> Compared:
    """The same for one object that was asked for itself."""
    compared = Compared()
    if event is None:
        compared.failed, compared.held, compared.looked_at = 1, [absent.id], 1
        return compared
    seen = [(event, _observed(target, event))]
    await _beside(conn, target, absent.account, seen, compared)
    return compared


async def _beside(
    conn: Conn,
    target: Target,
    account: str,
    seen: Sequence[tuple[AnswerEvent, Observe]],
    compared: Compared,
) -> None:
    source = target.source
    livemode = source.livemode is not False
    keys = {
        (one.kind, one.object_id): ObjectKey(source.id, account, livemode, one.kind, one.object_id)
        for _, one in seen
    }
    stored = await objects.read_objects(conn, (), (), keys.values()) if keys else []
    held = {(one.key.kind, one.key.object_id): one for one in stored}
    for event, one in seen:
        known = held.get((one.kind, one.object_id))
        compared.looked_at += 1
        if known is not None:
            compared.held.append(known.id)
        if differs(None if known is None else known.register, one):
            compared.news.append(event)


def _read(
    target: Target,
    account: str,
    kind: str,
    thing: Mapping[str, Any],
    listed: Listed,
    number: int,
    trace: str,
) -> tuple[AnswerEvent, Observe]:
    answer = Answer(thing, listed.floor, listed.ceiling, 1, listed.headers)
    claim = Claim(
        0, number, 0, 0, account, target.source.livemode is not False, kind, str(thing.get("id"))
    )
    event = answer_event(answer, target, claim, trace)
    return event, _observed(target, event)


def _observed(target: Target, event: AnswerEvent) -> Observe:
    (command,) = target.provider.translate(Arrival(event.identity, event.body))
    assert isinstance(command, Observe)
    return command


def _parted(item: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The object with its customer's id, as it is fetched, and the customer that came with it."""
    customer = item.get("customer")
    if not isinstance(customer, dict):
        return item, None
    return {**item, "customer": customer.get("id")}, customer


def _kind(target: Target) -> str:
    assert isinstance(target.api, Archive)
    return target.api.listed_kind
