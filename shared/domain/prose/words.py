"""Words and small phrases that all sentences share."""

import textwrap

from shared.domain.catalog import FeatureValue
from shared.domain.explanation import Against, Explanation, Gift, Thing
from shared.domain.moments import written
from shared.domain.standings import Standing

WIDTH = 80

_KINDS = {
    "checkout.session": "purchase",
    "entitlements.active_entitlement_summary": "entitlement summary",
    "radar.early_fraud_warning": "fraud warning",
}


def modal(explanation: Explanation) -> str:
    """What goes in front of `may`, in the answer's tense."""
    return "could" if explanation.tense == "past" else "may"


def may(feature: str, value: FeatureValue | None) -> str:
    """What may be done with the feature, or not; goes after `modal`."""
    if value is None or value is False:
        return f"not use {feature}"
    return f"use {feature}" if value is True else f"use {feature}: {value}"


def amount(value: FeatureValue) -> str:
    """What is given, in front of who gives it; nothing where there is nothing to count."""
    if value is True:
        return ""
    return "no " if value is False else f"{value} "


def named(thing: Thing) -> str:
    """The object and where it comes from."""
    account = f", account {thing.account}" if thing.account else ""
    return f"{name(thing.object)} (source {thing.source}{account})"


def name(reference: str) -> str:
    """An object ("subscription/sub_1") as people say it."""
    kind, _, object_id = reference.partition("/")
    return f"{_KINDS.get(kind, kind.replace('_', ' '))} {object_id}"


def since(thing: Thing | Against) -> str:
    """The time, and the event that said so."""
    if thing.since is None:
        return "an unknown time"
    return f"{written(thing.since)}{by_event(thing)}"


def by_event(thing: Thing | Against) -> str:
    """The event, in brackets; nothing where it is not known."""
    return "" if thing.event_id is None else f" (event {thing.event_id})"


def against(one: Against) -> str:
    """What holds something back, as a sentence."""
    if one.standing is Standing.CONTESTED:
        return f"{name(one.object)} has been open since {since(one)}"
    if one.standing is Standing.LOST:
        return f"{name(one.object)} was lost on {since(one)}"
    verb = "was made" if one.standing is Standing.REFUNDED else "was refunded"
    return f"{name(one.object)} {verb} on {since(one)}"


def actor(who: str) -> str:
    """An actor ("operator:ana") as people say it; "operator" is one whose name is not told."""
    if not who or ":" in who:
        return who.replace(":", " ", 1)
    return f"an {who}" if who[0] in "aeiou" else f"a {who}"


def giver(gift: Gift) -> str:
    """Who gave it, and when."""
    return f"{actor(gift.actor)} on {written(gift.at)}"


def reason(gift: Gift) -> str:
    """The operator's own words, at the end of a sentence."""
    return "" if gift.reason is None else f': "{gift.reason}"'


def wrapped(line: str, begin: str = "") -> str:
    """In lines of at most `WIDTH` characters, but for ids that are longer."""
    return textwrap.fill(
        line,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
