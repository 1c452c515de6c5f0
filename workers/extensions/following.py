"""
Followers: they read the audit trail behind everybody, and bring handlers what they listen to.

    hold the handler's cursor · read what is finished · store an event for each record · move on

All of it is one transaction, so that each record is brought once, whoever dies. A handler has one
follower at a time; any worker process that has the handler may be it. What is brought is an event
of the source `sluice-handlers`: it is applied like every event, in a transaction of its own.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec

from shared import telemetry
from shared.db import Conn, is_platform_fault
from shared.domain.commands import Bring
from shared.domain.events import BROUGHT, OWN_PROVIDER, lane_number, new_tracking_id
from shared.plugin import Handler
from shared.store import handlers as store
from shared.store.handlers import AuditRecord, BroughtEvent, Original
from workers.crew import Crew
from workers.extensions import handlers
from workers.extensions.matching import is_change, is_event, listens, may_listen
from workers.extensions.presence import SAY_EVERY_S, say_what_is_here
from workers.surroundings import UnknownSource

log = logging.getLogger(__name__)

EVERY_S = 0.2
RECORDS_AT_ONCE = 500


class Following:
    """
    One process's followers.

    `wake` is called with the lanes that have something new to apply. Must be used in one event
    loop.
    """

    def __init__(self, crew: Crew, wake: Callable[[Iterable[int]], None]) -> None:
        self._crew = crew
        self._wake = wake
        self._say_at = float("-inf")  # in the loop's clock
        self.lags_s: dict[str, float] = {}  # by handler

    async def run(self) -> None:
        """Follow until cancelled."""
        telemetry.observe_handler_lag(lambda: self.lags_s)
        while True:
            try:
                await self.turn()
            except Exception as error:
                if is_platform_fault(error):
                    log.warning("following put off", extra={"error": repr(error)})
                else:
                    log.exception("following failed")
                await asyncio.sleep(1.0)
            await asyncio.sleep(EVERY_S * (0.75 + random.random() / 2))  # noqa: S311 - jitter

    async def turn(self) -> None:
        """Say what is here, if it is time to, and follow the trail to its end."""
        mine = handlers()
        listening = [name for name, handler in mine.items() if handler.listens_to]
        await self._say(listening)
        if not listening:
            return
        async with self._crew.db.connection() as conn:
            behind = await store.handlers_behind(conn, listening)
        while behind:
            # In turns: one that is far behind keeps no other waiting, nor what is to be said.
            behind = [name for name in behind if await self.follow(mine[name])]
            await self._say(listening)

    async def _say(self, listening: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._say_at:
            return
        async with self._crew.db.connection() as conn:
            await say_what_is_here(conn)
            self.lags_s = await store.lags_s(conn, listening)
        self._say_at = loop.time() + SAY_EVERY_S

    async def follow(self, handler: Handler[Any]) -> bool:
        """Bring a handler the next records; whether there may be more."""
        async with self._crew.db.transaction() as conn:
            cursor = await store.hold(conn, handler.name)
            if cursor is None:
                return False
            records = await store.read_records(conn, cursor, RECORDS_AT_ONCE)
            if not records:
                return False
            brought = await self._wanted(conn, handler, [one for one in records if one.is_new])
            if brought:
                own = self._crew.surroundings.own_source
                event_type = f"{BROUGHT}{handler.name}"
                await store.insert_brought(conn, own.id, event_type, brought)
            await store.advance(conn, handler.name, records[-1])
        self._wake({one.lane for one in brought})
        return len(records) == RECORDS_AT_ONCE

    async def _wanted(
        self, conn: Conn, handler: Handler[Any], records: Sequence[AuditRecord]
    ) -> list[BroughtEvent]:
        """What of these records the handler listens to, in their order."""
        patterns = handler.listens_to
        providers = await self._providers(conn, {one.source for one in records if is_event(one)})
        asked = {
            one.id: UUID(one.cause_id)
            for one in records
            if is_event(one) and may_listen(patterns, providers[one.source])
        }
        originals = await store.read_originals(conn, list(asked.values())) if asked else {}
        brought: list[BroughtEvent] = []
        for record in records:
            if is_change(record) and listens(patterns, OWN_PROVIDER, record.action):
                brought.append(self._changed(handler.name, record))
            elif record.id in asked:
                original = originals.get(asked[record.id])
                # Of one whose evidence is gone nobody knows the type: better a dead letter than
                # nothing.
                if original is None or listens(
                    patterns, providers[record.source], original.event_type
                ):
                    brought.append(self._happened(handler.name, record, original))
        return brought

    async def _providers(self, conn: Conn, sources: set[str]) -> dict[str, str]:
        """By source, the provider that its events are of."""
        surroundings = self._crew.surroundings
        try:
            return {source: surroundings.provider_named(source) for source in sources}
        except UnknownSource:
            # Its events were applied by somebody who has read the configuration since.
            await surroundings.refresh(conn)
            return {source: surroundings.provider_named(source) for source in sources}

    def _happened(
        self, handler: str, record: AuditRecord, original: Original | None
    ) -> BroughtEvent:
        tracking_id = UUID(record.cause_id)
        return self._event(
            Bring(handler, tracking_id=tracking_id),
            event_id=f"{handler}/{tracking_id}",
            subject=original.subject if original is not None else record.subject,
            livemode=original.livemode if original is not None else self._is_live,
            occurred_at=original.occurred_at if original is not None else record.at,
            trace_context=original.trace_context if original is not None else "",
        )

    def _changed(self, handler: str, record: AuditRecord) -> BroughtEvent:
        # All changes of a tenant in one lane: they are applied in their order, failures aside.
        return self._event(
            Bring(handler, record=record.id),
            event_id=f"{handler}/audit/{record.id}",
            subject=f"tenant/{record.tenant}",
            livemode=self._is_live,
            occurred_at=record.at,
            trace_context="",
        )

    @property
    def _is_live(self) -> bool:
        """Only objects of the deployment's mode change entitlements."""
        return self._crew.surroundings.mode == "live"

    def _event(
        self,
        command: Bring,
        *,
        event_id: str,
        subject: str,
        livemode: bool,
        occurred_at: datetime | None,
        trace_context: str,
    ) -> BroughtEvent:
        body = msgspec.json.encode(command)
        return BroughtEvent(
            tracking_id=new_tracking_id(datetime.now(UTC), secrets.token_bytes(10)),
            event_id=event_id,
            livemode=livemode,
            occurred_at=occurred_at,
            subject=subject,
            lane=self._crew.surroundings.own_source.lanes[lane_number(subject)],
            body=body,
            body_sha=sha256(body).digest(),
            trace_context=trace_context,
        )
