"""
Whether this process can do its work now.

Asked by orchestrators every few seconds and by anybody who finds the address: an answer serves
everybody for a second, and looking costs one small commit.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.sources import Sources
from shared.db import Line, is_refused
from shared.migrate import MigrationError, pending
from shared.store.intake import count_partitions, prove_writable

log = logging.getLogger(__name__)

Verdict = Literal["ok", "degraded", "failed"]

_LOOK_TIMEOUT_S = 2.0
_KEEP_S = 1.0
#: Fewer days of partitions than this ahead, and somebody should look; without tomorrow's, the
#: inbox would soon run into its default partition.
_DAYS_WANTED = 7


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found. `detail` is for people, and holds no secret."""

    name: str
    verdict: Verdict
    detail: str = ""


class Readiness:
    """Looks at everything that receipt needs. `is_rung` says whether the doorbell works."""

    def __init__(self, url: str, sources: Sources, is_rung: Callable[[], bool]) -> None:
        self._line = Line(url, "gateway", name="sluice-gateway-readiness")
        self._sources = sources
        self._is_rung = is_rung
        self._look: asyncio.Task[list[Check]] | None = None
        self._looked_at = float("-inf")

    async def checks(self) -> list[Check]:
        """Every check, from a look not older than a second."""
        now = asyncio.get_running_loop().time()
        if self._look is None or (self._look.done() and now - self._looked_at > _KEEP_S):
            self._looked_at = now
            self._look = asyncio.create_task(self._look_at_all(), name="readiness")
        return await asyncio.shield(self._look)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._look is not None:
            await asyncio.wait({self._look})
        await self._line.close()

    async def _look_at_all(self) -> list[Check]:
        loaded: Verdict = "ok" if self._sources.is_loaded else "failed"
        rung: Verdict = "ok" if self._is_rung() else "degraded"
        checks = [Check("configuration", loaded), Check("doorbell", rung)]
        try:
            async with self._line.use(timeout_s=_LOOK_TIMEOUT_S) as conn:
                await prove_writable(conn)
                checks.append(Check("database", "ok"))
                checks.append(_judge_partitions(await count_partitions(conn, _DAYS_WANTED)))
                checks.append(_judge_migrations([m.name for m in await pending(conn)]))
        except MigrationError as error:
            # A newer version has been here: it must leave the old one working, and usually does.
            checks.append(Check("migrations", "degraded", str(error)))
        except Exception as error:  # whatever it is, we are not ready
            if is_refused(error):
                checks.append(Check("migrations", "degraded", "this role may not read them"))
            else:
                # To the log only: a connection error names hosts and users.
                log.warning("not ready", extra={"error": str(error)})
                checks.append(Check("database", "failed", type(error).__name__))
        return checks


def _judge_partitions(days: int) -> Check:
    if days < 2:
        return Check("partitions", "failed", "today's or tomorrow's inbox partition is missing")
    if days <= _DAYS_WANTED:
        return Check("partitions", "degraded", f"only {days} days have an inbox partition")
    return Check("partitions", "ok")


def _judge_migrations(waiting: list[str]) -> Check:
    if waiting:
        return Check("migrations", "failed", f"not applied: {', '.join(waiting)}")
    return Check("migrations", "ok")
