"""What became of an order: `/api/v1/orders/{trackingId}`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from gateway.api.operations import Call, Nothing, Operation, Shown, no_such
from shared.domain.commands import Ordered
from shared.store.orders import KeptOrder, read_order

_decode = msgspec.json.Decoder(Ordered).decode

State = Literal["received", "applied", "refused", "dead"]
_STATES: dict[str | None, State] = {
    None: "received",
    "processed": "applied",
    "ignored": "refused",
    "dead": "dead",
}


class OrderStatus(msgspec.Struct, rename="camel"):
    """
    An order, and how far it is. `received`: a worker has not carried it out yet. `refused`: it
    could not be done, `code` says why, and it is not tried again. `dead`: it failed each time it
    was tried; an operator may have it tried again. `attempts` are the failed ones so far.
    """

    tracking_id: UUID
    order: str
    about: str | None
    state: State
    code: str | None
    error: str | None
    attempts: int
    actor: str
    reason: str | None
    received_at: datetime
    settled_at: datetime | None


async def read_order_status(call: Call[Nothing, Nothing]) -> Shown:
    """
    What became of an order that was answered with 202.

    A token that is a tenant's sees the orders that were placed for that tenant, and no others.
    """
    try:
        tracking_id = UUID(call.path["trackingId"])
    except ValueError:
        raise no_such("order") from None
    async with call.reading() as conn:
        kept = await read_order(conn, tracking_id)
    if kept is None:
        raise no_such("order")
    ordered = _decode(kept.body)
    if call.tenant is not None and ordered.tenant != call.tenant:
        raise no_such("order")
    return Shown(_status_of(kept, ordered))


def _status_of(kept: KeptOrder, ordered: Ordered) -> OrderStatus:
    order = ordered.order
    return OrderStatus(
        tracking_id=kept.tracking_id,
        order=str(order.__struct_config__.tag),
        about=getattr(order, "source", None),
        state=_STATES[kept.status],
        code=kept.code,
        error=kept.error,
        attempts=kept.attempts,
        actor=ordered.actor,
        reason=ordered.reason,
        received_at=kept.received_at,
        settled_at=kept.settled_at,
    )


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/orders/{trackingId}",
        read_order_status,
        "What became of an order",
        OrderStatus,
        tag="orders",
    ),
)
