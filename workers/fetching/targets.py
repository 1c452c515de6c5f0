"""Which sources can be asked, and with which key."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.db import Conn
from shared.providers.base import Provider
from shared.sealing import API_KEY_SLOT, KeyRing, SealingError
from shared.store import fetches, source_keys
from shared.store.source_keys import SourceKey
from shared.store.source_rows import SourceRow
from workers.fetching.api import Api
from workers.fetching.pacing import Pace, pace_of
from workers.surroundings import Surroundings, UnknownSource

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Target:
    """
    A source that can be asked. `key_version` tells its keys apart: a newer one is larger.
    `is_proven`: the key has been seen to be of those who send the source's events.
    """

    source: SourceRow
    provider: Provider
    key_version: int
    api: Api
    pace: Pace
    is_proven: bool = False


Opens = Callable[[SourceRow, str, str | None], Api]


class Targets:
    """
    The targets of one process, learned anew when the configuration's version changes.

    `keys` is None in a process without SLUICE_SECRET_KEY, which can ask nobody. Unless `pace` is
    given, each provider has its own.
    """

    def __init__(self, keys: KeyRing | None, pace: Pace | None) -> None:
        self._keys = keys
        self._pace = pace
        self._opens: dict[str, Opens] = {}
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._version = -1
        self.by_source: dict[int, Target] = {}

    async def learn(self, conn: Conn, surroundings: Surroundings) -> None:
        """Read the keys if the configuration's version is another one than before."""
        version = surroundings.version
        if version == self._version:
            return
        stored = await source_keys.read_keys(conn)
        found: dict[int, Target] = {}
        for source_id, key in stored.items():
            try:
                source = surroundings.source(source_id)
                provider = surroundings.provider(source_id)
            except UnknownSource:
                return  # written since the last look; the next one finds both
            if source.is_paused:
                continue  # what it answers would only wait, and be old when it is applied
            target = self._target(source, provider, key)
            if target is not None:
                found[source_id] = target
        await fetches.add_budgets(conn, sorted(found))
        self.by_source, self._version = found, version
        if found:
            names = [target.source.name for target in found.values()]
            log.info("objects are fetched", extra={"sources": names, "version": version})

    async def close(self) -> None:
        """Close the connections to providers."""
        for close in self._closing:
            await close()

    def _target(self, source: SourceRow, provider: Provider, key: SourceKey) -> Target | None:
        pace = self._pace or pace_of(source.provider, source.livemode is not False)
        opens = self._opening(source.provider, pace.within_s)
        if opens is None:
            log.error("nothing can be fetched from this provider", extra={"source": source.name})
            return None
        if self._keys is None:
            log.error(
                "nothing is fetched: there is an API key, and no SLUICE_SECRET_KEY to open it",
                extra={"source": source.name},
            )
            return None
        try:
            plaintext = self._keys.open(
                key.sealed,
                source=source.name,
                slot=API_KEY_SLOT,
                version=key.version,
                address=key.api_base,
            )
        except SealingError as error:
            log.error("nothing is fetched", extra={"source": source.name, "error": str(error)})
            return None
        api = opens(source, plaintext, key.api_base)
        return Target(source, provider, key.version, api, pace)

    def _opening(self, provider: str, timeout_s: float) -> Opens | None:
        """How an API of the provider is opened, over the connections that its sources share."""
        if provider not in self._opens:
            # An SDK takes a quarter of a second to import, and most workers never need it.
            if provider == "stripe":
                from workers.fetching import stripe

                of_stripe = stripe.Connections(timeout_s)
                self._closing.append(of_stripe.close)
                self._opens[provider] = lambda _, key, base: stripe.StripeApi(key, base, of_stripe)
            elif provider == "polar":
                from workers.fetching import polar

                of_polar = polar.Connections(timeout_s)
                self._closing.append(of_polar.close)
                self._opens[provider] = lambda source, key, base: polar.PolarApi(
                    key, base or polar.base_of(source.livemode is not False), of_polar
                )
        return self._opens.get(provider)
