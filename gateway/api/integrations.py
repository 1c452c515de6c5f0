"""Sources, how they are, and what may be done to one: `/api/v1/integrations/{source}/…`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from gateway.api.operations import (
    OPERATORS,
    ORDER_ERRORS,
    SERVICES,
    Call,
    Nothing,
    Operation,
    OrderPlaced,
    Paged,
    Reason,
    Shown,
    no_such,
)
from gateway.sources import Entrance, NotConfigured, UnknownSource
from shared.domain.commands import PauseSource, ResumeSource
from shared.providers import providers
from shared.store import integrations as store
from shared.store.integrations import Activity, Integration, SecretVersion
from shared.store.paging import page_of


class Health(msgspec.Struct, rename="camel"):
    """
    How it goes with a source. `lastReceivedAt` and `lastSettledAt` are null where that was longer
    ago than the newest events reach; `silentSince` says since when nothing came, at least.
    `unfinished` events wait or are tried again, the first of them for `oldestUnfinishedS` seconds;
    `dead` ones wait for somebody. `providerInstalled` and `isReadable` are this gateway's: whether
    it has the code for the source, and can verify what it sends.
    """

    last_received_at: datetime | None
    silent_since: datetime
    last_settled_at: datetime | None
    unfinished: int
    oldest_unfinished_s: float | None
    dead: int
    provider_installed: bool
    is_readable: bool


class Secret(msgspec.Struct, rename="camel"):
    """
    A secret, and never its value. Events that it proved carry its `label`. `active` is what has no
    end, `retiring` works until `retiresAt`, `retired` opens nothing any more. `keyId` says with
    which key it is sealed; `addedBy` who rotated it in, null where the configuration has it.
    """

    label: str
    slot: int
    version: int
    state: str
    added_at: datetime
    added_by: str | None
    retires_at: datetime | None
    key_id: str


class Source(msgspec.Struct, rename="camel"):
    """
    A source. Its provider sends `eventTypes` to `webhookUrl`; third parties push results to
    `ingestUrl`, which is null where the source takes none. `livemode` is null where the provider
    has no such notion. While it is paused its events are stored, and none is applied.
    """

    name: str
    provider: str
    livemode: bool | None
    tenant: str | None
    webhook_url: str
    ingest_url: str | None
    event_types: list[str]
    is_paused: bool
    paused_at: datetime | None
    paused_by: str | None
    has_api_key: bool
    secrets: list[Secret]
    health: Health
    created_at: datetime


async def list_sources(call: Call[Paged, Nothing]) -> Shown:
    """The sources by name, each as it is now."""
    limit = call.query.limit
    after = call.after("integrations", call.query.cursor, str)
    async with call.reading() as conn:
        rows = await store.list_integrations(conn, after, limit + 1)
        ids = [row.id for row in rows[:limit]]
        activity = await store.read_activity(conn, ids)
        secrets = await store.read_secret_versions(conn, ids)
    shown = {
        row.id: msgspec.to_builtins(
            await _shown(call, row, activity[row.id], secrets[row.id]), str_keys=True
        )
        for row in rows[:limit]
    }
    page = page_of(rows, limit, lambda row: shown[row.id], lambda row: (row.name,))
    return call.page("integrations", page, limit)


async def read_source(call: Call[Nothing, Nothing]) -> Shown:
    """One source as it is now; 404 for one that is not configured."""
    name = call.path["source"]
    async with call.reading() as conn:
        row = await store.read_integration(conn, name)
        if row is None:
            raise no_such("source")
        activity = await store.read_activity(conn, [row.id])
        secrets = await store.read_secret_versions(conn, [row.id])
    return Shown(await _shown(call, row, activity[row.id], secrets[row.id]))


async def pause_source(call: Call[Nothing, Reason]) -> Shown:
    """
    Receive and store the source's events from now on, and apply none.

    The answer comes when the order is stored. What a worker is applying at that moment is finished;
    nothing is lost, and `resume` has all that waited applied.
    """
    name = await _known(call)
    return await call.order(PauseSource(name), reason=call.body.reason)


async def resume_source(call: Call[Nothing, Reason]) -> Shown:
    """Apply the source's events again, those that waited first."""
    name = await _known(call)
    return await call.order(ResumeSource(name), reason=call.body.reason)


async def _known(call: Call[Nothing, Reason]) -> str:
    name = call.path["source"]
    async with call.reading() as conn:
        if await store.read_integration(conn, name) is None:
            raise no_such("source")
    return name


async def entrance_of(call: Call[Any, Any], name: str) -> Entrance | None:
    """The source as this gateway has it; None where it has not (yet)."""
    try:
        return await call.api.sources.find(name)
    except (UnknownSource, NotConfigured):
        return None


async def _shown(
    call: Call[Any, Any],
    row: Integration,
    activity: Activity,
    secrets: Sequence[SecretVersion],
) -> Source:
    entrance = await entrance_of(call, row.name)
    provider = providers().get(row.provider)
    base = (call.api.public_url or str(call.request.base_url)).rstrip("/") + "/api/v1"
    path = quote(row.name)
    return Source(
        name=row.name,
        provider=row.provider,
        livemode=row.livemode,
        tenant=row.tenant,
        webhook_url=f"{base}/webhooks/{path}",
        ingest_url=f"{base}/ingest/{path}" if "ingest" in row.settings else None,
        event_types=list(provider.event_types(row.settings)) if provider is not None else [],
        is_paused=row.paused_at is not None,
        paused_at=row.paused_at,
        paused_by=row.paused_by,
        has_api_key=row.has_api_key,
        secrets=[_secret(one) for one in secrets],
        health=Health(
            last_received_at=activity.received_at,
            silent_since=activity.received_at or activity.looked_from or row.created_at,
            last_settled_at=activity.settled_at,
            unfinished=activity.unfinished,
            oldest_unfinished_s=activity.oldest_unfinished_s,
            dead=activity.dead,
            provider_installed=provider is not None,
            is_readable=entrance is not None and entrance.provider is not None,
        ),
        created_at=row.created_at,
    )


def _secret(one: SecretVersion) -> Secret:
    ends = "retired" if one.is_retired else "retiring"
    return Secret(
        label=f"{one.slot}.{one.version}",
        slot=one.slot,
        version=one.version,
        state="active" if one.retires_at is None else ends,
        added_at=one.added_at,
        added_by=one.added_by,
        retires_at=one.retires_at,
        key_id=one.key_id,
    )


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/integrations",
        list_sources,
        "The sources, and how they are",
        Source,
        who=SERVICES,
        query=Paged,
        is_list=True,
        tag="integrations",
    ),
    Operation(
        "GET",
        "/api/v1/integrations/{source}",
        read_source,
        "A source, and how it is",
        Source,
        who=SERVICES,
        tag="integrations",
    ),
    Operation(
        "POST",
        "/api/v1/integrations/{source}/pause",
        pause_source,
        "Store a source's events, and apply none",
        OrderPlaced,
        who=OPERATORS,
        body=Reason,
        status=202,
        errors=ORDER_ERRORS,
        tag="integrations",
    ),
    Operation(
        "POST",
        "/api/v1/integrations/{source}/resume",
        resume_source,
        "Apply a source's events again",
        OrderPlaced,
        who=OPERATORS,
        body=Reason,
        status=202,
        errors=ORDER_ERRORS,
        tag="integrations",
    ),
)
