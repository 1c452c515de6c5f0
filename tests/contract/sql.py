"""What the SQL contracts look at: the store's modules and their constants."""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import shared.store
from shared import migrate

#: UPPER_CASE text in the store that is no statement.
NOT_SQL = {"shared.store.sources.OPERATOR_SOURCE", "shared.store.tokens.PREFIX"}


def store_modules() -> list[str]:
    """`shared.store.*` and `shared.migrate`."""
    found = [info.name for info in pkgutil.iter_modules(shared.store.__path__, "shared.store.")]
    return [*found, migrate.__name__]


def statements() -> Iterator[tuple[str, str]]:
    """("shared.store.work.LOCK_LANE", its text) of every statement there is."""
    for module in store_modules():
        for name, value in vars(importlib.import_module(module)).items():
            is_text = name.isupper() and not name.startswith("_") and isinstance(value, str)
            if is_text and f"{module}.{name}" not in NOT_SQL:
                yield f"{module}.{name}", value


def copies() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(module, table, columns) of every COPY that the store makes."""
    for module in store_modules():
        imported = importlib.import_module(module)
        tree = ast.parse(Path(str(imported.__file__)).read_text())
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "copy_records_to_table":
                continue
            columns = next(one.value for one in node.keywords if one.arg == "columns")
            table = node.args[0]
            assert isinstance(table, ast.Constant), f"{module}:{node.lineno}"
            assert isinstance(columns, ast.Name), f"{module}:{node.lineno}"
            yield module, str(table.value), getattr(imported, columns.id)
