"""What came, and what became of it: an event's part of a bundle, as far as it is the tenant's."""

import hashlib
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.audit import actor_for_tenant
from shared.domain.events import IMPORT, OWN_PROVIDER, received_at_of
from shared.store import disputes, events
from shared.store.events import Evidence
from shared.store.paging import iso
from shared.store.source_rows import SourceRow
from workers.bundles.tape import Tape
from workers.bundles.telling import Scope


async def add_event(
    conn: Conn,
    tape: Tape,
    tracking_id: UUID,
    scope: Scope,
    sources: dict[int, SourceRow],
    *,
    is_shared: bool,
) -> bool:
    """
    `events/ID/event.json`, and where they are the tenant's alone `headers.json` and `body`, as they
    came. Whether the body is there.
    """
    place = f"events/{tracking_id}"
    evidence = await events.read_event(conn, tracking_id)
    held_back = _held_back(evidence, sources, is_shared=is_shared)
    body = None if evidence is None or held_back is not None else evidence.arrival.body
    about: dict[str, Any] = {
        "trackingId": str(tracking_id),
        "receivedAt": iso(received_at_of(tracking_id)),
        "body": "here" if body is not None else held_back,
        "bodySha256": None if body is None else hashlib.sha256(body).hexdigest(),
    }
    if evidence is not None and held_back != "concerns others too":
        about |= _of_evidence(evidence)
    if held_back != "concerns others too":
        about |= await _became(conn, tracking_id, scope)
    tape.add_json(f"{place}/event.json", about)
    if body is None:
        return False
    headers = await disputes.read_headers(conn, tracking_id)
    tape.add(f"{place}/headers.json", headers or b"[]")
    tape.add(f"{place}/body", body)
    return True


def _held_back(
    evidence: Evidence | None, sources: dict[int, SourceRow], *, is_shared: bool
) -> str | None:
    """Why the body is not there; None where it is."""
    if is_shared:
        return "concerns others too"
    if evidence is None:
        return "erased, or gone by retention"
    source = sources.get(evidence.source_id)
    if evidence.arrival.identity.event_type == IMPORT:
        return "rows of several tenants may be in it; those of this one are in the records"
    if evidence.artifact is not None:
        return f"in the artifact store: sha256:{evidence.artifact.hex()}"
    if source is None or source.provider == OWN_PROVIDER:
        return "an order of an operator, or made by Sluice itself"
    return None if evidence.arrival.body else "erased"


def _of_evidence(evidence: Evidence) -> dict[str, Any]:
    identity = evidence.arrival.identity
    return {
        "source": evidence.shown["source"],
        "eventId": identity.event_id,
        "type": identity.event_type,
        "occurredAt": iso(identity.occurred_at),
        "account": identity.account,
        "livemode": identity.livemode,
        "subject": identity.subject,
        # Which secret matched: its slot and version.
        "secret": evidence.secret,
        "verdict": evidence.unreadable or "verified",
        "traceContext": evidence.trace_context,
    }


async def _became(conn: Conn, tracking_id: UUID, scope: Scope) -> dict[str, Any]:
    """Of errors the codes only: what stands behind them may speak of anybody."""
    runs = await events.read_runs(conn, tracking_id)
    names = {None, *scope.names}
    kept = ("run", "status", "outcome", "code", "tenant", "attempts", "settledAt")
    failures = await events.read_failures(conn, tracking_id)
    return {
        "deliveriesAfterTheFirst": await events.read_redeliveries(conn, tracking_id),
        "runs": [
            {name: run[name] for name in kept}
            | {"askedForBy": run["actor"] and actor_for_tenant(run["actor"])}
            for run in runs
            if run["tenant"] in names
        ],
        "failedAttempts": [
            {name: one[name] for name in ("run", "number", "failedAt", "code")} for one in failures
        ],
    }


def event_ids(explained: Any) -> set[UUID]:
    """The tracking ids that an explanation names as its evidence."""
    found: set[UUID] = set()
    if isinstance(explained, dict):
        for key, value in explained.items():
            if key == "trackingId" and isinstance(value, str):
                found.add(UUID(value))
            else:
                found |= event_ids(value)
    elif isinstance(explained, list):
        for value in explained:
            found |= event_ids(value)
    return found
