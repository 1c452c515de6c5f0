"""Whether what a provider reads comes to the same, in whatever order and however often it comes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations

from shared.domain.commands import Command, Observe
from shared.domain.events import Identity
from shared.domain.register import Observation, fold
from shared.domain.states import digest_of

_MOST_AT_ONCE = 5

#: (account, livemode, kind, object id): an object.
Key = tuple[str, bool, str, str]


def objects_of(
    read: Iterable[tuple[Identity, Sequence[Command]]],
) -> dict[Key, list[Observation]]:
    """What each object was observed as. What came twice, and was read alike, counts once."""
    found: dict[Key, list[Observation]] = defaultdict(list)
    for identity, commands in read:
        for command in commands:
            if isinstance(command, Observe):
                key = (identity.account, identity.livemode, command.kind, command.object_id)
                seen = _observation(identity.event_id, command)
                if seen not in found[key]:
                    found[key].append(seen)
    return dict(found)


def differences(provider: str, objects: dict[Key, list[Observation]]) -> Iterator[str]:
    """
    Objects that come to something else in another order, or where an event comes twice. Of more
    than five observations, every two are tried, and every five in a row of those in this order.
    """
    for (_, _, kind, object_id), observations in objects.items():
        if len({one.id for one in observations}) < len(observations):
            yield f"one event says two things of {kind}/{object_id}: it may be observed once"
            continue
        for some in _some_of(observations):
            first = fold(provider, kind, some)
            if any(fold(provider, kind, order) != first for order in permutations(some)):
                yield f"{kind}/{object_id} depends on the order of its events"
                break


def _some_of(observations: Sequence[Observation]) -> Iterator[Sequence[Observation]]:
    if len(observations) <= _MOST_AT_ONCE:
        yield observations
        return
    yield from combinations(observations, 2)
    for first in range(len(observations) - _MOST_AT_ONCE + 1):
        yield observations[first : first + _MOST_AT_ONCE]


def _observation(event_id: str, command: Observe) -> Observation:
    before = command.before
    return Observation(
        event_id,
        command.version,
        command.shape,
        digest_of(before) if before is not None else None,
        digest_of(command.after),
        command.after,
        command.ceiling,
        command.number,
    )
