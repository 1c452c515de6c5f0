"""The one shape of every body: `{"data", "error", "meta"}`, and every error the gateway knows."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

#: Every code an answer may carry, and its status. Stable: senders and alerts depend on them.
STATUS_OF = {
    "malformed_request": 400,
    "missing_idempotency_key": 400,
    "missing_signature": 401,
    "malformed_signature": 401,
    "timestamp_too_old": 401,
    "timestamp_in_future": 401,
    "wrong_signature": 401,
    "missing_token": 401,
    "invalid_token": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_source": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "key_in_flight": 409,
    "conflict": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_body": 422,
    "key_reused": 422,
    "too_many_requests": 429,
    "headers_too_large": 431,
    "internal": 500,
    "not_configured": 503,
    "overloaded": 503,
    "source_unreadable": 503,
    "store_unavailable": 503,
}

RETRY_AFTER_S = 5

_encode = msgspec.json.Encoder().encode


class Detail(msgspec.Struct, frozen=True, rename="camel"):
    """What is wrong at one place of a request: a JSON pointer into it, "" for all of it."""

    pointer: str
    message: str


class Refusal(Exception):
    """
    A request that is answered with an error. `code` is one of STATUS_OF.

    `details` are places in what was sent, and what is wrong there.
    """

    def __init__(
        self,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        details: Sequence[Detail] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers
        self.details = details


class Envelope(Response):
    """A response whose content is encoded already."""

    media_type = "application/json"

    def __init__(
        self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, status, headers)


def answer(
    data: Any,
    trace_id: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **meta: Any,
) -> Envelope:
    """`data`, which msgspec encodes in camelCase, in its envelope."""
    body = {"data": data, "error": None, "meta": {"traceId": trace_id, **meta}}
    return Envelope(_encode(body), status, headers)


def encode(data: Any) -> bytes:
    """`data` as answers have it: JSON in camelCase."""
    return _encode(data)


def refuse(
    code: str,
    message: str,
    trace_id: str,
    headers: Mapping[str, str] | None = None,
    details: Sequence[Detail] | None = None,
) -> Envelope:
    """The error `code` in its envelope; a 503 says when to come again."""
    status = STATUS_OF[code]
    wanted = {**headers} if headers else {}
    if status == 503:
        wanted.setdefault("Retry-After", str(RETRY_AFTER_S))
    error: dict[str, Any] = {"code": code, "message": message}
    if details is not None:
        error["details"] = details
    return Envelope(
        _encode({"data": None, "error": error, "meta": {"traceId": trace_id}}), status, wanted
    )
