"""
Everything that changes entitlements goes through here: observed events, an operator's link, a
new catalog. How, `workers.books` tells.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.domain.states import LINKING_KINDS
from shared.store import grants, objects
from shared.store.objects import CustomerKey
from workers.books import Answer, Books, FeatureChange, SetGrew, Sighted
from workers.surroundings import Surroundings


async def observe(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    sighted: Sequence[Sighted],
    more_customers: frozenset[CustomerKey] = frozenset(),
) -> list[Answer]:
    """
    Apply observations in their order; one answer each.

    Raises:
        SetGrew: begin again with these customers too.
    """
    books = Books(surroundings, now)
    replayed = [one.tracking_id for one in sighted if one.replayed]
    # Unlocked: only to know whose locks to take. Read again below, under them.
    earlier = await objects.read_objects_seen_by(conn, replayed) if replayed else []
    customers = {one.customer for one in sighted} | {stored.owner for stored in earlier}
    wanted = {customer for customer in customers if customer is not None} | more_customers
    keys = {one.key for one in sighted} | {stored.key for stored in earlier}
    # Whoever may link needs everything that its customer has; the others only their own object.
    linking = {one.customer for one in sighted if one.key.kind in LINKING_KINDS}
    linking |= {stored.owner for stored in earlier}
    await books.load(conn, wanted, keys, wanted & linking)
    if replayed:
        await objects.forget_observations(conn, replayed)
    steps = [books.sight(one) for one in sighted]
    await books.lock_tenants(conn, steps)
    answers = [books.answer(step) for step in steps]
    await books.save(conn, sighted)
    return answers


async def take_back(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    replayed: Sequence[tuple[UUID, str]],
    more_customers: frozenset[CustomerKey] = frozenset(),
) -> dict[UUID, list[FeatureChange]]:
    """
    Undo what earlier runs of these events observed, where today's code observes nothing.

    `replayed` holds (tracking id, event id). Returns what that changed, by tracking id.

    Raises:
        SetGrew: begin again with these customers too.
    """
    ids = [tracking_id for tracking_id, _ in replayed]
    # Unlocked: only to know whose locks to take.
    earlier = await objects.read_objects_seen_by(conn, ids)
    if not earlier:
        return {}
    books = Books(surroundings, now)
    owners = {stored.owner for stored in earlier if stored.owner is not None} | more_customers
    await books.load(conn, owners, [stored.key for stored in earlier], owners)
    await objects.forget_observations(conn, ids)
    steps = {tracking_id: books.take_back(name, tracking_id) for tracking_id, name in replayed}
    await books.lock_tenants(conn, steps.values())
    changes = {tracking_id: books.decide(step) for tracking_id, step in steps.items()}
    await books.save(conn, ())
    return changes


async def link_customer(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    customer: CustomerKey,
    tenant: str | None,
    actor: str,
) -> tuple[list[FeatureChange], int]:
    """
    Set (or with None remove) the operator's link of a customer and derive its objects again.

    Returns the changes and the catalog's version; the caller writes the audit records.
    """
    books = Books(surroundings, now)
    await books.load(conn, {customer}, (), {customer})
    await objects.set_link(conn, customer, tenant, actor)
    books.operator_links[customer] = tenant
    step = books.derive_again(books.by_customer.get(customer, ()))
    await books.lock_tenants(conn, [step], named=() if tenant is None else (tenant,))
    changes = books.decide(step)
    await books.save(conn, ())
    return changes, books.catalog.version


async def derive_tenant(
    conn: Conn,
    surroundings: Surroundings,
    now: datetime,
    tenant: str,
    more_customers: frozenset[CustomerKey] = frozenset(),
) -> tuple[list[FeatureChange], int]:
    """
    Derive all objects of a tenant with the current catalog.

    Raises:
        SetGrew: begin again with these customers too.
    """
    books = Books(surroundings, now)
    # Unlocked: only to know whose locks to take.
    owned = await objects.read_objects_of_tenant(conn, tenant)
    customers = {stored.owner for stored in owned} - {None}
    wanted = {customer for customer in customers if customer is not None} | more_customers
    await books.load(conn, wanted, [stored.key for stored in owned], ())
    of_tenant = [entry for entry in books.entries.values() if entry.stored.tenant == tenant]
    step = books.derive_again(of_tenant)
    versions = await books.lock_tenants(conn, [step], named=(tenant,))
    if versions[tenant] >= books.catalog.version:
        return [], books.catalog.version  # another worker was here first
    # An object may have come to the tenant between the unlocked read and its lock.
    late = {
        stored.owner
        for stored in await objects.read_objects_of_tenant(conn, tenant)
        if stored.key not in books.entries and stored.owner is not None
    }
    if late:
        raise SetGrew(frozenset(wanted | late))
    changes = books.decide(step)
    await books.save(conn, ())
    await grants.set_catalog_version(conn, tenant, books.catalog.version)
    return changes, books.catalog.version
