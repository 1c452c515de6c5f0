"""
A source's shadow: set, rotated in, or dropped, in the caller's transaction.

The gateways learn of it by the configuration's new version.
"""

from collections.abc import Collection, Mapping
from typing import Any

from shared import rotation
from shared.db import Conn
from shared.providers.base import Configured, Provider
from shared.sealing import SHADOW_SLOT, KeyRing
from shared.store import operating, shadows
from shared.store.integrations import Integration, SecretVersion
from shared.store.shadows import StoredShadow
from workers import rotating
from workers.rotating import Rotated

SET = "shadow.set"
DROPPED = "shadow.dropped"
PROMOTED = "shadow.promoted"


class NoShadow(Exception):
    """The source has none, or one that cannot be rotated in."""


def configured(
    source: Integration,
    known: Mapping[str, Provider],
    provider: str | None,
    signature: Mapping[str, Any] | None,
) -> Provider:
    """
    What the shadow is checked with.

    Raises:
        KeyError: there is no such provider here.
        ConfigurationError: it does not understand the signature, or the source's tables.
    """
    settings = dict(source.settings)
    if provider is not None or signature is not None:
        settings.pop("signature", None)
        if signature is not None:
            settings["signature"] = dict(signature)
    return known[provider or source.provider].for_source(
        Configured(settings, source.livemode, source.tenant)
    )


async def set_shadow(
    conn: Conn,
    source: Integration,
    secret: str,
    keys: KeyRing,
    *,
    provider: str | None,
    signature: Mapping[str, Any] | None,
    actor: str,
) -> int:
    """Set it, in place of one before; returns the version that it counts under."""
    version = await operating.add_version(conn, actor)
    sealed = keys.seal(secret, source=source.name, slot=SHADOW_SLOT, version=version)
    await shadows.put_shadow(
        conn,
        source.id,
        version,
        sealed,
        provider=provider,
        signature=signature,
        actor=actor,
    )
    await operating.keep_seal(conn, sealed.key_id)
    return version


async def drop_shadow(conn: Conn, source: Integration, actor: str) -> None:
    """
    Raises:
        NoShadow: see there.
    """
    if not await shadows.drop_shadow(conn, source.id):
        raise NoShadow(f"{source.name} has no shadow")
    await operating.add_version(conn, actor)


async def promote(
    conn: Conn,
    source: Integration,
    versions: list[SecretVersion],
    keys: KeyRing,
    *,
    known: Collection[str],
    slot: int | None,
    overlap_s: int,
    actor: str,
) -> Rotated:
    """
    Rotate the shadow's secret in; the one that it replaces works for `overlap_s` more. `known` are
    the source's secrets.

    Raises:
        NoShadow: there is none, or its scheme is another one: that is the file's to say.
        UnclearRotation: see `shared.rotation`.
        SealingError: it does not open.
    """
    found = (await shadows.read_shadows(conn, source.id)).get(source.id)
    if found is None:
        raise NoShadow(f"{source.name} has no shadow")
    if is_other_scheme(found):
        raise NoShadow(
            f"{source.name}'s shadow has another scheme: write it and its secret into the file, and"
            " apply that; then drop the shadow"
        )
    secret = keys.open(found.sealed, source=source.name, slot=SHADOW_SLOT, version=found.version)
    if secret in known:
        raise NoShadow(
            f"{source.name}'s shadow is one of its secrets by now: there is nothing to replace."
            " Drop the shadow"
        )
    place = rotation.place_of(versions, source.secret_version, slot)
    order = rotation.order_of(source.name, place, secret, keys, overlap_s=overlap_s)
    done = await rotating.rotate(conn, order, actor)
    await shadows.drop_shadow(conn, source.id)
    return done


def is_other_scheme(shadow: StoredShadow) -> bool:
    """Whether more than the secret is another one."""
    return shadow.provider is not None or shadow.signature is not None
