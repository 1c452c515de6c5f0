"""
Customers and joints: the locks under which provider objects, and what links them, meet.

Lock order everywhere: customers, joints, tenants, objects, each in key order. A customer's lock
covers its links and its objects, a joint's what names it and has no customer (yet). What is read
about them is read in a later statement.
"""

from collections.abc import Iterable

from shared.db import Conn, columns_of
from shared.domain.keys import CustomerKey, JointKey

ADD_CUSTOMERS = """
INSERT INTO customers (source_id, account, livemode, customer)
SELECT * FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
ON CONFLICT DO NOTHING
"""
LOCK_CUSTOMERS = """
SELECT c.source_id, c.account, c.livemode, c.customer, c.tenant
FROM customers c
JOIN unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, customer)
  ON c.source_id = asked.source_id AND c.account = asked.account
 AND c.livemode = asked.livemode AND c.customer = asked.customer
ORDER BY c.source_id, c.account, c.livemode, c.customer
FOR UPDATE OF c
"""


async def lock_customers(
    conn: Conn, customers: Iterable[CustomerKey]
) -> dict[CustomerKey, str | None]:
    """Make sure that the customers exist and lock them. Returns the operators' links."""
    columns = columns_of(sorted(customers), 4)
    if not columns[0]:
        return {}
    await conn.execute(ADD_CUSTOMERS, *columns)
    rows = await conn.fetch(LOCK_CUSTOMERS, *columns)
    return {CustomerKey(*list(row.values())[:4]): row["tenant"] for row in rows}


ADD_JOINTS = """
INSERT INTO joints (source_id, account, livemode, joint)
SELECT * FROM unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
ON CONFLICT DO NOTHING
"""
LOCK_JOINTS = """
SELECT 1
FROM joints j
JOIN unnest($1::smallint[], $2::text[], $3::boolean[], $4::text[])
    AS asked (source_id, account, livemode, joint)
  ON j.source_id = asked.source_id AND j.account = asked.account
 AND j.livemode = asked.livemode AND j.joint = asked.joint
ORDER BY j.source_id, j.account, j.livemode, j.joint
FOR UPDATE OF j
"""


async def lock_joints(conn: Conn, joints: Iterable[JointKey]) -> None:
    """Make sure that the joints exist and lock them."""
    columns = columns_of(sorted(joints), 4)
    if columns[0]:
        await conn.execute(ADD_JOINTS, *columns)
        await conn.execute(LOCK_JOINTS, *columns)


SET_LINK = """
UPDATE customers SET tenant = $5, linked_by = $6, linked_at = now()
WHERE source_id = $1 AND account = $2 AND livemode = $3 AND customer = $4
"""


async def set_link(conn: Conn, customer: CustomerKey, tenant: str | None, actor: str) -> None:
    """Write the operator's link of a customer that the caller has locked."""
    await conn.execute(SET_LINK, *customer, tenant, actor)
