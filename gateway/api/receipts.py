"""What the gateway answers beside the API's operations, as the document describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

_SIGNATURE = (
    "missing_signature", "malformed_signature", "timestamp_too_old", "timestamp_in_future",
    "wrong_signature",
)  # fmt: skip
_STORING = ("not_configured", "source_unreadable", "store_unavailable")


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    A route that is no operation. `answer` is the JSON Schema of `data`, `status` and `also` come
    with it; `headers` are those that it reads, with what they mean.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    description: str
    tag: str
    answer: Mapping[str, Any]
    status: int = 200
    also: int | None = None
    errors: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": sorted(properties), "properties": properties}


_TRACKING_ID = {"type": "string", "format": "uuid"}
_HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"enum": ["ok", "degraded", "failed"]},
        "checks": {
            "type": "array",
            "items": _object(
                name={"type": "string"},
                status={"enum": ["ok", "degraded", "failed"]},
                detail={"type": "string"},
            ),
        },
    },
}

RECEIPTS = (
    Receipt(
        "POST",
        "/api/v1/webhooks/{source}",
        "receive_webhook",
        "Receive an event from its provider",
        "The provider's own signature proves it, as the source is configured. 200 once the event is"
        " durable, for new and duplicate alike. A verified body that cannot be read is kept and"
        " answered 200 too. A handshake is answered as its provider wants it.",
        "receiving",
        _object(
            received={"const": True},
            trackingId=_TRACKING_ID,
            status={"enum": ["new", "duplicate"]},
        ),
        errors=("unknown_source", "body_timeout", "body_too_large", *_SIGNATURE, *_STORING),
        media_types=("application/json", "application/x-www-form-urlencoded"),
    ),
    Receipt(
        "POST",
        "/api/v1/ingest/{id}",
        "receive_results",
        "Receive results that a partner pushes",
        "`id` is the source's name; its signature or token proves the request. 202 once the body"
        " is durable, exactly as it came; a worker imports it, and `statusUrl` says how far that"
        " is. A small JSON document is checked against the source's JSON Schema first: 422 names"
        " every violation.",
        "receiving",
        {
            "type": "object",
            "required": ["trackingId", "statusUrl"],
            "properties": {"trackingId": _TRACKING_ID, "statusUrl": {"type": "string"}},
        },
        status=202,
        also=200,
        errors=(
            "malformed_request", "unknown_source", "not_found", "forbidden", "missing_token",
            "invalid_token", "key_in_flight", "conflict", "key_reused", "invalid_body",
            "unsupported_media_type", "body_timeout", "body_too_large", "too_many_requests",
            *_SIGNATURE, *_STORING,
        ),
        media_types=(
            "application/json", "application/x-ndjson", "text/csv", "multipart/form-data",
        ),
        headers={
            "Idempotency-Key": "The same key and body gets the first answer again.",
            "X-Idempotency-Key": "The same, by its older name.",
            "Content-Encoding": "`gzip` or `zstd`.",
        },
    ),
    Receipt(
        "GET",
        "/livez",
        "read_liveness",
        "Whether the process runs",
        "Asks nobody.",
        "health",
        _object(status={"const": "ok"}),
    ),
    Receipt(
        "GET",
        "/readyz",
        "read_readiness",
        "Whether events can be stored",
        "200 with `degraded` where somebody should look soon, 503 where nothing can be stored; with"
        " `verbose` in the query every check.",
        "health",
        _HEALTH,
        also=503,
    ),
)  # fmt: skip
