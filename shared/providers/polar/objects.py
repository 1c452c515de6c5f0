"""
The objects, each as its states need it.

Times come as ISO 8601 with microseconds. What is bought is a product's id, what is granted a
benefit's: nothing is decided by a price or a name.
Source: polarsource/polar, `docs/openapi/2026-10.openapi.json`, `server/polar/models`,
`server/polar/customer/repository.py`, and polar-sdk 1.0.2, `polar/v2026_10/outputs.py`
(read 2026-11).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from shared.domain.events import is_storable
from shared.domain.states import (
    BENEFIT_GRANT_KIND,
    ORDER_KIND,
    SUBSCRIPTION_KIND,
    Item,
    ObjectState,
)
from shared.providers.polar.receipt import in_utc

#: The key of the metadata that Sluice reads.
TENANT_KEY = "tenant_id"
#: Where Polar keeps the external id of a customer that was deleted.
_FORMER_ID_KEY = "__external_id"

#: Of a customer that was deleted, and of whatever the API says there is none of (any more).
DELETED = "deleted"

_EPOCH = datetime.fromtimestamp(0, UTC)
_LARGEST = 2**53 - 1  # what every JSON reader holds exactly

Count = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Amount = Annotated[int, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]


def microseconds(moment: datetime) -> int:
    """A version: microseconds since 1970, exactly."""
    return (in_utc(moment) - _EPOCH) // timedelta(microseconds=1)


class Versioned(msgspec.Struct, kw_only=True):
    """An object, and since when it is as it is."""

    id: str
    created_at: datetime
    modified_at: datetime | None = None

    @property
    def version(self) -> int:
        """When it last changed; its creation counts as a change."""
        return microseconds(self.modified_at or self.created_at)


class Customer(Versioned, kw_only=True):
    """
    Somebody who buys. Its external id is the shop's own for it, can be set once, later than the
    first purchase too, and is taken away when the customer is deleted.
    """

    external_id: str | None = None
    metadata: dict[str, Any] | None = None
    deleted_at: datetime | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return self.link()

    def link(self) -> ObjectState:
        """Whose customer it is."""
        named = _named_in(self.metadata, TENANT_KEY) or _storable(self.external_id)
        if self.deleted_at is None:
            return ObjectState("present", customer=self.id, tenant=named)
        former = _named_in(self.metadata, _FORMER_ID_KEY)
        return ObjectState(DELETED, customer=self.id, tenant=named or former)


class Subscription(Versioned, kw_only=True):
    """
    To one product, of one customer. A cancellation or a pause at the end of the period leaves its
    status as it is until then.
    """

    status: str
    customer_id: str
    product_id: str
    cancel_at_period_end: bool = False
    pause_at_period_end: bool = False
    current_period_end: datetime | None = None
    started_at: datetime | None = None
    ends_at: datetime | None = None
    past_due_at: datetime | None = None
    seats: Count | None = None
    units: Count | None = None
    metadata: dict[str, Any] | None = None
    customer: Customer | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return ObjectState(
            status=self.status,
            customer=self.customer_id,
            tenant=_named_in(self.metadata, TENANT_KEY),
            items=(Item(_refs(self.product_id), _quantity(self.seats, self.units)),),
            ends_at=self._scheduled_end(),
            started_at=_seconds(self.started_at),
            past_due_at=_seconds(self.past_due_at),
            period_ends_at=_seconds(self.current_period_end),
            pauses=self.pause_at_period_end and not self.cancel_at_period_end,
        )

    def _scheduled_end(self) -> int | None:
        ends = [self.ends_at]
        if self.pause_at_period_end or (self.cancel_at_period_end and self.ends_at is None):
            ends.append(self.current_period_end)
        return min((_seconds_of(end) for end in ends if end is not None), default=None)


class Order(Versioned, kw_only=True):
    """
    A purchase, or a period of a subscription. Access to the latter follows the subscription: the
    order sells nothing by itself, and what becomes of it ends nothing.
    """

    status: str
    customer_id: str
    product_id: str | None = None
    subscription_id: str | None = None
    billing_reason: str | None = None
    net_amount: Amount | None = None
    refunded_amount: Amount | None = None
    seats: Count | None = None
    units: Count | None = None
    metadata: dict[str, Any] | None = None
    customer: Customer | None = None

    def state(self) -> ObjectState:
        """Its state now. Amounts are without tax, as refunds are asked for."""
        items: tuple[Item, ...] = ()
        if self.product_id is not None and self._is_purchase():
            items = (Item(_refs(self.product_id), _quantity(self.seats, self.units)),)
        return ObjectState(
            status=self.status,
            customer=self.customer_id,
            tenant=_named_in(self.metadata, TENANT_KEY),
            items=items,
            started_at=_seconds(self.created_at),
            amount=self.net_amount,
            refunded=self.refunded_amount or None,
        )

    def _is_purchase(self) -> bool:
        # Its other reasons are all of subscriptions; a new one is not taken for a purchase.
        return self.subscription_id is None and self.billing_reason == "purchase"


class Refund(Versioned, kw_only=True):
    """
    Of an order, whole or in part. Polar takes the benefits of a purchase back where the refund
    says so, when it is made, whatever its amount; never those of a subscription.
    """

    status: str
    customer_id: str
    order_id: str
    amount: Amount | None = None
    revoke_benefits: bool = False

    def state(self) -> ObjectState:
        """Its state now."""
        order = f"{ORDER_KIND}/{self.order_id}"
        return ObjectState(
            status=self.status,
            customer=self.customer_id,
            refs=(order,) if is_storable(order) else (),
            amount=self.amount,
            revokes=self.revoke_benefits,
        )


class BenefitGrant(Versioned, kw_only=True):
    """A benefit that one subscription or order gives a customer, or one of its members."""

    customer_id: str
    benefit_id: str
    is_granted: bool
    is_revoked: bool
    customer: Customer | None = None

    def state(self) -> ObjectState:
        """Its state now; the words are ours, Polar has two flags."""
        status = "revoked" if self.is_revoked else "granted" if self.is_granted else "pending"
        return ObjectState(
            status=status, customer=self.customer_id, items=(Item(_refs(self.benefit_id)),)
        )


class ListedGrant(BenefitGrant, kw_only=True):
    """As a customer's state lists it: granted, and without what the state says."""

    customer_id: str = ""
    is_granted: bool = True
    is_revoked: bool = False


class CustomerState(Customer, kw_only=True):
    """
    All the benefits that a customer has, whatever gives them, and all active subscriptions; `id`
    is the customer's. Of itself it gives the benefits: they are what the subscriptions give.
    Whose it is, the customer says: its metadata may change, and its state stay the same.
    """

    granted_benefits: list[ListedGrant]
    active_subscriptions: list[Versioned] = []

    def state(self) -> ObjectState:
        """Its state now: a benefit that is given twice has the quantity 2."""
        given = Counter(grant.benefit_id for grant in self.granted_benefits)
        return ObjectState(
            status="current" if self.deleted_at is None else DELETED,
            customer=self.id,
            items=tuple(Item(_refs(benefit), times) for benefit, times in sorted(given.items())),
            refs=tuple(sorted(self._listed())),
        )

    def grants(self) -> Sequence[ListedGrant]:
        """The grants that it lists, each with whose it is."""
        return [
            msgspec.structs.replace(grant, customer_id=self.id) for grant in self.granted_benefits
        ]

    def _listed(self) -> Iterator[str]:
        for subscription in self.active_subscriptions:
            yield f"{SUBSCRIPTION_KIND}/{subscription.id}"
        for grant in self.granted_benefits:
            yield f"{BENEFIT_GRANT_KIND}/{grant.id}"


def _refs(name: str) -> tuple[str, ...]:
    return (name,) if is_storable(name) else ()


def _quantity(seats: int | None, units: int | None) -> int:
    return seats if seats is not None else units if units is not None else 1


def _storable(text: object) -> str | None:
    return text if isinstance(text, str) and is_storable(text) else None


def _named_in(metadata: Mapping[str, Any] | None, key: str) -> str | None:
    """What somebody with access to the Polar organization wrote under `key`."""
    return _storable(metadata.get(key)) if metadata else None


def _seconds_of(moment: datetime) -> int:
    return microseconds(moment) // 1_000_000


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds_of(moment)
