"""
What operators ask for over the API: stored like every event, and applied by a worker.

An order is an event of the source `operator`. Its id is the token's and the `Idempotency-Key`: the
same key again is a redelivery, and gets the first answer again.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec

from gateway.envelope import Refusal
from gateway.idempotency import Claims, read_key
from gateway.ingress import Store
from gateway.sources import Sources
from shared.domain.commands import Order, Ordered
from shared.domain.events import (
    ORDERED,
    Identity,
    new_tracking_id,
)
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

    async def place(
        self,
        token: Token,
        order: Order,
        *,
        key: str | None,
        trace_context: str,
        reason: str | None = None,
    ) -> Placed:
        """
        Store an order; `key` is what `Idempotency-Key` says, None where it says nothing.

        Raises:
            Refusal: the key is none, or was used for something else, or is being used now.
            StoreUnavailable, Overloaded: as for every event.
        """
        source = await self._sources.operator()
        event_id = f"{token.id}/{str(uuid4()) if key is None else read_key(key)}"
        kind, _, tenant = token.scope.partition(":")
        actor = f"token:{token.name}"
        ordered = Ordered(actor, order, tenant if kind == "tenant" else None, reason)
        body = _encode(ordered)
        subject = f"order/{event_id}"
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
            body_sha=sha_of(body),
            trace_context=trace_context,
        )
        with self._claims.held(event_id):
            receipt = await self._store.submit(delivery)
        if receipt.is_other:
            raise Refusal("key_reused", "This Idempotency-Key was used for something else.")
        return Placed(receipt.tracking_id, receipt.status == "duplicate")
