"""
Bodies whose time is over: a day of the inbox goes, and what has to stay moves to the class `hold`.

The work is done by functions of the schema, which have their owner's right and let nobody go
further than it says. One process at a time: who prunes has the advisory lock of `take_turn`, on
the connection that all of this runs on.
"""

from datetime import datetime
from typing import NamedTuple

from shared.db import Conn

TAKE_TURN = "SELECT pg_try_advisory_lock(hashtext('sluice.prune'))"


async def take_turn(conn: Conn) -> bool:
    """Whether nobody else prunes; until `end_turn`, or until this connection is gone."""
    return bool(await conn.fetchval(TAKE_TURN))


END_TURN = "SELECT pg_advisory_unlock(hashtext('sluice.prune'))"


async def end_turn(conn: Conn) -> None:
    """Let others prune."""
    await conn.execute(END_TURN)


ALLOW_LONGER = "SELECT set_config('statement_timeout', '60s', true)"


async def allow_longer(conn: Conn) -> None:
    """Let the statements of this transaction take up to a minute."""
    await conn.execute(ALLOW_LONGER)


# Bodies are forgotten with the same lock alone, and looked for with it by whoever opens a run.
KEEP_BODIES = "SELECT pg_advisory_xact_lock_shared(hashtext('sluice.bodies'))"
MAY_KEEP_BODIES = "SELECT pg_try_advisory_xact_lock_shared(hashtext('sluice.bodies'))"


async def keep_bodies(conn: Conn) -> None:
    """Let no body go until this transaction ends. Those that are read from now on are there."""
    await conn.execute(KEEP_BODIES)


async def may_keep_bodies(conn: Conn) -> bool:
    """The same, where nobody is forgetting any just now."""
    return bool(await conn.fetchval(MAY_KEEP_BODIES))


class Stretch(NamedTuple):
    """A piece of the inbox; `upto` is not in it."""

    since: datetime
    upto: datetime


BEGIN_MOVE = "SELECT since, upto FROM begin_inbox_move($1)"


async def begin_move(conn: Conn, keep_d: int) -> Stretch | None:
    """Begin with the oldest day that is to go; None: there is none. What to copy is in between."""
    row = await conn.fetchrow(BEGIN_MOVE, keep_d)
    return None if row is None else Stretch(*row.values())


NEXT_BODY = """
SELECT min(received_at) FROM inbox WHERE received_at >= $1 AND received_at < $2
"""


async def next_body(conn: Conn, stretch: Stretch) -> datetime | None:
    """When the first event of a stretch was received; None: there is none."""
    found: datetime | None = await conn.fetchval(NEXT_BODY, *stretch)
    return found


COPY_KEPT = "SELECT copy_kept_bodies($1, $2)"


async def copy_kept(conn: Conn, stretch: Stretch) -> int:
    """Copy what has to stay of it; returns how many rows that were."""
    return int(await conn.fetchval(COPY_KEPT, *stretch, timeout=60))


FINISH_MOVE = "SELECT finish_inbox_move($1, $2)"


async def finish_move(conn: Conn, keep_d: int, wait_ms: int) -> bool:
    """
    Let copy and day change places; whether anything stays.

    Raises:
        Exception: 55P03, `db.is_lock_timeout`: the inbox was in use for longer than that. 55006:
            what has to stay has changed, and has to be copied again.
    """
    return int(await conn.fetchval(FINISH_MOVE, keep_d, wait_ms)) > 0


DROP_GONE = "SELECT drop_gone_bodies()"


async def drop_gone(conn: Conn) -> bool:
    """Unlink one day that was taken out of the inbox; whether there was one."""
    return bool(await conn.fetchval(DROP_GONE))


FORGET = "SELECT forget_bodies($1, $2, $3, $4)"


async def forget(conn: Conn, stretch: Stretch, keep_d: int, most: int) -> int:
    """Delete of a stretch of the class `hold` what has not to stay any more, at most so many."""
    return int(await conn.fetchval(FORGET, *stretch, keep_d, most, timeout=60))


DROP_EMPTY_HOLDS = "SELECT drop_empty_holds($1)"


async def drop_empty_holds(conn: Conn, wait_ms: int) -> int:
    """Take months of the class `hold` out of the inbox that have nothing left."""
    return int(await conn.fetchval(DROP_EMPTY_HOLDS, wait_ms))


class Partition(NamedTuple):
    """A partition of the inbox, the default one apart."""

    name: str
    kind: str  # "standard" or "hold"
    stretch: Stretch
    size_bytes: int
    is_due: bool


LIST_PARTITIONS = """
SELECT name, class, since, upto, pg_total_relation_size(partition) AS size_bytes,
       upto <= bodies_end($1) AS is_due
FROM inbox_partitions() ORDER BY since
"""


async def list_partitions(conn: Conn, keep_d: int) -> list[Partition]:
    """The oldest first, each with whether its time is over."""
    return [
        Partition(row["name"], row["class"], Stretch(row["since"], row["upto"]),
                  row["size_bytes"], row["is_due"])
        for row in await conn.fetch(LIST_PARTITIONS, keep_d)
    ]  # fmt: skip


class Weighed(NamedTuple):
    """How many rows a stretch has, and how many of them stay, because of what."""

    rows: int
    held: int
    unfinished: int


WEIGH = """
SELECT (SELECT count(*) FROM inbox AS i WHERE i.received_at >= $1 AND i.received_at < $2) AS rows,
       (SELECT count(DISTINCT k.tracking_id) FROM kept_bodies($1, $2) AS k WHERE k.is_held) AS held,
       (SELECT count(*) FROM kept_bodies($1, $2) AS k WHERE NOT k.is_held) AS unfinished
"""


async def weigh(conn: Conn, stretch: Stretch) -> Weighed:
    """Count, without changing anything."""
    row = await conn.fetchrow(WEIGH, *stretch, timeout=60)
    assert row is not None  # a SELECT without FROM has one row
    return Weighed(*row.values())
