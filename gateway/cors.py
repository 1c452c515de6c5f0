"""Which pages may call the API from a browser: those of configured origins, and nothing else."""

import re

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.settings import SettingsError

_ORIGIN = re.compile(r"https?://[a-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")

_API = ("/api/v1/", "/openapi.json")
#: What providers and partners send to comes from no page.
_NOT_FOR_PAGES = ("/api/v1/webhooks/", "/api/v1/ingest/")

_SENT = ("Authorization", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Request-Id")
_SHOWN = (
    "ETag", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Idempotency-Replayed",
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-Id",
)  # fmt: skip
_KEPT_FOR_S = 600


def read_origins(text: str | None) -> tuple[str, ...]:
    """
    "https://app.example.com, https://admin.example.com", or "*".

    Raises:
        SettingsError: one of them is no origin.
    """
    origins = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                "SLUICE_CORS_ORIGINS: an origin is like https://app.example.com, in lower case and"
                f" without a path, and {origin!r} is none"
            )
    return origins


class _Pages(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        # Ours says nothing in plain text: what is not allowed is not named.
        found = super().preflight_response(request_headers)
        headers = {
            name: value
            for name, value in found.headers.items()
            if name not in {"content-length", "content-type"}
        }
        return Response(status_code=204, headers=headers)


def cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """`app`, whose API answers pages of these origins; no cookie or login of a browser is used."""
    pages = _Pages(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=_SENT,
        expose_headers=_SHOWN,
        max_age=_KEPT_FOR_S,
    )

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_for_pages = path.startswith(_API) and not path.startswith(_NOT_FOR_PAGES)
        await (pages if is_for_pages else app)(scope, receive, send)

    return choose
