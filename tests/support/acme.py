"""A sender of the tests' own: licences that grant, and reports that are kept."""

import json
from typing import Any

from shared.db import Database
from tests.support.stack import Stack
from workers.replay import open_run
from workers.trail import verify

#: Of provider `hmac`, whose table of events says where their identity is.
SIGNATURE = {"header": "X-Acme-Signature"}
EVENT = {"id": "id", "type": "type", "subject": "subject", "occurred_at": "at"}

LICENCES: dict[str, Any] = {
    "types": ["licence.*"],
    "object": {
        "kind": "subscription",
        "id": "data.id",
        "status": "data.state",
        "statuses": {"live": "active", "grace": "past_due", "stopped": "ended"},
        "version": "data.updated",
        "customer": "data.account",
        "tenant": "data.tenant",
        "products": "data.skus",
        "ends_at": "data.ends",
    },
}
REPORTS: dict[str, Any] = {
    "types": ["report.*"],
    "record": {
        "id": "data.id",
        "version": "data.updated",
        "tenant": "data.tenant",
        "fields": {"title": "data.title"},
    },
}

#: What the licences' products are worth.
PLANS = {
    "pro": {"products": ["acme:pro"], "features": {"seats": 10, "sso": True}, "graceS": 7 * 86400},
    "basic": {"products": ["hmac:basic"], "features": {"seats": 1}, "graceS": 0},
}

BEGAN_S = 1_780_000_000


def event(
    number: int | str, event_type: str, *, subject: str | None = None, at: Any = None, **data: Any
) -> bytes:
    """One event's body. `subject` decides its lane; unnamed, its object does."""
    body = {"id": f"evt_{number}", "type": event_type, "data": data}
    body["subject"] = subject if subject is not None else str(data.get("id"))
    return json.dumps(body if at is None else {**body, "at": at}).encode()


def licence(number: int | str, updated: int = 1, state: str = "live", **data: Any) -> bytes:
    """`updated` is in seconds after `BEGAN_S`."""
    told: dict[str, Any] = {"id": "lic_1", "account": "a_1", "tenant": "acme", "skus": ["pro"]}
    told |= data
    return event(number, "licence.told", updated=BEGAN_S + updated, state=state, **told)


def report(number: int | str, updated: int = 1, subject: str | None = None, **data: Any) -> bytes:
    told = {"id": "rep_1", "tenant": "acme", "title": f"title {number}", **data}
    return event(number, "report.ready", subject=subject, updated=BEGAN_S + updated, **told)


async def add_acme(stack: Stack, *mapping: Any, name: str = "acme") -> None:
    """Add the source, with these mappings, or those above."""
    await stack.add_source(
        name, "hmac", signature=SIGNATURE, event=EVENT,
        mapping=list(mapping or (LICENCES, REPORTS)),
    )  # fmt: skip
    await stack.configure(plans=PLANS)


async def remap(stack: Stack, *mapping: Any, name: str = "acme") -> None:
    """Give the source other mappings, as `sluice apply` would."""
    settings: Any = {"signature": SIGNATURE, "event": EVENT, "mapping": list(mapping)}
    await stack.set(name, **settings)


async def replay(stack: Stack, *ids: Any) -> None:
    """Have these applied again, as `sluice replay` does."""
    operator = await Database.open(stack.endpoints.database["operator"], "operator", size=1)
    try:
        for tracking_id in ids:
            async with operator.transaction() as conn:
                await open_run(conn, tracking_id, "operator:test", "mapping mended")
    finally:
        await operator.close()
    await stack.drain()


async def told_to_tenants(stack: Stack) -> dict[tuple[str, str], str]:
    """What the tenants' chains say of records; each of their records follows the last one."""
    rows = await stack.fetch(
        "SELECT a.tenant, a.subject, a.action, c.before, c.after FROM audit a"
        " JOIN audit_content c ON c.audit_id = a.id WHERE a.action LIKE 'record.%' ORDER BY a.id"
    )
    known: dict[tuple[str, str], str] = {}
    for row in rows:
        key = (row["subject"].removeprefix("record/"), row["tenant"])
        before, after = (None if one is None else one.decode() for one in (row[3], row[4]))
        assert known.pop(key, None) == before
        assert before != after
        assert (before is None) == (row["action"] == "record.imported")
        assert (after is None) == (row["action"] == "record.removed")
        if after is not None:
            known[key] = after
    async with stack.owner.connection() as conn:
        assert [found async for found in verify(conn, None, lambda _: None)] == []
    return known
