"""Exit codes of `sluice`, and what an error means to whoever typed the command."""

import json
import sys
from typing import Any

OK = 0
FAILURE = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 5
PARTLY_FAILED = 6
DEPENDENCY_DOWN = 7


class CommandError(Exception):
    """Ends a command with one line on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.code = code


def unknown(group: str, text: object) -> CommandError:
    """`text` says what there is none of; `group` is whose `list` has the ids that there are."""
    return CommandError(f"{text}; `sluice {group} list` shows what there is", NOT_FOUND)


def explain(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code for an error that is expected; None: it is a bug of ours."""
    # Imported here: the commonest command, --help, needs none of them.
    from shared import db
    from shared.migrate import MigrationError
    from shared.sealing import SealingError
    from shared.settings import SettingsError
    from workers.stack.binaries import BinariesError
    from workers.stack.embedded import ServerError
    from workers.stack.home import HomeError, HomeInUseError
    from workers.stack.spawn import ChildFailed
    from workers.stack.up import UpError

    text = str(error) or type(error).__name__
    if isinstance(error, CommandError):
        return text, error.code
    for kinds, code in (
        ((SettingsError,), USAGE),
        ((HomeInUseError,), CONFLICT),
        ((BinariesError, ServerError), DEPENDENCY_DOWN),
        ((HomeError, ChildFailed, UpError, MigrationError, SealingError), FAILURE),
    ):
        if isinstance(error, kinds):
            return text, code
    if db.is_missing_table(error):
        return f"the database is not set up: {text}; run `sluice db migrate`", FAILURE
    state = getattr(error, "sqlstate", None) or ""
    # 28: who we say we are; 3D: no such database.
    if db.is_platform_fault(error) or state[:2] in {"28", "3D"}:
        return (
            f"Postgres or Redis does not answer: {text}; `sluice doctor` says which",
            DEPENDENCY_DOWN,
        )
    if db.is_refused(error):
        return f"the database refuses: {text}", FAILURE
    return None


def write_line(value: Any) -> None:
    """One JSON document on stdout, in one line: of many, or to be kept in a file of lines."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def write_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
