"""What processes know of the configured sources: read whole, replaced whole."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from shared.db import Conn, Row
from shared.domain.events import LANES_PER_SOURCE, OPERATOR_SOURCE, lane_number
from shared.sealing import SHADOW_SLOT, KeyRing, Sealed, SealingError

log = logging.getLogger(__name__)

Mode = Literal["live", "test"]


@dataclass(frozen=True, slots=True)
class Secret:
    """
    One secret of a source, opened. `label` is how an inbox row names it; from `retires_at` on, in
    aware UTC, it opens nothing any more.
    """

    slot: int
    version: int
    plaintext: str
    retires_at: datetime | None = None

    @property
    def label(self) -> str:
        """The slot and its version, "slot.version"."""
        return f"{self.slot}.{self.version}"

    def __repr__(self) -> str:
        return f"Secret({self.label})"


@dataclass(frozen=True, slots=True)
class ShadowSecret:
    """
    A secret that is tried beside the real ones, opened. `provider` and `signature` are None where
    they are the source's own.
    """

    version: int
    plaintext: str = field(repr=False)
    provider: str | None = None
    signature: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """
    A configured origin of events.

    `livemode` is None where the provider has no such notion. `lanes` are lane ids, in the order
    of their numbers. `readable` is False where its events cannot be verified now: no secret, one
    that does not open, or lanes that are missing; its requests are told to come again.
    """

    id: int
    name: str
    provider: str
    livemode: bool | None
    tenant: str | None
    lanes: tuple[int, ...]
    secrets: tuple[Secret, ...]
    readable: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    shadow: ShadowSecret | None = None

    def lane_of(self, subject: str) -> int:
        """The id of the lane in which events of `subject` are applied."""
        return self.lanes[lane_number(subject)]

    def secrets_at(self, now: datetime) -> list[Secret]:
        """
        Those that open something now, in the order of their slots.

        To be asked anew for every request: what was loaded an hour ago may be retired since.
        """
        return [one for one in self.secrets if one.retires_at is None or now < one.retires_at]


@dataclass(frozen=True, slots=True)
class Configuration:
    """One version of what was applied: its sources by name."""

    version: int
    mode: Mode
    sources: Mapping[str, Source]
    operator: Source  # of what operators ask for; no request from outside is its


READ_VERSION = "SELECT version, mode FROM configuration ORDER BY version DESC LIMIT 1"


async def read_version(conn: Conn) -> tuple[int, Mode]:
    """The newest version, and the deployment's mode in it."""
    row = await conn.fetchrow(READ_VERSION)
    assert row is not None, "the migration wrote version 0"
    return row["version"], row["mode"]


READ_SEALS = "SELECT key_id FROM seals"


async def read_seals(conn: Conn) -> list[str]:
    """The ids of all keys this database was ever sealed with; see `KeyRing.check`."""
    return [row["key_id"] for row in await conn.fetch(READ_SEALS)]


# One statement, so one snapshot: the version never belongs to other sources than it came with.
READ_SOURCES = """
SELECT c.version, c.mode, s.id, s.name, s.provider, s.livemode, s.tenant, s.settings,
       ARRAY(SELECT l.id FROM lanes l WHERE l.source_id = s.id ORDER BY l.number) AS lanes
FROM (SELECT version, mode FROM configuration ORDER BY version DESC LIMIT 1) c
LEFT JOIN sources s ON s.removed_at IS NULL
"""
READ_OPERATOR = """
SELECT s.id, s.name, s.provider,
       ARRAY(SELECT l.id FROM lanes l WHERE l.source_id = s.id ORDER BY l.number) AS lanes
FROM sources s WHERE s.name = $1
"""
# What is retired already need not be opened, nor be openable.
READ_SECRETS = """
SELECT source_id, slot, version, key_id, nonce, ciphertext, retires_at
FROM source_secrets
WHERE retires_at IS NULL OR retires_at > now()
ORDER BY source_id, slot
"""
READ_SHADOWS = """
SELECT source_id, version, key_id, nonce, ciphertext, provider, signature FROM source_shadows
"""


async def load_configuration(conn: Conn, keys: KeyRing | None) -> Configuration:
    """
    Read every source that is not removed.

    Without `keys` (a worker, which has no right to the secrets) no source is readable. Secrets
    written between the two statements are newer than the version says; the next look at the
    version finds that out.
    """
    rows = await conn.fetch(READ_SOURCES)
    secrets: dict[int, list[Row]] = {}
    if keys is not None:
        for row in await conn.fetch(READ_SECRETS):
            secrets.setdefault(row["source_id"], []).append(row)
    shadows = {}
    if keys is not None:
        shadows = {row["source_id"]: row for row in await conn.fetch(READ_SHADOWS)}
    sources = {}
    for row in rows:
        if row["id"] is None:
            continue
        opened = _open(row["name"], secrets.get(row["id"], []), keys)
        sources[row["name"]] = Source(
            id=row["id"],
            name=row["name"],
            provider=row["provider"],
            livemode=row["livemode"],
            tenant=row["tenant"],
            lanes=tuple(row["lanes"]),
            secrets=opened or (),
            readable=bool(opened) and len(row["lanes"]) >= LANES_PER_SOURCE,
            settings=row["settings"],
            shadow=_shadow(row["name"], shadows.get(row["id"]), keys),
        )
    own = await conn.fetchrow(READ_OPERATOR, OPERATOR_SOURCE)
    assert own is not None  # a migration made it
    operator = Source(
        own["id"], own["name"], own["provider"], None, None, tuple(own["lanes"]), (), readable=False
    )
    return Configuration(rows[0]["version"], rows[0]["mode"], sources, operator)


def _open(source: str, rows: Sequence[Row], keys: KeyRing | None) -> tuple[Secret, ...] | None:
    """All secrets of a source, or None: with one of several missing, good requests would fail."""
    if keys is None:
        return None
    try:
        return tuple(_opened(source, row, keys) for row in rows)
    except SealingError as error:
        log.error("source cannot be read", extra={"source": source, "error": str(error)})
        return None


def _opened(source: str, row: Row, keys: KeyRing) -> Secret:
    slot, version = row["slot"], row["version"]
    sealed = Sealed(row["key_id"], row["nonce"], row["ciphertext"])
    plaintext = keys.open(sealed, source=source, slot=slot, version=version)
    return Secret(slot, version, plaintext, row["retires_at"])


def _shadow(source: str, row: Row | None, keys: KeyRing | None) -> ShadowSecret | None:
    """None as well where it does not open: what accepts nothing may keep nothing from working."""
    if row is None or keys is None:
        return None
    sealed = Sealed(row["key_id"], row["nonce"], row["ciphertext"])
    try:
        plaintext = keys.open(sealed, source=source, slot=SHADOW_SLOT, version=row["version"])
    except SealingError as error:
        log.error("a shadow cannot be read", extra={"source": source, "error": str(error)})
        return None
    return ShadowSecret(row["version"], plaintext, row["provider"], row["signature"])
