"""
An explanation in sentences: such that whoever is asked by a customer can send it on.

Times are in UTC, to the minute; the provider's ids are as they are.
"""

from collections.abc import Iterable

from shared.domain.explanation import EventShown, Evidence, Explanation, Recorded
from shared.domain.moments import written
from shared.domain.prose.outlook import outlook
from shared.domain.prose.why import HOW, because, provisional
from shared.domain.prose.why_not import not_counted
from shared.domain.prose.words import actor, against, may, modal, name, wrapped


def text_of(explanation: Explanation) -> str:
    """The whole answer: paragraphs and lists, without a newline at its end."""
    blocks = [wrapped(_heading(explanation))]
    if "nothing_known" in explanation.notes:
        return blocks[0]
    blocks += [wrapped(line) for line in _remarks(explanation)]
    blocks += _listed(HOW[explanation.combined], map(because, explanation.because))
    blocks += _listed("Provisional:", map(provisional, explanation.provisional))
    blocks += _listed("Not counted:", not_counted(explanation))
    blocks += _listed("What would change it:", outlook(explanation))
    blocks += _listed(_behind(explanation.evidence), map(_event, explanation.evidence.events))
    return "\n\n".join([*blocks, wrapped(_record(explanation))])


def _heading(explanation: Explanation) -> str:
    tenant, at = explanation.tenant, written(explanation.at)
    if "nothing_known" in explanation.notes:
        return f"On {at} nothing was known of {tenant}."
    what = may(explanation.feature, explanation.value)
    if explanation.tense == "now":
        return f"{tenant} may {what}."
    known = "By what is known now, on" if explanation.tense == "future" else "On"
    return f"{known} {at} {tenant} {modal(explanation)} {what}."


def _remarks(explanation: Explanation) -> Iterable[str]:
    tenant, notes = explanation.tenant, explanation.notes
    if explanation.value is None:
        if not explanation.is_known:
            yield f"No plan of the catalog has {explanation.feature}."
        if explanation.features:
            names = ", ".join(explanation.features)
            yield f"What {tenant} {modal(explanation)} use: {names}."
    if "erased" in notes:
        yield (
            "What the audit trail said of it has been erased. This is what follows from what is"
            " still known of that time."
        )
    if "disagrees" in notes:
        yield (
            "This is what the audit trail says. What is known today of the objects of that time"
            " comes to something else: what they reported, whose they were or how their source was"
            " configured has been corrected since."
        )
    if "recomputing" in notes:
        yield (
            f"This stands on catalog version {explanation.catalog_version}. It is being recomputed"
            f" with version {explanation.newest_catalog_version}, and may change in a moment."
        )
    if "not_written" in notes:
        yield "What is stored is not what deciding anew comes to; what is stored counts."
    for one in explanation.loose:
        said = against(one)
        yield (
            f"{said[0].upper()}{said[1:]}. What its payment was for is not known yet, so it takes"
            " nothing away."
        )


def _behind(evidence: Evidence) -> str:
    shown = len(evidence.events)
    if shown < evidence.total:
        return f"Behind this, the newest {shown} of {evidence.total} events:"
    return "Behind this:"


def _event(event: EventShown) -> str:
    names = " and ".join(name(one) for one in event.objects)
    known = "an event" if event.event_id is None else f"event {event.event_id}"
    kind = "no longer kept" if event.type is None else event.type
    outcome = "" if event.outcome is None else f", {event.outcome}"
    return (
        f"{known} ({kind}) of {names}, received {written(event.received_at)}{outcome}, tracking id"
        f" {event.tracking_id}"
    )


def _record(explanation: Explanation) -> str:
    version = f"Catalog version {explanation.catalog_version}."
    record = explanation.record
    if record is None:
        return f"The audit trail has no record of it. {version}"
    place = f"record {record.position} of {record.chain}, hash {record.hash[:16]}"
    said = f"because of {_cause(record)} ({place}). {version}"
    at = written(record.at)
    if record.is_erased:
        return f"The audit trail has a record of it, of {at}, {said}"
    if (record.value, type(record.value)) == (explanation.value, type(explanation.value)):
        return f"It {'had' if explanation.tense == 'past' else 'has'} been so since {at}, {said}"
    told = may(explanation.feature, record.value)
    return f"The audit trail has since {at}: may {told}, {said}"


def _cause(record: Recorded) -> str:
    return {
        "event": f"event {record.event_id or record.cause_id}",
        "catalog": f"catalog version {record.catalog_version}",
        "operator": f"what {actor(record.actor)} did",
        "end": "the clock",
    }.get(record.cause, record.cause)


def _listed(title: str, lines: Iterable[str]) -> list[str]:
    items = [wrapped(line, "- ") for line in lines]
    return ["\n".join([title, *items])] if items else []
