"""Place orders as the API does, beside a stack whose workers the test drives itself."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from gateway.orders import Orders
from gateway.sources import Sources
from shared.domain.commands import Order, RotateSecret
from shared.sealing import KeyRing
from shared.store import intake
from shared.store.intake import Delivery, Receipt
from shared.store.tokens import Token
from tests.support.stack import Stack

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Ordering:
    """The write side of one gateway, without HTTP; as the store of its orders it commits each."""

    stack: Stack
    keys: KeyRing
    sources: Sources

    @classmethod
    @asynccontextmanager
    async def open(cls, stack: Stack) -> AsyncIterator["Ordering"]:
        keys = KeyRing.parse(stack.endpoints.secret_key)
        sources = Sources(stack.endpoints.database["gateway"], keys, timeout_s=5)
        await sources.start()
        yield cls(stack, keys, sources)
        await sources.close()

    async def submit(self, delivery: Delivery) -> Receipt:
        async with self.stack.gateway.connection() as conn:
            return (await intake.record(conn, [delivery]))[0]

    async def order(
        self, order: Order, *, scope: str = "operator", reason: str | None = None, **more: Any
    ) -> UUID:
        """Place an order; its tracking id."""
        placed = await Orders(self, self.sources).place(
            token(scope, **more), order, key=None, trace_context=TRACE, reason=reason
        )
        return placed.tracking_id

    async def carry_out(self, order: Order, **more: Any) -> dict[str, Any]:
        """Place an order, have it carried out, and say how it was settled."""
        tracking_id = await self.order(order, **more)
        await self.stack.drain()
        return await self.settled(tracking_id)

    async def settled(self, tracking_id: UUID) -> dict[str, Any]:
        """The outcome and the code of the last run."""
        rows = await self.stack.fetch(
            "SELECT outcome, code, run FROM settlements WHERE tracking_id = $1"
            " ORDER BY run DESC LIMIT 1",
            tracking_id,
        )
        return dict(rows[0]) if rows else {}

    def rotation(
        self,
        secret: str,
        *,
        source: str = "stripe",
        slot: int = 1,
        version: int = 2,
        replaces: tuple[int, int] = (0, 1),
        overlap_s: int = 3600,
    ) -> RotateSecret:
        """An order to rotate, sealed for its place."""
        sealed = self.keys.seal(secret, source=source, slot=slot, version=version)
        return RotateSecret(
            source, slot, version, sealed.key_id, sealed.nonce, sealed.ciphertext, overlap_s,
            *replaces,
        )  # fmt: skip


def token(scope: str = "operator", name: str = "ci") -> Token:
    return Token(uuid.uuid4(), name, scope, datetime.now(UTC), "test", None, None)


async def put_secret(stack: Stack, keys: KeyRing, secret: str, source: str = "stripe") -> None:
    """Give a source the secret 0.1, as `sluice apply` would."""
    sealed = keys.seal(secret, source=source, slot=0, version=1)
    async with stack.owner.transaction() as conn:
        await conn.execute(
            "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)"
            " VALUES ($1, 0, 1, $2, $3, $4)",
            stack.sources[source], sealed.key_id, sealed.nonce, sealed.ciphertext,
        )  # fmt: skip
        await conn.execute(
            "UPDATE sources SET secret_version = 1 WHERE id = $1", stack.sources[source]
        )
