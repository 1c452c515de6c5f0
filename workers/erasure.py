"""
An operator has a tenant erased. From this transaction's commit on it has nothing, and nothing
resolves to it; a job takes away what there is of it (`workers.jobs.erasing`).
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.audit import Draft
from shared.store import audit, erasures, holds, merges
from workers.actions import encoded, new_action
from workers.holdings import Holdings
from workers.settling import changes_to_drafts
from workers.steering import begin_job


class UnknownTenant(Exception):
    """Nothing ever named a tenant of this name."""


class Unerasable(Exception):
    """It is held, or another name of a tenant. The text says which."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The job that erases, and what there was when it began."""

    action_id: str
    tenant: str
    names: tuple[str, ...]
    job: UUID
    counts: dict[str, int]

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "actionId": self.action_id,
            "tenant": self.tenant,
            "names": list(self.names),
            "job": str(self.job),
            "counts": self.counts,
        }


async def begin_erasure(conn: Conn, tenant: str, actor: str, reason: str) -> Begun:
    """
    End what the tenant may use, and have the rest erased, in the caller's transaction. Of one that
    was erased before, what has come since is erased.

    Raises:
        UnknownTenant, Unerasable: nothing was written.
    """
    found = await holds.lock(conn, tenant)
    if found is None:
        raise UnknownTenant(f"nothing ever named a tenant {tenant!r}")
    if found.merged_into is not None:
        raise Unerasable(f"{tenant!r} is another name of {found.merged_into!r}: erase that")
    if found.is_held:
        raise Unerasable(
            f"{tenant!r} is held: {found.hold_reason or 'by a name of its'};"
            " `sluice tenants release` ends that"
        )
    names = (tenant, *await merges.names_of(conn, tenant))
    counts = await erasures.count_whole(conn, names)
    now, xid = await audit.moment(conn)
    holdings = Holdings()
    await holdings.lock(conn, names)
    changes = []
    version = 0
    for name in names:
        version = max(version, holdings.tenants[name].catalog_version)
        for number in list(holdings.held[name]):
            changes += holdings.give(number, ())
    await holdings.save(conn, version)
    await erasures.revoke_gifts(conn, names, actor)
    await erasures.revoke_tokens(conn, names)
    await erasures.cancel_jobs(conn, names, actor)
    await erasures.mark(conn, names)
    job = await begin_job(conn, "erase", {"tenant": tenant, "names": list(names)}, actor, reason)
    action_id = str(new_action())
    draft = Draft(
        chain=f"operator:{action_id}",
        cause="operator",
        cause_id=action_id,
        run=1,
        # Of no tenant: this record is not emptied, and says who it was, and why.
        tenant="",
        step=0,
        action="tenant.erased",
        actor=actor,
        subject=f"tenant/{tenant}",
        catalog_version=version,
        after=encoded({"job": str(job), "names": list(names), "counts": counts}),
        reason=reason.encode(),
    )
    drafts = [draft, *changes_to_drafts(changes, first_step=1, draft=draft)]
    await audit.append(conn, drafts, now=now, xid=xid)
    return Begun(action_id, tenant, names, job, counts)
