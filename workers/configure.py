"""
`sluice apply`: find the difference and write it.

One apply is one version in one transaction; applies take turns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from shared.db import Conn
from shared.domain.events import LANES_PER_SOURCE
from shared.providers.base import Provider
from shared.sealing import API_KEY_SLOT, KeyRing
from shared.store import configuration, shadows, source_keys
from shared.store.configuration import SealedSecret, Stored
from shared.store.source_keys import SourceKey
from workers.actions import new_action, record_action
from workers.declaration import Declaration, DeclaredSource
from workers.difference import ApiKeys, Difference, compare
from workers.slots import SecretChange

_NO_KEYS: Mapping[str, str] = MappingProxyType({})


class ConfigurationConflict(Exception):
    """What is asked for does not fit what holds, or what holds has changed since it was shown."""


class Overtaken(ConfigurationConflict):
    """Somebody else applied since it was shown: look again."""


async def difference(
    conn: Conn,
    declared: Declaration,
    secrets: Mapping[str, Sequence[str]],
    keys: KeyRing,
    providers: Mapping[str, Provider],
    *,
    prune: bool,
    api_keys: Mapping[str, str] = _NO_KEYS,
) -> tuple[Stored, Difference]:
    """
    Compare with the database, and find who would lose what.

    `secrets` and `api_keys` are the resolved ones by source; every source that declares an
    `api_key` must be among the latter.

    Raises:
        DeclarationError: see `compare`.
        SealingError: the database is sealed with a key that `keys` lacks.
        ConfigurationConflict: a source with a history would change its provider.
    """
    stored = await configuration.read_stored(conn)
    keys.check(stored.seals)
    at_rest = ApiKeys(api_keys, await source_keys.read_keys(conn))
    found = compare(stored, declared, secrets, keys, providers, prune=prune, api_keys=at_rest)
    for name, source in declared.sources.items():
        before = stored.sources.get(name)
        if before is None or before.provider == source.provider:
            continue
        if await configuration.has_history(conn, before.id):
            raise ConfigurationConflict(
                f"sources.{name}.provider: its history is {before.provider}'s and would be misread"
                f" by {source.provider}; give the new source another name"
            )
    pruned = [change for change in found.changes if change.action == "removed"]
    if not pruned:
        return stored, found
    plans = [change.name for change in pruned if change.kind == "plan"]
    sources = [stored.sources[change.name].id for change in pruned if change.kind == "source"]
    losses = tuple(await configuration.who_holds(conn, plans, sources))
    return stored, replace(found, losses=losses)


async def apply(
    conn: Conn,
    declared: Declaration,
    secrets: Mapping[str, Sequence[str]],
    keys: KeyRing,
    providers: Mapping[str, Provider],
    *,
    prune: bool,
    actor: str,
    shown_version: int | None,
    api_keys: Mapping[str, str] = _NO_KEYS,
    reason: str | None = None,
) -> tuple[int, Difference]:
    """
    Write the difference, in the caller's transaction; returns the version that holds afterwards.

    `shown_version` is the version that the operator's consent was given for; None: any.

    Raises:
        Overtaken: somebody else applied meanwhile; nothing was written.
        ConfigurationConflict: see `difference`.
        DeclarationError, SealingError: see `difference`.
    """
    await configuration.take_turn(conn)
    stored, found = await difference(
        conn, declared, secrets, keys, providers, prune=prune, api_keys=api_keys
    )
    if shown_version is not None and shown_version != stored.version:
        raise Overtaken(
            f"version {stored.version} was applied while this one was being looked at; apply again"
        )
    if found.is_empty:
        return stored.version, found
    version = stored.version + 1
    await configuration.insert_version(conn, version, actor, found.mode)
    for name, source in declared.sources.items():
        source_id = await configuration.upsert_source(
            conn, name, source.provider, source.livemode, source.tenant, source.settings
        )
        await configuration.add_lanes(conn, source_id, LANES_PER_SOURCE)
        await _write_secrets(conn, source_id, name, found.secrets[name], version, keys)
        if name in found.api_keys:
            await _write_key(conn, source_id, source, found.api_keys[name], version, keys)
    for change in found.changes:
        if change.kind == "source" and change.action == "removed":
            gone = stored.sources[change.name]
            await configuration.remove_source(conn, gone.id)
            await configuration.delete_secrets(conn, gone.id, [s.slot for s in gone.secrets])
            await source_keys.delete_key(conn, gone.id)
            await shadows.drop_shadow(conn, gone.id)
    # A new version, also of the same plans, is what has every tenant derived again.
    if found.derives_again:
        await configuration.insert_catalog(conn, found.catalog_version, actor, found.catalog)
    await record_action(
        conn,
        new_action(),
        "configuration.applied",
        actor,
        catalog_version=found.catalog_version,
        before={
            "version": stored.version,
            "catalogVersion": stored.catalog_version,
            "mode": stored.mode,
        },
        after={
            "version": version,
            "catalogVersion": found.catalog_version,
            "mode": found.mode,
            "changes": [change.shown() for change in found.changes if change.is_written],
        },
        reason=reason,
    )
    return version, found


async def _write_secrets(
    conn: Conn, source_id: int, source: str, change: SecretChange, version: int, keys: KeyRing
) -> None:
    await configuration.delete_secrets(conn, source_id, change.gone)
    if change.adopted:
        await configuration.adopt_secrets(conn, source_id, change.adopted)
    for slot, plaintext in change.new:
        # The configuration's version: no two secrets ever had the same label, although slots are
        # used again.
        sealed = keys.seal(plaintext, source=source, slot=slot, version=version)
        await configuration.put_secret(conn, source_id, SealedSecret(slot, version, sealed))
        await configuration.insert_seal(conn, sealed.key_id)


async def _write_key(
    conn: Conn,
    source_id: int,
    source: DeclaredSource,
    key: str | None,
    version: int,
    keys: KeyRing,
) -> None:
    if key is None:
        await source_keys.delete_key(conn, source_id)
        return
    sealed = keys.seal(
        key, source=source.name, slot=API_KEY_SLOT, version=version, address=source.api_base
    )
    await source_keys.put_key(conn, source_id, SourceKey(version, sealed, source.api_base))
    await configuration.insert_seal(conn, sealed.key_id)
