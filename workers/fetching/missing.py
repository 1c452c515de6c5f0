"""
Which events a provider has and we do not: a page of its list beside the ledger.

What the ledger lacks becomes an event under the identity that its webhook has, so that whichever
of the two comes later is a redelivery.
"""

import json
import logging
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from shared import telemetry
from shared.db import Conn
from shared.domain.events import lane_number, new_tracking_id, problem_with
from shared.providers.base import PayloadError
from shared.store import missed
from shared.store.missed import Found
from workers.fetching.answers import UNREADABLE, FetchFailed
from workers.fetching.api import Archive, Listed
from workers.fetching.asking import in_time
from workers.fetching.places import EventsPlace, groups_of, settled_until
from workers.fetching.targets import Target

log = logging.getLogger(__name__)

ACTOR = "system:reconcile"
_NAMED = 5  # in a line of the log


def groups(target: Target) -> list[Sequence[str]]:
    """The types that decide, as the source's provider can be asked for them."""
    assert isinstance(target.api, Archive)
    types = target.provider.event_types(target.source.settings)
    return groups_of(types, target.api.types_at_once)


async def ask_page(target: Target, place: EventsPlace, deadline: float) -> Listed:
    """
    The page of the list that the place is at.

    Raises:
        FetchFailed: there is none.
    """
    assert isinstance(target.api, Archive)
    account = place.accounts[place.account]
    asking = target.api.list_events(
        account,
        target.source.livemode is not False,
        groups(target)[place.group],
        place.since,
        place.until,
        place.after,
    )
    fields: dict[str, object] = {"source": target.source.name, "account": account}
    return await in_time(asking, target, deadline, fields)


async def lacking(conn: Conn, target: Target, listed: Listed) -> tuple[list[Found], int]:
    """
    What of the page the ledger lacks, the oldest first; and how much of it cannot be read. What
    its webhook may still bring is left out.

    Raises:
        FetchFailed: it is of the other mode.
    """
    source, unreadable = target.source, 0
    found: list[Found] = []
    headers = json.dumps(listed.headers).encode()
    settled_at = datetime.fromtimestamp(settled_until(listed), UTC)
    for item in reversed(listed.items):
        try:
            one = _found(target, item, headers)
            if one.identity.occurred_at is None or one.identity.occurred_at <= settled_at:
                found.append(one)
        except (PayloadError, ValueError) as error:
            unreadable += 1
            fields = {"source": source.name, "event": str(item.get("id")), "error": str(error)}
            log.error("an event of the list cannot be read", extra=fields)
    known: set[tuple[str, bool, str]] = set()
    for account, livemode in {(one.identity.account, one.identity.livemode) for one in found}:
        ids = [
            one.identity.event_id
            for one in found
            if (one.identity.account, one.identity.livemode) == (account, livemode)
        ]
        there = await missed.known_events(conn, source.id, account, livemode, ids)
        known |= {(account, livemode, event_id) for event_id in there}
    return [
        one
        for one in found
        if (one.identity.account, one.identity.livemode, one.identity.event_id) not in known
    ], unreadable


async def store(
    conn: Conn, target: Target, found: Sequence[Found], *, trace: str, job: UUID | None = None
) -> list[Found]:
    """
    Store these, outside of any transaction, and say so: somebody's webhooks are broken. Returns
    those whose webhook has not come meanwhile.
    """
    if not found:
        return []
    fresh = await missed.insert_missed(
        conn, target.source.id, found, actor=ACTOR, trace_context=trace, job=job
    )
    inserted = [one for one in found if one.tracking_id in fresh]
    if inserted:
        name = target.source.name
        telemetry.missed(name, len(inserted))
        log.error(
            "events were missed: no webhook brought them",
            extra={
                "source": name,
                "events": len(inserted),
                "types": dict(Counter(one.identity.event_type for one in inserted)),
                "first": [one.identity.event_id for one in inserted[:_NAMED]],
            },
        )
    return inserted


async def accounts_of(conn: Conn, source_id: int) -> tuple[str, ...]:
    """The accounts that a source has seen; its own where it has seen none."""
    return tuple(await missed.accounts_seen(conn, source_id)) or ("",)


def _found(target: Target, item: Mapping[str, Any], headers: bytes) -> Found:
    text = json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text.encode()
    identity = target.provider.identify((), body)
    problem = problem_with(identity)
    if problem is not None:
        raise PayloadError(problem)
    if identity.livemode is not (target.source.livemode is not False):
        raise FetchFailed(UNREADABLE, "the list holds an event of the other mode")
    return Found(
        tracking_id=new_tracking_id(datetime.now(UTC), secrets.token_bytes(10)),
        lane=target.source.lanes[lane_number(identity.subject)],
        identity=identity,
        headers=headers,
        body=body,
        body_sha=sha256(body).digest(),
    )
