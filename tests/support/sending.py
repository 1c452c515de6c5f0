"""Handlers for tests that send in this process, and what drives them."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from shared.plugin import Event, Extension, Handler, Outgoing, Result, Transaction
from shared.store.outbox import NewMessage, add_messages
from tests.support.stack import Stack
from workers.sending.send import Sending


class Nothing(Extension, frozen=True):
    """Never asked for here."""


class Sender(Handler[Nothing]):
    """Keeps what it is given, unless `does` says otherwise."""

    command = Nothing

    def __init__(self, name: str, does: Callable[[Outgoing], Any] | None = None) -> None:
        self.name = name
        self.does = does
        self.tried: list[Outgoing] = []
        self.sent: list[Outgoing] = []
        self.at_once = self.most_at_once = 0

    async def handle(self, event: Event, command: Nothing, transaction: Transaction) -> Result:
        raise AssertionError("nothing is handled here")

    async def send(self, message: Outgoing) -> None:
        self.tried.append(message)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.does is not None:
                await self.does(message)
        finally:
            self.at_once -= 1
        self.sent.append(message)


async def put(stack: Stack, handler: str, count: int, first: int = 0) -> None:
    """Messages `{"n": …}` with keys that count on from `first`."""
    async with stack.crew.db.transaction() as conn:
        await add_messages(
            conn,
            [
                NewMessage(f"key-{n}", handler, uuid4(), f'{{"n": {n}}}'.encode())
                for n in range(first, first + count)
            ],
        )


async def look(sending: Sending, times: int = 1) -> None:
    """Turns, and everything that they begin."""
    for _ in range(times):
        await sending.turn()
        await sending.finish()


async def run_until(sending: Sending, condition: Callable[[], Any], timeout_s: float = 30) -> None:
    """As a worker process does it, until something is seen; then stopped."""
    running = asyncio.create_task(sending.run())
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
