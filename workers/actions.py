"""
What an operator did, in the audit trail.

Every action has an id of its own, and with it a chain of its own: operators never wait for each
other, nor for the fleet.
"""

import json
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from shared.db import Conn
from shared.domain.audit import Draft
from shared.store import audit

_REPLAYS = uuid5(NAMESPACE_OID, "sluice.replay")
_ACTS = uuid5(NAMESPACE_OID, "sluice.events.acts")
_JOBS = uuid5(NAMESPACE_OID, "sluice.job")


def new_action() -> UUID:
    """An id for an action that no other record needs to find."""
    return uuid4()


def replay_action(tracking_id: UUID, run: int) -> UUID:
    """The id of the action that opened this run: found from the event, without an index."""
    return uuid5(_REPLAYS, f"{tracking_id}:{run}")


def act_of(tracking_id: UUID) -> UUID:
    """The id under which the trail has what operators did to an event."""
    return uuid5(_ACTS, str(tracking_id))


def begin_action(job: UUID) -> UUID:
    """The id of the action that began this job: found from the job, without an index."""
    return uuid5(_JOBS, str(job))


def encoded(content: Mapping[str, Any]) -> bytes:
    """Content as the audit trail keeps it: JSON."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


async def record_action(
    conn: Conn,
    action_id: UUID,
    action: str,
    actor: str,
    *,
    source: str = "",
    subject: str = "",
    catalog_version: int = 0,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Write the action's record, step 0, in the transaction that does what it says."""
    now, xid = await audit.moment(conn)
    draft = Draft(
        chain=f"operator:{action_id}",
        cause="operator",
        cause_id=str(action_id),
        run=1,
        tenant="",
        step=0,
        action=action,
        actor=actor,
        source=source,
        subject=subject,
        catalog_version=catalog_version,
        before=None if before is None else encoded(before),
        after=None if after is None else encoded(after),
        reason=None if reason is None else reason.encode(),
    )
    await audit.append(conn, [draft], now=now, xid=xid)
