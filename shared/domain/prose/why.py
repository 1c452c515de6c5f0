"""What gives it: a sentence for each live grant, and what of it is not certain yet."""

from shared.domain.explanation import Because, Provisional, Thing
from shared.domain.moments import span, written
from shared.domain.prose.words import actor, amount, giver, name, named, reason, since
from shared.domain.standings import Standing

#: Over the sentences, by how the grants become one value.
HOW = {
    "alone": "Why:",
    "added": "Why, added up:",
    "largest": "Why, of which the largest counts:",
    "highest_rank": "Why, of which the plan of the highest rank counts:",
    "any": "Why, of which one is enough:",
}
_STANDINGS = {
    Standing.TRIAL: "in its trial since",
    Standing.ACTIVE: "active since",
    Standing.ENDING: "cancelled since",
    Standing.PAST_DUE: "past due since",
    Standing.PAID: "paid on",
}
_WANTS = {
    "order": "two changes of it came in the same second, and which was the last is not known yet",
    "hint": "it has changed since, and its new state is not known yet",
    "list": "the list of its items has not come whole",
    "line_items": "what was bought is not known yet",
    "missing": "a newer list of what its customer has does not name it, and why is not known yet",
}


def because(one: Because) -> str:
    """Who gives how much, and until when."""
    value = amount(one.value)
    end = "" if one.counts else " It adds nothing to what counts."
    if one.operator is not None:
        until = "without an end" if one.valid_until is None else _until(one)
        return f"{value}given by {giver(one.operator)}, {until}{reason(one.operator)}.{end}"
    plan = f"{value}from plan {one.plan}" if value else f"plan {one.plan}"
    if one.object is None:
        return f"{plan}.{end}"
    return f"{plan}, by {named(one.object)}: {_standing(one, one.object)}.{end}"


def provisional(one: Provisional) -> str:
    """What is not certain, and what counts meanwhile."""
    if one.wants is not None:
        return f"{name(one.object)}: {_WANTS[one.wants]}."
    if one.needs == "unknown_status":
        return (
            f'{name(one.object)}: its newest status "{one.status}" is not known here. What it gave'
            " before counts on."
        )
    return (
        f"{name(one.object)}: no plan of the catalog has all of its newest products. What it gave"
        " before counts on."
    )


def _standing(one: Because, thing: Thing) -> str:
    said = _STANDINGS.get(thing.standing, "since") if thing.standing is not None else "since"
    collection = ""
    if thing.collection is not None:
        collection = "; collecting its payments is paused, which takes nothing away"
    return f"{said} {since(thing)}{_end(one, thing)}{collection}{_linked(thing)}"


def _end(one: Because, thing: Thing) -> str:
    if one.valid_until is None:
        return ", for good" if thing.standing is Standing.PAID else ", with no end set"
    period = "" if one.period_s is None else f"{span(one.period_s)} "
    return {
        "scheduled": f", set to end on {written(one.valid_until)}",
        "trial": f", and nothing is set to pay when it ends on {written(one.valid_until)}",
        "grace": f", in its {period}grace period {_until(one)}",
        "lasts": f", for its {period}period {_until(one)}",
        None: f", {_until(one)}",
    }[one.ends_by]


def _until(one: Because) -> str:
    assert one.valid_until is not None
    return f"until {written(one.valid_until)}"


def _linked(thing: Thing) -> str:
    if thing.linked_by == "operator" and thing.linked_actor is not None:
        at = "" if thing.linked_at is None else f" on {written(thing.linked_at)}"
        return f"; its customer {thing.customer} was linked by {actor(thing.linked_actor)}{at}"
    if thing.linked_by == "session" and thing.customer is not None:
        return f"; its customer {thing.customer} is linked by a checkout"
    return ""
