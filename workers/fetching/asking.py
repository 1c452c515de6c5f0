"""One question to a provider, from the claim to the event that its answer becomes."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TypeVar

from shared.db import Conn
from shared.domain.events import Arrival, new_tracking_id
from shared.providers.base import PayloadError
from shared.store import fetches
from shared.store.fetches import AnswerEvent, Claim
from workers.fetching.answers import (
    TIMEOUT,
    UNFIT,
    UNREADABLE,
    Answer,
    FetchFailed,
    event_of,
)
from workers.fetching.api import Seeing
from workers.fetching.targets import Target

log = logging.getLogger(__name__)

#: Some of them may have been deleted since.
_WITNESSES = 5

T = TypeVar("T")


async def ask(target: Target, claim: Claim, deadline: float) -> Answer:
    """
    The answer to a claim; `deadline` is in the loop's clock. Outside any transaction: the
    provider may take its time, Postgres' is not its to take.

    Raises:
        FetchFailed: and nothing else but cancellation.
    """
    return await in_time(target.api.get(claim), target, deadline, fields_of(target, claim))


async def in_time(
    asking: Awaitable[T], target: Target, deadline: float, fields: dict[str, object]
) -> T:
    """
    What a provider answers until the deadline; `fields` say in the log what was asked.

    Raises:
        FetchFailed: and nothing else but cancellation.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await asking
    except TimeoutError:
        raise FetchFailed(TIMEOUT, f"no answer within {target.pace.within_s:g} s") from None
    except FetchFailed:
        raise
    except Exception as error:
        # Ours, or a shape that nobody has seen yet: no reason to lose the object over it.
        log.exception("an answer was not understood", extra=fields)
        raise FetchFailed(UNREADABLE, repr(error)) from None


async def is_ours(
    connect: Callable[[], AbstractAsyncContextManager[Conn]], target: Target, deadline: float
) -> bool | None:
    """
    Whether the source's key is of those who send its events; None: nobody was told of yet.

    A key of somebody else's finds nothing of ours, and must not be what takes everything away: it
    has to see one of the customers whom the provider itself has sent events of. Asked until it is
    true; a key does not change hands.

    Raises:
        FetchFailed: the provider did not say.
    """
    if target.is_proven or not isinstance(target.api, Seeing):
        return True
    livemode = target.source.livemode is not False
    async with connect() as conn:
        witnesses = await fetches.witnesses(conn, target.source.id, livemode, _WITNESSES)
    fields: dict[str, object] = {"source": target.source.name}
    for customer in witnesses:
        if await in_time(target.api.sees(customer), target, deadline, fields):
            target.is_proven = True
            return True
    return False if witnesses else None


def answer_event(answer: Answer, target: Target, claim: Claim, trace_context: str) -> AnswerEvent:
    """
    The answer as an event that its source's provider can read.

    Raises:
        FetchFailed: it cannot.
    """
    event = event_of(
        answer,
        claim,
        source_id=target.source.id,
        lanes=target.source.lanes,
        tracking_id=new_tracking_id(datetime.now(UTC), secrets.token_bytes(10)),
        trace_context=trace_context,
    )
    try:
        # What could not be applied would leave the object wanting, and be fetched for ever.
        target.provider.translate(Arrival(event.identity, event.body))
    except PayloadError as error:
        raise FetchFailed(UNFIT, str(error)) from None
    return event


def fields_of(target: Target, claim: Claim) -> dict[str, object]:
    """What the log says of a fetch."""
    return {
        "source": target.source.name,
        "object": f"{claim.kind}/{claim.object_id}",
        "number": claim.number,
    }
