"""The inbox's days ahead."""

from shared.db import Conn

DAYS_AHEAD = 14

MAKE_PARTITIONS = "SELECT make_inbox_partitions($1)"


async def make_partitions(conn: Conn) -> int:
    """Make what is missing. Returns how many days from today on have a partition of their own."""
    made: int = await conn.fetchval(MAKE_PARTITIONS, DAYS_AHEAD)
    return made
