"""The schema's history: forward only, never edited, safe from any number of places at once."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from shared import db, migrate
from shared.migrate import Migration, MigrationError
from tests.contract.sql import statements
from tests.support.stack import with_database
from workers.stack.servers import Servers

DIRECTORY = Path(migrate.__file__).with_name("migrations")
_numbers = count(1)

#: What Postgres learned after 15, the oldest that is supported.
NEWER_SYNTAX = {
    "ANY_VALUE (16)": r"\bany_value\s*\(",
    "JSON constructors (16)": r"\bjson_(array|object|arrayagg|objectagg)\s*\(",
    "IS JSON (16)": r"\bIS\s+(NOT\s+)?JSON\b",
    "SQL/JSON functions (17)": r"\bjson_(table|query|value|exists|scalar|serialize)\s*\(",
    "GENERIC_PLAN (16)": r"\bgeneric_plan\b",
    "pg_input_is_valid (16)": r"\bpg_input_(is_valid|error_info)\b",
    "SYSTEM_USER (16)": r"\bsystem_user\b",
    "array_sample, array_shuffle (16)": r"\barray_(sample|shuffle)\b",
    "digit groups, hex numbers (16)": r"(?<![\w$'])(\d+_\d+|0x[0-9a-f]+)\b",
    "GRANT … WITH INHERIT, SET (16)": r"\bGRANT\b[^;]*\bWITH\s+(INHERIT|SET)\b",
    "MERGE … RETURNING (17)": r"\bMERGE\s+INTO\b[^;]*\bRETURNING\b",
    "merge_action (17)": r"\bmerge_action\s*\(",
    "transaction_timeout (17)": r"\btransaction_timeout\b",
    "AT LOCAL (17)": r"\bAT\s+LOCAL\b",
    "uuidv7, uuid_extract_timestamp (17, 18)": r"\b(uuidv[47]|uuid_extract_\w+)\s*\(",
    "RETURNING old, new (18)": r"\bRETURNING\b[^;]*\b(old|new)\.",
    "virtual columns (18)": r"\bVIRTUAL\b",
    "WITHOUT OVERLAPS, PERIOD (18)": r"\bWITHOUT\s+OVERLAPS\b|\bFOREIGN\s+KEY\b[^;]*\bPERIOD\b",
    "NOT ENFORCED (18)": r"\bNOT\s+ENFORCED\b",
}


@pytest.fixture
async def empty(servers: Servers) -> AsyncIterator[str]:
    """The owner's URL of a database without any table."""
    owner = servers.endpoints().database["owner"]
    name = f"empty_{next(_numbers)}"
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"CREATE DATABASE {name}")
    yield with_database(servers.endpoints(), name).database["owner"]
    async with db.connect(owner, "owner") as conn:
        await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def apply(url: str) -> list[Migration]:
    async with db.connect(url, "owner") as conn:
        return await migrate.migrate(conn)


async def value(url: str, statement: str) -> Any:
    async with db.connect(url, "owner") as conn:
        return await conn.fetchval(statement)


def test_the_files_are_numbered_without_a_gap() -> None:
    """A file with another kind of name would be left out without a word."""
    names = [path.name for path in sorted(DIRECTORY.iterdir()) if path.suffix == ".sql"]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert [f"{one.number:04d}_{one.name}.sql" for one in migrate.available()] == names


async def test_an_empty_database_becomes_a_whole_one(empty: str) -> None:
    """Everything is applied in order, recorded with its digest, and not applied again."""
    done = await apply(empty)
    assert done == migrate.available()
    async with db.connect(empty, "owner") as conn:
        history = await conn.fetch(migrate.READ_HISTORY)
        assert [tuple(row.values()) for row in history] == [
            (one.number, one.name, one.sha256) for one in done
        ]
        assert await migrate.pending(conn) == []
    assert await value(empty, "SELECT make_inbox_partitions(14)") == 15
    assert await apply(empty) == []


async def test_four_migrators_at_once_apply_everything_once(empty: str) -> None:
    """Rolling out several replicas needs no leader."""
    done = await asyncio.gather(*(apply(empty) for _ in range(4)))
    applied = [one.number for each in done for one in each]
    assert sorted(applied) == [one.number for one in migrate.available()]


async def test_an_edited_history_is_refused(empty: str) -> None:
    """An applied file is part of the database; a change is a migration of its own."""
    await apply(empty)
    await value(empty, "UPDATE migrations SET sha256 = 'another' WHERE number = 2")
    with pytest.raises(MigrationError, match=r"0002_create_inbox\.sql was edited"):
        await apply(empty)


async def test_a_newer_database_is_refused(empty: str) -> None:
    """An older version must not guess what a newer one has done."""
    await apply(empty)
    await value(empty, "INSERT INTO migrations VALUES (9999, 'move_everything', 'digest')")
    with pytest.raises(MigrationError, match="9999_move_everything, which this version does not"):
        await apply(empty)


async def test_a_failing_migration_leaves_nothing(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one transaction: what came before it stays, of itself nothing does."""
    every = migrate.available()
    broken = Migration(every[-1].number + 1, "break", "CREATE TABLE half (n int); SELECT 1/0")
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "available", lambda: [*every, broken])
        with pytest.raises(Exception, match="division by zero"):
            await apply(empty)
    assert await value(empty, "SELECT to_regclass('half')") is None
    assert await value(empty, "SELECT count(*) FROM migrations") == len(every)
    assert await apply(empty) == []


async def test_the_checks_are_the_state_diagram(endpoints: Any) -> None:
    """A row that no event can be in cannot be written, by nobody."""
    event = "'00000000-0000-7000-8000-000000000000'"
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        settlements = (
            "INSERT INTO settlements (tracking_id, run, source_id, attempts, status, outcome, code)"
        )
        wrong = ("'processed', 'dead', NULL", "'dead', 'dead', NULL", "'retrying', 'dead', 'x'")
        for rest in wrong:
            with pytest.raises(Exception, match="violates check constraint"):
                await conn.execute(f"{settlements} VALUES ({event}, 1, 1, 0, {rest})")
        await conn.execute(f"{settlements} VALUES ({event}, 1, 1, 0, 'dead', 'dead', 'x')")
        work = "INSERT INTO work (tracking_id, received_at, lane, kind, run, alone)"
        for rest in ("'redelivery', 1, false", "'event', 0, false", "'event', 1, true"):
            with pytest.raises(Exception, match="violates check constraint"):
                await conn.execute(f"{work} VALUES ({event}, now(), 1, {rest})")
        await conn.execute(f"{work} VALUES ({event}, now(), 1, 'event', 1, false)")
        with pytest.raises(Exception, match="work_one_run_at_a_time"):
            await conn.execute(f"{work} VALUES ({event}, now(), 1, 'event', 2, false)")


@pytest.mark.parametrize("feature", NEWER_SYNTAX)
def test_postgres_15_understands_it(feature: str) -> None:
    """Neither a migration nor a statement uses what later versions brought."""
    texts = {path.name: path.read_text() for path in DIRECTORY.glob("*.sql")} | dict(statements())
    pattern = re.compile(NEWER_SYNTAX[feature], re.IGNORECASE)
    for name, text in texts.items():
        code = re.sub(r"--[^\n]*|'[^']*'", "", text)
        assert not pattern.search(code), name


def test_newer_syntax_would_be_noticed() -> None:
    """The patterns match what they are named for."""
    samples = [
        "SELECT any_value(x)", "SELECT json_array(1)", "x IS NOT JSON", "json_table(x)",
        "EXPLAIN (generic_plan)", "pg_input_is_valid(a)", "SELECT system_user",
        "array_sample(a, 1)", "SELECT 1_000", "GRANT a TO b WITH SET FALSE",
        "MERGE INTO t USING s RETURNING x", "merge_action()", "SET transaction_timeout",
        "now() AT LOCAL", "SELECT uuidv7()", "UPDATE t SET a = 1 RETURNING old.a",
        "a int GENERATED ALWAYS AS (b) VIRTUAL", "PRIMARY KEY (a, b WITHOUT OVERLAPS)",
        "CHECK (a > 0) NOT ENFORCED",
    ]  # fmt: skip
    for sample, pattern in zip(samples, NEWER_SYNTAX.values(), strict=True):
        assert re.search(pattern, sample, re.IGNORECASE), sample
