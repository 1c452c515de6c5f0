"""
How much of the API one token may ask for, and how often one address may fail.

Counted in Redis, by all gateways together. Limits protect; they must not be what takes the API
down: a Redis that is away or slow costs one request 50 ms, and then this process counts for
itself until it is back.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self, TypeVar

from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from shared.settings import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")
Network = IPv4Network | IPv6Network

_WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"\s*([1-9]\d{{0,8}})\s*/\s*({'|'.join(_WINDOWS_S)})\s*")

_REDIS_WITHIN_S = 0.05
_CONNECTIONS = 32
#: After a failure Redis is left alone for so long; one request then tries again.
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0

#: The first time that an address fails too often it waits for so long, and each time in the hour
#: after twice as long.
_FIRST_WAIT_S = 5
_LONGEST_WAIT_S = 900
_REMEMBERED_S = 3600


class Rate(NamedTuple):
    """So many in a window of so many seconds."""

    limit: int
    window_s: int

    @classmethod
    def parse(cls, text: str, setting: str) -> "Rate | None":
        """
        "600/minute"; None for "off".

        Raises:
            SettingsError: it is neither.
        """
        if text.strip() == "off":
            return None
        found = _RATE.fullmatch(text)
        if found is None:
            raise SettingsError(f'{setting}: "600/minute" or "off", per {", ".join(_WINDOWS_S)}')
        return cls(int(found[1]), _WINDOWS_S[found[2]])


class Quota(NamedTuple):
    """What is left to a token of its rate; below 0 it asked for too much."""

    rate: Rate
    remaining: int
    resets_in_s: int

    def headers(self) -> dict[str, str]:
        """
        As draft-ietf-httpapi-ratelimit-headers-11 has them (read 2026-11), and the older ones.

        `X-RateLimit-Reset` is in seconds from now, like `t`.
        """
        left = str(max(self.remaining, 0))
        return {
            "RateLimit-Policy": f'"default";q={self.rate.limit};w={self.rate.window_s}',
            "RateLimit": f'"default";r={left};t={self.resets_in_s}',
            "X-RateLimit-Limit": str(self.rate.limit),
            "X-RateLimit-Remaining": left,
            "X-RateLimit-Reset": str(self.resets_in_s),
        }


@dataclass(slots=True)
class _Sum:
    """What is added under one key in one go, for all who wait for it."""

    count: int = 0
    total: asyncio.Task[int] | None = None


class Counters:
    """Numbers that end by themselves: all gateways' in Redis, or else this process's own."""

    def __init__(self, redis_url: str) -> None:
        self._own = MemoryStorage()
        self._pool = None
        self._shared = None
        if redis_url:
            self._pool = BlockingConnectionPool.from_url(
                redis_url,
                max_connections=_CONNECTIONS,
                timeout=_REDIS_WITHIN_S,
                # Beyond our own wait: it is that which decides, and leaves no answer half read.
                socket_timeout=1.0,
                socket_connect_timeout=1.0,
            )
            self._shared = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix="sluice:limits",
                connection_pool=self._pool,  # type: ignore[arg-type] # taken out by the bridge
            )
        self._left_alone_until = float("-inf")
        self._failures = 0
        self._waiting: dict[str, _Sum] = {}
        self._adding: dict[str, asyncio.Task[int]] = {}

    @property
    def is_shared(self) -> bool:
        """Whether Redis counts, as far as it is known."""
        return self._shared is not None and self._failures == 0

    async def add_one(self, key: str, kept_s: int) -> int:
        """
        The number under the key, with this one. Those who come while it is being added to are
        added together after that, and each has a number of its own.
        """
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Sum()
            waiting.total = asyncio.create_task(self._add(key, kept_s), name="limits")
        waiting.count += 1
        place = waiting.count
        assert waiting.total is not None
        total = await asyncio.shield(waiting.total)
        return total - waiting.count + place

    async def _add(self, key: str, kept_s: int) -> int:
        before = self._adding.get(key)
        if before is not None:
            await asyncio.wait({before})
        adding = asyncio.current_task()
        assert adding is not None
        self._adding[key] = adding
        amount = self._waiting.pop(key).count
        try:
            return await self.ask(lambda storage: storage.incr(key, kept_s, amount=amount))
        finally:
            if self._adding.get(key) is adding:
                del self._adding[key]

    async def ask(self, what: Callable[[Storage], Awaitable[T]]) -> T:
        """What it comes to in Redis, or within 50 ms in this process. Never raises."""
        if self._shared is not None:
            now = asyncio.get_running_loop().time()
            if now >= self._left_alone_until:
                if self._failures:
                    # This one is the probe; whoever comes meanwhile does not wait with it.
                    self._left_alone_until = now + _LONGEST_PAUSE_S
                try:
                    async with asyncio.timeout(_REDIS_WITHIN_S):
                        found = await what(self._shared)
                except (RedisError, OSError, TimeoutError) as error:
                    self._failed(error)
                else:
                    if self._failures:
                        self._failures = 0
                        self._left_alone_until = float("-inf")
                        log.info("limits are shared again")
                    return found
        return await what(self._own)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._pool is not None:
            await self._pool.disconnect()

    def _failed(self, error: Exception) -> None:
        if self._failures == 0:
            log.warning("limits are counted in this process", extra={"error": repr(error)})
        self._failures += 1
        pause_s = min(_PAUSE_S * 2 ** min(self._failures - 1, 5), _LONGEST_PAUSE_S)
        self._left_alone_until = asyncio.get_running_loop().time() + pause_s


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the API. None: there is no such limit. `now` is the time since 1970."""

    counters: Counters
    rate: Rate | None = None
    failures: Rate | None = None
    now: Callable[[], float] = time.time

    @classmethod
    def of(cls, redis_url: str, api_rate: str, api_failures: str) -> Self:
        """
        As the settings have it.

        Raises:
            SettingsError: they cannot be read.
        """
        return cls(
            Counters(redis_url),
            Rate.parse(api_rate, "SLUICE_API_RATE"),
            Rate.parse(api_failures, "SLUICE_API_FAILURES"),
        )

    async def charge(self, token: str) -> Quota | None:
        """Count a request of a token. One round trip: where a window begins, the clock says."""
        if self.rate is None:
            return None
        window, gone_s = divmod(self.now(), self.rate.window_s)
        key = f"token/{token}/{self.rate.window_s}/{int(window)}"
        # Longer than its window: another gateway's clock may be behind.
        kept_s = self.rate.window_s + 5
        used = await self.counters.add_one(key, kept_s)
        resets_in_s = max(1, round(self.rate.window_s - gone_s))
        return Quota(self.rate, self.rate.limit - used, resets_in_s)

    async def wait_s(self, address: str) -> int:
        """For how long the address has to wait because it failed too often; 0: it need not."""
        if self.failures is None:
            return 0
        key = f"waits/{address}"
        ends_at = await self.counters.ask(lambda storage: storage.get_expiry(key))
        # The library's own clock is the one that its answer is reckoned from.
        return max(0, round(ends_at - time.time()))

    async def fail(self, address: str) -> None:
        """Count a request that was answered 401."""
        rate = self.failures
        if rate is None:
            return

        async def count(storage: Storage) -> None:
            key = f"fails/{address}"
            if await storage.incr(key, rate.window_s) < rate.limit:
                return
            times = await storage.incr(f"times/{address}", _REMEMBERED_S)
            wait_s = min(_FIRST_WAIT_S * 2 ** min(times - 1, 10), _LONGEST_WAIT_S)
            await storage.incr(f"waits/{address}", wait_s)
            await storage.clear(key)

        await self.counters.ask(count)


# Addresses --------------------------------------------------------------------------------------


def parse_networks(text: str | None) -> tuple[Network, ...]:
    """
    "10.0.0.0/8, ::1" as networks.

    Raises:
        SettingsError: one is none.
    """
    try:
        parts = (part.strip() for part in (text or "").split(","))
        return tuple(ip_network(part, strict=False) for part in parts if part)
    except ValueError as error:
        raise SettingsError(f"SLUICE_TRUSTED_PROXIES: {error}") from None


def address_of(
    scope: Mapping[str, object], forwarded_for: str | None, trusted: tuple[Network, ...]
) -> str:
    """
    Whose request it is: an IPv4 address, or the /64 that an IPv6 address is in.

    `X-Forwarded-For` is read from the right, past the proxies that are trusted: what is left of
    them anybody may have written.
    """
    client = scope.get("client")
    name = client[0] if isinstance(client, tuple | list) and client else ""
    hops = [*(part.strip() for part in (forwarded_for or "").split(",")), name]
    found = name
    for hop in reversed(hops):
        try:
            # An IPv4 address that came over an IPv6 socket is one all the same.
            address = ip_address(hop.partition("%")[0])
        except ValueError:
            break
        address = getattr(address, "ipv4_mapped", None) or address
        found = str(address)
        if address.version == 6:
            found = str(ip_network((address, 64), strict=False))
        if not any(address in network for network in trusted):
            break
    return found or "unknown"
