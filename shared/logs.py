"""Logs: one JSON object a line on stderr. Never a secret, never a body."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

#: What every record has anyway; everything else was given as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

#: A value longer than this says more than a log line should, and may be a stranger's.
_LONGEST_VALUE = 2_000


class JsonFormatter(logging.Formatter):
    """`ts` (UTC), `level`, `logger`, `msg`, the extra fields, and `trace_id` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _short(record.getMessage()),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line[name] = _short(value)
        if record.exc_info:
            line["error"] = _short(self.formatException(record.exc_info), 4 * _LONGEST_VALUE)
        return json.dumps(line, default=str, ensure_ascii=True)


def log_as_json(level: str) -> None:
    """Send everything at or above `level` ("INFO", …) to stderr; replaces what was set up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # arq says two lines a job, uvicorn, httpx and stripe one a request: all are metrics here.
    for noisy in ("arq.worker", "uvicorn.access", "asyncio", "httpx", "stripe"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _short(value: object, longest: int = _LONGEST_VALUE) -> object:
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, str) and len(value) > longest:
        return value[:longest] + "…"
    return value
