"""What the story needs configured, all of it named demo-…, and applied as a file would be."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shared.db import Conn
from shared.domain.catalog import FeatureValue
from shared.providers import providers
from shared.sealing import KeyRing, SealingError
from shared.store import configuration, tokens
from shared.store.configuration import StoredSource
from workers import configure
from workers.actions import new_action, record_action
from workers.declaration import Declaration, DeclaredPlan, DeclaredSource

SOURCE = "demo-stripe"
#: Where a partner pushes.
RESULTS = "demo-results"

#: What a row of theirs is: a record of the tenant that it names, whose newest version counts.
INGEST: Mapping[str, Any] = {
    "schema": {
        "required": ["id", "tenant", "updated_at", "score"],
        "properties": {"score": {"type": "integer"}},
    },
    "record": {
        "id": "id",
        "version": "updated_at",
        "tenant": "tenant",
        "fields": {"score": "score"},
    },
}

_TOKEN_LASTS = timedelta(minutes=10)

#: By the last word of the plan's name. The features' names are the demo's own too: in a catalog a
#: feature is of one kind, and nobody knows of which kind a production's "seats" are.
FEATURES: Mapping[str, Mapping[str, FeatureValue]] = {
    "basic": {"demo.calls": 1_000, "demo.seats": 3},
    "pro": {"demo.calls": 100_000, "demo.seats": 10, "demo.sso": True},
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What was applied. `livemode` is the deployment's; `push_secret` is the partner's."""

    version: int
    livemode: bool
    secret: str = field(repr=False)
    push_secret: str = field(repr=False)


async def prepare(conn: Conn, keys: KeyRing, actor: str) -> Setting:
    """
    Apply the sources with fresh secrets, and the plans; in the caller's transaction.

    The newest secret of each of before stays beside the fresh one, for a demo that somebody else
    runs.

    Raises:
        ConfigurationConflict: one of the sources has a history with another provider.
        SealingError: the database is sealed with a key that `keys` lacks.
    """
    await configuration.take_turn(conn)
    stored = await configuration.read_stored(conn)
    livemode = stored.mode == "live"
    fresh = {name: new_secret() for name in (SOURCE, RESULTS)}
    known = {
        name: [secret, *_newest(stored.sources.get(name), name, keys)]
        for name, secret in fresh.items()
    }
    declared = Declaration(
        mode=None,
        sources={
            SOURCE: DeclaredSource(
                name=SOURCE, provider="stripe", secrets=tuple(known[SOURCE]), livemode=livemode
            ),
            RESULTS: DeclaredSource(
                name=RESULTS,
                provider="standard-webhooks",
                secrets=tuple(known[RESULTS]),
                settings={"ingest": INGEST},
            ),
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
        known,
        keys,
        providers(),
        prune=False,
        actor=actor,
        shown_version=None,
    )
    return Setting(version, livemode, fresh[SOURCE], fresh[RESULTS])


async def issue_token(conn: Conn, tenant: str, actor: str) -> str:
    """A token of the API for this tenant, for ten minutes; in the caller's transaction."""
    token = tokens.new_token()
    scope = f"tenant:{tenant}"
    digest = tokens.digest_of(token)
    await tokens.create(conn, new_action(), "demo", scope, digest, actor, _TOKEN_LASTS)
    await record_action(conn, new_action(), "token.created", actor, after={"scope": scope})
    return token


def new_secret() -> str:
    """A secret that both Stripe's and Standard Webhooks' signatures can be made with."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def _newest(source: StoredSource | None, name: str, keys: KeyRing) -> list[str]:
    if source is None or not source.secrets:
        return []
    newest = max(source.secrets, key=lambda one: one.version)
    try:
        return [keys.open(newest.sealed, source=name, slot=newest.slot, version=newest.version)]
    except SealingError:
        return []
