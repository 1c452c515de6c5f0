"""Every statement fits the migrated schema, and the role that runs it may run it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared import db
from tests.contract.sql import copies, statements, store_modules
from workers.stack.servers import Servers

#: Who runs a module's statements.
RUN_BY = {
    "shared.migrate": ("owner",),
    "shared.store.audit": ("worker", "operator"),
    "shared.store.backlog": ("worker",),
    "shared.store.candidates": ("worker", "operator"),
    "shared.store.catalogs": ("operator",),
    "shared.store.checkpoints": ("operator",),
    "shared.store.configuration": ("operator",),
    "shared.store.customers": ("worker", "operator"),
    "shared.store.demo": ("operator",),
    "shared.store.erasing": ("worker",),
    "shared.store.erasures": ("operator",),
    "shared.store.draining": ("operator",),
    "shared.store.ended_jobs": ("worker", "operator"),
    "shared.store.events": ("operator",),
    "shared.store.explanations": ("reader", "operator"),
    "shared.store.feed": ("reader",),
    "shared.store.disputes": ("operator",),
    "shared.store.exports": ("worker",),
    "shared.store.fetches": ("worker",),
    "shared.store.grants": ("worker", "operator"),
    "shared.store.handler_lists": ("operator",),
    "shared.store.handlers": ("worker",),
    "shared.store.health": ("reader",),
    "shared.store.holds": ("operator",),
    "shared.store.imports": ("worker",),
    "shared.store.ingested": ("reader",),
    "shared.store.intake": ("gateway",),
    "shared.store.integrations": ("reader",),
    "shared.store.issues": ("operator",),
    "shared.store.job_lists": ("reader", "operator"),
    "shared.store.jobs": ("worker",),
    "shared.store.ledger": ("worker",),
    "shared.store.manual_grants": ("operator",),
    "shared.store.merges": ("operator",),
    "shared.store.messages": ("operator",),
    "shared.store.missed": ("worker",),
    "shared.store.objects": ("worker", "operator"),
    "shared.store.observations": ("worker",),
    "shared.store.operating": ("worker",),
    "shared.store.orders": ("reader",),
    "shared.store.outbox": ("worker",),
    "shared.store.parked": ("worker", "operator"),
    "shared.store.partitions": ("worker", "operator"),
    "shared.store.pulls": ("worker",),
    "shared.store.pruning": ("worker", "operator"),
    "shared.store.reconciliations": ("worker",),
    "shared.store.recorded": ("operator", "reader"),
    "shared.store.records": ("worker",),
    "shared.store.redeliveries": ("worker",),
    "shared.store.rehearsals": ("worker",),
    "shared.store.replay_lists": ("operator",),
    "shared.store.replay_plans": ("worker",),
    "shared.store.replays": ("worker",),
    "shared.store.refusals": (),  # each by somebody else: see below
    "shared.store.rereading": ("worker",),
    "shared.store.retention": ("worker", "operator"),
    "shared.store.rhythms": ("worker",),
    "shared.store.selecting": ("worker", "operator"),
    "shared.store.secrets": ("operator",),
    "shared.store.shadows": (),  # each by somebody else: see below
    "shared.store.source_keys": ("operator",),
    "shared.store.source_rows": ("worker", "operator"),
    "shared.store.sources": ("gateway",),
    "shared.store.status": ("operator",),
    "shared.store.steering": ("worker", "operator"),
    "shared.store.tailing": ("operator",),
    "shared.store.tenants": ("operator",),
    "shared.store.tended": ("operator",),
    "shared.store.tokens": ("operator",),
    "shared.store.trail": ("operator",),
    "shared.store.work": ("worker",),
}
#: Statements that somebody else runs too.
ALSO = {
    "reader": {
        "shared.store.grants": ("GRANTS_OF_TENANTS", "READ_CATALOG"),
        "shared.store.objects": (
            "OBJECTS_OF_TENANT", "OBJECTS_OF_CUSTOMERS", "OBJECTS_BY_KEY", "REACHED_BY_JOINTS",
            "OBJECTS_OF_JOINTS",
        ),
        "shared.store.observations": ("READ_OBSERVATIONS",),
        "shared.store.source_rows": ("READ_MODE", "READ_SOURCES"),
        "shared.store.tenants": (
            "IS_KNOWN", "READ_GRANTS", "READ_CUSTOMERS", "READ_MEMBERS", "LIST_TENANTS",
            "CHECK_FEATURES",
        ),
        "shared.store.tokens": ("FIND_BY_DIGEST", "STILL_VALID"),
        "shared.store.merges": ("ALIASES_AT", "NAMES_OF_TENANT", "READ_MERGES"),
    },
    "gateway": {
        "shared.store.refusals": ("KEEP_REFUSAL", "READ_RETIRED"),
        "shared.store.shadows": ("COUNT_SHADOW",),
    },
    "worker": {
        "shared.store.checkpoints": (
            "TAKE_TURN", "READ_KEYS", "READ_PRIVATE", "INSERT_KEY", "INSERT_PRIVATE",
            "INSERT_SEAL", "READ_NEWEST", "SPAN", "READ_LEAVES", "INSERT_CHECKPOINT",
            "UNSIGNED_S",
        ),
        "shared.store.refusals": ("PRUNE_REFUSALS",),
        "shared.store.source_keys": ("READ_KEYS",),
        "shared.store.sources": ("READ_SEALS",),
        "shared.store.tokens": ("NOTE_USE",),
        # Whether what was given by hand adds is the catalog's to say.
        "shared.store.manual_grants": ("LIST_MANUAL_GRANTS",),
    },
    # What operators link, grant or merge is derived in their own transaction.
    "operator": {
        "shared.store.observations": ("READ_OBSERVATIONS",),
        # `sluice replay` opens named runs itself, and looks at a plan before its job does.
        "shared.store.replays": (
            "FIND_EVIDENCE", "WAIT_LONGER", "LOCK_LANES", "LATEST_RUNS", "INSERT_RUNS",
        ),
        "shared.store.replay_plans": (
            "READ_STANDING", "COUNT_TO_OPEN", "FIND_MOVED", "FIND_CHANGED", "FIND_LINKED",
        ),
        "shared.store.sources": ("READ_SEALS",),
        "shared.store.rhythms": ("READ_RHYTHMS",),
        # `sluice sources pause` and `resume` do at once what an order does.
        "shared.store.operating": (
            "HOLD_SOURCE", "NEXT_WORK", "SET_PAUSED", "NOTE_ORDER", "TAKE_TURN", "ADD_VERSION",
            "READ_PLACES", "RETIRE", "ADD_SEALED", "NOTE_VERSION", "KEEP_SEAL",
        ),
        "shared.store.integrations": ("LIST_INTEGRATIONS", "READ_VERSIONS"),
        "shared.store.refusals": ("LIST_REFUSALS", "READ_REFUSAL"),
        "shared.store.shadows": ("READ_SHADOWS", "PUT_SHADOW", "DROP_SHADOW"),
    },
}  # fmt: skip

STATEMENTS = dict(statements())
SHARED_RUNS = [
    (f"{module}.{name}", role)
    for role, modules in ALSO.items()
    for module, names in modules.items()
    for name in names
]
RUNS = [
    (name, role) for name in STATEMENTS for role in RUN_BY.get(name.rpartition(".")[0], ("owner",))
] + [run for run in SHARED_RUNS if run[0] in STATEMENTS]


@pytest.fixture(scope="module")
async def connections(servers: Servers) -> AsyncIterator[dict[str, Any]]:
    """One connection per role, to the session's migrated database."""
    endpoints = servers.endpoints()
    opened = {role: await db.open_connection(url, role) for role, url in endpoints.database.items()}
    yield opened
    for conn in opened.values():
        await conn.close()


def test_every_module_of_the_store_is_looked_at() -> None:
    """A new table family says who runs its statements; a statement that is gone is forgotten."""
    silent = {"shared.store.paging"}  # has no statement
    assert RUN_BY.keys() == set(store_modules()) - silent
    assert {name for name, _ in SHARED_RUNS} <= STATEMENTS.keys()
    assert len(STATEMENTS) > 90


@pytest.mark.parametrize(("name", "role"), RUNS, ids=[f"{name}-{role}" for name, role in RUNS])
async def test_statement(connections: dict[str, Any], name: str, role: str) -> None:
    """Tables, columns, types and rights are there: planned for execution, without running it."""
    prepared = await connections[role].prepare(STATEMENTS[name])
    if STATEMENTS[name].lstrip().startswith(("CREATE", "SET")):
        return  # utility statements have no plan
    # EXPLAIN checks the rights that PREPARE leaves to the execution.
    await prepared.explain(*[None] * len(prepared.get_parameters()))


@pytest.mark.parametrize(
    ("module", "table", "columns"),
    list(copies()),
    ids=lambda value: value if str(value) == value else "",
)
async def test_copy(
    connections: dict[str, Any], module: str, table: str, columns: tuple[str, ...]
) -> None:
    """A COPY names columns that its table has, and those who run it may."""
    for role in RUN_BY[module]:
        status = await connections[role].copy_records_to_table(table, records=[], columns=columns)
        assert status == "COPY 0"
