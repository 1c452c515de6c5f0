"""
A tenant's objects with all that bears on them, as they were read, and what is decided about them.

For who only asks: nothing is locked, nothing written, and what was read must be of one snapshot.
"""

from collections.abc import Iterable, Mapping

from shared.db import Conn
from shared.domain.catalog import Catalog, Origin
from shared.domain.explanation import OperatorLink
from shared.domain.keys import CustomerKey, ObjectKey
from shared.domain.situations import Neighbour, Neighbourhood, Situation
from shared.domain.states import MEMBERSHIP_KIND
from shared.domain.verdicts import Aliases
from shared.store import objects
from shared.store.objects import StoredObject
from shared.store.source_rows import SourceRow

#: A tenant may have thousands of members, and none of them decides or explains anything.
_BEARING_NOTHING = frozenset({MEMBERSHIP_KIND})


async def read_belongings(
    conn: Conn,
    tenant: str,
    linked: Iterable[CustomerKey],
    touched: Iterable[ObjectKey] = (),
) -> list[StoredObject]:
    """
    The tenant's objects, and all that bear on them: their customers', what joins them. `linked` are
    customers that are the tenant's whatever their objects say, and `touched` further objects.
    """
    owned = await objects.read_objects_of_tenant(conn, tenant, without=_BEARING_NOTHING)
    found = {row.key: row for row in owned}
    customers = {row.owner for row in owned if row.owner} | {*linked}
    for row in await objects.read_objects(
        conn, customers, customers, touched, without=_BEARING_NOTHING
    ):
        found[row.key] = row
    others = {row.owner for row in found.values() if row.owner} - customers
    for row in await objects.read_objects(conn, others, others, (), without=_BEARING_NOTHING):
        found[row.key] = row
    loose = {joint for row in found.values() if row.owner is None for joint in row.joints}
    reached, _ = await objects.reach_by_joints(conn, loose)
    for row in await objects.read_objects_of_joints(conn, reached):
        found[row.key] = row
    return list(found.values())


def decided(
    neighbours: Iterable[Neighbour],
    links: Mapping[CustomerKey, OperatorLink],
    sources: Mapping[int, SourceRow],
    mode: str,
    catalog: Catalog,
    aliases: Aliases,
) -> dict[ObjectKey, Situation]:
    """Every object's situation, in a deployment of that mode."""
    origins = {
        (number, livemode): row.origin(livemode, mode)
        for number, row in sources.items()
        for livemode in (True, False)
    }

    def origin_of(key: ObjectKey) -> Origin:
        return origins[key.source_id, key.livemode]

    tenants = {key: link.tenant for key, link in links.items()}
    return Neighbourhood(neighbours).decide(tenants, origin_of, catalog, aliases)
