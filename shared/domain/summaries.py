"""
What a provider's summary of a customer says of the customer's other objects.

A customer's state lists what gives access, whole. So what gives access here and is not listed in a
newer one is missing there: perhaps it ended and nobody was told. That something is not listed is
no proof of being gone (the summary may come out of a cache): it is a reason to ask for the object
itself, and until that answers, what it gives stays.
"""

from collections.abc import Container, Iterable, Mapping

from shared.domain.commands import Command, Observe
from shared.domain.register import Register, Seen
from shared.domain.standings import ACCESS, standing_of
from shared.domain.states import BENEFIT_GRANT_KIND, STATE_KIND, SUBSCRIPTION_KIND, UNOBSERVED

#: What a summary lists.
LISTED_KINDS = frozenset({SUBSCRIPTION_KIND, BENEFIT_GRANT_KIND})


def known_until(register: Register) -> int:
    """Up to when an object is known, as a version: a fetch knows more than when it changed."""
    return max(register.version, register.floor or 0)


def missing(provider: str, granting: Container[str], objects: Iterable[Seen]) -> frozenset[str]:
    """
    The names of a customer's objects that a newer summary should list, and does not; of the kinds
    that are `granting`: what others say gives nothing.
    """
    listable = []
    summary: Register | None = None
    for seen in objects:
        if seen.kind == STATE_KIND and seen.register.newest.status != UNOBSERVED:
            summary = seen.register
        elif seen.kind in granting:
            listable.append(seen)
    if summary is None:
        return frozenset()
    return frozenset(_not_listed(provider, listable, summary.newest.refs, known_until(summary)))


def tells_news(
    provider: str,
    granting: Container[str],
    commands: Iterable[Command],
    held: Mapping[str, Seen],
) -> bool:
    """
    Whether a fetched summary, read into `commands`, says anything of its customer that the
    objects in `held`, by name, do not say: a newer version, or that something is missing; or
    anything else, where it is the summary itself that grants.

    What says nothing need not be stored, whatever was stored last: it is compared with all that
    is held now.
    """
    return any(
        _is_news(provider, granting, command, held)
        for command in commands
        if isinstance(command, Observe)
    )


def differs(known: Register | None, seen: Observe) -> bool:
    """
    Whether an object that was asked for just now is another than the one that is held.

    What is held may be newer than the answer, and an end is final: then it does not.
    """
    if known is None or known.is_empty or known.newest.status == UNOBSERVED:
        return True
    if known.terminal or known.version > seen.version:
        return False
    return known.newest != seen.after


def _is_news(
    provider: str, granting: Container[str], seen: Observe, held: Mapping[str, Seen]
) -> bool:
    known = held.get(f"{seen.kind}/{seen.object_id}")
    if seen.kind != STATE_KIND:
        if known is not None and seen.shape == known.register.wants == "hint":
            return False
        return known is None or known.register.version < seen.version
    if STATE_KIND in granting and (known is None or known.register.newest != seen.after):
        return True
    listable = [one for one in held.values() if one.kind in granting]
    return any(_not_listed(provider, listable, seen.after.refs, seen.version))


def _not_listed(
    provider: str, objects: Iterable[Seen], listed: Iterable[str], as_of: int
) -> Iterable[str]:
    names = frozenset(listed)
    for seen in objects:
        if seen.kind not in LISTED_KINDS or seen.name in names:
            continue
        standing = standing_of(provider, seen.kind, seen.register.newest.status)
        gives = standing is not None and ACCESS[standing] != "none"
        if gives and known_until(seen.register) < as_of:
            yield seen.name
