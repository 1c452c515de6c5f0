"""
Everything that changes entitlements goes through here: observed events, an operator's link, a
new catalog. How, `workers.books` tells.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain.keys import CustomerKey
from shared.domain.states import ADVERSE_KINDS, LINKING_KINDS, MEMBERSHIP_KIND
from shared.store import customers, grants, manual_grants, objects, observations
from workers.books import Books
from workers.entries import (
    NO_LOCKS,
    Answer,
    Entry,
    FeatureChange,
    Locks,
    SetGrew,
    Sighted,
    locks_of,
    net_changes,
)
from workers.surroundings import Surroundings


async def observe(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    sighted: Sequence[Sighted],
    more: Locks = NO_LOCKS,
) -> list[Answer]:
    """
    Apply observations in their order; one answer each.

    Raises:
        SetGrew: begin again with these locks too.
    """
    books = Books(surroundings, now)
    replayed = [one.tracking_id for one in sighted if one.replayed]
    # Unlocked: only to know what to lock. Read again below, under the locks.
    earlier = await objects.read_objects_seen_by(conn, replayed) if replayed else []
    wanted = more | locks_of(map(Entry, earlier))
    for one in sighted:
        wanted |= one.locks
    if wanted.joints:
        joints, owners = await objects.reach_by_joints(conn, wanted.joints)
        wanted |= Locks(frozenset(owners), frozenset(joints))
    keys = {one.key for one in sighted} | {stored.key for stored in earlier}
    await books.load(conn, wanted, keys, _whole(surroundings, sighted, earlier, wanted))
    if replayed:
        await observations.forget_observations(conn, replayed)
    steps = [books.sight(one) for one in sighted]
    await books.lock_tenants(conn, steps)
    answers = [books.answer(step) for step in steps]
    await books.save(conn)
    return answers


def _whole(
    surroundings: Surroundings,
    sighted: Sequence[Sighted],
    earlier: Sequence[objects.StoredObject],
    wanted: Locks,
) -> frozenset[CustomerKey]:
    """Whose objects are needed all: whoever may bear on them. The others need only their own."""
    whole = {stored.owner for stored in earlier} | wanted.whole
    whole |= customers_by_summary(surroundings, wanted)
    for one in sighted:
        if one.key.kind in ADVERSE_KINDS or one.command.after.refunded:
            return wanted.customers
        if one.key.kind in LINKING_KINDS:
            whole |= one.locks.customers
    return wanted.customers & whole


def customers_by_summary(surroundings: Surroundings, locks: Locks) -> frozenset[CustomerKey]:
    """Those whose summary grants: what it gives depends on all that they have."""
    return frozenset(
        customer
        for customer in locks.customers
        if surroundings.origin(customer.source_id, customer.livemode).policy.grants_from
        == "summary"
    )


async def locks_of_runs(conn: Conn, tracking_ids: Sequence[UUID]) -> Locks:
    """What replays of these events lock, whatever they come to observe."""
    return locks_of(map(Entry, await objects.read_objects_seen_by(conn, tracking_ids)))


async def take_back(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    replayed: Sequence[tuple[UUID, str]],
    more: Locks = NO_LOCKS,
) -> dict[UUID, list[FeatureChange]]:
    """
    Undo what earlier runs of these events observed, where today's code observes nothing.

    `replayed` holds (tracking id, event id). Returns what that changed, by tracking id.

    Raises:
        SetGrew: begin again with these locks too.
    """
    ids = [tracking_id for tracking_id, _ in replayed]
    # Unlocked: only to know what to lock.
    earlier = await objects.read_objects_seen_by(conn, ids)
    if not earlier:
        return {}
    books = Books(surroundings, now)
    wanted = more | locks_of(map(Entry, earlier))
    await books.load(conn, wanted, [stored.key for stored in earlier], wanted.customers)
    await observations.forget_observations(conn, ids)
    steps = {tracking_id: books.take_back(name, tracking_id) for tracking_id, name in replayed}
    await books.lock_tenants(conn, steps.values())
    changes = {tracking_id: books.decide(step) for tracking_id, step in steps.items()}
    await books.save(conn)
    return changes


async def link_customer(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    customer: CustomerKey,
    tenant: str | None,
    actor: str,
    more: Locks = NO_LOCKS,
) -> tuple[list[FeatureChange], int]:
    """
    Set (or with None remove) the operator's link of a customer and derive its objects again.

    Returns the changes and the catalog's version; the caller writes the audit records.

    Raises:
        SetGrew: begin again with these locks too.
    """
    books = Books(surroundings, now)
    await books.load(conn, more | Locks(frozenset({customer})), (), {customer})
    await customers.set_link(conn, customer, tenant, actor)
    books.near.operator_links[customer] = tenant
    step = books.derive_again(books.near.of(customer))
    await books.lock_tenants(conn, [step], named=() if tenant is None else (tenant,))
    changes = books.decide(step)
    await books.save(conn)
    return changes, books.catalog.version


async def derive_tenant(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    tenant: str,
    more: Locks = NO_LOCKS,
) -> tuple[list[FeatureChange], int]:
    """
    Derive all objects of a tenant with the current catalog.

    Raises:
        SetGrew: begin again with these locks too.
    """
    books = Books(surroundings, now)
    # Unlocked: only to know what to lock.
    owned = await _bearing_on(conn, tenant)
    wanted = more | locks_of(map(Entry, owned))
    whole = customers_by_summary(surroundings, wanted)
    await books.load(conn, wanted, [stored.key for stored in owned], whole)
    of_tenant = [entry for entry in books.entries.values() if entry.stored.tenant == tenant]
    step = books.derive_again(of_tenant)
    await books.lock_tenants(conn, [step], named=(tenant,))
    locked = books.holdings.tenants[tenant]
    if locked.merged_into is not None or locked.catalog_version >= books.catalog.version:
        return [], books.catalog.version  # somebody else was here first
    # An object may have come to the tenant between the unlocked read and its lock.
    late = [
        Entry(stored)
        for stored in await _bearing_on(conn, tenant)
        if stored.key not in books.entries
    ]
    if late:
        raise SetGrew(wanted | locks_of(late))
    changes = books.decide(step)
    for given in await manual_grants.of_tenant(conn, tenant):
        changes += books.holdings.follow(given.id, books.catalog.added)
    await books.save(conn)
    await grants.set_catalog_version(conn, tenant, books.catalog.version)
    return net_changes(changes), books.catalog.version


async def _bearing_on(conn: Conn, tenant: str) -> list[objects.StoredObject]:
    """
    The tenant's objects but its memberships: there may be thousands, and none gives anything by
    any catalog.
    """
    owned = await objects.read_objects_of_tenant(conn, tenant)
    return [stored for stored in owned if stored.key.kind != MEMBERSHIP_KIND]
