"""
Beacon's objects, and what they are here.

A licence is what Sluice calls a subscription, and its holder a customer. Only what is needed is
read: a field that nobody decodes cannot make an event unreadable.
"""

from typing import Annotated

import msgspec
from shared.plugin import (
    CUSTOMER_KIND,
    SUBSCRIPTION_KIND,
    Item,
    ObjectState,
    Observe,
    PayloadError,
    Standing,
    is_storable,
    unix_microseconds,
    unix_seconds,
)

from sluice_beacon.fields import Moment

Seats = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]

#: Beacon's words → what they mean for access. A word that is not here is passed on as it is: it
#: neither grants nor revokes, and `sluice parked list` shows it to somebody who may know. A word
#: that is a standing's name, like "paid" or "lost", would mean that standing: Beacon has none more.
STANDINGS = {
    "evaluation": Standing.TRIAL,
    "active": Standing.ACTIVE,
    "unpaid": Standing.PAST_DUE,  # access goes on for the plan's `grace`
    "suspended": Standing.PAUSED,
    "expired": Standing.ENDED,
    "revoked": Standing.ENDED,
}


class Licence(msgspec.Struct, rename="camel"):
    """What was sold."""

    key: str
    holder: str
    state: str
    edition: str
    changed_at: Moment
    seats: Seats = 1
    expires_at: Moment | None = None
    renews: bool = True

    def observed(self) -> Observe:
        """
        The licence as it is now.

        Its version is when Beacon changed it: whatever order its events come in, Sluice knows by
        it which is the newest. A counter would be none, for grace is counted from versions too.
        """
        _check(self.key, self.holder, self.state, self.edition)
        # A licence that renews has no end: Beacon would say so. One that does not has, and access
        # ends there by the database's clock, whoever is down.
        ends_at = self.expires_at if not self.renews else None
        return Observe(
            kind=SUBSCRIPTION_KIND,
            object_id=self.key,
            version=unix_microseconds(self.changed_at),
            shape="point",
            before=None,
            after=ObjectState(
                status=STANDINGS.get(self.state, self.state),
                customer=self.holder,
                # "beacon:pro" is what a plan of the catalog names.
                items=(Item((self.edition,), self.seats),),
                ends_at=None if ends_at is None else unix_seconds(ends_at),
            ),
        )


class Holder(msgspec.Struct, rename="camel"):
    """Whom it was sold to. `reference` is what the shop called the holder: our tenant."""

    id: str
    changed_at: Moment
    reference: str | None = None
    deleted: bool = False

    def observed(self) -> Observe:
        """The holder as a customer: what a licence does not say of its tenant, this does."""
        _check(self.id)
        named = self.reference is not None and is_storable(self.reference)
        return Observe(
            kind=CUSTOMER_KIND,
            object_id=self.id,
            version=unix_microseconds(self.changed_at),
            shape="point",
            before=None,
            after=ObjectState(
                status=Standing.ENDED if self.deleted else Standing.PRESENT,
                customer=self.id,
                tenant=self.reference if named else None,
            ),
        )


def _check(*texts: str) -> None:
    if not all(map(is_storable, texts)):
        raise PayloadError("an id or a state is empty, too long, or holds a NUL")
