"""How far back the ledger knows."""

from datetime import datetime

from shared.db import Conn

READ_HORIZON = "SELECT pruned_before FROM ledger_horizon"


async def read_horizon(conn: Conn) -> datetime | None:
    """Events from before this moment may have been seen and forgotten; None: nothing was pruned."""
    pruned_before: datetime | None = await conn.fetchval(READ_HORIZON)
    return pruned_before
