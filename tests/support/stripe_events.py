"""Stripe events as Stripe shapes them."""

import itertools
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
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


def line_item(product: str = "prod_pro", quantity: int = 1, **more: Any) -> dict[str, Any]:
    """One line of a session; they come where a fetch expands them."""
    return {
        "id": f"li_{product}",
        "object": "item",
        "amount_total": 4900 * quantity,
        "price": {
            "id": f"price_{product}",
            "object": "price",
            "product": product,
            "type": "one_time",
        },
        "quantity": quantity,
        **more,
    }


def listed(content: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": list(content), "has_more": has_more}


def purchase(
    number: str = "cs_1",
    *,
    customer: str | None = "cus_1",
    reference: str | None = None,
    plan: str | None = None,
    payment_status: str = "paid",
    payment_intent: str | None = "pi_1",
    payment_link: str | None = None,
    items: Sequence[dict[str, Any]] | None = None,
    amount: int = 4900,
    **more: Any,
) -> dict[str, Any]:
    """A session in mode payment. `items` are its lines, which no event carries."""
    lines = {} if items is None else {"line_items": listed(items)}
    return session(
        number,
        customer=customer,
        reference=reference,
        **{
            "amount_total": amount,
            "invoice": None,
            "metadata": {} if plan is None else {"sluice_plan": plan},
            "mode": "payment",
            "payment_intent": payment_intent,
            "payment_link": payment_link,
            "payment_status": payment_status,
            "subscription": None,
            **lines,
            **more,
        },
    )


def invoice(
    number: str = "in_1",
    *,
    customer: str = "cus_1",
    status: str = "paid",
    subscription: str | None = "sub_1",
    amount: int = 1000,
    payments: Sequence[dict[str, Any]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An invoice of API version 2025-03-31.basil; `payments` come where they are expanded."""
    parent = None
    if subscription is not None:
        parent = {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": {}, "subscription": subscription},
        }
    return {
        "id": number,
        "object": "invoice",
        "amount_due": amount,
        "amount_paid": amount if status == "paid" else 0,
        "amount_remaining": 0 if status == "paid" else amount,
        "attempt_count": 1,
        "attempted": True,
        "billing_reason": "manual" if subscription is None else "subscription_cycle",
        "created": NOW_S - 90,
        "currency": "eur",
        "customer": customer,
        "lines": listed([]),
        "livemode": True,
        "metadata": {},
        "parent": parent,
        "status": status,
        "total": amount,
        **({} if payments is None else {"payments": listed(payments)}),
        **more,
    }


def invoice_payment(
    number: str = "inpay_1",
    *,
    invoice: str = "in_1",
    status: str = "paid",
    amount: int = 1000,
    payment_intent: str | None = "pi_1",
    charge: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    payment: dict[str, Any] = {"type": "payment_intent" if charge is None else "charge"}
    payment[payment["type"]] = payment_intent if charge is None else charge
    return {
        "id": number,
        "object": "invoice_payment",
        "amount_paid": amount if status == "paid" else None,
        "amount_requested": amount,
        "created": NOW_S - 80,
        "currency": "eur",
        "invoice": invoice,
        "is_default": True,
        "livemode": True,
        "payment": payment,
        "status": status,
        **more,
    }


def charge(
    number: str = "ch_1",
    *,
    customer: str | None = "cus_1",
    status: str = "succeeded",
    amount: int = 1000,
    refunded: int = 0,
    payment_intent: str | None = "pi_1",
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": number,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount if status == "succeeded" else 0,
        "amount_refunded": refunded,
        "captured": status == "succeeded",
        "created": NOW_S - 70,
        "currency": "eur",
        "customer": customer,
        "disputed": False,
        "livemode": True,
        "metadata": {},
        "paid": status == "succeeded",
        "payment_intent": payment_intent,
        "refunded": status == "succeeded" and refunded == amount,
        "status": status,
        **more,
    }


def refund(
    number: str = "re_1",
    *,
    status: str = "succeeded",
    amount: int = 1000,
    charge: str | None = "ch_1",
    payment_intent: str | None = "pi_1",
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": number,
        "object": "refund",
        "amount": amount,
        "charge": charge,
        "created": NOW_S - 60,
        "currency": "eur",
        "metadata": {},
        "payment_intent": payment_intent,
        "reason": "requested_by_customer",
        "status": status,
        **more,
    }


def dispute(
    number: str = "du_1",
    *,
    status: str = "needs_response",
    amount: int = 1000,
    charge: str = "ch_1",
    payment_intent: str | None = "pi_1",
    **more: Any,
) -> dict[str, Any]:
    return {
        "id": number,
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge,
        "created": NOW_S - 50,
        "currency": "eur",
        "is_charge_refundable": False,
        "livemode": True,
        "metadata": {},
        "payment_intent": payment_intent,
        "reason": "fraudulent",
        "status": status,
        **more,
    }


def warning(
    number: str = "issfr_1",
    *,
    actionable: bool = True,
    charge: str = "ch_1",
    payment_intent: str | None = "pi_1",
    **more: Any,
) -> dict[str, Any]:
    """A card network's early fraud warning."""
    return {
        "id": number,
        "object": "radar.early_fraud_warning",
        "actionable": actionable,
        "charge": charge,
        "created": NOW_S - 55,
        "fraud_type": "made_with_stolen_card",
        "livemode": True,
        "payment_intent": payment_intent,
        **more,
    }


def entitlement(lookup_key: str, *, feature: str | None = None, **more: Any) -> dict[str, Any]:
    """One active entitlement; its feature is `feat_KEY` where no other is named."""
    return {
        "id": f"ent_{lookup_key}",
        "object": "entitlements.active_entitlement",
        "feature": feature or f"feat_{lookup_key}",
        "livemode": True,
        "lookup_key": lookup_key,
        **more,
    }


def summary(
    customer: str = "cus_1",
    lookup_keys: Sequence[str] = ("sso",),
    *,
    has_more: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """All that a customer is entitled to; it has no id of its own."""
    entitlements = listed([entitlement(key) for key in lookup_keys], has_more=has_more)
    url = f"/v1/customer/{customer}/entitlements"
    return {
        "object": "entitlements.active_entitlement_summary",
        "customer": customer,
        "entitlements": {**entitlements, "url": url},
        "livemode": True,
        **more,
    }


def account(number: str = "acct_1", **more: Any) -> dict[str, Any]:
    """A connected account. Its events carry its id in `account` too: `event(…, account=…)`."""
    return {
        "id": number,
        "object": "account",
        "charges_enabled": True,
        "created": NOW_S - 300,
        "details_submitted": True,
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
        **more,
    }


def thin_event(
    kind: str,
    related_type: str | None,
    related_id: str | None,
    *,
    created: float = NOW_S,
    event_id: str | None = None,
    context: str | None = None,
    livemode: bool = True,
    **more: Any,
) -> bytes:
    """
    A v2 event notification's body: what changed, and nothing of what it is now.

    `kind` is "v1.customer.subscription.updated" and the like; `related_type` None is a ping.
    """
    related = None
    if related_type is not None:
        path = f"/v1/{related_type.replace('.', '/')}s/{related_id}"
        related = {"id": related_id, "type": related_type, "url": path}
    moment = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {
            "id": event_id or f"evt_thin_{next(_numbers):08d}",
            "object": "v2.core.event",
            "type": kind,
            "created": moment.replace("+00:00", "Z"),
            "livemode": livemode,
            "reason": {"type": "request", "request": {"id": "req_1", "idempotency_key": "k"}},
            **({} if context is None else {"context": context}),
            **({} if related is None else {"related_object": related}),
            **more,
        }
    ).encode()


def fetched(
    kind: str,
    object_id: str,
    result: dict[str, Any],
    *,
    number: int = 1,
    floor: int = NOW_S,
    ceiling: int | None = None,
) -> bytes:
    """
    The body of a fetch's answer: its event type is `FETCHED`, its event id `fetch/NUMBER`, its
    subject `kind/object_id`. It contains all up to `floor`, nothing from after `ceiling`.
    """
    return json.dumps(
        {
            "object": "sluice.fetched",
            "kind": kind,
            "id": object_id,
            "number": number,
            "floor": floor,
            "ceiling": floor + 1 if ceiling is None else ceiling,
            "result": result,
        }
    ).encode()
