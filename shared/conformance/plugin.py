"""
The plugin that pytest loads wherever Sluice is installed: an option, and what is said at the end.

It is loaded in runs that know nothing of Sluice, and so imports nothing but pytest.
"""

import pytest

# What a proof found is said as in a test of one's own.
pytest.register_assert_rewrite("shared.conformance.suite")

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
