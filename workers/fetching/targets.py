"""Which sources can be asked, and with which key."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.db import Conn
from shared.providers.base import Provider
from shared.sealing import API_KEY_SLOT, KeyRing, SealingError
from shared.store import fetches, source_keys
from shared.store.source_keys import SourceKey
from shared.store.source_rows import SourceRow
from workers.fetching.pacing import Pace
from workers.surroundings import Surroundings, UnknownSource

if TYPE_CHECKING:
    from workers.fetching.stripe import Connections, StripeApi

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A source that can be asked. `key_version` tells its keys apart: a newer one is larger."""

    source: SourceRow
    provider: Provider
    key_version: int
    api: "StripeApi"


class Targets:
    """
    The targets of one process, learned anew when the configuration's version changes.

    `keys` is None in a process without SLUICE_SECRET_KEY, which can ask nobody.
    """

    def __init__(self, keys: KeyRing | None, pace: Pace) -> None:
        self._keys = keys
        self._pace = pace
        self._connections: Connections | None = None
        self._version = -1
        self.by_source: dict[int, Target] = {}
        self.kinds: frozenset[str] = frozenset()

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
        if self._connections is not None:
            await self._connections.close()

    def _target(self, source: SourceRow, provider: Provider, key: SourceKey) -> Target | None:
        # The SDK takes a quarter of a second to import, and most workers never need it.
        from workers.fetching import stripe

        if source.provider != stripe.PROVIDER:
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
        if self._connections is None:
            self._connections = stripe.Connections(self._pace.within_s)
        self.kinds = stripe.KINDS
        api = stripe.StripeApi(plaintext, key.api_base, self._connections)
        return Target(source, provider, key.version, api)
