"""
How much licences are used: a command of our own, and the handler that keeps it.

A report is no entitlement, so Sluice knows nothing of it. The provider returns it from `translate`
like any other command; the handler whose `command` it is applies it, in the event's transaction.
"""

from typing import Annotated

import msgspec
from shared.plugin import (
    Event,
    Extension,
    Handler,
    PayloadError,
    Permanent,
    Result,
    Transaction,
    is_storable,
    unix_seconds,
)

from sluice_beacon.fields import Moment

Units = Annotated[int, msgspec.Meta(ge=0, le=10**12)]

#: `sum` in place of a row for each report: so the handler must run exactly once for each event,
#: and it does, for the row is written in the transaction that settles the event.
_ADD = """
INSERT INTO beacon.usage AS kept (licence, day, units) VALUES ($1, ($2::timestamptz)::date, $3)
ON CONFLICT (licence, day) DO UPDATE SET units = kept.units + excluded.units
"""

_CLOSED = "SELECT closed_at IS NOT NULL FROM beacon.licences WHERE licence = $1"


class UsageReport(Extension, frozen=True):
    """`units` of a licence's use, reported at `at`."""

    licence: str
    units: Units
    at: Moment

    def checked(self) -> "UsageReport":
        """
        Itself.

        Raises:
            PayloadError: Postgres could not store it.
        """
        if not is_storable(self.licence):
            raise PayloadError("the licence's key is empty, too long, or holds a NUL")
        unix_seconds(self.at)
        return self


class Usage(Handler[UsageReport]):
    """Adds reports up, by licence and day."""

    name = "beacon-usage"
    command = UsageReport
    timeout_s = 2.0

    async def handle(self, event: Event, command: UsageReport, transaction: Transaction) -> Result:
        """
        Raises:
            Permanent: the licence's account is closed; no later attempt will open it.
        """
        if await transaction.fetchval(_CLOSED, command.licence):
            raise Permanent("account_closed", f"the account of {command.licence} is closed")
        if command.units == 0:
            return Result("unchanged")
        await transaction.execute(_ADD, command.licence, command.at, command.units)
        return Result()
