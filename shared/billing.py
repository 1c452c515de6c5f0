"""
How a tenant's payments stand: read everything in one snapshot, and put it together.

Nothing is locked, nothing written, and no provider is asked: it is what webhooks told.
"""

from shared.belongings import decided, read_belongings
from shared.db import Conn
from shared.domain.billing import billing_of
from shared.domain.billing.answer import Billing, Facts
from shared.domain.catalog import Catalog
from shared.domain.situations import Neighbour
from shared.store import explanations, grants, merges
from shared.store.source_rows import read_mode, read_sources
from shared.store.tenants import find_tenant

__all__ = ["Billing", "read_billing"]


async def read_billing(conn: Conn, tenant: str) -> Billing | None:
    """
    None for a tenant that nothing ever named. A merged one is answered with what the one has that
    it was merged into.
    """
    async with conn.transaction():
        await explanations.begin_snapshot(conn)
        known = await find_tenant(conn, tenant)
        if known is None:
            return None
        actual = known.merged_into or tenant
        aliases = await merges.aliases_at(conn, actual, known.now)
        links = await explanations.read_linked_to(conn, [actual, *aliases])
        rows = await read_belongings(conn, actual, links)
        links |= await explanations.read_links_of(conn, {row.owner for row in rows if row.owner})
        standing = await explanations.read_standing(conn, actual)
        # That of the grants: a newer one is applied to a tenant within seconds.
        version = standing.catalog_version
        catalog = Catalog.read(version, await grants.read_catalog(conn, version))
        _, mode = await read_mode(conn)
        sources = {row.id: row for row in await read_sources(conn)}
        held = await grants.read_grants(conn, [actual])
    neighbours = [Neighbour(row.id, row.key, row.owner, row.register) for row in rows]
    facts = Facts(
        tenant=actual,
        at=known.now,
        catalog=catalog,
        held=held,
        situations=decided(neighbours, links, sources, mode, catalog, aliases),
    )
    return billing_of(facts, tenant, known.merged_into, known.merged_at)
