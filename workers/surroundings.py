"""
What a process that applies events knows besides the event: sources, mode and catalogs.

Read from Postgres when the configuration's version changes, and kept through a blip.
"""

from dataclasses import dataclass, field

from shared.db import Conn
from shared.domain.catalog import Catalog, Origin
from shared.domain.events import OWN_SOURCE, OWN_SOURCES
from shared.providers import OWN, providers
from shared.providers.base import ConfigurationError, Configured, Provider
from shared.store import grants
from shared.store.source_rows import SourceRow, read_mode, read_sources


class UnknownSource(Exception):
    """A source that the configuration does not have yet, or whose provider is not installed."""


@dataclass
class Surroundings:
    """
    `version` is the configuration's; -1 before the first `refresh`. `paused_lanes` are those of
    paused sources, as of then.
    """

    version: int = -1
    mode: str = "live"
    _sources: dict[int, SourceRow] = field(default_factory=dict)
    _catalogs: dict[int, Catalog] = field(default_factory=dict)
    _origins: dict[tuple[int, bool], Origin] = field(default_factory=dict)
    _providers: dict[int, Provider] = field(default_factory=dict)
    _has_own_sources: bool = False
    paused_lanes: frozenset[int] = frozenset()

    async def refresh(self, conn: Conn) -> bool:
        """Read again if the configuration's version is another one; whether it was."""
        version, mode = await read_mode(conn)
        # The own sources come by migrations, which may be run under a worker of this version.
        if version == self.version and self._has_own_sources:
            return False
        self._sources = {row.id: row for row in await read_sources(conn)}
        names = {row.name for row in self._sources.values() if row.provider == OWN.name}
        self._has_own_sources = names >= OWN_SOURCES
        paused = (row.lanes for row in self._sources.values() if row.is_paused)
        self.paused_lanes = frozenset[int]().union(*paused)
        self._origins = {}
        self._providers = {}
        self.version, self.mode = version, mode
        return True

    def source(self, source_id: int) -> SourceRow:
        """
        A source by its id, pruned ones included: their events still have to be applied.

        Raises:
            UnknownSource: a refresh may help.
        """
        try:
            return self._sources[source_id]
        except KeyError:
            raise UnknownSource(f"source {source_id} is not configured") from None

    def source_named(self, name: str) -> SourceRow:
        """
        A source by its name, pruned ones included.

        Raises:
            UnknownSource: there is none, as far as this process knows.
        """
        for row in self._sources.values():
            if row.name == name:
                return row
        raise UnknownSource(f"source {name} is not configured")

    def name_of(self, source_id: int) -> str:
        """A source's name for logs and metrics; its number where it is not known yet."""
        row = self._sources.get(source_id)
        return row.name if row is not None else str(source_id)

    @property
    def own_source(self) -> SourceRow:
        """
        The source of the events that bring handlers what they listen to.

        Raises:
            UnknownSource: nothing was read yet.
        """
        for row in self._sources.values():
            if row.name == OWN_SOURCE:
                return row
        raise UnknownSource("the configuration was not read yet")

    def provider_named(self, source: str) -> str:
        """
        Which provider the events of a source, by its name, are of.

        Raises:
            UnknownSource: a refresh may help.
        """
        return self.source_named(source).provider

    def source_ids_by_lane(self) -> dict[int, int]:
        """Which source each lane belongs to."""
        return {lane: row.id for row in self._sources.values() for lane in row.lanes}

    def provider(self, source_id: int) -> Provider:
        """
        The code for a source's events, as the source has it configured.

        Raises:
            UnknownSource: this process lacks it, or does not understand what the source says.
        """
        known = self._providers.get(source_id)
        if known is None:
            known = self._providers[source_id] = _provider_of(self.source(source_id))
        return known

    def origin(self, source_id: int, livemode: bool) -> Origin:
        """What deriving must know of where an object comes from."""
        known = self._origins.get((source_id, livemode))
        if known is None:
            known = self.source(source_id).origin(livemode, self.mode)
            self._origins[source_id, livemode] = known
        return known

    async def catalog(self, conn: Conn) -> Catalog:
        """
        The current catalog; call it under the tenants' locks only.

        With it come the mode and the sources of now, which decide as well: `sluice apply` writes
        a new catalog version where either changes what an object may grant.
        """
        await self.refresh(conn)
        version = await grants.current_catalog_version(conn)
        if version not in self._catalogs:
            document = await grants.read_catalog(conn, version)
            self._catalogs = {version: Catalog.read(version, document)}
        return self._catalogs[version]


def _provider_of(row: SourceRow) -> Provider:
    if row.provider == OWN.name:
        return OWN
    try:
        provider = providers()[row.provider]
    except KeyError:
        raise UnknownSource(f"{row.name}: no provider {row.provider!r}") from None
    try:
        return provider.for_source(Configured(row.settings, row.livemode, row.tenant))
    except ConfigurationError as error:
        path = ".".join(map(str, error.path))
        raise UnknownSource(f"{row.name}: {path}: {error.problem}") from None
