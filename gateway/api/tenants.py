"""What the read API says of tenants: `/api/v1/tenants/{tenant}/…`."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.tokens import authenticate, may_see
from gateway.door import Visit
from gateway.envelope import Refusal, answer
from shared.db import Conn, Database, is_platform_fault
from shared.domain.events import is_storable
from shared.explain import MomentError, explain
from shared.store.tenants import read_tenant

Read = Callable[[Conn, str], Awaitable[dict[str, Any] | None]]


async def read_entitlements(request: Request) -> Response:
    """
    `GET /api/v1/tenants/{tenant}/entitlements`: what the tenant may use now, and by which grants.

    404 for a tenant that nobody ever named, and the same for one that the token may not see.
    """
    return await _answer(request, read_tenant)


async def read_explanation(request: Request) -> Response:
    """
    `GET /api/v1/tenants/{tenant}/entitlements/{feature}?at=TIME`: why the tenant may use it, or
    may not; now, or at that time.

    404 as above. A feature that nobody ever named is answered: it may not be used.
    """
    feature: str = request.path_params["feature"]
    if not is_storable(feature):
        raise Refusal("malformed_request", "This cannot be the name of a feature.")
    at = request.query_params.get("at")

    async def read(conn: Conn, tenant: str) -> dict[str, Any] | None:
        return await explain(conn, tenant, feature, at)

    try:
        return await _answer(request, read)
    except MomentError as error:
        raise Refusal("malformed_request", f"at: {error}") from None


async def _answer(request: Request, read: Read) -> Response:
    """What `read` finds of the tenant, if the token may see it."""
    reader: Database = request.app.state.reader
    visit: Visit = request.scope["visit"]
    tenant: str = request.path_params["tenant"]
    try:
        async with reader.connection(timeout_s=2) as conn:
            token = await authenticate(conn, request)
            visible = is_storable(tenant) and may_see(token, tenant)
            found = await read(conn, tenant) if visible else None
    except Exception as error:
        if is_platform_fault(error):
            raise Refusal("store_unavailable", "The database cannot be read now.") from error
        raise
    if found is None:
        raise Refusal("not_found", "There is no such tenant.")
    return answer(found, visit.trace_id)
