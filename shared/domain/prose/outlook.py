"""What would change it: when by the clock, and what else would have to happen."""

from collections.abc import Iterable

from shared.domain.explanation import Change, Explanation
from shared.domain.moments import span, written
from shared.domain.prose.why_not import products_of
from shared.domain.prose.words import actor, may, modal, name


def outlook(explanation: Explanation) -> Iterable[str]:
    """What the clock changes, in its order; then what somebody could do."""
    for change in explanation.changes:
        if change.at is None:
            yield _remedy(change)
        else:
            what = may(explanation.feature, change.value)
            then = f"Then {explanation.tenant} {modal(explanation)} {what}."
            yield f"{written(change.at)}: {_turn(change)}. {then}"


def _turn(change: Change) -> str:
    giving = "what was given" if change.object is None else name(change.object)
    period = "" if change.period_s is None else f"{span(change.period_s)} "
    said = {
        "scheduled": f"{giving} ends, as was set",
        "trial": f"the trial of {giving} ends, unless a way to pay is added before",
        "grace": f"the {period}grace period of {giving} ends, unless it is paid before",
        "lasts": f"the {period}period of {giving} ends",
        "given": f"what {actor(change.actor or '')} gave ends",
        "begins": f"what {giving} gives begins",
    }
    return said.get(change.reason, f"what {giving} gives ends")


def _remedy(change: Change) -> str:
    assert change.object is not None
    giving = name(change.object)
    by = " and ".join(name(one) for one in change.by)
    customer = "it" if change.customer is None else f"customer {change.customer}"
    said = {
        "held": f"When {by} comes to nothing, {giving} counts again.",
        "unpaid": f"When {giving} is paid, it counts again.",
        "grace_over": f"When {giving} is paid, it counts again.",
        "pending": f"When {giving} is paid, it counts.",
        "paused": f"When {giving} is resumed, it counts again.",
        "voided": f"When {giving} is collected again, it counts again.",
        "needs:link": f"When {customer} is linked to a tenant, {giving} counts there.",
        "link_conflict": f"When an operator says whose {customer} is, {giving} counts there.",
    }
    return said.get(
        change.reason,
        f"When a plan has {products_of(change.products)}, {giving} gives what it says.",
    )
