"""
Clerk's objects, each as its states need it.

Of people nothing is kept but their ids and roles: no names, no addresses. What an organization's
id names is a tenant, and so is what a user's id names, once that user pays.
Source: clerk/openapi-specs, webhooks/2025-04-15.yml, and clerk/javascript,
packages/backend/src/api/resources/JSON.ts (read 2026-11). They differ: the description gives an
item `updated_at`, `interval` and a short plan; the types `past_due_at`, and a plan that says
whether it is the default one.
"""

import msgspec

from shared.domain.states import Item, ObjectState
from shared.providers.clerk.fields import MaybeMilliseconds, Milliseconds, checked, storable

PRESENT = "present"
DELETED = "deleted"


class Deleted(msgspec.Struct):
    """What is left of a user or an organization: {"id", "deleted", "object"}."""

    id: str | None = None


class User(msgspec.Struct):
    """See clerk.com/docs/reference/backend/types/backend-user."""

    id: str
    updated_at: Milliseconds | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return user_state(PRESENT)


class Organization(msgspec.Struct):
    """See clerk.com/docs/reference/backend/types/backend-organization."""

    id: str
    updated_at: Milliseconds | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        return organization_state(PRESENT, checked("the organization's id", self.id))


def user_state(status: str) -> ObjectState:
    """Of a user, who is nobody's customer and no tenant for having signed up."""
    return ObjectState(status)


def organization_state(status: str, organization: str) -> ObjectState:
    """Of an organization: a customer, and a tenant, both by its own id."""
    return ObjectState(status, customer=organization, tenant=organization)


class _Organization(msgspec.Struct):
    id: str | None = None


class _PublicUser(msgspec.Struct):
    user_id: str | None = None


class Membership(msgspec.Struct):
    """See clerk.com/docs/reference/backend/types/backend-organization-membership."""

    id: str
    role: str | None = None
    organization: _Organization | None = None
    public_user_data: _PublicUser | None = None
    created_at: Milliseconds | None = None
    updated_at: Milliseconds | None = None

    def state(self) -> ObjectState:
        """Who is a member of what, and as what."""
        state = self.ended()
        checked("the organization's id", state.tenant)
        checked("the user's id", state.member)
        return msgspec.structs.replace(state, status=PRESENT)

    def ended(self) -> ObjectState:
        """As it was, and that it is over: for that its id is enough."""
        organization = self.organization or _Organization()
        user = self.public_user_data or _PublicUser()
        tenant = storable(organization.id)
        return ObjectState(
            DELETED,
            customer=tenant,
            tenant=tenant,
            started_at=self.created_at // 1000 if self.created_at is not None else None,
            member=storable(user.user_id),
            role=storable(self.role),
        )


class _Plan(msgspec.Struct):
    id: str | None = None
    slug: str | None = None
    is_default: bool | None = None
    amount: int | None = None


class _Payer(msgspec.Struct):
    id: str | None = None
    organization_id: str | None = None
    user_id: str | None = None


class SubscriptionItem(msgspec.Struct):
    """What a payer has of a plan. The default plan's item keeps its id for as long as its payer."""

    id: str
    status: str
    updated_at: Milliseconds | None = None
    period_end: MaybeMilliseconds | None = None
    past_due_at: MaybeMilliseconds | None = None
    is_free_trial: bool | None = None
    plan: _Plan | None = None
    plan_id: str | None = None
    price_id: str | None = None
    payer: _Payer | None = None
    payer_id: str | None = None

    def state(self) -> ObjectState:
        """Its state now."""
        status = checked("the item's status", self.status)
        # Absent ids are empty here, not null.
        payer = self.payer or _Payer()
        # Up to a second late rather than early: until then it is paid for.
        period_ends_at = _second_of(self.period_end, late=True)
        tenant = storable(payer.organization_id) or storable(payer.user_id)
        return ObjectState(
            "free_trial" if self.is_free_trial and status == "active" else status,
            customer=tenant or storable(payer.id) or storable(self.payer_id),
            tenant=tenant,
            items=(Item(self._refs()),),
            ends_at=period_ends_at if status == "canceled" else None,
            past_due_at=_second_of(self.past_due_at),
            is_default=self._is_default(),
            period_ends_at=period_ends_at,
        )

    def _refs(self) -> tuple[str, ...]:
        """By what the catalog may know it: its price, its plan's id, its plan's slug."""
        plan = self.plan or _Plan()
        named = (self.price_id, plan.id, self.plan_id, plan.slug)
        return tuple(dict.fromkeys(ref for ref in map(storable, named) if ref is not None))

    def _is_default(self) -> bool:
        """The free plan of everybody who has no other; where it is not said, what never ends."""
        if self.plan is None or self.plan.is_default is not None:
            return self.plan is not None and bool(self.plan.is_default)
        return self.plan.amount == 0 and _second_of(self.period_end) is None


def _second_of(milliseconds: int | None, *, late: bool = False) -> int | None:
    """Unix seconds, rounded down, or up; None of a time that never comes."""
    if milliseconds is None or milliseconds <= 0:
        return None
    return -(-milliseconds // 1000) if late else milliseconds // 1000
