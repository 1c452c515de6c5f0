"""The one table of billing statuses: by what something stands at, and by why it gives nothing."""

from typing import Literal, get_args

from shared.domain.reasons import Reason
from shared.domain.standings import Standing

#: How it stands, the best first: of several subscriptions the best one's is the tenant's.
Status = Literal[
    "active", "trialing", "grace", "withheld", "past_due", "paused", "pending", "canceled", "none"
]
#: Beside the reasons of explanations: its plans are known and give nothing at all.
Why = Reason | Literal["no_features"]

#: What gives access now, by what it stands at.
GIVING: dict[Standing, Status] = {
    Standing.TRIAL: "trialing",
    Standing.ACTIVE: "active",
    Standing.ENDING: "active",
    Standing.PAID: "active",
    Standing.PAST_DUE: "grace",
}
#: What gives none, by why not.
LACKING: dict[Reason, Status] = {
    # It is paid for, or was, and something keeps it from counting.
    "held": "withheld",
    "reversed": "withheld",
    "lapsed": "withheld",
    "needs:link": "withheld",
    "link_conflict": "withheld",
    "needs:mapping": "withheld",
    "needs:line_items": "withheld",
    "needs:fetch": "withheld",
    "unknown_status": "withheld",
    "other_family": "withheld",
    "not_written": "withheld",
    # Money is owed, and the time for that is over.
    "unpaid": "past_due",
    "grace_over": "past_due",
    "paused": "paused",
    "voided": "paused",
    "not_yet": "paused",  # invoices are voided until a day that is told
    "pending": "pending",
    "cancelled": "canceled",
    "trial_over": "canceled",
    "time_over": "canceled",
    "refunded": "canceled",
    "no_end": "canceled",
    "ended": "canceled",
    # No business of the tenant's: a test's, a source's that is gone, or what never began.
    "other_mode": "none",
    "source_removed": "none",
    "never_started": "none",
    "no_access": "none",
    "given_until": "none",
    "revoked": "none",
}
#: What gives access nowhere, by what it stands at.
STANDING_STILL: dict[Standing, Status] = {
    Standing.UNPAID: "past_due",
    Standing.PAUSED: "paused",
    Standing.PENDING: "pending",
    Standing.ENDED: "canceled",
    Standing.NEVER_STARTED: "none",
}

_BEST_FIRST = {status: place for place, status in enumerate(get_args(Status))}
_GIVING = frozenset(GIVING.values())


def place_of(status: Status) -> int:
    """Where the status comes among all: the best has the smallest."""
    return _BEST_FIRST[status]


def gives_access(status: Status) -> bool:
    """Whether something that stands so may be used."""
    return status in _GIVING
