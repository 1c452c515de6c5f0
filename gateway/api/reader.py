"""The API's connections: they can only read, and whoever waits for one waits for two seconds."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gateway.envelope import Refusal
from shared.db import Conn, Database, is_platform_fault

_READ_WITHIN_S = 2.0


@asynccontextmanager
async def reading(reader: Database) -> AsyncGenerator[Conn]:
    """
    A connection of the API's own.

    Raises:
        Refusal: the database is away.
    """
    try:
        async with reader.connection(timeout_s=_READ_WITHIN_S) as conn:
            yield conn
    except Exception as error:
        if is_platform_fault(error):
            raise Refusal("store_unavailable", "The database cannot be read now.") from error
        raise
