"""SQL lives in one place: constants of `shared/store`, each with its name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.sql import NOT_SQL

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "workers", "shared")

STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+(\s+\w+)?\s+SET\s|DELETE\s+FROM\s|MERGE\s+INTO\s|WITH\s+\S+\s+AS\s"
    r"|TRUNCATE\s|LOCK\s+TABLE|COPY\s+\S+\s+(FROM|TO)\b|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|VIEW|ROLE"
    r"|USER|DATABASE|SEQUENCE|FUNCTION|TRIGGER|SCHEMA|TYPE)\s|GRANT\s+\S+.*\sTO\s|REVOKE\s)"
)

#: Where statements may stand besides `shared/store`, and why.
ELSEWHERE = {
    "shared/migrate.py": "makes the schema that the store stands on",
    "workers/stack/postgres.py": "makes the server: its database and its logins",
    "workers/stack/doctor.py": "looks at a server that may have no schema",
    "shared/conformance/handling.py": "makes a database for each test of a package",
    "shared/conformance/surviving.py": "asks as the owner, in tests only, what is left to do",
    "workers/cli/run.py": "prints the migrations' history as SQL",
}

#: How `Conn` runs a statement; the first argument is the statement.
RUNNING = {"execute", "executemany", "fetch", "fetchrow", "fetchval"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string that is not a docstring; of f-strings, their first part."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.lineno, node.value


def misplaced(path: str, source: str) -> list[str]:
    if path.startswith("shared/store/") or path in ELSEWHERE:
        return []
    return [
        f"{path}:{line}: {text.strip()[:60]}"
        for line, text in literals(ast.parse(source))
        if STATEMENT.match(text)
    ]


def unnamed(path: str, source: str) -> list[str]:
    """Statements of the store that are run without being a constant of their module."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in RUNNING or not node.args:
            continue
        if not (isinstance(node.args[0], ast.Name) and node.args[0].id.isupper()):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)[:60]}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [
                f"{path}:{line}: {text.strip()[:60]}"
                for line, text in literals(node)
                if STATEMENT.match(text)
            ]
    return found


def test_no_statement_outside_the_store() -> None:
    """Whoever looks for what is done to a table looks in one package."""
    found = [
        line
        for path in modules()
        for line in misplaced(str(path.relative_to(ROOT)), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_the_exceptions_are_needed() -> None:
    """A file that holds no statement any more loses its exception."""
    for path in ELSEWHERE:
        texts = (text for _, text in literals(ast.parse((ROOT / path).read_text())))
        assert any(STATEMENT.match(text) for text in texts), path


def test_the_store_runs_named_statements_only() -> None:
    """What is run is a constant: it is prepared by a contract, and found by its name."""
    found = [
        line
        for path in sorted((ROOT / "shared/store").glob("*.py"))
        for line in unnamed(str(path.relative_to(ROOT)), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_no_statement_is_built_or_vague() -> None:
    """No f-string, no `SELECT *` of a table: a statement says what it reads."""
    for path in sorted((ROOT / "shared/store").glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                first = node.values[0] if node.values else None
                text = first.value if isinstance(first, ast.Constant) else ""
                assert not STATEMENT.match(str(text)), f"{path}:{node.lineno}"
        for line, text in literals(tree):
            if STATEMENT.match(text):
                # Of unnest, whose columns are named beside it, and of a lateral one-row look-up.
                rest = re.sub(r"SELECT \* FROM (unnest|ledger l)\b", "", text)
                assert "SELECT *" not in rest, f"{path}:{line}"


@pytest.mark.parametrize(
    "source",
    [
        'X = "SELECT 1"',
        'async def f(conn): await conn.execute("DELETE FROM work")',
        'async def f(conn, t): await conn.execute(f"TRUNCATE {t}")',
        'X = """\nWITH a AS (SELECT 1) SELECT 1"""',
        'X = "INSERT INTO work VALUES (1)"',
        'X = "UPDATE work SET x = 1"',
    ],
)
def test_it_would_be_noticed(source: str) -> None:
    """The rule sees a statement wherever it stands."""
    assert misplaced("workers/process.py", source)


def test_not_sql_is_not_sql() -> None:
    """The exceptions of the other contract hide no statement."""
    assert {"shared.store.sources.OPERATOR_SOURCE", "shared.store.tokens.PREFIX"} == NOT_SQL
    assert unnamed("x", 'async def f(conn): await conn.fetch("SELECT 1")')
    assert unnamed("x", "async def f(conn, statement): await conn.fetch(statement)")
