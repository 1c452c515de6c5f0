"""What the read API says of tenants: `/api/v1/tenants/{tenant}/…`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.tokens import authenticate, may_see
from gateway.door import Visit
from gateway.envelope import Refusal, answer
from shared.db import Conn, Database, is_platform_fault
from shared.domain.events import is_storable
from shared.explain import MomentError, explain
from shared.store.paging import (
    DEFAULT_LIMIT,
    LARGEST_LIMIT,
    CursorError,
    Page,
    decode_cursor,
    row_number,
)
from shared.store.tenants import read_members, read_tenant

Found = TypeVar("Found", dict[str, Any], Page)
Read = Callable[[Conn, str], Awaitable[Found | None]]


async def read_entitlements(request: Request) -> Response:
    """
    `GET /api/v1/tenants/{tenant}/entitlements`: what the tenant may use now, and by which grants.

    404 for a tenant that nobody ever named, and the same for one that the token may not see.
    """
    return _shown(request, await _found(request, read_tenant))


async def read_membership(request: Request) -> Response:
    """
    `GET /api/v1/tenants/{tenant}/members?limit=N&cursor=NEXT`: who is a member, with which role.

    404 as above. A tenant without members has an empty list.
    """
    limit = _limit_of(request)
    cursor = request.query_params.get("cursor")
    try:
        after = decode_cursor(cursor, row_number) if cursor is not None else 0
    except CursorError as error:
        raise Refusal("malformed_request", f"cursor: {error}") from None

    async def read(conn: Conn, tenant: str) -> Page | None:
        return await read_members(conn, tenant, after, limit)

    page = await _found(request, read)
    visit: Visit = request.scope["visit"]
    has_more = page.next is not None
    return answer(page.items, visit.trace_id, limit=limit, next=page.next, hasMore=has_more)


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
        return _shown(request, await _found(request, read))
    except MomentError as error:
        raise Refusal("malformed_request", f"at: {error}") from None


def _shown(request: Request, data: dict[str, Any]) -> Response:
    visit: Visit = request.scope["visit"]
    return answer(data, visit.trace_id)


def _limit_of(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LARGEST_LIMIT):
        raise Refusal("malformed_request", f"limit: must be a number from 1 to {LARGEST_LIMIT}")
    return int(text[:9])


async def _found(request: Request, read: Read[Found]) -> Found:
    """What `read` finds of the tenant, if the token may see it."""
    reader: Database = request.app.state.reader
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
    return found
