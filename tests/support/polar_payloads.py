"""
Payloads of Polar's events, with all that its API version 2026-10 has in them.

Ids are UUIDs made of names; times are given in microseconds since 1970.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

US = 1_000_000
DAY_US = 86_400 * US
NOW_US = 1_793_880_000 * US + 123_456  # 2026-11-05T12:00:00.123456Z


def uuid_of(name: str) -> str:
    """A UUID for a name, the same each time."""
    return str(UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4))


def iso(moment_us: int | None) -> str | None:
    """As Polar writes times."""
    if moment_us is None:
        return None
    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=moment_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


ORGANIZATION = uuid_of("organization")


def event(kind: str, data: dict[str, Any], at_us: int = NOW_US, **more: Any) -> bytes:
    """The body of a delivery."""
    content = {
        "type": kind, "timestamp": iso(at_us), "api_version": "2026-10", "data": data, **more,
    }  # fmt: skip
    return json.dumps(content, separators=(",", ":")).encode()


def headers_of(name: str) -> tuple[tuple[str, str], ...]:
    """What receipt reads of a delivery's headers once it is verified."""
    return (("webhook-id", uuid_of(name)),)


def customer(
    name: str = "ada",
    *,
    external_id: str | None = "acme",
    created_us: int = NOW_US - 30 * DAY_US,
    modified_us: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": uuid_of(name),
        "created_at": iso(created_us),
        "modified_at": iso(modified_us),
        "metadata": {},
        "external_id": external_id,
        "email": f"{name}@example.com",
        "email_verified": True,
        "type": "individual",
        "name": name.title(),
        "billing_name": None,
        "billing_address": {
            "line1": "Unter den Linden 1", "line2": None, "postal_code": "10117",
            "city": "Berlin", "state": None, "country": "DE",
        },
        "tax_id": None,
        "locale": "en",
        "organization_id": ORGANIZATION,
        "default_payment_method_id": uuid_of(f"{name}'s card"),
        "deleted_at": None,
        "first_user_event_at": None,
        "avatar_url": "https://www.gravatar.com/avatar/5f9d6a?d=404",
    } | more  # fmt: skip


def benefit(name: str = "sso") -> dict[str, Any]:
    return {
        "id": uuid_of(name),
        "created_at": iso(NOW_US - 90 * DAY_US),
        "modified_at": None,
        "type": "feature_flag",
        "description": name.title(),
        "selectable": True,
        "deletable": True,
        "is_deleted": False,
        "organization_id": ORGANIZATION,
        "metadata": {},
        "visibility": "public",
        "properties": {},
        "visibility_configurable": True,
    }


def product(name: str = "pro", *, recurring: bool = True) -> dict[str, Any]:
    return {
        "id": uuid_of(name),
        "created_at": iso(NOW_US - 90 * DAY_US),
        "modified_at": iso(NOW_US - 60 * DAY_US),
        "trial_interval": None,
        "trial_interval_count": None,
        "name": name.title(),
        "description": "Everything that a team needs",
        "visibility": "public",
        "recurring_interval": "month" if recurring else None,
        "recurring_interval_count": 1 if recurring else None,
        "meter_interval": None,
        "meter_interval_count": None,
        "is_recurring": recurring,
        "is_archived": False,
        "organization_id": ORGANIZATION,
        "metadata": {},
    }


def price(of: str = "pro") -> dict[str, Any]:
    return {
        "id": uuid_of(f"{of}'s price"),
        "created_at": iso(NOW_US - 90 * DAY_US),
        "modified_at": None,
        "source": "catalog",
        "amount_type": "fixed",
        "price_currency": "eur",
        "tax_behavior": "exclusive",
        "is_archived": False,
        "product_id": uuid_of(of),
        "type": "recurring",
        "recurring_interval": "month",
        "price_amount": 2900,
    }


def _subscribed(
    name: str, of: dict[str, Any], to: str, status: str, created_us: int, modified_us: int | None
) -> dict[str, Any]:
    return {
        "created_at": iso(created_us),
        "modified_at": iso(modified_us),
        "id": uuid_of(name),
        "amount": 2900,
        "currency": "eur",
        "recurring_interval": "month",
        "recurring_interval_count": 1,
        "status": status,
        "current_period_start": iso(NOW_US - 10 * DAY_US),
        "current_period_end": iso(NOW_US + 20 * DAY_US),
        "current_meter_period_start": None,
        "current_meter_period_end": None,
        "trial_start": None,
        "trial_end": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "started_at": iso(created_us),
        "ends_at": None,
        "ended_at": None,
        "past_due_at": None,
        "pause_at_period_end": False,
        "paused_at": None,
        "resumes_at": None,
        "customer_id": of["id"],
        "product_id": uuid_of(to),
        "discount_id": None,
        "checkout_id": uuid_of(f"{name}'s checkout"),
        "seats": None,
        "units": None,
        "customer_cancellation_reason": None,
        "customer_cancellation_comment": None,
        "metadata": {},
    }


def subscription(
    name: str = "sub",
    *,
    of: dict[str, Any] | None = None,
    to: str = "pro",
    status: str = "active",
    created_us: int = NOW_US - 10 * DAY_US,
    modified_us: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    of = customer() if of is None else of
    return {
        **_subscribed(name, of, to, status, created_us, modified_us),
        "custom_field_data": {},
        "customer": of,
        "product": {
            **product(to), "is_deletable": False, "prices": [price(to)],
            "benefits": [benefit()], "medias": [], "attached_custom_fields": [],
        },
        "discount": None,
        "prices": [price(to)],
        "meters": [],
        "pending_update": None,
    } | more  # fmt: skip


def order(
    name: str = "order",
    *,
    of: dict[str, Any] | None = None,
    to: str | None = "book",
    status: str = "paid",
    subscription_name: str | None = None,
    billing_reason: str | None = None,
    refunded: int = 0,
    created_us: int = NOW_US - 3 * DAY_US,
    modified_us: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    of = customer() if of is None else of
    is_paid = status not in ("draft", "pending", "void")
    of_subscription = None
    if subscription_name is not None:
        # As it was when the order was made, and not what it is by now.
        of_subscription = _subscribed(
            subscription_name, of, to or "pro", "incomplete", created_us, None
        )
    return {
        "id": uuid_of(name),
        "created_at": iso(created_us),
        "modified_at": iso(modified_us),
        "status": status,
        "paid": is_paid,
        "subtotal_amount": 5000,
        "discount_amount": 0,
        "net_amount": 5000,
        "tax_amount": 950,
        "total_amount": 5950,
        "applied_balance_amount": 0,
        "due_amount": 0 if is_paid else 5950,
        "refunded_amount": refunded,
        "refunded_tax_amount": refunded * 19 // 100,
        "currency": "eur",
        "billing_reason": billing_reason
        or ("purchase" if subscription_name is None else "subscription_cycle"),
        "billing_name": None,
        "billing_address": of["billing_address"],
        "invoice_number": "POLAR-0001-0042",
        "is_invoice_generated": False,
        "receipt_number": None,
        "seats": None,
        "units": None,
        "customer_id": of["id"],
        "product_id": None if to is None else uuid_of(to),
        "discount_id": None,
        "subscription_id": None if subscription_name is None else uuid_of(subscription_name),
        "checkout_id": uuid_of(f"{name}'s checkout"),
        "next_payment_attempt_at": None,
        "metadata": {},
        "custom_field_data": {},
        "platform_fee_amount": 250,
        "platform_fee_currency": "usd",
        "customer": of,
        "product": None if to is None else product(to, recurring=subscription_name is not None),
        "discount": None,
        "subscription": of_subscription,
        "items": [
            {
                "id": uuid_of(f"{name}'s item"), "created_at": iso(created_us),
                "modified_at": None, "label": "One of it", "amount": 5000, "net_amount": 5000,
                "tax_amount": 950, "proration": False, "start_timestamp": None,
                "end_timestamp": None,
                "product_price_id": uuid_of(f"{to}'s price"),
            }
        ],
        "description": "One of it",
        "refundable_amount": 5000 - refunded,
        "refundable_tax_amount": 950 - refunded * 19 // 100,
    } | more  # fmt: skip


def refund(
    name: str = "refund",
    *,
    of: dict[str, Any] | None = None,
    order_name: str = "order",
    status: str = "succeeded",
    amount: int = 5000,
    revokes: bool = False,
    created_us: int = NOW_US - DAY_US,
    modified_us: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    of = customer() if of is None else of
    return {
        "created_at": iso(created_us),
        "modified_at": iso(modified_us),
        "id": uuid_of(name),
        "metadata": {},
        "status": status,
        "reason": "customer_request",
        "amount": amount,
        "tax_amount": amount * 19 // 100,
        "currency": "eur",
        "organization_id": ORGANIZATION,
        "order_id": uuid_of(order_name),
        "subscription_id": None,
        "customer_id": of["id"],
        "revoke_benefits": revokes,
        "dispute": None,
    } | more


def benefit_grant(
    name: str = "grant",
    *,
    of: dict[str, Any] | None = None,
    to: str = "sso",
    granted: bool = True,
    revoked: bool = False,
    created_us: int = NOW_US - 10 * DAY_US,
    modified_us: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    of = customer() if of is None else of
    return {
        "created_at": iso(created_us),
        "modified_at": iso(modified_us),
        "id": uuid_of(name),
        "granted_at": iso(created_us) if granted else None,
        "is_granted": granted,
        "revoked_at": iso(modified_us) if revoked else None,
        "is_revoked": revoked,
        "subscription_id": uuid_of("sub"),
        "order_id": None,
        "customer_id": of["id"],
        "member_id": None,
        "benefit_id": uuid_of(to),
        "error": None,
        "customer": of,
        "member": None,
        "benefit": benefit(to),
        "properties": {},
        "previous_properties": None,
    } | more


def customer_state(
    of: dict[str, Any] | None = None,
    benefits: tuple[str, ...] = ("sso",),
    subscriptions: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    of = customer() if of is None else of
    shown = (
        "id", "created_at", "modified_at", "custom_field_data", "metadata", "status", "amount",
        "currency", "recurring_interval", "current_period_start", "current_period_end",
        "trial_start", "trial_end", "cancel_at_period_end", "canceled_at", "started_at",
        "ends_at", "product_id", "discount_id", "seats", "units", "meters",
    )  # fmt: skip
    return {
        **of,
        "active_subscriptions": [{key: one[key] for key in shown} for one in subscriptions],
        "granted_benefits": [
            {
                "id": uuid_of(f"{of['id']}/{number}/{name}"),
                "created_at": iso(NOW_US - 10 * DAY_US),
                "modified_at": None,
                "granted_at": iso(NOW_US - 10 * DAY_US),
                "benefit_id": uuid_of(name),
                "benefit_type": "feature_flag",
                "benefit_metadata": {},
                "properties": {},
            }
            for number, name in enumerate(benefits)
        ],
        "active_meters": [],
    }
