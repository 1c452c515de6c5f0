"""
The rights of each role, found out by trying (L9, L10).

A right is tried by a statement that touches no row: Postgres refuses before it looks for any.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shared import db
from shared.domain.audit import Draft
from shared.settings import Endpoints
from shared.store import audit
from workers.stack.servers import Servers

ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")

READS_ALL_BUT_SECRETS = {
    "attempts", "audit", "audit_checkpoints", "audit_content", "audit_heads", "audit_keys",
    "catalogs", "configuration", "conflicts", "customers", "deliveries", "grants", "handlers",
    "inbox", "job_assets", "job_failures", "jobs", "joints", "lanes", "ledger", "ledger_horizon",
    "listening", "manual_grants", "messages", "migrations", "objects", "observations", "outbox",
    "prunings", "record_versions", "records", "replay_customers", "replay_items", "replay_plans",
    "replay_tenants", "rhythms", "sendings", "settlements", "sources", "tallies", "tenants",
    "visits", "work",
}  # fmt: skip

#: The sealed API keys, and what is fetched with them.
FETCHING = {
    "fetch_budgets", "fetches", "missed_events", "pulls", "reconciliations", "source_keys",
}  # fmt: skip

#: role → action → tables it may do that to, in part at least. Everything else is refused.
MAY: dict[str, dict[str, set[str]]] = {
    "gateway": {
        "SELECT": {"configuration", "deliveries", "inbox", "lanes", "ledger", "migrations",
                   "refusals", "seals", "source_secrets", "source_shadows", "sources", "work"},
        "INSERT": {"deliveries", "inbox", "ledger", "refusals", "work"},
        "UPDATE": {"source_shadows"},
    },
    "reader": {
        "SELECT": READS_ALL_BUT_SECRETS | {"feed_salt", "source_keys", "source_secrets", "tokens"},
    },
    "worker": {
        "SELECT": READS_ALL_BUT_SECRETS | FETCHING
                  | {"audit_key_secrets", "compared_objects", "reconciled_customers", "refusals",
                     "seals", "source_secrets", "tokens"},
        "INSERT": {"attempts", "audit", "audit_checkpoints", "audit_content", "audit_heads",
                   "audit_key_secrets", "audit_keys", "compared_objects", "configuration",
                   "conflicts", "customers", "fetch_budgets", "fetches", "grants", "handlers",
                   "inbox", "job_assets", "job_failures", "jobs", "joints", "ledger", "messages",
                   "missed_events", "objects", "observations", "outbox", "prunings", "pulls",
                   "reconciled_customers", "reconciliations", "record_versions", "records",
                   "replay_customers", "replay_items", "replay_plans", "replay_tenants",
                   "rhythms", "seals",
                   "sendings", "settlements", "source_secrets", "tallies", "tenants", "visits",
                   "work"},
        "UPDATE": {"attempts", "audit_content", "audit_heads", "compared_objects", "customers",
                   "deliveries", "fetch_budgets", "fetches", "grants", "handlers", "jobs",
                   "joints", "lanes", "ledger_horizon", "listening", "manual_grants", "messages",
                   "objects", "outbox", "prunings", "pulls", "reconciled_customers",
                   "reconciliations", "records", "replay_items", "replay_plans", "rhythms",
                   "settlements", "source_secrets", "sources", "tallies", "tenants", "tokens",
                   "visits", "work"},
        "DELETE": {"attempts", "compared_objects", "conflicts", "deliveries", "fetches", "grants",
                   "job_assets", "job_failures", "jobs", "ledger", "messages", "missed_events",
                   "objects", "observations", "outbox", "record_versions", "records", "refusals",
                   "replay_items", "replay_plans", "replay_tenants", "rhythms", "sendings",
                   "settlements", "tallies", "visits", "work"},
    },
    "operator": {
        "SELECT": READS_ALL_BUT_SECRETS | FETCHING
                  | {"audit_key_secrets", "refusals", "seals", "source_secrets", "source_shadows",
                     "tokens"},
        "INSERT": {"audit", "audit_checkpoints", "audit_content", "audit_heads",
                   "audit_key_secrets", "audit_keys", "catalogs", "configuration", "customers",
                   "grants", "jobs", "joints", "lanes", "manual_grants", "objects", "outbox",
                   "prunings", "seals", "settlements", "source_keys", "source_secrets",
                   "source_shadows", "sources", "tenants", "tokens", "work"},
        "UPDATE": {"audit_heads", "audit_key_secrets", "customers", "grants", "jobs", "joints",
                   "lanes", "ledger_horizon", "manual_grants", "objects", "outbox", "prunings",
                   "seals", "sendings", "source_keys", "source_secrets", "source_shadows",
                   "sources", "tenants", "tokens", "work"},
        "DELETE": {"attempts", "audit_key_secrets", "conflicts", "deliveries", "grants",
                   "job_assets", "job_failures", "jobs", "ledger", "messages", "missed_events",
                   "observations", "replay_items", "replay_plans", "replay_tenants", "seals",
                   "sendings", "settlements", "source_keys", "source_secrets", "source_shadows",
                   "work"},
    },
}  # fmt: skip

#: Of these the gateway may read these columns only: no body, and nothing of anybody's attempts.
GATEWAY_COLUMNS = {
    "deliveries": {"id", "tracking_id", "received_at"},
    "inbox": {"received_at", "tracking_id", "lane"},
    "work": {"id", "kind", "tracking_id", "lane"},
    "refusals": {"source_id", "place"},
}
#: What it may change of a shadow: how often that was right.
GATEWAY_COUNTS = {"both_accept", "only_real", "only_shadow", "both_refuse", "last_accepted_at"}

#: What can be said of a secret and of an API key, and who may: nothing that could open one.
SAID_OF_SECRETS = {"source_id", "slot", "version", "key_id", "added_at", "retires_at", "added_by"}
SEALED_COLUMNS = [
    ("reader", "source_secrets", SAID_OF_SECRETS),
    ("worker", "source_secrets", SAID_OF_SECRETS),
    ("reader", "source_keys", {"source_id", "version", "key_id", "added_at"}),
]
#: Of these a worker may write these columns only.
WORKER_UPDATES = {
    "sources": {"paused_at", "paused_by", "ordered_work", "secret_version"},
    "source_secrets": {"retires_at"},
    # Erasing takes contents away, and nothing else of what is evidence.
    "attempts": {"error"},
    "audit_content": {"salt", "before", "after", "reason"},
    "deliveries": {"body"},
    "messages": {"payload"},
    "settlements": {"error"},
}

TABLES = """
SELECT c.relname AS table, c.relispartition, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
GROUP BY c.relname, c.relispartition
"""


@pytest.fixture(scope="module")
async def connections(servers: Servers) -> AsyncIterator[dict[str, Any]]:
    """One connection per role, to the session's migrated database."""
    endpoints = servers.endpoints()
    opened = {role: await db.open_connection(url, role) for role, url in endpoints.database.items()}
    yield opened
    for conn in opened.values():
        await conn.close()


async def is_refused(conn: Any, statement: str) -> bool:
    """Whether the role lacks the right; any other answer means that it has it."""
    turn = conn.transaction()
    await turn.start()
    try:
        await conn.execute(statement)
    except Exception as error:
        # The trigger's refusal has the same code, and is no question of rights.
        return db.is_refused(error) and "append-only" not in str(error)
    finally:
        await turn.rollback()
    return False


def attempts(action: str, table: str, columns: list[str]) -> Iterator[str]:
    """Statements of which one succeeds if any column of the table is open to the action."""
    match action:
        case "SELECT":
            yield from (f'SELECT "{column}" FROM "{table}" LIMIT 0' for column in columns)
        case "INSERT":
            yield f'INSERT INTO "{table}" DEFAULT VALUES'
        case "UPDATE":
            # DEFAULT, because an identity column takes nothing else.
            yield from (
                f'UPDATE "{table}" SET "{column}" = DEFAULT WHERE false' for column in columns
            )
        case "DELETE":
            yield f'DELETE FROM "{table}" WHERE false'
        case "TRUNCATE":
            yield f'TRUNCATE "{table}"'


async def tables(conn: Any, *, partitions: bool = False) -> dict[str, list[str]]:
    return {
        row["table"]: row["columns"]
        for row in await conn.fetch(TABLES)
        if row["relispartition"] == partitions
    }


async def open_to(conn: Any, action: str, every: dict[str, list[str]]) -> set[str]:
    """The tables of which the role may do that to any column."""
    return {
        table
        for table, columns in every.items()
        if not all([await is_refused(conn, one) for one in attempts(action, table, columns)])
    }


@pytest.mark.parametrize("role", MAY)
async def test_a_role_may_do_what_its_list_says_and_no_more(
    connections: dict[str, Any], role: str
) -> None:
    """Every table, the migrations' history included, against every action (L10)."""
    every = await tables(connections["owner"])
    assert {"migrations", "audit", "inbox"} <= every.keys()
    found = {action: await open_to(connections[role], action, every) for action in ACTIONS}
    assert found == {action: MAY[role].get(action, set()) for action in ACTIONS}


@pytest.mark.parametrize("role", MAY)
async def test_partitions_are_no_way_round(connections: dict[str, Any], role: str) -> None:
    """What is refused on the inbox is refused on its partitions; operators may look."""
    every = await tables(connections["owner"], partitions=True)
    assert "inbox_default" in every
    for action in ACTIONS:
        if (role, action) != ("operator", "SELECT"):
            assert not await open_to(connections[role], action, every), action


async def test_the_gateway_reads_no_body_back(connections: dict[str, Any]) -> None:
    """Of what it wrote, the ingress sees the columns that receipt needs."""
    every = await tables(connections["owner"])
    for table, columns in GATEWAY_COLUMNS.items():
        for column in every[table]:
            refused = await is_refused(
                connections["gateway"], f'SELECT "{column}" FROM "{table}" LIMIT 0'
            )
            assert refused == (column not in columns), (table, column)


async def test_the_gateway_counts_for_a_shadow_and_no_more(connections: dict[str, Any]) -> None:
    """It neither sets a shadow nor changes which secret one is."""
    for column in (await tables(connections["owner"]))["source_shadows"]:
        (statement,) = attempts("UPDATE", "source_shadows", [column])
        refused = await is_refused(connections["gateway"], statement)
        assert refused == (column not in GATEWAY_COUNTS), column


async def test_a_worker_notes_uses_of_tokens_and_no_more(connections: dict[str, Any]) -> None:
    """Which token it was, and when: neither its digest nor its scope."""
    columns = (await tables(connections["owner"]))["tokens"]
    seen = {"id", "last_used_at"}
    for column in columns:
        for action, open_ones in (("SELECT", seen), ("UPDATE", {"last_used_at"})):
            (statement,) = attempts(action, "tokens", [column])
            refused = await is_refused(connections["worker"], statement)
            assert refused == (column not in open_ones), statement


@pytest.mark.parametrize(("role", "table", "columns"), SEALED_COLUMNS)
async def test_who_shows_secrets_cannot_open_them(
    connections: dict[str, Any], role: str, table: str, columns: set[str]
) -> None:
    """Neither nonce nor ciphertext: with the key in hand there is nothing to try it on."""
    every = (await tables(connections["owner"]))[table]
    assert {"nonce", "ciphertext"} <= set(every)
    for column in every:
        refused = await is_refused(connections[role], f'SELECT "{column}" FROM "{table}" LIMIT 0')
        assert refused == (column not in columns), (table, column)


async def test_workers_change_of_a_source_what_orders_change(connections: dict[str, Any]) -> None:
    """They neither rename one nor write over a secret; of evidence only contents go."""
    every = await tables(connections["owner"])
    for table, columns in WORKER_UPDATES.items():
        for column in every[table]:
            statement = f'UPDATE "{table}" SET "{column}" = DEFAULT WHERE false'
            refused = await is_refused(connections["worker"], statement)
            assert refused == (column not in columns), (table, column)


@pytest.mark.parametrize("role", MAY)
async def test_a_role_cannot_become_another(connections: dict[str, Any], role: str) -> None:
    """A connection that was taken over stays what it was."""
    conn = connections[role]
    assert await conn.fetchval("SELECT current_user") == f"sluice_{role}"
    for other in {*MAY} - {role}:
        assert await is_refused(conn, f"SET ROLE sluice_{other}"), other
    assert await is_refused(conn, "SET ROLE sluice")
    assert await is_refused(conn, "CREATE ROLE another")
    assert await is_refused(conn, "CREATE TABLE public.another (n int)")
    assert await is_refused(conn, "ALTER TABLE audit DISABLE TRIGGER append_only")
    assert await is_refused(conn, "SET session_replication_role = replica")


@pytest.mark.parametrize("role", ["gateway", "reader"])
async def test_only_workers_and_operators_make_partitions(
    connections: dict[str, Any], role: str
) -> None:
    """The function runs with its owner's rights; two roles may call it."""
    assert await is_refused(connections[role], "SELECT make_inbox_partitions(0)")


async def write_record(conn: Any) -> int:
    """One audit record with contents; its id."""
    async with conn.transaction():
        now, xid = await audit.moment(conn)
        draft = Draft(
            chain="operator:test", cause="operator", cause_id="test", run=1, tenant="", step=0,
            action="test.done", actor="operator:test", before=b"1", after=b"2", reason=b"why",
        )  # fmt: skip
        await audit.append(conn, [draft], now=now, xid=xid)
    number: int = await conn.fetchval("SELECT max(id) FROM audit")
    return number


@pytest.fixture
async def owner(endpoints: Endpoints) -> AsyncIterator[Any]:
    """The owner, a superuser, of a database of the test's own, with one audit record."""
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        await write_record(conn)
        yield conn


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'operator:nobody'",
        "UPDATE audit SET actor = 'operator:nobody' WHERE false",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "TRUNCATE audit CASCADE",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
        "DELETE FROM audit_content",
        "TRUNCATE audit_content",
        "UPDATE audit_content SET before = '3'",
        "UPDATE audit_content SET before = NULL",
        "UPDATE audit_content SET audit_id = audit_id + 1, salt = NULL, before = NULL,"
        " after = NULL, reason = NULL",
    ],
)
async def test_even_the_owner_cannot_rewrite_the_trail(owner: Any, statement: str) -> None:
    """The table refuses by trigger what rights cannot deny to a superuser (L9)."""
    with pytest.raises(Exception, match=r"append-only|emptied, never rewritten") as refused:
        await owner.execute(statement)
    assert db.is_refused(refused.value)
    assert await owner.fetchval("SELECT count(*) FROM audit WHERE actor = 'operator:test'") == 1


async def test_contents_can_be_erased_once_and_for_all(owner: Any) -> None:
    """Erasure empties salt and contents together; nothing comes back into the row."""
    erase = "UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL"
    assert await owner.execute(erase) == "UPDATE 1"
    with pytest.raises(Exception, match="emptied, never rewritten"):
        await owner.execute("UPDATE audit_content SET before = '1'")
    assert await owner.fetchval("SELECT count(*) FROM audit") == 1


@pytest.mark.parametrize("role", ["worker", "operator"])
async def test_who_appends_can_only_append(endpoints: Endpoints, role: str) -> None:
    """What they may do to the trail is to make it longer."""
    async with db.connect(endpoints.database[role], role) as conn:
        assert await write_record(conn) == 1
        for action in ("UPDATE audit SET run = 2", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(Exception, match="permission denied"):
                await conn.execute(action)


async def test_one_login_takes_its_role(servers: Servers) -> None:
    """With one SLUICE_DATABASE_URL for all, a connection acts in its process's role at once."""
    owner = servers.endpoints().database["owner"]
    async with db.connect(owner, "gateway") as conn:
        assert await conn.fetchval("SELECT current_user") == "sluice_gateway"
        assert await is_refused(conn, "SELECT count(*) FROM grants")
