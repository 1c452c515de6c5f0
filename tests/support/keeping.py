"""Events of long ago, and whoever prunes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from unittest import mock

from shared.artifacts import Artifacts
from shared.settings import Settings
from tests.support import stack as stack_module
from tests.support.stack import Stack
from workers.retention.prune import Pruned, Tools, prune

#: A day whose time is over, in the middle of a month.
LONG_AGO = (datetime.now(UTC) - timedelta(days=60)).replace(
    day=15, hour=12, minute=0, second=0, microsecond=0
)


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """What is received meanwhile is received then."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return moment.astimezone(tz)

    with mock.patch.object(stack_module, "datetime", Clock):
        yield


async def add_day(stack: Stack, day: date) -> str:
    """A partition of a day gone by, as there was one then."""
    name = f"inbox_{day:%Y%m%d}"
    await stack.fetch(
        f"CREATE TABLE {name} PARTITION OF inbox"
        f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
    )
    return name


def tools(home: Path, **settings: int) -> Tools:
    return Tools(Settings(**settings), Artifacts(None, home))  # type: ignore[arg-type]


async def pruned(stack: Stack, home: Path, *names: str, **settings: int) -> dict[str, int]:
    """Prune as a worker does; how much went, by class."""
    async with stack.crew.db.connection() as conn:
        done: list[Pruned] = await prune(conn, tools(home, **settings), names)
    return {one.name: one.gone for one in done}


async def partitions(stack: Stack) -> dict[str, int]:
    """The inbox's partitions that are over, and how many rows each has."""
    rows = await stack.fetch(
        "SELECT p.name, (SELECT count(*) FROM inbox i WHERE i.tableoid = p.partition) AS rows"
        " FROM inbox_partitions() p WHERE p.upto <= bodies_end(7) ORDER BY p.since"
    )
    return {row["name"]: row["rows"] for row in rows}
