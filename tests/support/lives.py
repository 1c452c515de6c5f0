"""
Generated lives of a subscription, as Stripe would report them, beside the truth.

Independent of the code under test: a life is a list of whole objects, its events say how each
came from the one before, and its truth is simply the last object.
"""

import copy
import random
from dataclasses import dataclass
from typing import Any

from tests.support.stripe_events import NOW_S, event, subscription


@dataclass
class Life:
    """`events` in the order in which they happened; `end` is the object after the last."""

    events: list[bytes]
    end: dict[str, Any]
    is_deleted: bool
    starts_unseen: bool


CHANGES: list[dict[str, list[Any]]] = [
    {"status": ["active", "past_due", "trialing", "unpaid"]},
    {"cancel_at_period_end": [True, False]},
    {"cancel_at": [None, NOW_S + 86400 * 40, NOW_S + 86400 * 50]},
    {"quantity": [1, 2, 3]},
    {"product": ["prod_pro", "prod_basic"]},
    {"metadata": [{}, {"tenant_id": "a"}, {"tenant_id": "b"}, {"note": "x"}]},
    {"latest_invoice": ["in_1", "in_2", None]},
    {"pause_collection": [None, {"behavior": "void"}, {"behavior": "void", "resumes_at": NOW_S}]},
    {"default_payment_method": [None, "pm_1"]},
]
_LAPSING = {"end_behavior": {"missing_payment_method": "cancel"}}


def live(
    rng: random.Random, number: str, *, tenant: str | None = None, renews: bool = False
) -> Life:
    """
    One life: a start, then 2 to 6 changes within one second, toggles included. With `renews`
    periods end in it, together with what else changes or by themselves.
    """
    second = NOW_S + rng.randrange(1000)
    current = subscription(number, customer=f"cus_{number}", status="incomplete", tenant=tenant,
                           trial_end=NOW_S + 86400 * 10, trial_settings=_LAPSING)  # fmt: skip
    events: list[bytes] = []
    start = rng.random()
    starts_unseen = start < 0.1
    if not starts_unseen:
        created = second if start < 0.5 else second - 1 - rng.randrange(50)
        events.append(_event(rng, "customer.subscription.created", current, created))
    trail = [current]
    is_deleted = False
    for turn in range(rng.randint(2, 6)):
        if turn >= 1 and rng.random() < 0.15:
            ended = {**copy.deepcopy(current), "status": "canceled", "ended_at": second}
            events.append(_event(rng, "customer.subscription.deleted", ended, second))
            current, is_deleted = ended, True
            break
        changed = copy.deepcopy(rng.choice(trail)) if rng.random() < 0.35 else None
        if changed is None or changed == current:
            changed = _changed(rng, current)
        if renews:
            if rng.random() < 0.2:
                changed = copy.deepcopy(current)
            _renew(changed, _period_of(current) + 30 * 86400 * (rng.random() < 0.4))
            if changed == current:
                _renew(changed, _period_of(current) + 30 * 86400)
        previous = difference(changed, current)
        events.append(
            _event(rng, "customer.subscription.updated", changed, second, previous=previous)
        )
        trail.append(changed)
        current = changed
    return Life(events, current, is_deleted, starts_unseen)


def _period_of(content: dict[str, Any]) -> int:
    return int(content["items"]["data"][0]["current_period_end"])


def _renew(content: dict[str, Any], until: int) -> None:
    """Time goes one way, whatever else is put back to what it was."""
    content["items"]["data"][0]["current_period_end"] = until


def shuffled(rng: random.Random, events: list[bytes]) -> list[bytes]:
    """Any order, some of them more than once."""
    many = events + [one for one in events if rng.random() < 0.3]
    rng.shuffle(many)
    return many


def _event(rng: random.Random, kind: str, content: Any, created: int, **more: Any) -> bytes:
    # Ids tell nothing of the order.
    return event(kind, copy.deepcopy(content), created=created,
                 event_id=f"evt_{rng.randrange(10**12):012d}", **more)  # fmt: skip


def _changed(rng: random.Random, current: dict[str, Any]) -> dict[str, Any]:
    while True:
        changed = copy.deepcopy(current)
        for key, values in rng.choice(CHANGES).items():
            value = copy.deepcopy(rng.choice(values))
            item = changed["items"]["data"][0]
            if key == "quantity":
                item["quantity"] = value
            elif key == "product":
                item["price"]["id"], item["price"]["product"] = f"price_{value}", value
            else:
                changed[key] = value
        if changed != current:
            return changed


def difference(after: Any, before: Any) -> dict[str, Any]:
    """`previous_attributes`: hashes by key, arrays whole, null where a key was absent."""
    previous: dict[str, Any] = {}
    for key in after.keys() | before.keys():
        if key in after and key in before and after[key] == before[key]:
            continue
        if isinstance(after.get(key), dict) and isinstance(before.get(key), dict):
            previous[key] = difference(after[key], before[key])
        else:
            previous[key] = copy.deepcopy(before.get(key))
    return previous


def overlaid(after: Any, previous: dict[str, Any]) -> dict[str, Any]:
    """The object before, from the one after and its `previous_attributes`."""
    before = copy.deepcopy(after)
    for key, value in previous.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            before[key] = overlaid(before[key], value)
        elif value is None:
            before.pop(key, None)
        else:
            before[key] = value
    return before
