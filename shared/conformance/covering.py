"""
Which lines of a provider no fixture reaches.

All suites of a test module are run once more in a process of their own, under coverage from before
the provider is imported, and under another hash seed: what a set's order decides is found there.

    python -m shared.conformance.covering MODULE FILE PACKAGE…
"""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

_TIMEOUT_S = 300


def missing_lines(suite: type, covers: Sequence[str]) -> dict[str, str]:
    """
    File → the lines, as "3-5, 9", that no suite of this suite's module reaches.

    Raises:
        AssertionError: a suite fails in the other process.
    """
    return dict(_missing(suite.__module__, inspect.getfile(suite), tuple(covers)))


@cache
def _missing(module: str, file: str, covers: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    result = subprocess.run(
        [sys.executable, "-m", "shared.conformance.covering", module, file, *covers],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "20261121"},
        capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    assert result.returncode == 0, f"under coverage, a suite fails:\n{result.stderr[-4000:]}"
    return tuple(json.loads(result.stdout.splitlines()[-1]).items())


def main(module: str, file: str, *covers: str) -> None:
    """Run the suites of `file`, and print what they miss as JSON."""
    from coverage import Coverage

    measure = Coverage(data_file=None, config_file=False, source_pkgs=list(covers))
    measure.start()
    suites = _suites_of(module, file)
    for suite in suites:
        suite().run_all()
    measure.stop()
    found = {}
    for path in sorted({path for name in covers for path in _files_of(name)}):
        _, _, _, missing, shown = measure.analysis2(path)
        if missing:
            found[path] = shown
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _suites_of(module: str, file: str) -> list[Any]:
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    found = [one for one in vars(loaded).values() if isinstance(one, type)]
    suites = [one for one in found if hasattr(one, "run_all") and one.__module__ == module]
    # What others derive from need not say of whom it is.
    return [one for one in suites if hasattr(one, "provider")]


def _files_of(name: str) -> list[str]:
    """The files of a module, or of a package with all that is in it."""
    loaded = importlib.import_module(name)
    if hasattr(loaded, "__path__"):
        return [str(path) for root in loaded.__path__ for path in Path(root).rglob("*.py")]
    return [inspect.getfile(loaded)]


if __name__ == "__main__":
    main(*sys.argv[1:])
