"""
The register: the newest state of a provider object, folded from its observations.

A pure function of the *set* of observations: their order and multiplicity of arrival do not
matter. Stripe's snapshots carry no version but `created`, in seconds. Within one second a
snapshot is an edge from the state before it to the state after it, and the second's snapshots are
a walk; the walk ends in the one state that has one more arrival than departures. In a closed loop
no state has, and the walk ends where it began: in the state that the second before ended in.
What stays undecided is *ambiguous*: the largest event id decides for now.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from shared.domain.commands import Shape
from shared.domain.states import ACCESS, TERMINAL, ObjectState, Standing, standing_of


class Observation(msgspec.Struct, frozen=True):
    """One snapshot. `id` is the event's at the provider, `version` its clock's reading."""

    id: str
    version: int
    shape: Shape
    before: int | None  # digest of the state an edge leads from
    after: int
    state: ObjectState


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A state that a second ended in. `past_due_since` is in the provider's seconds."""

    version: int
    state: ObjectState
    past_due_since: int | None = None


class Register(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The fold's result, kept beside the object as a cache.

    `sightings` are what the catalog may choose from, newest first: the states of known status,
    each with other products than the ones before it, down to the first that gives no access and
    so needs no mapping. `unknown` is the newest state where its status is unknown.
    """

    version: int
    sightings: tuple[Sighting, ...] = ()
    unknown: ObjectState | None = None
    ambiguous: bool = False
    terminal: bool = False

    @property
    def newest(self) -> ObjectState:
        """The newest state, whether its status is known or not."""
        return self.unknown if self.unknown is not None else self.sightings[0].state


#: Of an object whose only observation a replay took back: it gives nothing and waits for nothing.
NOTHING = Register(0, (Sighting(0, ObjectState("unobserved")),), terminal=True)


def fold(provider: str, kind: str, observations: Iterable[Observation]) -> Register:
    """
    Fold the observations of one object (at least one) into its register.

    A terminal state wins over everything, whatever its second.
    """
    by_age = sorted(observations, key=_age)
    terminal = [
        seen for seen in by_age if standing_of(provider, kind, seen.state.status) in TERMINAL
    ]
    if terminal:
        last = terminal[-1]
        return Register(
            version=by_age[-1].version,
            sightings=(Sighting(last.version, last.state),),
            terminal=True,
        )
    ends: list[Sighting] = []
    unknown: ObjectState | None = None
    ambiguous = False
    previous: int | None = None
    for version, group in groupby(by_age, key=_version):
        second = list(group)
        if len(second) == 1:
            last, ambiguous = second[0], False
        else:
            last, ambiguous = _end_of_second(second, previous)
        previous = last.after
        standing = standing_of(provider, kind, last.state.status)
        if standing is None:
            unknown = last.state
            continue
        unknown = None
        since = None
        if standing is Standing.PAST_DUE:
            before = ends[-1].past_due_since if ends else None
            since = version if before is None else before
        ends.append(Sighting(version, last.state, since))
    return Register(
        version=by_age[-1].version,
        sightings=_choices(provider, kind, ends),
        unknown=unknown,
        ambiguous=ambiguous,
    )


def _end_of_second(second: Sequence[Observation], previous: int | None) -> tuple[Observation, bool]:
    """
    The observation whose `after` is the state that the second ended in, and whether that is
    undecided. `second` holds at least two, by id; `previous` is where the second before ended.
    """
    balance: dict[int, int] = {}
    for seen in second:
        if seen.shape == "point":
            continue
        balance[seen.after] = balance.get(seen.after, 0) + 1
        if seen.before is not None:
            balance[seen.before] = balance.get(seen.before, 0) - 1
    for seen in second:
        # A point among the walk's states says nothing new; elsewhere it must have been arrived at.
        if seen.shape == "point" and seen.after not in balance:
            balance[seen.after] = 1
    arrived = [state for state, surplus in balance.items() if surplus > 0]
    if len(arrived) == 1:
        return _at(second, arrived[0]), False
    if not arrived and previous in balance:
        return _at(second, previous), False
    if len({seen.after for seen in second}) == 1:
        return second[-1], False
    return second[-1], True


def _at(second: Sequence[Observation], state: int | None) -> Observation:
    """The last observation that ended in the state. In a walk one always does."""
    return next(seen for seen in reversed(second) if seen.after == state)


def _choices(provider: str, kind: str, ends: Sequence[Sighting]) -> tuple[Sighting, ...]:
    choices: list[Sighting] = []
    products_seen: set[frozenset[tuple[str, ...]]] = set()
    for sighting in reversed(ends):
        standing = standing_of(provider, kind, sighting.state.status)
        if standing is not None and ACCESS[standing] == "none":
            choices.append(sighting)
            break
        products = frozenset(item.refs for item in sighting.state.items)
        if products not in products_seen:
            products_seen.add(products)
            choices.append(sighting)
    return tuple(choices)


def _version(observation: Observation) -> int:
    return observation.version


def _age(observation: Observation) -> tuple[int, str]:
    return (observation.version, observation.id)
