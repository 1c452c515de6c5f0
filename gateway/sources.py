"""
What the gateway knows of its sources: read at the start, looked after every second, and kept
while Postgres is away.

Saying "unknown" to a provider may cost its endpoint, so it is said only on fresh knowledge.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.shadowing import Shadow, shadow_of
from shared.db import Line
from shared.providers import providers
from shared.providers.base import Configured, Provider
from shared.sealing import KeyRing, SealingError
from shared.store.sources import Configuration, Source, load_configuration, read_seals, read_version

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_FRESH_FOR_S = 2.0
_FIRST_LOOK_S = 3.0
_PAUSE_AFTER_FAILURE_S = 0.25
_LOG_EVERY_S = 10.0


class UnknownSource(Exception):
    """A fresh look at the configuration did not find it."""


class NotConfigured(Exception):
    """Nothing was ever loaded, or nothing fresh enough to deny that the source exists."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """
    A source beside its provider; None where this process cannot verify its events. `shadow` is what
    is tried beside its secrets. `reading` is held while a large body of it is read.
    """

    source: Source
    provider: Provider | None
    shadow: Shadow | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock, compare=False)


class Sources:
    """The configured sources by name. Must be used in one event loop."""

    def __init__(self, url: str, keys: KeyRing, *, timeout_s: float) -> None:
        self._line = Line(url, "gateway", name="sluice-gateway-sources")
        self._keys = keys
        self._timeout_s = timeout_s
        self._configuration: Configuration | None = None
        self._entrances: Mapping[str, Entrance] = {}
        self._looked_at = float("-inf")
        self._failed_at = float("-inf")
        self._logged_at = float("-inf")
        self._look: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether any configuration is known, of whatever age."""
        return self._configuration is not None

    @property
    def names(self) -> Iterable[str]:
        """Of the sources that are known now."""
        return tuple(self._entrances)

    @property
    def shadows(self) -> list[Shadow]:
        """All that are known now."""
        return [one.shadow for one in self._entrances.values() if one.shadow is not None]

    def known(self, name: str) -> Entrance | None:
        """The source as it is known now; None where it is not. Nobody is asked."""
        return self._entrances.get(name)

    def _shadow(self, name: str) -> Shadow | None:
        entrance = self._entrances.get(name)
        return entrance.shadow if entrance is not None else None

    async def start(self) -> None:
        """
        Load once, and watch from now on. A Postgres that is away does not stop the start.

        Raises:
            SealingError: the database was sealed with a key that this process lacks.
        """
        try:
            await self._read(_FIRST_LOOK_S)
        except SealingError:
            await self._line.close()
            raise
        except Exception as error:  # it is tried again every second
            self._failed(error)
        self._watch = asyncio.create_task(self._watch_version(), name="sources")

    async def close(self) -> None:
        """Stop watching."""
        for task in (self._watch, self._look):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._line.close()

    async def find(self, name: str) -> Entrance:
        """
        The source called `name`; without waiting wherever it is known.

        Raises:
            UnknownSource: a look not older than two seconds lacks it.
            NotConfigured: no such look could be had.
        """
        entrance = self._entrances.get(name)
        if entrance is not None:
            return entrance
        if not self._is_fresh():
            await self._look_now()
        if self._configuration is None or not self._is_fresh():
            raise NotConfigured
        entrance = self._entrances.get(name)
        if entrance is None:
            raise UnknownSource(name)
        return entrance

    async def operator(self) -> Source:
        """
        The source of what operators ask for.

        Raises:
            NotConfigured: nothing was loaded yet.
        """
        if self._configuration is None:
            await self._look_now()
        if self._configuration is None:
            raise NotConfigured
        return self._configuration.operator

    def _is_fresh(self) -> bool:
        return asyncio.get_running_loop().time() - self._looked_at <= _FRESH_FOR_S

    async def _watch_version(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self._look_now()

    async def _look_now(self) -> None:
        """One look for all who ask meanwhile. Never raises; see `_is_fresh` for its success."""
        now = asyncio.get_running_loop().time()
        if self._look is None:
            if now - self._failed_at < _PAUSE_AFTER_FAILURE_S:
                return
            self._look = asyncio.create_task(self._look_once(), name="sources look")
        await asyncio.shield(self._look)

    async def _look_once(self) -> None:
        try:
            await self._read(self._timeout_s)
        except Exception as error:  # what is known is kept, and time tells
            self._failed(error)
        finally:
            self._look = None

    async def _read(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        known = self._configuration
        async with self._line.use(timeout_s=timeout_s) as conn:
            if known is None:
                self._keys.check(await read_seals(conn))
            if known is None or (await read_version(conn))[0] != known.version:
                known = await load_configuration(conn, self._keys)
        if known is not self._configuration:
            self._entrances = {
                name: Entrance(source, _provider_of(source), shadow_of(source, self._shadow(name)))
                for name, source in known.sources.items()
            }
            log.info(
                "configuration loaded",
                extra={"version": known.version, "sources": sorted(known.sources)},
            )
        self._configuration = known
        # From when it was asked for, not when it came: that is how old it may be.
        self._looked_at = started_at

    def _failed(self, error: Exception) -> None:
        now = self._failed_at = asyncio.get_running_loop().time()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            log.warning("the configuration cannot be read", extra={"error": str(error)})


def _provider_of(source: Source) -> Provider | None:
    """The source's provider as it has it configured, or None where its events cannot be read."""
    provider = providers().get(source.provider)
    if provider is None or not source.readable:
        if provider is None:
            log.error("provider is not installed", extra={"source": source.name})
        return None
    try:
        return provider.for_source(Configured(source.settings, source.livemode, source.tenant))
    except Exception as error:  # by a newer version, or by another one of an installed package
        log.error("source cannot be read", extra={"source": source.name, "error": repr(error)})
        return None
