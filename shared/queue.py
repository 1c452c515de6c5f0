"""
The doorbell: arq and Redis carry wake-ups, and nothing that could be lost.

Postgres holds the work; a sweep finds what nobody rang for. So ringing never waits, never raises
and never decides anything. This module and `workers.fleet` are the only ones that know arq.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

from shared import telemetry

log = logging.getLogger(__name__)

QUEUE_NAME = "sluice:wake"
#: Wakes lanes: `drain(lanes: list[int])`.
DRAIN = "drain"
#: Tells when a token was used: `note_use(token_id: str, at: int)`, in seconds since 1970.
NOTE_USE = "note_use"

# arq orders jobs by the sender's wall clock and hides those of the future: a gateway whose clock
# is ahead would ring in vain. A score in 1970 is always due (0 would count as none at all), and
# with it the expiry must be given, or it would be reckoned from 1970 too.
_ALWAYS_DUE = datetime.fromtimestamp(1, UTC)
_EXPIRES_S = 60

_SOCKET_TIMEOUT_S = 0.5
_PAUSE_S = 0.02
_PAUSE_AFTER_FAILURE_S = 0.25
_LOG_EVERY_S = 10.0


def serialize_job(job: dict[str, Any]) -> bytes:
    """JSON for both sides; arq's own choice is pickle, which runs whatever it is handed."""
    return json.dumps(job, default=str).encode()


def deserialize_job(content: bytes) -> dict[str, Any]:
    """
    What `serialize_job` wrote; tuples come back as lists.

    Raises:
        ValueError: it is not JSON, or no object.
    """
    job = json.loads(content)
    if not isinstance(job, dict):
        raise ValueError("a job is a JSON object")
    return job


def redis_pool(
    url: str, *, socket_timeout_s: float = _SOCKET_TIMEOUT_S, connections: int = 4
) -> ArqRedis:
    """
    A pool whose every wait is bounded; opens nothing yet.

    arq's own pool sets a timeout for connecting only, and hangs with a Redis that hangs.
    """
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=socket_timeout_s,
        max_connections=connections,
    )
    return ArqRedis(
        pool,
        job_serializer=serialize_job,
        job_deserializer=deserialize_job,
        default_queue_name=QUEUE_NAME,
    )


class Doorbell:
    """
    Wakes workers for lanes.

    Coalesced: the first ring goes out at once, those that come while it is on its way or within
    20 ms go out together, and the last one always goes out. Must be used in one event loop.
    """

    def __init__(self, url: str) -> None:
        self._redis = redis_pool(url) if url else None
        self._waiting: set[int] = set()
        self._ringing: asyncio.Task[None] | None = None
        self._noting: set[asyncio.Task[None]] = set()
        self._logged_at = float("-inf")
        self.is_answered = True  # whether the last ring went out

    def ring(self, lanes: Iterable[int]) -> None:
        """Wake whoever drains these lanes. Returns at once; without a Redis URL does nothing."""
        if self._redis is None:
            return
        self._waiting.update(lanes)
        if self._waiting and self._ringing is None:
            self._ringing = asyncio.create_task(self._ring_all(self._redis), name="doorbell")

    def note_use(self, token: UUID, at: int) -> None:
        """Tell a worker that the token was used. Returns at once, and may come to nothing."""
        if self._redis is None or not self.is_answered:
            return
        noting = asyncio.create_task(self._note(self._redis, token, at), name="note use")
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _note(self, redis: ArqRedis, token: UUID, at: int) -> None:
        with contextlib.suppress(Exception):
            await redis.enqueue_job(
                NOTE_USE, str(token), at, _defer_until=_ALWAYS_DUE, _expires=_EXPIRES_S
            )

    async def close(self) -> None:
        """Let the last ring go out, for half a second at most."""
        if self._noting:
            await asyncio.wait(self._noting, timeout=_SOCKET_TIMEOUT_S)
        if self._ringing is not None:
            await asyncio.wait({self._ringing}, timeout=_SOCKET_TIMEOUT_S)
            if self._ringing is not None:
                self._ringing.cancel()
        if self._redis is not None:
            await self._redis.aclose(close_connection_pool=True)

    async def _ring_all(self, redis: ArqRedis) -> None:
        try:
            while self._waiting:
                lanes = sorted(self._waiting)
                self._waiting.clear()
                await asyncio.sleep(await self._ring_once(redis, lanes))
        finally:
            self._ringing = None

    async def _ring_once(self, redis: ArqRedis, lanes: list[int]) -> float:
        """Send one job; returns how long to wait before the next, in seconds."""
        try:
            await redis.enqueue_job(DRAIN, lanes, _defer_until=_ALWAYS_DUE, _expires=_EXPIRES_S)
        except Exception as error:
            self.is_answered = False
            telemetry.ring_failed()
            now = asyncio.get_running_loop().time()
            if now - self._logged_at >= _LOG_EVERY_S:
                self._logged_at = now
                log.warning("the doorbell is not answered", extra={"error": repr(error)})
            return _PAUSE_AFTER_FAILURE_S
        self.is_answered = True
        return _PAUSE_S
