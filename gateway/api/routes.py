"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import entitlements, service, tenants
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *entitlements.OPERATIONS,
    *service.OPERATIONS,
)
