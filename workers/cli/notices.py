"""What a command logs: one line on stderr, where a process writes JSON."""

import logging
import sys


def log_in_lines() -> None:
    """Until `shared.logs.log_as_json` is called; a command has no log of its own."""
    logging.lastResort = _Lines(logging.WARNING)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        parts = ["sluice", record.getMessage()]
        who = [getattr(record, key, None) for key in ("entry_point", "handler", "provider")]
        parts += [f"{one}{_from(record)}" for one in who if isinstance(one, str)]
        if record.exc_info and (error := record.exc_info[1]) is not None:
            parts.append(" ".join(f"{type(error).__name__}: {error}".split()))
        sys.stderr.write(": ".join(parts) + "\n")


def _from(record: logging.LogRecord) -> str:
    place = getattr(record, "value", None)
    return f" ({place})" if place else ""
