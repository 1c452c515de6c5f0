"""What the API says of payments: `/api/v1/billing/status`."""

import msgspec

from gateway.api.operations import Call, Nothing, Operation, Shown, no_such
from gateway.envelope import Detail, Refusal
from shared.billing import Billing, read_billing


class OfTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Whose it is. A tenant's token need not say so; every other one must."""

    tenant: str | None = None


async def read_billing_status(call: Call[OfTenant, Nothing]) -> Shown:
    """
    What a tenant pays for and how that stands, as webhooks told it: subscriptions with plans,
    periods and what is scheduled, purchases, grace, and one status for all of it.

    400 where no tenant is named and the token is for all of them.
    """
    asked = call.query.tenant
    tenant = call.tenant if asked is None else asked
    if tenant is None:
        missing = Detail("/tenant", "is missing: the token is for every tenant")
        raise Refusal("malformed_request", f"tenant: {missing.message}", details=[missing])
    found = None
    if call.may_see(tenant):
        async with call.reading() as conn:
            found = await read_billing(conn, tenant)
    if found is None:
        raise no_such("tenant")
    return Shown(found)


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/billing/status",
        read_billing_status,
        "What a tenant pays for, and how that stands",
        Billing,
        query=OfTenant,
        errors=("not_found",),
        tag="billing",
    ),
)
