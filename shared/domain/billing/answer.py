"""How a tenant's payments stand: what is read for an answer, and the answer's shape."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from shared.domain.billing.statuses import Status, Why
from shared.domain.catalog import Catalog
from shared.domain.keys import ObjectKey
from shared.domain.register import Want
from shared.domain.situations import Situation
from shared.domain.standings import Standing
from shared.domain.turns import HeldGrant

Action = Literal["cancel", "pause", "resume", "lapse"]

#: How much of a list is shown.
SHOWN = 100


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What it is made of, all of one moment. `held` are all grants of the tenant."""

    tenant: str
    at: datetime
    catalog: Catalog
    held: Sequence[HeldGrant]
    situations: Mapping[ObjectKey, Situation]


class _Shape(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class BilledItem(_Shape, frozen=True):
    """One line: a product as the catalog names it, how many, and the plans that it is worth."""

    product: str | None
    quantity: int
    plans: tuple[str, ...]


class Scheduled(_Shape, frozen=True):
    """What comes by itself. `lapse`: a trial ends with nothing to pay from."""

    action: Action
    at: datetime
    at_period_end: bool


class Subscription(_Shape, frozen=True):
    """
    A provider's subscription, or an item of one. `provider_status` is the provider's word,
    `standing` the neutral one for it, None where it is unknown; `status` how it stands here.

    `grants` says whether it gives access now, `grants_until` the end of that, if there is one;
    `reason` why it does not, and `reason_at` since or from when. `needs` and `wants` say what it
    waits for.
    """

    provider: str
    source: str
    account: str
    livemode: bool
    object: str
    customer: str | None
    status: Status
    provider_status: str
    standing: Standing | None
    plans: tuple[str, ...]
    items: tuple[BilledItem, ...]
    started_at: datetime | None
    period_ends_at: datetime | None
    renews_at: datetime | None
    trial_ends_at: datetime | None
    scheduled: tuple[Scheduled, ...]
    past_due_since: datetime | None
    grace_until: datetime | None
    grants: bool
    grants_until: datetime | None
    reason: Why | None
    reason_at: datetime | None
    needs: str | None
    wants: Want | None


class Purchase(_Shape, frozen=True):
    """
    What was paid for once, or what a provider says that was given. It gives access now, or is paid
    for and kept from that, or its payment is on its way: `status` is active, withheld or pending.
    """

    provider: str
    source: str
    account: str
    livemode: bool
    object: str
    customer: str | None
    status: Status
    provider_status: str
    plans: tuple[str, ...]
    items: tuple[BilledItem, ...]
    bought_at: datetime | None
    grants: bool
    grants_until: datetime | None
    reason: Why | None
    needs: str | None


class Decider(_Shape, frozen=True):
    """The object whose status is the tenant's."""

    source: str
    object: str


class Billing(_Shape, frozen=True):
    """
    How a tenant's payments stand. `next_change_at` is when what it may use changes by the clock.

    `benefits` are what the provider itself says that the tenant was given, where the source
    grants by that. Lists have at most a hundred; `…_total` says how many there are.
    """

    tenant: str
    merged_into: str | None
    merged_at: datetime | None
    status: Status
    decided_by: Decider | None
    next_change_at: datetime | None
    subscriptions: tuple[Subscription, ...]
    subscriptions_total: int
    purchases: tuple[Purchase, ...]
    purchases_total: int
    benefits: tuple[Purchase, ...]
    benefits_total: int
