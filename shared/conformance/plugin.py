"""
The plugin that pytest loads wherever Sluice is installed: an option, and what is said at the end.

It is loaded in runs that know nothing of Sluice, and so imports nothing but pytest.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shared.conformance.handling import Bench

# What a proof found is said as in a test of one's own.
pytest.register_assert_rewrite(
    *(f"shared.conformance.{name}" for name in ("proofs", "readings", "suite", "subject"))
)

#: The fixture files that this run wrote, in order.
WRITTEN = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--sluice-write-fixtures`."""
    parser.getgroup("sluice").addoption(
        "--sluice-write-fixtures",
        action="store_true",
        help="write what the provider reads into its fixtures, to be reviewed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin with nothing written."""
    config.stash[WRITTEN] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the fixtures that were written: nobody has judged yet whether they are right."""
    written = config.stash[WRITTEN]
    if written:
        terminalreporter.section("fixtures written: review them")
        for path in written:
            terminalreporter.line(path)


@pytest.fixture(scope="session")
def sluice_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Postgres with Sluice's schema, for the session: role → URL."""
    from shared.conformance.processes import environment

    process = subprocess.Popen(
        [sys.executable, "-m", "shared.conformance.serving",
         str(tmp_path_factory.mktemp("sluice") / "home")],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the servers do not start; what they said is above"
        yield json.loads(line)
    finally:
        process.communicate()


@pytest.fixture
def sluice_bench(sluice_servers: dict[str, str]) -> "Iterator[Bench]":
    """A fresh database to run handlers on; see `shared.conformance.handling.Bench`."""
    from shared.conformance.handling import benched

    with benched(sluice_servers) as bench:
        yield bench
