"""Orders over the API, one by one: what their handlers answer, which no settlement holds all of."""

from typing import Any
from uuid import UUID

from shared.domain.commands import Ordered
from shared.domain.events import Arrival
from shared.providers import OWN
from shared.store import work
from workers.crew import Crew
from workers.entries import NO_LOCKS, Answer, SetGrew
from workers.handlers.operating import ORDERS
from workers.handlers.scope import Scope


async def apply_order(crew: Crew, tracking_id: UUID, run: int = 1) -> Answer:
    """What the order of this id comes to. Its work is done, unless it raises."""
    more = NO_LOCKS
    while True:
        try:
            async with crew.db.transaction() as conn:
                await crew.surroundings.refresh(conn)
                found = await conn.fetchval(
                    "SELECT id FROM work WHERE tracking_id = $1", tracking_id
                )
                ((event,), _, _) = await work.read_one(conn, found)
                (ordered,) = OWN.translate(Arrival(event.identity, event.body))
                assert isinstance(ordered, Ordered)
                now = await conn.fetchval("SELECT now()")
                scope = Scope(crew.surroundings, now, more)
                order: Any = ordered.order
                answer = await ORDERS[type(order)](conn, scope, event, ordered, order)
                await work.finish(conn, [found])
                return answer
        except SetGrew as grew:
            more = grew.locks
