"""
Checks that come together are read together: one statement for all that wait.

A check joins a statement that has not begun yet, so its answer is never older than its request.
Nothing is kept from one statement to the next.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.api.reader import reading
from shared.db import Database
from shared.store.tenants import check_features

#: (tenant, feature) → what the tenant may use of it now; without access it is absent.
Found = Mapping[tuple[str, str], Any]

#: Statements at once; more would only wait for each other's processor.
_AT_ONCE = 2
#: Tenants of one statement; a request of its own may have half of them.
_MOST_TENANTS = 200


@dataclass(slots=True)
class _Batch:
    tenants: set[str] = field(default_factory=set)
    features: set[str] = field(default_factory=set)
    asked: list[asyncio.Future[Found]] = field(default_factory=list)


class Checks:
    """Reads what tenants may use. Must be used in one event loop."""

    def __init__(self, reader: Database) -> None:
        self._reader = reader
        self._waiting: list[_Batch] = []
        self._reading: set[asyncio.Task[None]] = set()

    async def ask(self, tenants: Collection[str], features: Collection[str]) -> Found:
        """
        What these tenants may use of these features, and possibly more that others asked for.

        Raises:
            Refusal: the database is away.
        """
        answered: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        if not self._waiting or len(self._waiting[-1].tenants) + len(tenants) > _MOST_TENANTS:
            self._waiting.append(_Batch())
        batch = self._waiting[-1]
        batch.tenants.update(tenants)
        batch.features.update(features)
        batch.asked.append(answered)
        if len(self._reading) < _AT_ONCE:
            task = asyncio.create_task(self._read_all(), name="checks")
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)
        return await answered

    async def _read_all(self) -> None:
        while self._waiting:
            batch = self._waiting.pop(0)
            try:
                async with reading(self._reader) as conn:
                    found = await check_features(conn, batch.tenants, batch.features)
            except BaseException as error:
                for answered in batch.asked:
                    if not answered.done():
                        answered.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for answered in batch.asked:
                    if not answered.done():
                        answered.set_result(found)
