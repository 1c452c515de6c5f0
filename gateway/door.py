"""
What every request passes first and every answer last: its trace, its id, its time, and the last
word on whatever went wrong.

Plain ASGI, around everything, so that no answer leaves without an envelope.
"""

import logging
import re
from dataclasses import dataclass
from time import perf_counter

from opentelemetry.trace import Span, SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.envelope import refuse
from shared import telemetry

log = logging.getLogger(__name__)

#: Requests at once; each may hold a body. Health is asked under any load.
_REQUESTS_AT_ONCE = 4096
_HEALTH_PATHS = frozenset({"/livez", "/readyz"})
_HEADER_BYTES = 64 << 10

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class Visit:
    """
    One request on its way through. `source` is set for webhooks, as soon as it is known; `headers`
    are those of its answer, whatever that will be, where it has none of that name itself.
    """

    span: Span
    trace_id: str
    source: str = ""
    outcome: str = ""
    headers: dict[bytes, bytes] | None = None

    def describe(self, tracking_id: str, event_type: str) -> None:
        """Say on the span which event it was, where spans are recorded."""
        if self.span.is_recording():
            self.span.set_attributes(
                {
                    "sluice.source": self.source,
                    "sluice.tracking_id": tracking_id,
                    "sluice.event_type": event_type,
                    "sluice.outcome": self.outcome,
                }
            )


class Door:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = perf_counter()
        request_id, traceparent, header_bytes = _look_at(scope["headers"])
        span = telemetry.start_span("gateway.receive", SpanKind.SERVER, traceparent)
        visit = scope["visit"] = Visit(span, telemetry.trace_id_of(span))
        named = (b"x-request-id", request_id or visit.trace_id.encode())
        is_answered = False

        async def send_named(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                if visit.headers is not None:
                    # Several `Vary` are one list.
                    has = {name for name, _ in message["headers"]} - {b"vary"}
                    wanted = visit.headers.items()
                    message["headers"] += [field for field in wanted if field[0] not in has]
                message["headers"].append(named)
            await send(message)

        self._inside += 1
        try:
            if header_bytes > _HEADER_BYTES:
                refusal = refuse("headers_too_large", "The headers are too large.", visit.trace_id)
                await refusal(scope, receive, send_named)
            elif self._inside > _REQUESTS_AT_ONCE and scope["path"] not in _HEALTH_PATHS:
                visit.outcome = "overloaded"
                refusal = refuse("overloaded", "Too many requests at once.", visit.trace_id)
                await refusal(scope, receive, send_named)
            else:
                await self._app(scope, receive, send_named)
        except Exception:
            visit.outcome = "internal"
            log.exception("a request failed", extra={"trace_id": visit.trace_id})
            if not is_answered:
                refusal = refuse("internal", "An internal error.", visit.trace_id)
                await refusal(scope, receive, send_named)
        finally:
            self._inside -= 1
            span.end()
            if visit.source:
                telemetry.received(visit.source, visit.outcome, perf_counter() - started_at)


def _look_at(headers: list[tuple[bytes, bytes]]) -> tuple[bytes | None, str | None, int]:
    """The sender's request id if it is sane, its traceparent, and the size of all headers."""
    request_id = traceparent = None
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"x-request-id":
            request_id = value if _REQUEST_ID.fullmatch(value) else None
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
    return request_id, traceparent, size
