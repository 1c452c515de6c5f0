"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import entitlements, health, tenants, users
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *entitlements.OPERATIONS,
    *users.OPERATIONS,
    *health.OPERATIONS,
)
