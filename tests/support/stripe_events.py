"""Stripe events as Stripe shapes them."""

import itertools
import json
import time
from typing import Any

_numbers = itertools.count(1)
#: Two hours ago: what was scheduled lies ahead, and a grace period is not over.
NOW_S = int(time.time()) - 7200


def event(
    kind: str,
    content: dict[str, Any],
    *,
    created: int = NOW_S,
    event_id: str | None = None,
    previous: dict[str, Any] | None = None,
    livemode: bool = True,
    pending_webhooks: int = 1,
    **more: Any,
) -> bytes:
    """A v1 snapshot event's body."""
    data: dict[str, Any] = {"object": content}
    if previous is not None:
        data["previous_attributes"] = previous
    return json.dumps(
        {
            "id": event_id or f"evt_{next(_numbers):08d}",
            "object": "event",
            "api_version": "2025-03-31.basil",
            "created": created,
            "data": data,
            "livemode": livemode,
            "pending_webhooks": pending_webhooks,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
            **more,
        }
    ).encode()


def subscription(
    number: str = "sub_1",
    *,
    customer: str = "cus_1",
    status: str = "active",
    product: str = "prod_pro",
    quantity: int = 1,
    tenant: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A subscription of API version 2025-03-31.basil, with the keys that matter and some more."""
    return {
        "id": number,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"enabled": False, "liability": None},
        "billing_cycle_anchor": NOW_S,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": "charge_automatically",
        "created": NOW_S - 100,
        "currency": "eur",
        "customer": customer,
        "default_payment_method": None,
        "ended_at": None,
        "items": {
            "object": "list",
            "data": [
                {
                    "id": f"si_{number}",
                    "object": "subscription_item",
                    "current_period_end": NOW_S + 30 * 86400,
                    "current_period_start": NOW_S,
                    "price": {
                        "id": f"price_{product}",
                        "object": "price",
                        "product": product,
                        "unit_amount": 1000,
                        "recurring": {"interval": "month"},
                    },
                    "quantity": quantity,
                }
            ],
            "has_more": False,
            "total_count": 1,
        },
        "latest_invoice": "in_1",
        "livemode": True,
        "metadata": {} if tenant is None else {"tenant_id": tenant},
        "pause_collection": None,
        "start_date": NOW_S - 100,
        "status": status,
        "trial_end": None,
        **more,
    }


def customer(number: str = "cus_1", *, tenant: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "object": "customer",
        "created": NOW_S - 200,
        "email": "a@example.com",
        "livemode": True,
        "metadata": {} if tenant is None else {"tenant_id": tenant},
        **more,
    }


def session(
    number: str = "cs_1",
    *,
    customer: str | None = "cus_1",
    reference: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": number,
        "object": "checkout.session",
        "client_reference_id": reference,
        "created": NOW_S - 150,
        "customer": customer,
        "metadata": {},
        "mode": "subscription",
        "payment_status": "paid",
        "status": "complete",
        "subscription": "sub_1",
        **more,
    }
