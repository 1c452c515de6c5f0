"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import integrations, orders, rotating, tenants
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *integrations.OPERATIONS,
    *rotating.OPERATIONS,
    *orders.OPERATIONS,
)
