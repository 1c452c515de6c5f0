"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import billing, entitlements, events, health, ingests, records, tenants, users
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *entitlements.OPERATIONS,
    *billing.OPERATIONS,
    *ingests.OPERATIONS,
    *records.OPERATIONS,
    *events.OPERATIONS,
    *users.OPERATIONS,
    *health.OPERATIONS,
)
