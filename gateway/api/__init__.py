"""The read API: reads, in a role that can do nothing else, through a pool of its own."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.tenants import read_entitlements, read_explanation, read_membership
from shared.db import Database

Answers = Mapping[type[Exception], Callable[[Request, Exception], Response]]


def create_api(reader: Database, answers: Answers) -> Starlette:
    """The application under `/api/v1/tenants`; `answers` is the gateway's error table."""
    handlers: dict[Any, Any] = dict(answers)
    app = Starlette(
        # A tenant's id is the operator's to choose, a slash included; a feature's name has none.
        routes=[
            Route("/{tenant:path}/entitlements", read_entitlements),
            Route("/{tenant:path}/entitlements/{feature}", read_explanation),
            Route("/{tenant:path}/members", read_membership),
        ],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    app.state.reader = reader
    return app
