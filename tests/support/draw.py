"""
Draw generated lives.

A life is a few stories that take turns under one clock, which more often than not stands still
between two steps. Every life is drawn from its seed and its name alone, and can be drawn again.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.support.life import EVERYTHING, Life
from tests.support.stories import begin
from tests.support.stripe_events import NOW_S
from tests.support.stripe_objects import DAY_S, Generation
from tests.support.world import Merchant

#: Types that endpoints often are not subscribed to, and can do without.
DISPENSABLE = ("invoice.created", "invoice.finalized", "invoice.updated", "invoice.payment_failed",
               "invoice.payment_succeeded", "charge.succeeded", "charge.refund.updated",
               "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated")  # fmt: skip
#: How refunds are heard of: by themselves, by what their charge says of them, or by both.
REFUND_CHANNELS = (
    frozenset({"charge.refunded", "charge.updated"}),
    frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"}),
    frozenset(),
)  # fmt: skip
#: Fields that say one thing together: when it ends, and whether a trial goes on.
PARTS = {
    **dict.fromkeys(("cancel_at", "cancel_at_period_end", "current_period_end", "items"), "end"),
    **dict.fromkeys(("trial_end", "trial_settings", "default_payment_method"), "trial"),
}


def seed_of_run() -> int:
    """`TEST_SEED`, or another one each time; whoever fails prints it."""
    return int(os.environ.get("TEST_SEED", random.randrange(10**6)))


def live(
    seed: int, name: str, themes: Iterable[str] = EVERYTHING, *, livemode: bool = True
) -> tuple[Life, int]:
    """
    A life, and how many were drawn in vain before it.

    In vain: its order is not to be known from what is told, its truth would change by the clock
    while a test runs, or nothing was told at all.
    """
    attempt = 0
    while True:
        rng = random.Random(f"{seed}/{name}/{attempt}")
        life = _lived(rng, name, frozenset(themes), livemode)
        if life.told and is_decidable(life) and is_settled(life):
            return life, attempt
        attempt += 1


def _lived(rng: random.Random, name: str, themes: frozenset[str], livemode: bool) -> Life:
    is_old = rng.random() < 0.4
    merchant = Merchant(
        rng,
        name,
        NOW_S - (150 if is_old else 6) * DAY_S,
        generation=rng.choice(list(Generation)),
        livemode=livemode,
    )
    merchant.names_previous = rng.random() < 0.5
    merchant.names_intent = merchant.generation is Generation.BASIL or rng.random() < 0.8
    deaf = {kind for kind in DISPENSABLE if rng.random() < 0.6}
    deaf |= rng.choice(REFUND_CHANNELS)
    if not merchant.names_intent:
        deaf.discard("charge.succeeded")
    merchant.deaf = frozenset(deaf)
    life = Life(name, rng, merchant, themes, DAY_S * 6 if is_old else 3600)
    life.tenants = [f"{name}", f"{name}-b", f"{name}-c"]
    for _ in range(2 if life.chance(0.15) else 1):
        begin(life)
    while life.stories:
        story = rng.choice(life.stories)
        try:
            must_move = next(story)
        except StopIteration:
            life.stories.remove(story)
        else:
            _move_clock(life, must_move)
    for customer in life.leaving:
        merchant.delete_customer(customer)
    return life


def _move_clock(life: Life, must_move: bool) -> None:
    merchant, left_s = life.merchant, NOW_S - life.merchant.clock
    step_s = 0
    draw = life.rng.random()
    if draw > 0.85:
        step_s = life.rng.randrange(life.scale_s * 2)
    elif draw > 0.55:
        step_s = life.rng.randrange(30)
    merchant.clock += min(max(step_s, int(must_move)), max(1, left_s // 8))


def is_settled(life: Life) -> bool:
    """Whether its truth stays the same from before the test until long after it."""
    return life.features(NOW_S) == life.features(NOW_S + DAY_S // 4)


def is_decidable(life: Life) -> bool:
    """
    Whether a perfect reader could tell each subscription's last state from what was told.

    Where a subscription's beginning was not told, nothing may have been told of it, or within the
    first second the same thing may have been changed twice: there and back again has no end.
    """
    bodies = [json.loads(body) for body in life.told]
    for subscription in life.merchant.has.subscriptions:
        if not subscription.starts_unseen:
            continue
        seen = [body for body in bodies if body["data"]["object"]["id"] == subscription.id]
        if not seen:
            return False
        if any(body["type"].endswith("deleted") for body in seen):
            continue
        if _comes_back([body["data"] for body in seen if body["created"] == seen[0]["created"]]):
            return False
    return True


def _comes_back(second: list[dict[str, Any]]) -> bool:
    """Whether any part may be after a second what it was before, with something else between."""
    touched: Counter[str] = Counter()
    for data in second:
        touched.update({PARTS.get(key, key) for key in data.get("previous_attributes", ())})
    return any(count > 1 for count in touched.values())
