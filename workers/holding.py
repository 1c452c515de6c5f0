"""An operator says that nothing of a tenant may be forgotten, or that it may be again."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.db import Conn
from shared.store import holds
from shared.store.holds import Standing
from shared.store.paging import iso
from workers.actions import new_action, record_action


class UnknownTenant(Exception):
    """Nothing ever named a tenant of this name."""


class NotSo(Exception):
    """It is held, not held, merged or erased already. The text says which."""


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that was said or ended."""

    action_id: str
    standing: Standing

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {"actionId": self.action_id, "tenant": self.standing.tenant,
                "hold": shown(self.standing)}  # fmt: skip


def shown(standing: Standing | None) -> dict[str, Any] | None:
    """A hold as lists and `--json` have it: {"since", "by", "reason", "until"}; None: not held."""
    if standing is None or standing.held_at is None:
        return None
    return {
        "since": iso(standing.held_at),
        "by": standing.held_by,
        "reason": standing.hold_reason,
        "until": iso(standing.held_until),
    }


async def hold(
    conn: Conn, tenant: str, until: datetime | timedelta | None, actor: str, reason: str
) -> Held:
    """
    Keep all that is there of a tenant, in the caller's transaction. Who is held may be held on:
    reason and end are replaced.

    Raises:
        UnknownTenant, NotSo: nothing was written.
    """
    before = await _locked(conn, tenant)
    if before.erased_at is not None:
        raise NotSo(f"{tenant!r} was erased at {iso(before.erased_at)}: nothing is left to hold")
    await holds.hold(conn, tenant, actor, reason, until)
    return await _recorded(conn, before, "tenant.held", actor, reason)


async def release(conn: Conn, tenant: str, actor: str, reason: str) -> Held:
    """
    Let it be forgotten as all others are, in the caller's transaction.

    Raises:
        UnknownTenant, NotSo: nothing was written.
    """
    before = await _locked(conn, tenant)
    if before.held_at is None:
        raise NotSo(f"{tenant!r} is not held")
    await holds.release(conn, tenant)
    return await _recorded(conn, before, "tenant.released", actor, reason)


async def _locked(conn: Conn, tenant: str) -> Standing:
    found = await holds.lock(conn, tenant)
    if found is None:
        raise UnknownTenant(f"nothing ever named a tenant {tenant!r}")
    if found.merged_into is not None:
        raise NotSo(f"{tenant!r} is another name of {found.merged_into!r}: hold or release that")
    return found


async def _recorded(conn: Conn, before: Standing, action: str, actor: str, reason: str) -> Held:
    after = await holds.read(conn, before.tenant)
    assert after is not None  # it is locked
    number = new_action()
    await record_action(
        conn,
        number,
        action,
        actor,
        subject=f"tenant/{before.tenant}",
        before={"hold": shown(before)},
        after={"hold": shown(after)},
        reason=reason,
    )
    return Held(str(number), after)
