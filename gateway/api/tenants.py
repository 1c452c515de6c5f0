"""What the API says of tenants: `/api/v1/tenants` and `…/{tenant}/…`."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from gateway.api.numbers import without_numbers
from gateway.api.operations import Call, Nothing, Operation, Paged, Shown, no_such
from gateway.envelope import Refusal
from shared.db import Conn
from shared.domain.events import is_storable
from shared.explain import Explained, MomentError, explain
from shared.store.paging import Page, row_number
from shared.store.tenants import list_tenants, read_members, read_tenant

Found = TypeVar("Found", dict[str, Any], Page)

#: What a plan gives of a feature.
Value = bool | int | float | str


class Grant(msgspec.Struct, rename="camel"):
    """What one object gives. What an operator gave by hand has the source "operator"."""

    plan: str
    source: str
    object: str
    value: Value
    valid_from: datetime | None
    valid_until: datetime | None
    catalog_version: int


class Entitlement(msgspec.Struct, rename="camel"):
    """What a tenant may use, and by which grants. At `validUntil` the value changes next."""

    feature: str
    value: Value
    valid_until: datetime | None
    grants: list[Grant]


class Customer(msgspec.Struct, rename="camel"):
    """A customer of a provider that is the tenant's."""

    source: str
    account: str
    livemode: bool
    customer: str
    linked_by: str | None
    linked_at: datetime | None
    is_deleted: bool


class Tenant(msgspec.Struct, rename="camel"):
    """A tenant. A merged one is answered with what the one has that it was merged into."""

    tenant: str
    merged_into: str | None
    merged_at: datetime | None
    entitlements: list[Entitlement]
    customers: list[Customer]


class TenantListed(msgspec.Struct, rename="camel"):
    """A tenant in the list. `features`: how many it may use now; a merged one has none itself."""

    tenant: str
    features: int
    catalog_version: int
    created_at: datetime
    merged_into: str | None


class Member(msgspec.Struct, rename="camel"):
    """A member, by its id at the provider, in one of the tenant's organizations, `customer`."""

    member: str | None
    role: str | None
    since: datetime | None
    source: str
    account: str
    livemode: bool
    customer: str | None
    object: str


class Tenants(Paged, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The query of the list: `prefix` is what the names have to begin with."""

    prefix: str = ""


class At(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The query of an explanation: as of when, RFC 3339; now where it is not said."""

    at: str | None = None


async def read_tenants(call: Call[Tenants, Nothing]) -> Shown:
    """
    All tenants, by name.

    A tenant's token sees its own, if anything named it yet.
    """
    after = call.after("tenants", call.query.cursor, _name)
    if not is_storable(call.query.prefix or "-"):
        return call.page("tenants", Page([], None), call.query.limit)
    async with call.reading() as conn:
        page = await list_tenants(
            conn, after, call.query.limit, call.query.prefix, only=call.tenant
        )
    return call.page("tenants", page, call.query.limit)


async def read_entitlements(call: Call[Nothing, Nothing]) -> Shown:
    """
    What the tenant may use now, and by which grants.

    404 for a tenant that nobody ever named, and the same for one that the token may not see.
    """
    return Shown(_for(call, await _found(call, read_tenant)))


async def read_membership(call: Call[Paged, Nothing]) -> Shown:
    """Who is a member, with which role. A tenant without members has an empty list."""
    after = call.after("members", call.query.cursor, row_number) or 0

    async def read(conn: Conn, tenant: str) -> Page | None:
        return await read_members(conn, tenant, after, call.query.limit)

    return call.page("members", await _found(call, read), call.query.limit)


async def read_explanation(call: Call[At, Nothing]) -> Shown:
    """
    Why the tenant may use a feature, or may not; now, or at that time.

    A feature that nobody ever named is answered: it may not be used.
    """

    async def read(conn: Conn, tenant: str) -> dict[str, Any] | None:
        return await explain(
            conn, tenant, call.path["feature"], call.query.at, for_tenant=call.tenant is not None
        )

    try:
        shown = _for(call, await _found(call, read))
    except MomentError as error:
        raise Refusal("malformed_request", f"at: {error}") from None
    if call.query.at is not None:
        return Shown(shown)
    # The moment of asking is another one each time, and says nothing.
    return Shown(shown, said={name: value for name, value in shown.items() if name != "at"})


def _for(call: Call[Any, Any], shown: dict[str, Any]) -> dict[str, Any]:
    """As the token may see it."""
    return shown if call.tenant is None else dict(without_numbers(shown))


def _name(tenant: object) -> str:
    if not isinstance(tenant, str) or not is_storable(tenant):
        raise ValueError("no tenant's name")
    return tenant


async def _found(
    call: Call[Any, Any], read: Callable[[Conn, str], Awaitable[Found | None]]
) -> Found:
    """What `read` finds of the tenant, if the token may see it."""
    tenant = call.path["tenant"]
    found = None
    if call.may_see(tenant):
        async with call.reading() as conn:
            found = await read(conn, tenant)
    if found is None:
        raise no_such("tenant")
    return found


# A tenant's id is the operator's to choose, a slash included; a feature's name has none.
OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/tenants",
        read_tenants,
        "All tenants",
        TenantListed,
        query=Tenants,
        is_list=True,
    ),
    Operation(
        "GET",
        "/api/v1/tenants/{tenant:path}/entitlements",
        read_entitlements,
        "What a tenant may use now",
        Tenant,
    ),
    Operation(
        "GET",
        "/api/v1/tenants/{tenant:path}/entitlements/{feature}",
        read_explanation,
        "Why a tenant may use a feature, or may not",
        Explained,
        query=At,
    ),
    Operation(
        "GET",
        "/api/v1/tenants/{tenant:path}/members",
        read_membership,
        "Who is a member of a tenant",
        Member,
        query=Paged,
        is_list=True,
    ),
)
