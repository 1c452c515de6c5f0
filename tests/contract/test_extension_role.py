"""The role of handlers' statements: nothing of Sluice's is open to it."""

from shared import db
from tests.contract.test_roles import ACTIONS, is_refused, open_to, tables
from workers.stack.servers import Servers


async def test_handlers_may_do_nothing_to_sluices_tables(servers: Servers) -> None:
    """Not even look: what they need, they are given with the event."""
    async with db.connect(servers.endpoints().database["owner"], "owner") as conn:
        every = {**await tables(conn), **await tables(conn, partitions=True)}
        await conn.execute("SET ROLE sluice_extension")
        assert {action: await open_to(conn, action, every) for action in ACTIONS} == {
            action: set() for action in ACTIONS
        }
        assert await is_refused(conn, "CREATE TABLE public.another (n int)")
        assert await is_refused(conn, "SELECT make_inbox_partitions(0)")


async def test_only_workers_become_it(servers: Servers) -> None:
    """A gateway, a reader or an operator that was taken over cannot write what handlers write."""
    for role, url in servers.endpoints().database.items():
        if role == "owner":
            continue
        async with db.connect(url, role) as conn:
            refused = await is_refused(conn, "SET ROLE sluice_extension")
            assert refused == (role != "worker"), role
