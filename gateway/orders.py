"""
What operators ask for over the API: stored like every event, and applied by a worker.

An order is an event of the source `operator`. Its id is the token's and the `Idempotency-Key`: the
same key again is a redelivery, and gets the first answer again. Its subject is what it is about, so
that orders about one thing are carried out in the order of their receipt.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID, uuid4

import msgspec

from gateway.envelope import Refusal
from gateway.idempotency import Claims, checked
from gateway.ingress import Store
from gateway.sources import Sources
from shared.domain.commands import (
    CancelJob,
    Order,
    Ordered,
    PauseJob,
    PauseSource,
    ReprocessRecord,
    ResumeJob,
    ResumeSource,
    RotateSecret,
)
from shared.domain.events import ORDERED, Identity, new_tracking_id
from shared.store.intake import Delivery, sha_of
from shared.store.tokens import Token

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that is stored. `is_repeated`: it was before, under the same key."""

    tracking_id: UUID
    is_repeated: bool


class Orders:
    """The write side of the API. Must be used in one event loop."""

    def __init__(
        self,
        store: Store,
        sources: Sources,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._sources = sources
        self._now = now
        self._claims = Claims()

    @property
    def is_in_flight(self) -> bool:
        """Whether any order is being stored just now."""
        return self._claims.is_any_held

    async def place(
        self,
        token: Token,
        order: Order,
        *,
        key: str | None,
        trace_context: str,
        reason: str | None = None,
        asked: bytes | None = None,
    ) -> Placed:
        """
        Store an order; `key` is what `Idempotency-Key` says, None where it says nothing.

        `asked` is what was asked for, where the order made of it is another one each time: by it
        the same request is known again.

        Raises:
            Refusal: the key is none, or was used for something else, or is being used now.
            NotConfigured, StoreUnavailable, Overloaded: as for every event.
        """
        event_id = event_id_of(token, str(uuid4()) if key is None else checked(key))
        source = await self._sources.operator()
        kind, _, tenant = token.scope.partition(":")
        ordered = Ordered(
            f"token:{token.name}", order, tenant if kind == "tenant" else None, reason
        )
        body = _encode(ordered)
        subject = subject_of(order) or f"order/{event_id}"
        delivery = Delivery(
            tracking_id=new_tracking_id(self._now(), os.urandom(10)),
            source_id=source.id,
            lane=source.lane_of(subject),
            identity=Identity(
                event_id, f"{ORDERED}{order.__struct_config__.tag}", subject, livemode=True
            ),
            unreadable=None,
            secret=f"token.{token.id}",
            headers=b"[]",
            body=body,
            body_sha=sha_of(body) if asked is None else sha_of(asked),
            trace_context=trace_context,
        )
        with self._claims.held(event_id):
            receipt = await self._store.submit(delivery)
        if receipt.is_other:
            raise key_reused()
        return Placed(receipt.tracking_id, receipt.status == "duplicate")


def event_id_of(token: Token, key: str) -> str:
    """The id of the event that a token's order with this key is: keys are each token's own."""
    return f"{token.id}/{key}"


def subject_of(order: Order) -> str | None:
    """What an order is about; None where nothing else can be about the same."""
    match order:
        case PauseSource() | ResumeSource() | RotateSecret():
            return f"source/{order.source}"
        case ReprocessRecord():
            # A record's id may be as long as a subject alone may be.
            name = _encode([order.source, order.account, order.livemode, order.record_id])
            return f"record/{sha256(name).hexdigest()[:32]}"
        case CancelJob() | PauseJob() | ResumeJob():
            return f"job/{order.job}"
        case _:
            return None


def key_reused() -> Refusal:
    """What is said where a key comes again with another request."""
    return Refusal("key_reused", "This Idempotency-Key was used for something else.")
