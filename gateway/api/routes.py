"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import billing, events, records, tenants
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *billing.OPERATIONS,
    *records.OPERATIONS,
    *events.OPERATIONS,
)
