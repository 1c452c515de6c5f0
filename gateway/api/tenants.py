"""What the read API says of tenants: `/api/v1/tenants/{tenant}/…`."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.tokens import authenticate, may_see
from gateway.door import Visit
from gateway.envelope import Refusal, answer
from shared.db import Database, is_platform_fault
from shared.domain.events import is_storable
from shared.store.tenants import read_tenant


async def read_entitlements(request: Request) -> Response:
    """
    `GET /api/v1/tenants/{tenant}/entitlements`: what the tenant may use now, and why.

    404 for a tenant that nobody ever named, and the same for one that the token may not see.
    """
    reader: Database = request.app.state.reader
    visit: Visit = request.scope["visit"]
    tenant: str = request.path_params["tenant"]
    try:
        async with reader.connection(timeout_s=2) as conn:
            token = await authenticate(conn, request)
            visible = is_storable(tenant) and may_see(token, tenant)
            found = await read_tenant(conn, tenant) if visible else None
    except Exception as error:
        if is_platform_fault(error):
            raise Refusal("store_unavailable", "The database cannot be read now.") from error
        raise
    if found is None:
        raise Refusal("not_found", "There is no such tenant.")
    return answer(found, visit.trace_id)
