"""One question to a provider, from the claim to the event that its answer becomes."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable
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
from workers.fetching.targets import Target

log = logging.getLogger(__name__)

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


async def is_believed(conn: Conn, target: Target, claim: Claim, answer: Answer) -> bool:
    """
    Whether an answer may be taken for one of this source: a key of somebody else's finds nothing,
    and must not be what takes everything away.
    """
    return answer.result is not None or await fetches.knows_any(
        conn, target.source.id, claim.account, claim.livemode, answer.witnesses
    )


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
