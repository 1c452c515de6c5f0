"""The gateway's ASGI application: routes, and the table of what is answered to which exception."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from gateway.api.documents import documents_of
from gateway.api.operations import Api, Operation
from gateway.api.routes import OPERATIONS
from gateway.api.serving import Place, places_of, routes_of
from gateway.cors import cors
from gateway.door import Door, Visit
from gateway.envelope import Refusal, answer, refuse
from gateway.ingest import Ingest, receive_push
from gateway.ingress import Ingress, receive
from gateway.intake import Overloaded, StoreUnavailable
from gateway.readiness import Readiness
from gateway.sources import NotConfigured, UnknownSource
from shared.providers.base import SignatureError


@dataclass(frozen=True, slots=True)
class Deps:
    """
    What the application is made of. Without `api` there is no API; `origins` are those whose pages
    may call it.
    """

    ingress: Ingress
    ingest: Ingest | None = None
    readiness: Readiness | None = None
    api: Api | None = None
    origins: tuple[str, ...] = ()


def create_app(deps: Deps, operations: Sequence[Operation] = OPERATIONS) -> ASGIApp:
    """The application; whoever opened the dependencies closes them."""
    places: list[Place] = [
        ("POST", "/api/v1/webhooks/{source}", receive),
        ("GET", "/livez", livez),
        ("GET", "/readyz", readyz),
    ]
    if deps.ingest is not None:
        places.append(("POST", "/api/v1/ingest/{id}", receive_push))
    if deps.api is not None:
        places += places_of(operations, deps.api)
    routes = routes_of(places)
    if deps.api is not None:
        routes += documents_of(operations, {(method, path) for method, path, _ in places})
    app = Starlette(routes=routes, exception_handlers=ANSWERS)
    # A redirected POST comes back as a GET without a body, or not at all.
    app.router.redirect_slashes = False
    app.state.ingress = deps.ingress
    app.state.ingest = deps.ingest
    app.state.readiness = deps.readiness
    return Door(cors(app, deps.origins) if deps.origins else app)


async def livez(request: Request) -> Response:
    """Whether the process runs. Asks nobody."""
    visit: Visit = request.scope["visit"]
    return answer({"status": "ok"}, visit.trace_id)


async def readyz(request: Request) -> Response:
    """Whether events can be stored. 200 with "degraded" where somebody should look soon."""
    visit: Visit = request.scope["visit"]
    readiness: Readiness | None = request.app.state.readiness
    checks = await readiness.checks() if readiness is not None else []
    verdicts = {check.verdict for check in checks}
    status = next((v for v in ("failed", "degraded") if v in verdicts), "ok")
    data: dict[str, object] = {"status": status}
    if status != "ok" or "verbose" in request.query_params:
        data["checks"] = [
            {"name": check.name, "status": check.verdict, "detail": check.detail}
            for check in checks
        ]
    return answer(data, visit.trace_id, status=503 if status == "failed" else 200)


# The error table -------------------------------------------------------------------------------


_REFUSALS: dict[type[Exception], Refusal] = {
    UnknownSource: Refusal("unknown_source", "There is no such source."),
    NotConfigured: Refusal("not_configured", "The configuration cannot be read now."),
    StoreUnavailable: Refusal("store_unavailable", "The event cannot be stored now."),
    Overloaded: Refusal("overloaded", "Too much is waiting to be stored."),
}


def _refusal_of(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, SignatureError):
        return Refusal(error.code, "The signature does not prove the sender.")
    if isinstance(error, HTTPException) and error.status_code == 405:
        return Refusal("method_not_allowed", "This method is not allowed here.", error.headers)
    return _REFUSALS.get(type(error)) or Refusal("not_found", "There is nothing here.")


def _answer(request: Request, error: Exception) -> Response:
    visit: Visit = request.scope["visit"]
    refusal = _refusal_of(error)
    visit.outcome = refusal.code
    if isinstance(error, UnknownSource | NotConfigured):
        # Whatever the path says is a stranger's, and no label.
        visit.source = "unknown"
    return refuse(refusal.code, refusal.message, visit.trace_id, refusal.headers, refusal.details)


def _answer_internal(request: Request, error: Exception) -> Response:
    visit: Visit = request.scope["visit"]
    return refuse("internal", "An internal error.", visit.trace_id)


ANSWERS: dict[Any, Callable[[Request, Exception], Response]] = dict.fromkeys(
    (Refusal, SignatureError, HTTPException, *_REFUSALS), _answer
)
# Starlette answers with this and raises on; the door logs it.
ANSWERS[Exception] = _answer_internal
