"""
The write side of configuration: what `sluice apply` compares with, and what it writes.

Versions only grow; whoever writes one first takes its turn, so that two applies never share a
number. Reading the configuration to run by it is `shared.store.sources`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.db import Conn, Row
from shared.sealing import Sealed


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """
    One secret at rest. `version` is bound into the ciphertext with the source and the slot. From
    `retires_at` on it opens nothing: it was rotated out, and `is_retired` once that has passed.
    `added_by` rotated it in; None: an apply wrote it.
    """

    slot: int
    version: int
    sealed: Sealed
    retires_at: datetime | None = None
    is_retired: bool = False
    added_by: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source as it was last applied. `livemode` is None where the provider has no such notion."""

    id: int
    name: str
    provider: str
    livemode: bool | None
    tenant: str | None
    settings: Mapping[str, Any]
    removed: bool
    secrets: tuple[SealedSecret, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """The configuration that holds now; `plans` and `features` are its catalog's document."""

    version: int
    mode: str
    sources: Mapping[str, StoredSource] = field(default_factory=dict)
    catalog_version: int = 0
    plans: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    seals: frozenset[str] = frozenset()


WAIT_LONGER = "SELECT set_config('lock_timeout', '30s', true)"
TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('sluice.apply'))"


async def take_turn(conn: Conn) -> None:
    """Wait for every other apply; the lock goes with the transaction."""
    await conn.execute(WAIT_LONGER)
    await conn.execute(TAKE_TURN)


READ_VERSION = "SELECT version, mode FROM configuration ORDER BY version DESC LIMIT 1"
READ_CATALOG = "SELECT version, document FROM catalogs ORDER BY version DESC LIMIT 1"
READ_SEALS = "SELECT key_id FROM seals"
READ_SOURCES = """
SELECT id, name, provider, livemode, tenant, settings, removed_at IS NOT NULL AS removed
FROM sources
WHERE provider <> 'sluice'
ORDER BY name
"""
READ_SECRETS = """
SELECT source_id, slot, version, key_id, nonce, ciphertext, retires_at,
       coalesce(retires_at <= now(), false) AS is_retired, added_by
FROM source_secrets
ORDER BY source_id, slot
"""


async def read_stored(conn: Conn) -> Stored:
    """What holds now. Only a caller that took its turn may build the next version upon it."""
    version = await conn.fetchrow(READ_VERSION)
    catalog = await conn.fetchrow(READ_CATALOG)
    # The migration made version 0 of both.
    assert version is not None
    assert catalog is not None
    secrets: dict[int, list[SealedSecret]] = {}
    for row in await conn.fetch(READ_SECRETS):
        secrets.setdefault(row["source_id"], []).append(
            SealedSecret(
                row["slot"],
                row["version"],
                Sealed(row["key_id"], row["nonce"], row["ciphertext"]),
                row["retires_at"],
                row["is_retired"],
                row["added_by"],
            )
        )
    sources = {}
    for row in await conn.fetch(READ_SOURCES):
        sources[row["name"]] = StoredSource(
            id=row["id"],
            name=row["name"],
            provider=row["provider"],
            livemode=row["livemode"],
            tenant=row["tenant"],
            settings=row["settings"],
            removed=row["removed"],
            secrets=tuple(secrets.get(row["id"], ())),
        )
    return Stored(
        version=version["version"],
        mode=version["mode"],
        sources=sources,
        catalog_version=catalog["version"],
        plans=catalog["document"].get("plans", {}),
        features=catalog["document"].get("features", {}),
        seals=frozenset(row["key_id"] for row in await conn.fetch(READ_SEALS)),
    )


INSERT_VERSION = "INSERT INTO configuration (version, actor, mode) VALUES ($1, $2, $3)"


async def insert_version(conn: Conn, version: int, actor: str, mode: str) -> None:
    """The row by which every process learns that there is something new."""
    await conn.execute(INSERT_VERSION, version, actor, mode)


INSERT_CATALOG = "INSERT INTO catalogs (version, actor, document) VALUES ($1, $2, $3)"


async def insert_catalog(conn: Conn, version: int, actor: str, document: Mapping[str, Any]) -> None:
    """A new catalog; the sweep recomputes the tenants whose version is older."""
    await conn.execute(INSERT_CATALOG, version, actor, dict(document))


UPSERT_SOURCE = """
INSERT INTO sources (name, provider, livemode, tenant, settings)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE
SET provider = excluded.provider, livemode = excluded.livemode, tenant = excluded.tenant,
    settings = excluded.settings, removed_at = NULL
RETURNING id
"""


async def upsert_source(
    conn: Conn,
    name: str,
    provider: str,
    livemode: bool | None,
    tenant: str | None,
    settings: Mapping[str, Any],
) -> int:
    """Write a source by its name, back from removal if need be; returns its id."""
    source_id: int = await conn.fetchval(
        UPSERT_SOURCE, name, provider, livemode, tenant, dict(settings)
    )
    return source_id


ADD_LANES = """
INSERT INTO lanes (source_id, number)
SELECT $1, number FROM generate_series(0, $2 - 1) AS number
ON CONFLICT (source_id, number) DO NOTHING
"""


async def add_lanes(conn: Conn, source_id: int, count: int) -> None:
    """The source's lanes 0 to `count - 1`, where they do not exist yet."""
    await conn.execute(ADD_LANES, source_id, count)


FILL_SLOT = """
INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (source_id, slot) DO UPDATE
SET version = excluded.version, key_id = excluded.key_id, nonce = excluded.nonce,
    ciphertext = excluded.ciphertext, added_at = now(), retires_at = NULL, added_by = NULL
"""
NOTE_VERSION = "UPDATE sources SET secret_version = greatest(secret_version, $2) WHERE id = $1"


async def put_secret(conn: Conn, source_id: int, secret: SealedSecret) -> None:
    """Write one slot; a rotation that was sealed before meets a newer version then."""
    await conn.execute(
        FILL_SLOT,
        source_id,
        secret.slot,
        secret.version,
        secret.sealed.key_id,
        secret.sealed.nonce,
        secret.sealed.ciphertext,
    )
    await conn.execute(NOTE_VERSION, source_id, secret.version)


ADOPT_SECRETS = """
UPDATE source_secrets SET added_by = NULL WHERE source_id = $1 AND slot = ANY($2::smallint[])
"""


async def adopt_secrets(conn: Conn, source_id: int, slots: Sequence[int]) -> None:
    """Say of secrets that were rotated in that the file has them now."""
    await conn.execute(ADOPT_SECRETS, source_id, list(slots))


DELETE_SECRETS = "DELETE FROM source_secrets WHERE source_id = $1 AND slot = ANY($2::smallint[])"


async def delete_secrets(conn: Conn, source_id: int, slots: Sequence[int]) -> None:
    """Forget secrets that are no longer declared."""
    await conn.execute(DELETE_SECRETS, source_id, list(slots))


INSERT_SEAL = "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT (key_id) DO NOTHING"


async def insert_seal(conn: Conn, key_id: str) -> None:
    """From now on, a process without this key refuses to start."""
    await conn.execute(INSERT_SEAL, key_id)


REMOVE_SOURCE = """
UPDATE sources SET removed_at = now(), paused_at = NULL, paused_by = NULL WHERE id = $1
"""


async def remove_source(conn: Conn, source_id: int) -> None:
    """
    The source answers no more; its id, lanes and history stay. It is not paused any longer: what it
    sent would wait for ever, and grants nothing any more.
    """
    await conn.execute(REMOVE_SOURCE, source_id)


HAS_HISTORY = "SELECT EXISTS (SELECT 1 FROM ledger WHERE source_id = $1)"


async def has_history(conn: Conn, source_id: int) -> bool:
    """Whether an event of the source was ever received."""
    return bool(await conn.fetchval(HAS_HISTORY, source_id))


WHO_HOLDS = """
SELECT g.plan, g.tenant, array_agg(DISTINCT g.feature ORDER BY g.feature) AS features
FROM grants AS g JOIN objects AS o ON o.id = g.object
WHERE (g.plan = ANY($1::text[]) OR o.source_id = ANY($2::smallint[]))
  AND (g.valid_until IS NULL OR now() < g.valid_until)
GROUP BY g.plan, g.tenant
ORDER BY g.plan, g.tenant
"""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a tenant has by one plan."""

    plan: str
    tenant: str
    features: tuple[str, ...]


async def who_holds(conn: Conn, plans: Sequence[str], source_ids: Sequence[int]) -> list[Holding]:
    """The tenants with grants of these plans or from these sources, and what each would lose."""
    rows = await conn.fetch(WHO_HOLDS, list(plans), list(source_ids))
    return [Holding(row["plan"], row["tenant"], tuple(row["features"])) for row in rows]


LIST_SOURCES = """
SELECT s.id, s.name, s.provider, s.livemode, s.tenant, s.settings, s.created_at, s.removed_at,
       s.paused_at, s.paused_by,
       (SELECT count(*) FROM source_secrets
        WHERE source_id = s.id AND (retires_at IS NULL OR retires_at > now())) AS secrets,
       (SELECT count(*) FROM lanes WHERE source_id = s.id) AS lanes,
       k.source_id IS NOT NULL AS has_api_key, k.api_base,
       (SELECT count(*) FROM objects AS o
        WHERE o.source_id = s.id AND o.wants IS NOT NULL) AS wanting,
       CASE WHEN b.open_until > now() THEN b.open_until END AS stopped_until,
       CASE WHEN b.open_until > now() THEN b.last_error ELSE f.error END AS fetch_error,
       f.failing,
       (SELECT count(*) FROM objects AS o
        WHERE o.source_id = s.id AND o.wants = 'missing') AS missing,
       r.round, r.phase, r.begun_at, r.finished_at, r.looked_at, r.different, r.failed,
       r.last_error AS reconcile_error
FROM sources AS s
LEFT JOIN source_keys AS k ON k.source_id = s.id
LEFT JOIN fetch_budgets AS b ON b.source_id = s.id
LEFT JOIN reconciliations AS r ON r.source_id = s.id
CROSS JOIN LATERAL (
    SELECT count(*) AS failing,
           (array_agg(last_code || ': ' || last_error ORDER BY number DESC))[1] AS error
    FROM fetches WHERE source_id = s.id AND attempts > 0
) AS f
WHERE ($1::text IS NULL OR s.name > $1) AND ($2::boolean OR s.removed_at IS NULL)
  AND s.provider <> 'sluice'
ORDER BY s.name
LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class ListedRound:
    """
    How far the reconciliation of a source is: `phase` is None between two rounds. The counts are
    of customers, and of the round under way or else the last one.
    """

    round: int
    phase: str | None
    begun_at: datetime | None
    finished_at: datetime | None
    looked_at: int
    different: int
    failed: int
    error: str | None


@dataclass(frozen=True, slots=True)
class ListedSource:
    """
    A source for people: how many secrets it has that open something, never one of them.

    `wanting` of its objects want to be fetched, `failing` of these were and could not be;
    `stopped_until` is set while nothing is fetched, `fetch_error` says why it fails. `missing` of
    them give access, and a newer summary of their customer does not list them. `reconciled` is
    None where nobody ever began to.
    """

    name: str
    provider: str
    livemode: bool | None
    tenant: str | None
    settings: Mapping[str, Any]
    secrets: int
    lanes: int
    created_at: datetime
    removed_at: datetime | None
    has_api_key: bool
    api_base: str | None
    wanting: int
    failing: int
    stopped_until: datetime | None
    fetch_error: str | None
    missing: int
    reconciled: ListedRound | None
    paused_at: datetime | None
    paused_by: str | None


async def list_sources(
    conn: Conn, after: str | None, *, removed: bool, limit: int
) -> list[ListedSource]:
    """By name; with `removed`, the pruned ones too."""
    return [_listed(row) for row in await conn.fetch(LIST_SOURCES, after, removed, limit)]


def _listed(row: Row) -> ListedSource:
    return ListedSource(
        name=row["name"],
        provider=row["provider"],
        livemode=row["livemode"],
        tenant=row["tenant"],
        settings=row["settings"],
        secrets=row["secrets"],
        lanes=row["lanes"],
        created_at=row["created_at"],
        removed_at=row["removed_at"],
        has_api_key=row["has_api_key"],
        api_base=row["api_base"],
        wanting=row["wanting"],
        failing=row["failing"],
        stopped_until=row["stopped_until"],
        fetch_error=row["fetch_error"],
        missing=row["missing"],
        reconciled=_listed_round(row) if row["round"] is not None else None,
        paused_at=row["paused_at"],
        paused_by=row["paused_by"],
    )


def _listed_round(row: Row) -> ListedRound:
    return ListedRound(
        round=row["round"],
        phase=row["phase"],
        begun_at=row["begun_at"],
        finished_at=row["finished_at"],
        looked_at=row["looked_at"],
        different=row["different"],
        failed=row["failed"],
        error=row["reconcile_error"],
    )
