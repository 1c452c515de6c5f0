"""Who asks: `/api/v1/users/me`."""

from datetime import datetime
from uuid import UUID

import msgspec

from gateway.api.operations import Call, Nothing, Operation, Shown


class Me(msgspec.Struct, frozen=True, rename="camel"):
    """The token of the request. `lastUsedAt` is noted once a minute or less."""

    id: UUID
    name: str
    scope: str
    tenant: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


async def read_me(call: Call[Nothing, Nothing]) -> Shown:
    """The token that asks: its scope, its end, and when it was last used."""
    token = call.token
    return Shown(
        Me(
            id=token.id,
            name=token.name,
            scope=token.scope,
            tenant=call.tenant,
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=token.last_used_at,
        )
    )


OPERATIONS = (Operation("GET", "/api/v1/users/me", read_me, "The token that asks", Me),)
