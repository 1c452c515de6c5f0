"""What the story needs configured, all of it named demo-…, and applied as a file would be."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.db import Conn
from shared.domain.catalog import FeatureValue
from shared.providers import providers
from shared.sealing import KeyRing, SealingError
from shared.store import configuration
from shared.store.configuration import StoredSource
from workers import configure
from workers.declaration import Declaration, DeclaredPlan, DeclaredSource

SOURCE = "demo-stripe"

#: By the last word of the plan's name. The features' names are the demo's own too: in a catalog a
#: feature is of one kind, and nobody knows of which kind a production's "seats" are.
FEATURES: Mapping[str, Mapping[str, FeatureValue]] = {
    "basic": {"demo.calls": 1_000, "demo.seats": 3},
    "pro": {"demo.calls": 100_000, "demo.seats": 10, "demo.sso": True},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What was applied. `livemode` is the deployment's."""

    version: int
    livemode: bool
    secret: str = field(repr=False)


async def prepare(conn: Conn, keys: KeyRing, actor: str) -> Setting:
    """
    Apply the source with a fresh secret, and the plans; in the caller's transaction.

    The newest secret of before stays beside the fresh one, for a demo that somebody else runs.

    Raises:
        ConfigurationConflict: a source demo-stripe of another provider has a history.
        SealingError: the database is sealed with a key that `keys` lacks.
    """
    await configuration.take_turn(conn)
    stored = await configuration.read_stored(conn)
    livemode = stored.mode == "live"
    secret = f"whsec_{secrets.token_urlsafe(24)}"
    known = [secret, *_newest(stored.sources.get(SOURCE), keys)]
    declared = Declaration(
        mode=None,
        sources={
            SOURCE: DeclaredSource(
                name=SOURCE, provider="stripe", secrets=tuple(known), livemode=livemode
            )
        },
        plans={
            f"demo-{name}": DeclaredPlan(
                name=f"demo-{name}",
                products=(f"{SOURCE}:prod_demo_{name}",),
                features=features,
            )
            for name, features in FEATURES.items()
        },
    )
    version, _ = await configure.apply(
        conn,
        declared,
        {SOURCE: known},
        keys,
        providers(),
        prune=False,
        actor=actor,
        shown_version=None,
    )
    return Setting(version, livemode, secret)


def _newest(source: StoredSource | None, keys: KeyRing) -> list[str]:
    if source is None or not source.secrets:
        return []
    newest = max(source.secrets, key=lambda one: one.version)
    try:
        return [keys.open(newest.sealed, source=SOURCE, slot=newest.slot, version=newest.version)]
    except SealingError:
        return []
