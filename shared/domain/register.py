"""
The register: the newest state of a provider object, folded from its observations.

A pure function of the *set* of observations: their order and multiplicity of arrival do not
matter. Stripe's snapshots carry no version but `created`, in seconds. Within one second a
snapshot is an edge from the state before it to the state after it, and the second's snapshots are
a walk; the walk ends in the one state that has one more arrival than departures. In a closed loop
no state has, and the walk ends where it began: in the state that the second before ended in.
Where that does not tell, what a payment's object never comes back from (a dispute's end, a failed
refund) is its end. What stays undecided is *ambiguous*: the largest event id decides for now.

A fetch contains everything up to its version, so that no snapshot up to then replaces it; one
after its ceiling does; one between is taken for the newer for now, and asks for another fetch.
Of two fetches the one with the larger number is the newer. Where objects have versions of their
own, snapshots of one version are one state, or it is ambiguous which of them came last, but that
what waits for its first payment came before; a fetch that tells the object's version stands after
its snapshots, and of two such fetches the version says which is the newer: what is read from a
replica may be late.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import msgspec

from shared.domain.commands import Shape
from shared.domain.standings import (
    ACCESS,
    Standing,
    has_versions,
    is_for_good,
    seconds_of,
    standing_of,
)
from shared.domain.states import CUSTOMER_KIND, SESSION_KIND, UNOBSERVED, Item, ObjectState

#: Why a fetch would help: the order is undecided; a hint says that the object changed; a list is
#: known not to be whole; a purchase does not say what was bought; a newer summary of the customer
#: should list the object, and does not.
Want = Literal["order", "hint", "list", "line_items", "missing"]

#: The standings whose grants count from the beginning of their unbroken run.
_COUNTED = frozenset({Standing.PAST_DUE, Standing.PAID})


#: What an object of a payment does not come back from.
_FINAL = frozenset({Standing.PAID, Standing.LOST, Standing.RELEASED})


class Observation(msgspec.Struct, frozen=True):
    """One snapshot or fetch. `id` is the event's, `version` its clock's reading; see `Observe`."""

    id: str
    version: int
    shape: Shape
    before: int | None  # digest of the state an edge leads from
    after: int
    state: ObjectState
    ceiling: int | None = None
    number: int | None = None
    floor: int | None = None


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A state that a second ended in. `since` is where the unbroken run of its standing began, in
    unix seconds of the provider's clock; kept where it decides something. Its name at rest is that
    of the first standing which it was kept for: older versions read it.
    """

    version: int
    state: ObjectState
    since: int | None = msgspec.field(default=None, name="past_due_since")


class Register(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    The fold's result, kept beside the object as a cache.

    `sightings` are what the catalog may choose from, newest first: the states of known status,
    each with other products than the ones before it, down to the first that gives no access and
    so needs no mapping. `unknown` is the newest state where its status is unknown, or where
    nothing but hints came. With `wants`, everything here is provisional.
    """

    version: int
    sightings: tuple[Sighting, ...] = ()
    unknown: ObjectState | None = None
    ambiguous: bool = False
    terminal: bool = False
    wants: Want | None = None
    referenced_since: int | None = None  # the first second in which it carried a reference
    floor: int | None = None  # the newest of its fetches, where they have one beside the version

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been folded into it yet."""
        return not self.sightings and self.unknown is None

    @property
    def newest(self) -> ObjectState:
        """The newest state, whether its status is known or not."""
        return self.unknown if self.unknown is not None else self.sightings[0].state


class Seen(NamedTuple):
    """An object as those that it bears on see it."""

    kind: str
    object_id: str
    register: Register

    @property
    def name(self) -> str:
        """As others refer to it."""
        return f"{self.kind}/{self.object_id}"


#: Of an object whose only observation a replay took back: it gives nothing and waits for nothing.
NOTHING = Register(0, (Sighting(0, ObjectState("unobserved")),), terminal=True)


def fold(provider: str, kind: str, observations: Iterable[Observation]) -> Register:
    """
    Fold the observations of one object (at least one) into its register.

    A terminal state wins over everything, whatever its second.
    """
    everything = sorted(observations, key=_age)
    hints = [seen for seen in everything if seen.shape == "hint"]
    fetch, timeline = _timeline(everything)
    if not timeline:
        # Whose it is, is known: under that customer's lock it is seen from several lanes.
        unobserved = ObjectState(UNOBSERVED, customer=hints[-1].state.customer)
        return Register(hints[-1].version, unknown=unobserved, wants="hint")
    newest = max(seen.version for seen in timeline)
    referenced = [seen.version for seen in timeline if seen.state.reference is not None]
    referenced_since = min(referenced, default=None)
    terminal = [seen for seen in timeline if is_for_good(provider, kind, seen.state.status)]
    if terminal:
        last = terminal[-1]
        state = last.state
        if kind == CUSTOMER_KIND and state.tenant is None:
            # A fetch says of a deleted customer that it is deleted, and nothing else.
            named = [seen.state.tenant for seen in timeline if seen.state.tenant is not None]
            state = msgspec.structs.replace(state, tenant=named[-1] if named else None)
        return Register(
            newest,
            (Sighting(last.version, state),),
            terminal=True,
            referenced_since=referenced_since,
        )
    ends: list[Sighting] = []
    unknown: ObjectState | None = None
    ambiguous = False
    previous: int | None = None
    items: tuple[Item, ...] = ()
    for version, second in _seconds(timeline):
        last, ambiguous = _end_of_second(provider, kind, second, previous)
        if fetch is not None and fetch.version < version <= (fetch.ceiling or fetch.version):
            ambiguous = ambiguous or last.after != fetch.after
        previous = last.after
        state = _completed(_in_its_period(last, second), items, kind)
        items = state.items
        standing = standing_of(provider, kind, state.status)
        if standing is None:
            unknown = state
            continue
        unknown = None
        since = state.past_due_at if standing is Standing.PAST_DUE else None
        if since is None and standing in _COUNTED:
            before = ends[-1] if ends else None
            is_run = before is not None and before.since is not None
            is_run = is_run and standing_of(provider, kind, ends[-1].state.status) is standing
            began = seconds_of(provider, version)
            since = before.since if before is not None and is_run else began
        ends.append(Sighting(version, state, since))
    return Register(
        version=newest,
        sightings=_choices(provider, kind, ends),
        unknown=unknown,
        ambiguous=ambiguous,
        wants=_want(provider, kind, timeline[-1], unknown or ends[-1].state, ambiguous, hints),
        referenced_since=referenced_since,
        floor=max((seen.floor for seen in everything if seen.floor is not None), default=None),
    )


def _timeline(
    everything: Sequence[Observation],
) -> tuple[Observation | None, list[Observation]]:
    """The newest fetch, and what has a state, by age, without fetches that it outdates."""
    fetches = [seen for seen in everything if seen.shape == "fetch"]
    fetch = _newest_of(fetches) if fetches else None
    timeline = [
        seen
        for seen in everything
        if seen.shape != "hint"
        and (seen.shape != "fetch" or seen is fetch or (fetch and seen.version < fetch.version))
    ]
    return fetch, timeline


def _seconds(timeline: Sequence[Observation]) -> Iterator[tuple[int, list[Observation]]]:
    """What happened together: a second's snapshots; a fetch stands alone, after its second."""
    for (version, is_fetch), group in groupby(timeline, key=_second):
        together = list(group)
        yield version, together[-1:] if is_fetch else together


def _end_of_second(
    provider: str, kind: str, second: Sequence[Observation], previous: int | None
) -> tuple[Observation, bool]:
    """
    The observation whose `after` is the state that the second ended in, and whether that is
    undecided. `second` is in the order of ids; `previous` is where the second before ended.
    """
    if len(second) == 1:
        return second[0], False
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
    candidates = [seen for seen in second if seen.after in arrived] or second
    candidates = _begun(provider, kind, candidates)
    if len({seen.after for seen in candidates}) == 1:
        return candidates[-1], False
    finals = [
        seen
        for seen in candidates
        if standing_of(provider, kind, seen.state.status) in _FINAL and not has_versions(provider)
    ]
    # Of a charge the larger refund is the later one, unless one has failed.
    last = max(finals or candidates, key=_refunded)
    return last, len({seen.after for seen in finals}) != 1


def _in_its_period(last: Observation, second: Sequence[Observation]) -> ObjectState:
    """
    A second's last state, in the latest period of all that are that state.

    Periods are no part of the walk. They follow each other, so of two the later is the newer.
    """
    if len(second) == 1:
        return last.state
    told = [seen.state.period_ends_at for seen in second if seen.after == last.after]
    latest = max((end for end in told if end is not None), default=None)
    if latest == last.state.period_ends_at:
        return last.state
    return msgspec.structs.replace(last.state, period_ends_at=latest)


def _begun(provider: str, kind: str, candidates: Sequence[Observation]) -> Sequence[Observation]:
    """Without those that wait for a first payment, if others of their version do not."""
    if not has_versions(provider):
        return candidates
    # Created and paid at once is common where versions are whole seconds, and goes one way.
    return [
        seen
        for seen in candidates
        if standing_of(provider, kind, seen.state.status) is not Standing.PENDING
    ] or candidates


def _refunded(seen: Observation) -> tuple[int, str]:
    return seen.state.refunded or 0, seen.id


def _at(second: Sequence[Observation], state: int | None) -> Observation:
    """The last observation that ended in the state. In a walk one always does."""
    return next(seen for seen in reversed(second) if seen.after == state)


def _completed(state: ObjectState, known: Sequence[Item], kind: str) -> ObjectState:
    """
    A state whose list is not whole, with what was known before: that something is not listed
    does not say that it is gone.
    """
    if not state.is_partial or kind == SESSION_KIND:
        return state
    listed = {item.refs for item in state.items}
    kept = tuple(item for item in known if item.refs not in listed)
    return msgspec.structs.replace(state, items=state.items + kept) if kept else state


def _want(
    provider: str,
    kind: str,
    last: Observation,
    state: ObjectState,
    ambiguous: bool,
    hints: Sequence[Observation],
) -> Want | None:
    if ambiguous:
        return "order"
    # What is newer than the hint's second contains it, and so does a fetch of that second, and
    # what has the version that it hints at.
    is_whole = last.shape == "fetch" or has_versions(provider)
    covered_until = last.version if is_whole else last.version - 1
    if any(hint.version > covered_until for hint in hints):
        return "hint"
    standing = standing_of(provider, kind, state.status)
    if state.is_partial and kind != SESSION_KIND and (standing and ACCESS[standing] != "none"):
        return "list"
    return None


def _choices(provider: str, kind: str, ends: Sequence[Sighting]) -> tuple[Sighting, ...]:
    choices: list[Sighting] = []
    bought_before: set[tuple[object, ...]] = set()
    for sighting in reversed(ends):
        standing = standing_of(provider, kind, sighting.state.status)
        if standing is not None and ACCESS[standing] == "none":
            choices.append(sighting)
            break
        state = sighting.state
        bought = (frozenset(item.refs for item in state.items), state.plan, state.offer)
        if bought not in bought_before:
            bought_before.add(bought)
            choices.append(sighting)
    return tuple(choices)


def _second(observation: Observation) -> tuple[int, bool]:
    return observation.version, observation.shape == "fetch"


def _newest_of(fetches: Sequence[Observation]) -> Observation:
    newest = max(fetches, key=_number)
    if not _is_exact(newest):
        return newest
    return max(filter(_is_exact, fetches), key=_age)


def _is_exact(fetch: Observation) -> bool:
    """Whether it tells the object's own version, and not only when it was asked for."""
    return fetch.ceiling == fetch.version


def _number(fetch: Observation) -> int:
    return fetch.number or 0


def _age(observation: Observation) -> tuple[int, bool, int, str]:
    is_fetch = observation.shape == "fetch"
    return observation.version, is_fetch, observation.number or 0, observation.id
