"""What became of the events: looked up in the database, by the role that operators have."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared import db
from shared.db import Conn
from shared.domain.events import received_at_of
from shared.store import demo
from shared.store.demo import Progress, Trace
from shared.store.parked import Parked, list_parked
from shared.store.tenants import read_tenant
from workers.demo.bodies import Event
from workers.demo.sending import Answer

LOOK_EVERY_S = 0.04
_SETTLED_WITHIN_S = 15.0
_PAGE = 500
_OTHER_GATEWAYS_CLOCK = timedelta(seconds=30)


class Watcher:
    """Reads what one source's events led to."""

    def __init__(self, conn: Conn, source: str, *, livemode: bool) -> None:
        self._conn = conn
        self._source = source
        self._livemode = livemode
        self._since: datetime | None = None

    def note(self, answer: Answer) -> None:
        """Learn the gateway's clock from its first answer: inbox rows are looked for from then."""
        if self._since is None and answer.tracking_id is not None:
            self._since = received_at_of(answer.tracking_id) - _OTHER_GATEWAYS_CLOCK

    async def progress(self, events: Iterable[Event]) -> dict[str, Progress]:
        """How far the events are, by id."""
        ids = [event.id for event in events]
        return await demo.read_progress(self._conn, self._source, self._livemode, ids)

    async def settled(
        self, events: Sequence[Event], seen: Callable[[str, str], None]
    ) -> list[Event]:
        """
        Wait until all of them are settled; `seen` is told each one's id and outcome at once.

        Returns those that are not, after 15 s.
        """
        waiting = {event.id: event for event in events}
        deadline_s = time.monotonic() + _SETTLED_WITHIN_S
        while waiting and time.monotonic() < deadline_s:
            for number, found in (await self.progress(waiting.values())).items():
                if found.outcome is not None:
                    seen(number, found.outcome)
                    del waiting[number]
            if waiting:
                await asyncio.sleep(LOOK_EVERY_S)
        return list(waiting.values())

    async def trace(self, event: Event) -> Trace:
        """Every row of one event."""
        return (await self.traces([event]))[event.id]

    async def traces(self, events: Iterable[Event]) -> dict[str, Trace]:
        """Every row of the events, by id. Asks for an earlier answer (see `note`)."""
        assert self._since is not None, "nothing was received yet"
        ids = [event.id for event in events]
        return await demo.read_traces(self._conn, self._source, self._livemode, ids, self._since)

    async def features(self, tenant: str) -> dict[str, Any] | None:
        """What the tenant may use now, by feature; None where nothing ever named it."""
        found = await read_tenant(self._conn, tenant)
        if found is None:
            return None
        return {one["feature"]: one["value"] for one in found["entitlements"]}

    async def parked(self, object_id: str) -> Parked | None:
        """The object as `sluice parked list` lists it, or None where it is not in the list."""
        after = None
        while True:
            page = await list_parked(self._conn, after, self._source, _PAGE)
            for one in page:
                if one.object_id == object_id:
                    return one
            if len(page) < _PAGE:
                return None
            after = (page[-1].since, page[-1].id)

    async def is_ambiguous(self, subscription_id: str) -> bool | None:
        """Whether the order of its events is undecided."""
        return await demo.is_ambiguous(
            self._conn, self._source, self._livemode, "subscription", subscription_id
        )


@dataclass
class Hold:
    """A customer's row, locked from outside."""

    conn: Conn
    process: int
    held_since_s: float

    @property
    def lasts_s(self) -> float:
        """Since when, in seconds."""
        return time.monotonic() - self.held_since_s

    async def stay(self) -> None:
        """Keep it: a transaction that is idle for some seconds is ended, and the row free."""
        await demo.stay(self.conn)

    async def is_waited_for(self) -> bool:
        """Whether somebody waits for it right now."""
        return await demo.is_waited_for(self.conn, self.process)


@asynccontextmanager
async def held(url: str, source: str, livemode: bool, customer: str) -> AsyncGenerator[Hold]:
    """
    Lock a customer's row for the length of the block, as an operator's slow transaction would.

    Whatever happens to this process, the row is free again some seconds later: the session may
    not be idle for longer.
    """
    async with db.connect(url, "operator", name="sluice-demo") as conn, conn.transaction():
        process = await demo.lock_customer(conn, source, livemode, customer)
        if process is None:
            raise LookupError(f"no customer {customer}")
        yield Hold(conn, process, time.monotonic())
