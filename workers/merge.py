"""
An operator says that two tenants are one: the one becomes another name of the other, for good.

All that resolved to it resolves to the other from then on (`shared.domain.verdicts`), so that
whatever still names it, an event on its way included, comes to the right place. Its own chain in
the audit trail ends with the merge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.db import Conn
from shared.domain.audit import Draft
from shared.domain.verdicts import LINK_CONFLICT
from shared.store import audit, manual_grants, merges, objects
from shared.store.merges import Merge
from shared.store.paging import iso
from workers.actions import encoded, new_action
from workers.books import Books
from workers.entitle import customers_by_summary
from workers.entries import NO_LOCKS, Entry, FeatureChange, Locks, SetGrew, locks_of
from workers.settling import changes_to_drafts
from workers.surroundings import Surroundings


class UnknownTenant(Exception):
    """Nothing ever named a tenant of this name."""


class Unmergeable(Exception):
    """One of the two is merged already, or erased, or they are the same."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What went from the one to the other. `names` are merged tenants that go along."""

    action_id: str
    tenant: str
    into: str
    names: tuple[str, ...]
    objects: int
    manual_grants: int
    changes: tuple[FeatureChange, ...]

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "actionId": self.action_id,
            "tenant": self.tenant,
            "into": self.into,
            "names": list(self.names),
            "objects": self.objects,
            "manualGrants": self.manual_grants,
            "changes": [
                {"tenant": change.tenant, "feature": change.feature, "action": change.action}
                for change in self.changes
            ],
        }


async def merge(
    conn: Conn, tenant: str, into: str, actor: str, reason: str, more: Locks = NO_LOCKS
) -> Merged:
    """
    Merge, derive the objects again and audit it on both chains, in the caller's transaction.

    Raises:
        UnknownTenant, Unmergeable: nothing was written.
        SetGrew: begin again with these locks too.
    """
    # Unlocked: to say what is wrong before any row is made. Looked at again under the locks.
    found = await merges.read_merges(conn, (tenant, into))
    for name in (tenant, into):
        if name not in found:
            raise UnknownTenant(f"nothing ever named a tenant {name!r}")
    _check(tenant, into, found)
    names = await merges.names_of(conn, tenant)
    now, xid = await audit.moment(conn)
    books = await _load(conn, now, (tenant, *names), more)
    books.aliases = dict.fromkeys((tenant, *names), into)
    step = books.derive_again(
        entry
        for entry in books.entries.values()
        if entry.stored.tenant == tenant or entry.stored.parked == LINK_CONFLICT
    )
    await books.lock_tenants(conn, [step], named=(tenant, into, *names))
    _check(tenant, into, await merges.read_merges(conn, (tenant, into)))
    # Both may have grown between the unlocked reads and the tenant's lock.
    late = [
        Entry(stored)
        for stored in await objects.read_objects_of_tenant(conn, tenant)
        if stored.key not in books.entries
    ]
    if late or await merges.names_of(conn, tenant) != names:
        raise SetGrew(books.locks | locks_of(late))
    holdings = books.holdings
    before = {name: holdings.entitled(name) for name in holdings.held}
    given = await manual_grants.move(conn, tenant, into)
    for number in given:
        holdings.move(number, into, books.catalog.added)
    books.decide(step)
    await books.save(conn)
    await merges.merge(conn, tenant, into)
    changes = [change for name in before for change in holdings.changes_since(name, before[name])]
    merged = Merged(
        action_id=str(new_action()),
        tenant=tenant,
        into=into,
        names=tuple(names),
        objects=len(step.cases),
        manual_grants=len(given),
        changes=tuple(changes),
    )
    drafts = _drafts(merged, actor, reason, books.catalog.version)
    await audit.append(conn, drafts, now=now, xid=xid)
    return merged


def _check(tenant: str, into: str, found: dict[str, Merge]) -> None:
    if tenant == into:
        raise Unmergeable(f"{tenant!r} cannot be merged into itself")
    for name in (tenant, into):
        merge = found[name]
        if merge.erased_at is not None:
            raise Unmergeable(f"{name!r} was erased at {iso(merge.erased_at)}")
        if merge.into is not None:
            raise Unmergeable(
                f"{name!r} was merged into {merge.into!r} at {iso(merge.at)}:"
                f" it is another name of {merge.into!r}"
            )


async def _load(conn: Conn, now: datetime, names: Sequence[str], more: Locks) -> Books:
    """The tenant's objects, and those that several claim with it, under their locks."""
    surroundings = Surroundings()
    await surroundings.refresh(conn)
    books = Books(surroundings, now)
    # Unlocked: only to know what to lock.
    owned = await objects.read_objects_of_tenant(conn, names[0])
    claimed = await merges.in_conflict_over(conn, names)
    wanted = more | locks_of(map(Entry, owned)) | Locks(frozenset(claimed.values()))
    keys = {stored.key for stored in owned} | claimed.keys()
    await books.load(conn, wanted, keys, customers_by_summary(surroundings, wanted))
    return books


def _drafts(merged: Merged, actor: str, reason: str, catalog_version: int) -> list[Draft]:
    """
    The tenant's chain ends with the merge: what it lost stands before it, and nothing ever comes
    after it. What the other one has won follows the record that says from where.
    """

    def draft(name: str, action: str, after: dict[str, Any]) -> Draft:
        return Draft(
            chain=f"tenant:{name}",
            cause="operator",
            cause_id=merged.action_id,
            run=1,
            tenant=name,
            step=0,
            action=action,
            actor=actor,
            catalog_version=catalog_version,
            after=encoded(after),
            reason=reason.encode(),
        )

    closing = draft(merged.tenant, "tenant.merged", {"into": merged.into})
    names = [merged.tenant, *merged.names]
    opening = draft(merged.into, "tenant.absorbed", {"tenant": merged.tenant, "names": names})
    changes = changes_to_drafts(merged.changes, first_step=1, draft=closing)
    lost = [change for change in changes if change.tenant == merged.tenant]
    won = [change for change in changes if change.tenant != merged.tenant]
    return [*lost, closing, opening, *won]
