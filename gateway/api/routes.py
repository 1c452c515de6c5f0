"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import (
    billing,
    entitlements,
    events,
    health,
    ingests,
    integrations,
    jobs,
    orders,
    records,
    rotating,
    tenants,
    users,
)
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *tenants.OPERATIONS,
    *entitlements.OPERATIONS,
    *billing.OPERATIONS,
    *ingests.OPERATIONS,
    *records.OPERATIONS,
    *events.OPERATIONS,
    *jobs.OPERATIONS,
    *integrations.OPERATIONS,
    *rotating.OPERATIONS,
    *orders.OPERATIONS,
    *users.OPERATIONS,
    *health.OPERATIONS,
)
