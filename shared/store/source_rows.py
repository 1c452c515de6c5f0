"""What workers read of the configuration: no secret among it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.db import Conn
from shared.domain.catalog import Origin
from shared.domain.payments import Policy


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source without its secrets. `livemode` is None where its provider has no such notion."""

    id: int
    name: str
    provider: str
    livemode: bool | None
    is_removed: bool  # pruned: its events still have to be applied, and it grants nothing
    lanes: tuple[int, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    tenant: str | None = None
    is_paused: bool = False  # its events are received, and none is applied

    def origin(self, livemode: bool, mode: str) -> Origin:
        """What deriving must know of its objects, in a deployment of that mode."""
        is_of_mode = self.livemode is None or livemode == (mode == "live")
        policy = Policy.read(self.settings)
        return Origin(self.name, self.provider, is_of_mode, self.is_removed, policy)


READ_MODE = "SELECT version, mode FROM configuration ORDER BY version DESC LIMIT 1"


async def read_mode(conn: Conn) -> tuple[int, str]:
    """(version, "live" or "test") of the current configuration."""
    row = await conn.fetchrow(READ_MODE)
    assert row is not None  # migration 0001 writes version 0
    return row["version"], row["mode"]


READ_SOURCES = """
SELECT s.id, s.name, s.provider, s.livemode, s.settings, s.tenant,
       s.removed_at IS NOT NULL AS is_removed, s.paused_at IS NOT NULL AS is_paused,
       array(SELECT l.id FROM lanes l WHERE l.source_id = s.id ORDER BY l.number) AS lanes
FROM sources s ORDER BY s.id
"""


async def read_sources(conn: Conn) -> list[SourceRow]:
    """Every source there ever was."""
    return [
        SourceRow(
            row["id"],
            row["name"],
            row["provider"],
            row["livemode"],
            row["is_removed"],
            tuple(row["lanes"]),
            row["settings"],
            row["tenant"],
            row["is_paused"],
        )
        for row in await conn.fetch(READ_SOURCES)
    ]


PAUSED_SOURCES = """
SELECT name, extract(epoch FROM now() - paused_at)::float8 AS age_s
FROM sources WHERE paused_at IS NOT NULL
"""


async def paused_s(conn: Conn) -> dict[str, float]:
    """By name, for how many seconds each paused source has been."""
    return {row["name"]: row["age_s"] for row in await conn.fetch(PAUSED_SOURCES)}
