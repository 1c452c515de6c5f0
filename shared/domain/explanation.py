"""
Why a tenant may use a feature, or may not: what is read for an answer, and the answer's shape.

`shared.domain.explaining` makes the one from the other, `shared.domain.prose` says it in sentences.
The API and `--json` show the answer as it is, in camelCase.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from shared.domain.catalog import Catalog, FeatureValue
from shared.domain.keys import CustomerKey, ObjectKey
from shared.domain.reasons import Reason, Sight
from shared.domain.register import Want
from shared.domain.situations import Situation
from shared.domain.standings import Standing
from shared.domain.turns import HeldGrant
from shared.domain.verdicts import EndsBy, LinkedBy

Tense = Literal["past", "now", "future"]

#: How several live grants became one value: the largest number, the text of the plan of highest
#: rank, any `true`, or all added up.
Combined = Literal["alone", "added", "largest", "highest_rank", "any"]

#: What else has to be said: nothing of the tenant was recorded yet; the trail's record and what is
#: known of the objects do not agree; what the record said is erased; a newer catalog is being
#: applied; what is stored is not what deciding anew comes to.
Note = Literal["nothing_known", "disagrees", "erased", "recomputing", "not_written"]

#: What ends or begins by the clock.
Turn = Literal["scheduled", "trial", "grace", "lasts", "given", "begins", "ends"]


# What was read -----------------------------------------------------------------------------------


class Given(msgspec.Struct, frozen=True):
    """What an operator gave by hand. `value` until `valid_until`, unless it was revoked before."""

    object_row: int
    feature: str
    value: FeatureValue
    valid_until: datetime | None
    actor: str
    reason: str | None
    granted_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None = None
    revoke_reason: str | None = None


class OperatorLink(msgspec.Struct, frozen=True):
    """An operator's word on whose a customer is."""

    tenant: str | None
    actor: str | None
    at: datetime | None


class EventRead(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """
    An event as far as it is kept: without its evidence only its ids and times are known.

    `outcome` is its latest run's.
    """

    tracking_id: UUID
    received_at: datetime
    event_id: str | None = None
    type: str | None = None
    occurred_at: datetime | None = None
    settled_at: datetime | None = None
    outcome: str | None = None


class Recorded(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """
    The audit trail's newest record of the feature. `value` and `valid_until` are what it says
    held from then on, None for no access; with `is_erased` that is not known any more.
    """

    at: datetime
    action: str
    actor: str
    cause: str
    cause_id: str
    subject: str | None
    catalog_version: int
    chain: str
    position: int
    hash: str
    value: FeatureValue | None
    valid_until: datetime | None
    is_erased: bool
    event_id: str | None = None  # the provider's, where an event was the cause


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an explanation is made of, all of one moment: `at`, or in the future what holds now.

    `held` are all grants of the tenant; `situations` what was decided about its objects and those
    of its customers; `given` what operators gave of this feature; `sights` and `events` are of the
    objects that `bearing` names. `knew` is false where nothing was recorded of the tenant yet.
    """

    tenant: str
    feature: str
    at: datetime
    tense: Tense
    mode: str
    catalog: Catalog
    newest_catalog: int
    held: Sequence[HeldGrant]
    situations: Mapping[ObjectKey, Situation]
    given: Sequence[Given] = ()
    operator_links: Mapping[CustomerKey, OperatorLink] = {}
    record: Recorded | None = None
    knew: bool = True
    sights: Mapping[ObjectKey, Sequence[Sight]] = {}
    events: Mapping[UUID, EventRead] = {}


# The answer --------------------------------------------------------------------------------------


class _Shape(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class Thing(_Shape, frozen=True):
    """
    A provider object: "kind/id", whose it is, and what it stands at since when, by which event.

    `linked_by` is whose word makes it the tenant's; `linked_actor` and `linked_at` an operator's.
    """

    object: str
    source: str
    account: str
    livemode: bool
    customer: str | None
    status: str
    standing: Standing | None
    collection: str | None
    since: datetime | None
    event: UUID | None  # its tracking id
    event_id: str | None
    linked_by: LinkedBy | None
    linked_actor: str | None
    linked_at: datetime | None


class Gift(_Shape, frozen=True):
    """What an operator gave by hand, when and why."""

    actor: str
    reason: str | None
    at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    revoke_reason: str | None = None


class Because(_Shape, frozen=True):
    """
    One live grant: by an object or by an operator. `counts`: the value is made of it.

    `ends_by` says what ends it at `valid_until`, `period_s` how long the grace is, or what a
    purchase gives.
    """

    plan: str
    value: FeatureValue
    counts: bool
    valid_from: datetime | None
    valid_until: datetime | None
    ends_by: EndsBy | None
    period_s: int | None
    object: Thing | None
    operator: Gift | None


class Against(_Shape, frozen=True):
    """What holds an object back: a dispute, a warning, a refund, a charge that was refunded."""

    object: str
    status: str
    standing: Standing | None
    since: datetime | None
    event: UUID | None  # its tracking id
    event_id: str | None


class Offered(_Shape, frozen=True):
    """What a plan would give; `period_s` is its grace."""

    plan: str
    value: FeatureValue
    period_s: int


class NotGiving(_Shape, frozen=True):
    """
    What could give the feature and does not. `offers` is empty where nothing says what it would
    give; `at` is when it ended or will begin; `products` are those that nothing maps.
    """

    reason: Reason
    offers: tuple[Offered, ...]
    at: datetime | None
    by: tuple[Against, ...]
    products: tuple[str, ...]
    object: Thing | None
    operator: Gift | None


class Provisional(_Shape, frozen=True):
    """An object that is not fully known: why a fetch of it would help, or what it waits for."""

    object: str
    wants: Want | None
    needs: str | None
    status: str


class Change(_Shape, frozen=True):
    """
    What would change the answer. With `at` the clock does, and `value` is what holds from then on
    (None: no access); without, what keeps the object from giving has to go.
    """

    reason: Turn | Reason
    object: str | None  # None: what an operator gave
    at: datetime | None = None
    value: FeatureValue | None = None
    by: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    customer: str | None = None
    actor: str | None = None
    period_s: int | None = None


class EventShown(EventRead, frozen=True, rename="camel", kw_only=True):
    """An event and the objects that it observed."""

    objects: tuple[str, ...]


class Evidence(_Shape, frozen=True):
    """The newest events behind the objects of the answer, and how many there are."""

    total: int
    events: tuple[EventShown, ...]


class Explanation(_Shape, frozen=True):
    """
    The answer. `value` None is no access; `valid_until` is when the value next changes by the
    clock; `features` are those that the tenant may use, and `is_known` whether any plan names
    this one. `loose` are refunds, disputes and warnings of payments that are not known yet.
    Lists are cut; `not_giving_total` and the evidence's total say how many there are.
    """

    tenant: str
    feature: str
    at: datetime
    tense: Tense
    mode: str
    value: FeatureValue | None
    valid_until: datetime | None
    combined: Combined
    catalog_version: int
    newest_catalog_version: int
    is_provisional: bool
    is_known: bool
    features: tuple[str, ...]
    because: tuple[Because, ...]
    not_giving: tuple[NotGiving, ...]
    not_giving_total: int
    provisional: tuple[Provisional, ...]
    loose: tuple[Against, ...]
    changes: tuple[Change, ...]
    record: Recorded | None
    evidence: Evidence
    notes: tuple[Note, ...]
