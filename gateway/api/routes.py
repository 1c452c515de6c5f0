"""Every operation of the API, in the order of its documentation."""

from collections.abc import Sequence

from gateway.api import jobs, tenants
from gateway.api.operations import Operation

OPERATIONS: Sequence[Operation] = (*tenants.OPERATIONS, *jobs.OPERATIONS)
