"""The status table, cell by cell: neutral state by provider → access, and until when."""

import pytest

from shared.domain.catalog import Catalog, Origin
from shared.domain.commands import Shape
from shared.domain.payments import Circumstances, Policy
from shared.domain.register import Observation, fold
from shared.domain.standings import (
    ACCESS,
    FAMILIES,
    REVIVABLE,
    STANDINGS,
    Standing,
    standing_of,
)
from shared.domain.states import Item, ObjectState, digest_of
from shared.domain.verdicts import Links, Verdict, decide

DAY_S = 86_400
NOW_S = 1_700_000_000
CATALOG = Catalog.read(
    1, {"plans": {"pro": {"products": ["stripe:prod"], "features": {"on": True}, "graceS": DAY_S}}}
)

#: Neutral state → access, then what each provider calls it: as `entitlements.md` (e) has it.
TABLE: dict[str, tuple[str, dict[tuple[str, str], tuple[str, ...]]]] = {
    "trial": ("grant", {
        ("stripe", "subscription"): ("trialing",),
        ("polar", "subscription"): ("trialing",),
        ("paddle", "subscription"): ("trialing",),
        ("lemon-squeezy", "subscription"): ("on_trial",),
        ("chargebee", "subscription"): ("in_trial",),
        ("clerk", "subscription_item"): ("free_trial",),
    }),
    "active": ("grant", {
        ("stripe", "subscription"): ("active",),
        ("polar", "subscription"): ("active",),
        ("paddle", "subscription"): ("active",),
        ("lemon-squeezy", "subscription"): ("active",),
        ("chargebee", "subscription"): ("active",),
        ("clerk", "subscription_item"): ("active",),
        ("stripe", "entitlements.active_entitlement_summary"): ("current",),
        ("polar", "benefit_grant"): ("granted",),
        ("polar", "customer_state"): ("current",),
    }),
    "active, ends later": ("until_end", {
        ("lemon-squeezy", "subscription"): ("cancelled", "paused"),
        ("chargebee", "subscription"): ("non_renewing",),
        ("clerk", "subscription_item"): ("canceled",),
    }),
    "past due": ("grace", {
        ("stripe", "subscription"): ("past_due",),
        ("polar", "subscription"): ("past_due",),
        ("paddle", "subscription"): ("past_due",),
        ("lemon-squeezy", "subscription"): ("past_due",),
        ("clerk", "subscription_item"): ("past_due",),
    }),
    "unpaid": ("none", {
        ("stripe", "subscription"): ("unpaid",),
        ("polar", "subscription"): ("unpaid",),
        ("lemon-squeezy", "subscription"): ("unpaid",),
    }),
    "first payment pending": ("none", {
        ("stripe", "subscription"): ("incomplete",),
        ("stripe", "checkout.session"): ("unpaid", "open"),
        ("polar", "subscription"): ("incomplete",),
        ("polar", "order"): ("draft", "pending"),
        ("polar", "benefit_grant"): ("pending",),
        ("chargebee", "subscription"): ("future",),
        ("clerk", "subscription_item"): ("incomplete", "upcoming"),
    }),
    "never started": ("terminal", {
        ("stripe", "subscription"): ("incomplete_expired",),
        ("stripe", "checkout.session"): ("async_payment_failed", "expired"),
        ("polar", "subscription"): ("incomplete_expired",),
        ("polar", "order"): ("void",),
        ("clerk", "subscription_item"): ("abandoned",),
    }),
    "paused": ("none", {
        ("stripe", "subscription"): ("paused",),
        ("polar", "subscription"): ("paused",),
        ("paddle", "subscription"): ("paused",),
        ("chargebee", "subscription"): ("paused",),
    }),
    "ended": ("terminal", {
        ("stripe", "subscription"): ("canceled",),
        ("stripe", "customer"): ("deleted",),
        ("polar", "subscription"): ("canceled", "deleted"),
        ("polar", "order"): ("deleted",),
        ("polar", "benefit_grant"): ("revoked", "deleted"),
        ("polar", "customer_state"): ("deleted",),
        ("polar", "customer"): ("deleted",),
        ("paddle", "subscription"): ("canceled",),
        ("lemon-squeezy", "subscription"): ("expired",),
        ("chargebee", "subscription"): ("cancelled",),
        ("clerk", "subscription_item"): ("ended", "expired"),
        ("clerk", "user"): ("deleted",),
        ("clerk", "organization"): ("deleted",),
        ("clerk", "organization_membership"): ("deleted",),
    }),
    "one-time paid": ("grant", {
        ("stripe", "checkout.session"): ("paid", "no_payment_required"),
        ("stripe", "invoice"): ("paid",),
        ("stripe", "invoice_payment"): ("paid",),
        ("stripe", "charge"): ("succeeded",),
        # What refunds take back of it, circumstances say.
        ("polar", "order"): ("paid", "partially_refunded", "refunded"),
    }),
    "refunded": ("none", {
        ("stripe", "refund"): ("pending", "requires_action", "succeeded"),
        ("polar", "refund"): ("pending", "succeeded"),
    }),
    "dispute open": ("none", {
        ("stripe", "dispute"): ("warning_needs_response", "warning_under_review",
                                "needs_response", "under_review"),
        ("stripe", "radar.early_fraud_warning"): ("actionable",),
    }),
    "dispute lost": ("none", {
        ("stripe", "dispute"): ("lost", "appeal_needs_response", "appeal_under_review"),
    }),
    "came to nothing": ("none", {
        ("stripe", "dispute"): ("won", "warning_closed", "prevented", "charge_refunded"),
        ("stripe", "radar.early_fraud_warning"): ("not_actionable",),
        ("stripe", "refund"): ("failed", "canceled"),
        ("polar", "refund"): ("failed", "canceled", "deleted"),
    }),
    "carries links or joins payments": ("none", {
        ("stripe", "customer"): ("present",),
        ("polar", "customer"): ("present",),
        ("stripe", "account"): ("present", "deauthorized"),
        ("stripe", "checkout.session"): ("complete",),
        ("stripe", "invoice"): ("draft", "open", "uncollectible", "void"),
        ("stripe", "invoice_payment"): ("open", "canceled"),
        ("stripe", "charge"): ("pending", "failed"),
        ("clerk", "user"): ("present",),
        ("clerk", "organization"): ("present",),
        ("clerk", "organization_membership"): ("present",),
    }),
}  # fmt: skip
CELLS = [
    (access, provider, kind, status)
    for access, columns in TABLE.values()
    for (provider, kind), statuses in columns.items()
    for status in statuses
]


def test_the_table_of_the_code_has_these_cells_and_no_other() -> None:
    ours = {(provider, kind, status) for _, provider, kind, status in CELLS}
    theirs = {(*column, status) for column, statuses in STANDINGS.items() for status in statuses}
    assert ours == theirs
    assert len(CELLS) == len(ours), "a status stands in two rows"


@pytest.mark.parametrize(("access", "provider", "kind", "status"), CELLS)
def test_cell(access: str, provider: str, kind: str, status: str) -> None:
    standing = standing_of(provider, kind, status)
    assert standing is not None
    register = fold(provider, kind, [observed(ObjectState(status, items=(Item(("prod",)),)))])
    # Where a version key tells what is newest, an end is one only while nothing newer comes.
    assert register.terminal == (access == "terminal" and (provider, kind) not in REVIVABLE)
    assert ACCESS[standing] == ("none" if access == "terminal" else access)


GRANTING = [
    (access, kind, status)
    for access, provider, kind, status in CELLS
    if provider == "stripe" and kind in FAMILIES["stripe"]["subscriptions"]
]


@pytest.mark.parametrize(("access", "kind", "status"), GRANTING)
def test_cell_decides(access: str, kind: str, status: str) -> None:
    """The same through the whole decision, for the families of the adapter that is here."""
    verdict = verdict_on(kind, ObjectState(status, items=(Item(("prod",)),)))
    assert bool(verdict.grants) == (access in ("grant", "grace"))
    if verdict.grants:
        assert end_of(verdict) == (NOW_S + DAY_S if access == "grace" else None)
    assert verdict.parked is None


@pytest.mark.parametrize(("state", "policy", "end"), [
    (ObjectState("active", ends_at=NOW_S + 5), Policy(), NOW_S + 5),
    (ObjectState("trialing", lapses_at=NOW_S + 7), Policy(), NOW_S + 7),
    (ObjectState("past_due", ends_at=NOW_S + 5), Policy(), NOW_S + 5),
    (ObjectState("past_due", ends_at=NOW_S + 2 * DAY_S), Policy(), NOW_S + DAY_S),
    (ObjectState("active", collection="keep_as_draft"), Policy(voided_collection="revoke"), None),
    (ObjectState("active", collection="mark_uncollectible"), Policy(voided_collection="revoke"),
     None),
    (ObjectState("active", collection="void"), Policy(), None),
])  # fmt: skip
def test_when_access_ends(state: ObjectState, policy: Policy, end: int | None) -> None:
    verdict = verdict_on("subscription", with_product(state), policy=policy)
    assert verdict.grants
    assert end_of(verdict) == end


def test_a_trial_that_somebody_pays_for_goes_on() -> None:
    state = with_product(ObjectState("trialing", lapses_at=NOW_S + 7))
    around = Circumstances(customer_pays=True)
    assert end_of(verdict_on("subscription", state, around=around)) is None


def test_voided_collection_revokes_where_the_operator_says_so() -> None:
    policy = Policy(voided_collection="revoke")
    paused = with_product(ObjectState("active", collection="void"))
    assert verdict_on("subscription", paused, policy=policy).grants == ()
    resuming = with_product(ObjectState("active", collection="void", resumes_at=NOW_S + 9))
    grant = verdict_on("subscription", resuming, policy=policy).grants[0]
    assert grant.valid_from is not None
    assert grant.valid_from.timestamp() == NOW_S + 9


@pytest.mark.parametrize("kind", ["subscription", "checkout.session"])
def test_unknown_status_neither_grants_nor_revokes(kind: str) -> None:
    known = observed(with_product(ObjectState("active" if kind == "subscription" else "paid")))
    unknown = observed(with_product(ObjectState("metamorphosing")), version=NOW_S + 10)
    alone = decided(kind, [unknown])
    assert (alone.grants, alone.parked) == ((), "unknown_status")
    after = decided(kind, [known, unknown])
    assert after.grants
    assert after.parked == "unknown_status"


def observed(
    state: ObjectState, version: int = NOW_S, shape: Shape = "point", name: str = "evt"
) -> Observation:
    after = digest_of(state)
    return Observation(f"{name}_{version}", version, shape, None, after, state)


def with_product(state: ObjectState) -> ObjectState:
    return ObjectState(
        state.status, items=(Item(("prod",)),), ends_at=state.ends_at, lapses_at=state.lapses_at,
        collection=state.collection, resumes_at=state.resumes_at,
    )  # fmt: skip


def verdict_on(
    kind: str,
    state: ObjectState,
    policy: Policy | None = None,
    around: Circumstances | None = None,
) -> Verdict:
    return decided(kind, [observed(state)], policy, around)


def decided(
    kind: str,
    observations: list[Observation],
    policy: Policy | None = None,
    around: Circumstances | None = None,
) -> Verdict:
    origin = Origin("stripe", "stripe", policy=policy or Policy())
    register = fold("stripe", kind, observations)
    links = Links(operator="acme")
    return decide(kind, register, links, origin, CATALOG, around or Circumstances())[1]


def end_of(verdict: Verdict) -> int | None:
    until = verdict.grants[0].valid_until
    return None if until is None else int(until.timestamp())


def test_every_standing_has_an_access() -> None:
    assert ACCESS.keys() == set(Standing)
