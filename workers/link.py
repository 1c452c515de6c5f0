"""An operator says whose a customer is: the link, what it changes, and the audit records."""

from dataclasses import dataclass
from typing import Any

from shared.db import Conn
from shared.domain.audit import Draft
from shared.domain.keys import CustomerKey
from shared.store import audit, customers, merges, objects
from shared.store.source_rows import read_sources
from workers.actions import encoded, new_action
from workers.entitle import link_customer
from workers.entries import NO_LOCKS, FeatureChange, Locks
from workers.holdings import TenantErased
from workers.settling import changes_to_drafts
from workers.surroundings import Surroundings


class UnknownSourceName(Exception):
    """No source of this name is configured."""


@dataclass(frozen=True, slots=True)
class Linked:
    """
    `before` is the operator's link that held until now; `objects` are the customer's own.
    `merged_into` is the tenant that the named one is another name of.
    """

    action_id: str
    source: str
    account: str
    customer: str
    before: str | None
    changes: tuple[FeatureChange, ...]
    objects: int
    merged_into: str | None

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "actionId": self.action_id,
            "source": self.source,
            "account": self.account,
            "customer": self.customer,
            "before": self.before,
            "mergedInto": self.merged_into,
            "objects": self.objects,
            "changes": [
                {"tenant": change.tenant, "feature": change.feature, "action": change.action}
                for change in self.changes
            ],
        }


async def link(
    conn: Conn,
    source: str,
    account: str,
    customer: str,
    tenant: str,
    actor: str,
    reason: str | None,
    more: Locks = NO_LOCKS,
) -> Linked:
    """
    Link, derive the customer's objects again and audit it, in the caller's transaction.

    Raises:
        UnknownSourceName, TenantErased: nothing was written.
        SetGrew: begin again with these locks too.
    """
    known = (await merges.read_merges(conn, [tenant])).get(tenant)
    if known is not None and known.erased_at is not None:
        raise TenantErased(f"{tenant!r} was erased: nobody can be linked to it any more")
    surroundings = Surroundings()
    await surroundings.refresh(conn)
    row = next((row for row in await read_sources(conn) if row.name == source), None)
    if row is None:
        raise UnknownSourceName(f"no source {source!r}; see `sluice sources list`")
    # A source has objects of one mode only, and without the notion they are kept as live.
    key = CustomerKey(row.id, account, row.livemode is not False, customer)
    before = (await customers.lock_customers(conn, {key, *more.customers}))[key]
    now, xid = await audit.moment(conn)
    changes, catalog_version = await link_customer(
        conn, surroundings, now, key, tenant, actor, more
    )
    action_id = str(new_action())
    draft = Draft(
        chain=f"operator:{action_id}",
        cause="operator",
        cause_id=action_id,
        run=1,
        tenant=tenant or before or "",
        step=0,
        action="customer.linked",
        actor=actor,
        source=source,
        subject=f"customer/{customer}",
        catalog_version=catalog_version,
        before=encoded({"tenant": before}),
        after=encoded({"tenant": tenant}),
        reason=None if reason is None else reason.encode(),
    )
    await audit.append(
        conn,
        [draft, *changes_to_drafts(changes, first_step=1, draft=draft)],
        now=now,
        xid=xid,
    )
    owned = await objects.read_objects(conn, [key], {key}, [])
    merge = (await merges.read_merges(conn, [tenant]))[tenant]
    return Linked(
        action_id, source, account, customer, before, tuple(changes), len(owned), merge.into
    )
