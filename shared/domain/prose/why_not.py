"""What could give it and does not: a sentence for each."""

from collections.abc import Iterable, Sequence

from shared.domain.explanation import Explanation, NotGiving, Thing
from shared.domain.moments import span, written
from shared.domain.prose.words import actor, against, amount, by_event, giver, named, reason, since


def not_counted(explanation: Explanation) -> Iterable[str]:
    """The objects and gifts that do not count, and how many more there are."""
    for one in explanation.not_giving:
        if one.object is not None:
            yield _lack(one, one.object, explanation.mode)
        else:
            yield _over(one)
    more = explanation.not_giving_total - len(explanation.not_giving)
    if more:
        yield f"and {more} more."


def products_of(products: Sequence[str]) -> str:
    """What nothing maps."""
    if not products:
        return "what it is for"
    return f"its product{'s' if len(products) > 1 else ''} {', '.join(products)}"


def _over(one: NotGiving) -> str:
    assert one.operator is not None
    value = amount(one.offers[0].value)
    at = "" if one.at is None else f" on {written(one.at)}"
    given = f"{value}given by {giver(one.operator)}"
    was_for = f" It was given for{reason(one.operator)}." if one.operator.reason else ""
    if one.reason != "revoked":
        return f"{given} ended{at}.{was_for}"
    by = "" if one.operator.revoked_by is None else f" by {actor(one.operator.revoked_by)}"
    why = "" if one.operator.revoke_reason is None else f': "{one.operator.revoke_reason}"'
    return f"{given} was revoked{by}{at}{why}.{was_for}"


def _lack(one: NotGiving, thing: Thing, mode: str) -> str:
    offers = " and ".join(
        f"{amount(offer.value) or 'it '}by plan {offer.plan}" for offer in one.offers
    )
    would = f"would give {offers}" if offers else "may give it"
    return f"{named(thing)} {would}: {_why_not(one, thing, mode)}."


def _why_not(one: NotGiving, thing: Thing, mode: str) -> str:
    at = "" if one.at is None else written(one.at)
    by = " and ".join(against(each) for each in one.by)
    is_purchase = thing.object.startswith(("checkout.session/", "order/"))
    said = {
        "held": f"its payment is contested: {by}",
        "reversed": f"its payment was taken back: {by}",
        "lapsed": f"customer {thing.customer} has no subscription that gives access",
        "needs:link": f"nothing says which tenant {_whose(thing)} belongs to",
        "link_conflict": f"{_whose(thing)} is claimed for several tenants",
        "needs:mapping": f"no plan of the catalog has {products_of(one.products)}",
        "needs:line_items": "what was bought is not known yet",
        "needs:fetch": "not all of it is known yet",
        "unknown_status": f'its status "{thing.status}" is not known here',
        "other_mode": f"it is a {'live' if thing.livemode else 'test'} object, and only {mode} ones"
        " count here",
        "source_removed": f"its source {thing.source} was removed",
        "other_family": f"what {thing.source} gives is read from other objects",
        "unpaid": f"unpaid since {since(thing)}",
        "pending": f"waiting for its {'' if is_purchase else 'first '}payment since {since(thing)}",
        "paused": f"paused since {since(thing)}",
        "refunded": f"refunded on {since(thing)}",
        "voided": "collecting its payments is paused, and its invoices are void",
        "no_end": "it was cancelled, and nothing says until when it is paid for",
        "no_access": f'its status "{thing.status}" gives nothing',
        "grace_over": f"past due since {since(thing)}, {_grace(one, at)}",
        "trial_over": f"its trial ended on {at}, and nothing was set to pay",
        "cancelled": f"it was set to end on {at}",
        "time_over": f"paid on {since(thing)}, for a time that ended on {at}",
        "not_yet": f"it begins on {at}",
        "never_started": f"its {'' if is_purchase else 'first '}payment failed on {at}"
        f"{by_event(thing)}",
        "ended": f"it ended on {at}{by_event(thing)}",
    }
    return said.get(one.reason, "that is decided, and not written down yet")


def _grace(one: NotGiving, at: str) -> str:
    longest = max((offer.period_s for offer in one.offers), default=0)
    if not longest:
        return "and there is no grace period"
    return f"and its {span(longest)} grace period ended on {at}"


def _whose(thing: Thing) -> str:
    return "it" if thing.customer is None else f"its customer {thing.customer}"
